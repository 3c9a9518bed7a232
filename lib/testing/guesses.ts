import assert from 'node:assert/strict'
import type { CodeMac } from '../contracts.ts'
import { type CacheCase, count, expiresAt, now, parallel, put, putVerified, right, wrong } from './codes.ts'

/** The part of `cacheContract` about guesses. */
export const guessCases: CacheCase[] = [
  {
    name: '[R-OTP-3] 200 parallel guesses with 5 tries compare exactly 5, and exactly one is exhausted',
    async run(cache) {
      const ref = await put(cache)

      const results = await parallel(200, () => cache.guess(ref, wrong, now))

      assert.deepEqual(count(results), { wrong: 5, exhausted: 1, dead: 194 })
      assert.equal(await cache.guess(ref, right, now), 'dead')
    },
  },
  {
    name: '[R-OTP-3] count before compare: the right code sent as the sixth guess is not compared',
    async run(cache) {
      const ref = await put(cache)
      const other = await put(cache)

      for (let guess = 1; guess <= 5; guess++) assert.equal(await cache.guess(ref, wrong, now), 'wrong')
      const together = await Promise.all([...Array(5).fill(wrong), right].map((macs) => cache.guess(other, macs, now)))

      assert.equal(await cache.guess(ref, right, now), 'exhausted')
      assert.equal(await cache.guess(ref, right, now), 'dead')
      assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), null)
      assert.deepEqual(together, ['wrong', 'wrong', 'wrong', 'wrong', 'wrong', 'exhausted'])
    },
  },
  {
    name: '[R-OTP-3] the fifth guess still counts',
    async run(cache) {
      const ref = await put(cache)
      for (let guess = 1; guess <= 4; guess++) await cache.guess(ref, wrong, now)

      assert.equal(await cache.guess(ref, right, now), 'right')
    },
  },
  {
    name: '[R-OTP-5] 50 parallel right guesses move the record once, to one grant',
    async run(cache) {
      const ref = await put(cache)

      const results = await parallel(50, () => cache.guess(ref, right, now))

      assert.deepEqual(count(results), { right: 50 })
      assert.deepEqual(count(await parallel(50, (n) => cache.lease(ref, `lease ${n}`, now + 30_000, now))), {
        subject: 1,
        null: 49,
      })
    },
  },
  {
    name: '[R-OTP-3] a verified record compares without counting',
    async run(cache) {
      const ref = await putVerified(cache)

      const results = await parallel(20, () => cache.guess(ref, wrong, now))

      assert.deepEqual(count(results), { wrong: 20 })
      assert.equal(await cache.guess(ref, right, now), 'right')
    },
  },
  {
    name: '[R-OTP-4] an issued code ends at its end by the clock of the caller',
    async run(cache) {
      const ref = await put(cache)

      assert.equal(await cache.guess(ref, right, expiresAt), 'dead')
      assert.equal(await cache.guess(ref, right, expiresAt + 3_600_000), 'dead')
      assert.equal(await cache.guess(ref, right, expiresAt - 1), 'right')
    },
  },
  {
    name: '[R-OTP-7] the key that made the record chooses among the MACs of a guess',
    async run(cache) {
      const ref = await put(cache)

      assert.equal(await cache.guess(ref, macs('k0 wrong', 'k1 wrong', 'k2 right'), now), 'wrong')
      assert.equal(await cache.guess(ref, macs('k2 right'), now), 'wrong')
      assert.equal(await cache.guess(ref, [], now), 'wrong')
      assert.equal(await cache.guess(ref, macs('k0 wrong', 'k1 right', 'k2 wrong'), now), 'right')
    },
  },
  {
    name: '[R-OTP-4] a guess under no known key counts',
    async run(cache) {
      const ref = await put(cache)

      const results = await parallel(6, () => cache.guess(ref, macs('k9 right'), now))

      assert.deepEqual(count(results), { wrong: 5, exhausted: 1 })
      assert.equal(await cache.guess(ref, right, now), 'dead')
    },
  },
]

function macs(...pairs: string[]): CodeMac[] {
  return pairs.map((pair) => {
    const [kid, mac] = pair.split(' ') as [string, string]
    return { kid, mac }
  })
}
