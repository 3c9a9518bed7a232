import assert from 'node:assert/strict'
import {
  type CacheCase,
  count,
  expiresAt,
  grantMs,
  newCode,
  now,
  parallel,
  put,
  refOf,
  right,
  unique,
  wrong,
} from './codes.ts'

/** The part of `cacheContract` about `peek`. */
export const peekCases: CacheCase[] = [
  {
    name: '[R-OTP-8] peek returns the subject in every state but burnt, and changes nothing',
    async run(cache) {
      const code = newCode({ records: 2 })
      const ref = refOf(code)
      await cache.put(code, now)

      assert.deepEqual(count(await parallel(50, () => cache.peek(ref, now))), { subject: 50 })
      assert.equal(await cache.peek(refOf(code, 1), now), 'subject 1')
      for (let guess = 1; guess <= 4; guess++) await cache.guess(ref, wrong, now)
      assert.equal(await cache.peek(ref, now), 'subject')
      assert.equal(await cache.guess(ref, right, now), 'right')
      assert.equal(await cache.peek(ref, now), 'subject')
      assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), 'subject')
      assert.equal(await cache.peek(ref, now), 'subject')
      assert.equal(await cache.lease(ref, 'other', now + 30_000, now), null)
      await cache.burn(code)
      assert.equal(await cache.peek(ref, now), null)
      assert.equal(await cache.peek(refOf(code, 1), now), null)
    },
  },
  {
    name: '[R-OTP-8] an exhausted record keeps its subject for peek alone, until it is burnt',
    async run(cache) {
      const code = newCode()
      const ref = refOf(code)
      await cache.put(code, now)
      await parallel(6, () => cache.guess(ref, wrong, now))

      assert.equal(await cache.peek(ref, now), 'subject')
      assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), null)
      assert.equal(await cache.guess(ref, right, now), 'dead')
      assert.equal(await cache.peek(ref, expiresAt), null)
      await cache.burn(code)
      assert.equal(await cache.peek(ref, now), null)
    },
  },
  {
    name: '[R-OTP-9] a grant that the fifth refusal burnt has no subject',
    async run(cache) {
      const ref = await put(cache)
      await cache.guess(ref, right, now)

      for (let refusal = 1; refusal <= 5; refusal++) {
        assert.equal(await cache.peek(ref, now), 'subject')
        await cache.lease(ref, 'lease', now + 30_000, now)
        await cache.giveBack(ref, 'lease', 'refused', now)
      }

      assert.equal(await cache.peek(ref, now), null)
    },
  },
  {
    name: '[R-OTP-4] peek ends with the code, then with the grant, by the clock of the caller',
    async run(cache) {
      const ref = await put(cache)

      assert.equal(await cache.peek(ref, expiresAt - 1), 'subject')
      assert.equal(await cache.peek(ref, expiresAt), null)
      await cache.guess(ref, right, expiresAt - 1)
      const ends = expiresAt - 1 + grantMs
      assert.equal(await cache.peek(ref, ends - 1), 'subject')
      assert.equal(await cache.peek(ref, ends), null)
    },
  },
  {
    name: '[R-OTP-7] an unknown record has no subject',
    async run(cache) {
      const ref = await put(cache)

      assert.equal(await cache.peek({ ...ref, purpose: 'verify' }, now), null)
      assert.equal(await cache.peek({ ...ref, tag: unique() }, now), null)
      assert.equal(await cache.peek({ ...ref, tokenHash: unique() }, now), null)
    },
  },
]
