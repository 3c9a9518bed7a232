import assert from 'node:assert/strict'
import { type CacheCase, count, expiresAt, grantMs, now, parallel, put, putVerified, right, wrong } from './codes.ts'

/** The part of `cacheContract` about leases of grants. */
export const leaseCases: CacheCase[] = [
  {
    name: '[R-OTP-9] only a verified record can be leased',
    async run(cache) {
      const ref = await put(cache)
      assert.equal(await cache.lease(ref, 'early', now + 30_000, now), null)

      await cache.guess(ref, wrong, now)
      assert.equal(await cache.lease(ref, 'early', now + 30_000, now), null)

      await cache.guess(ref, right, now)
      assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), 'subject')
    },
  },
  {
    name: '[R-OTP-5] of 50 parallel leases exactly one gets the grant, and nobody guesses meanwhile',
    async run(cache) {
      const ref = await putVerified(cache)

      const results = await parallel(50, (n) => cache.lease(ref, `lease ${n}`, now + 30_000, now))

      assert.deepEqual(count(results), { subject: 1, null: 49 })
      assert.equal(await cache.guess(ref, right, now), 'dead')
      assert.equal(await cache.guess(ref, right, now + 29_999), 'dead')
    },
  },
  {
    name: '[R-OTP-9] a lease past its end is taken over by exactly one of 50',
    async run(cache) {
      const ref = await putVerified(cache)
      await cache.lease(ref, 'first', now + 30_000, now)

      assert.equal(await cache.lease(ref, 'second', now + 59_999, now + 29_999), null)
      const results = await parallel(50, (n) => cache.lease(ref, `later ${n}`, now + 60_000, now + 30_000))

      assert.deepEqual(count(results), { subject: 1, null: 49 })
    },
  },
  {
    name: '[R-OTP-9] lease owner: a lease that was taken over gives nothing back and burns nothing',
    async run(cache) {
      const ref = await putVerified(cache)
      await cache.lease(ref, 'first', now + 30_000, now)
      await cache.lease(ref, 'second', now + 60_000, now + 30_000)

      for (let attempt = 1; attempt <= 5; attempt++) await cache.giveBack(ref, 'first', 'refused', now + 30_000)
      await cache.giveBack(ref, 'first', 'outage', now + 30_000)

      assert.equal(await cache.lease(ref, 'third', now + 60_000, now + 30_001), null)
      await cache.giveBack(ref, 'second', 'outage', now + 30_001)
      assert.equal(await cache.lease(ref, 'third', now + 60_000, now + 30_001), 'subject')
    },
  },
  {
    name: '[R-OTP-9] a grant given back can be leased and guessed again',
    async run(cache) {
      const ref = await putVerified(cache)

      for (const reason of ['refused', 'outage'] as const) {
        assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), 'subject')
        await cache.giveBack(ref, 'lease', reason, now)
        assert.equal(await cache.guess(ref, right, now), 'right')
      }
    },
  },
  {
    name: '[R-OTP-9] the fifth refusal burns the grant, given back twice counts once',
    async run(cache) {
      const ref = await putVerified(cache)

      for (let refusal = 1; refusal <= 5; refusal++) {
        assert.equal(await cache.lease(ref, `lease ${refusal}`, now + 30_000, now), 'subject')
        await cache.giveBack(ref, `lease ${refusal}`, 'refused', now)
        await cache.giveBack(ref, `lease ${refusal}`, 'refused', now)
      }

      assert.equal(await cache.lease(ref, 'sixth', now + 30_000, now), null)
      assert.equal(await cache.guess(ref, right, now), 'dead')
    },
  },
  {
    name: '[R-OTP-9] an outage never counts against the grant',
    async run(cache) {
      const ref = await putVerified(cache)

      for (let outage = 1; outage <= 20; outage++) {
        assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), 'subject')
        await cache.giveBack(ref, 'lease', 'outage', now)
      }

      assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), 'subject')
    },
  },
  {
    name: '[R-OTP-4] a grant lives its own life from the right guess, and giving it back does not lengthen it',
    async run(cache) {
      const ref = await put(cache)
      const guessed = expiresAt - 1
      const ends = guessed + grantMs
      await cache.guess(ref, right, guessed)

      await cache.guess(ref, right, ends - 10)
      assert.equal(await cache.lease(ref, 'lease', ends + 30_000, ends - 2), 'subject')
      await cache.giveBack(ref, 'lease', 'refused', ends - 1)

      assert.equal(await cache.guess(ref, right, ends), 'dead')
      assert.equal(await cache.lease(ref, 'lease', ends + 30_000, ends), null)
      assert.equal(await cache.lease(ref, 'lease', ends + 30_000, ends - 1), 'subject')
    },
  },
]
