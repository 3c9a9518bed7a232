import assert from 'node:assert/strict'
import type { Cache, Charge, NewCode } from '../contracts.ts'
import { type CacheCase, expiresAt, newCode, now, parallel, refOf, right, unique, wrong } from './codes.ts'

const windowMs = 900_000
const pauses = [1, 2, 4, 8, 10, 10].map((tenths) => (tenths * windowMs) / 10)
const minute = 60_000
const day = 86_400_000

function chargeOf(...tries: number[]): Charge {
  return { slot: unique(), tallies: tries.map((tries) => ({ name: unique(), tries, windowMs })) }
}

function knownTo(client: string, charge = chargeOf(2)): Charge & Required<Pick<Charge, 'known'>> {
  return { ...charge, known: { list: unique(), client, tallies: [{ name: unique(), tries: 3, windowMs }] } }
}

function acquaint(cache: Cache, { slot, known }: Charge, { until = now + day, alone = false, at = now } = {}) {
  const { list = '', client = '' } = known ?? {}
  return cache.acquaint({ slot, list, client, until, alone }, at)
}

async function counted(cache: Cache, charge: Charge, times: number, at = now): Promise<number> {
  const outcomes = await parallel(times, () => cache.charge(charge, at))
  return outcomes.filter(({ waitMs }) => waitMs === 0).length
}

/** The cases about counted tries. */
export const tallyCases: CacheCase[] = [
  {
    name: '[R-THR-1] of parallel tries exactly as many are counted as a tally allows',
    async run(cache) {
      const charge = chargeOf(10)

      const outcomes = await parallel(50, () => cache.charge(charge, now))

      assert.equal(outcomes.filter(({ waitMs }) => waitMs === 0).length, 10)
      assert.ok(outcomes.every(({ waitMs, known }) => !known && (waitMs === 0 || waitMs === windowMs / 10)))
    },
  },
  {
    name: 'a tally that has to wait keeps the others from counting',
    async run(cache) {
      const charge = chargeOf(1, 3)
      const other = { ...charge, tallies: charge.tallies.slice(1) }

      assert.equal(await counted(cache, charge, 20), 1)
      assert.equal(await counted(cache, other, 20), 2)
    },
  },
  {
    name: 'past the limit one try is counted at a time, after pauses that double up to 15 minutes',
    async run(cache) {
      const charge = chargeOf(10)
      await counted(cache, charge, 10)
      let at = now
      for (const pause of pauses) {
        assert.equal((await cache.charge(charge, at + pause - 1)).waitMs, 1)
        at += pause
        assert.equal(await counted(cache, charge, 5, at), 1)
      }
    },
  },
  {
    name: 'pauses that are longer than 15 minutes from the start are all alike',
    async run(cache) {
      const charge = { slot: unique(), tallies: [{ name: unique(), tries: 5, windowMs: day }] }
      assert.equal(await counted(cache, charge, 20), 5)
      for (let at = now + day / 5; at <= now + 2 * day; at += day / 5) {
        assert.equal((await cache.charge(charge, at - 1)).waitMs, 1)
        assert.equal(await counted(cache, charge, 5, at), 1)
      }
      const slow = { slot: unique(), tallies: [{ name: unique(), tries: 5, windowMs: day }] }
      assert.equal(await counted(cache, slow, 1), 1)
      assert.equal(await counted(cache, slow, 3, now + day - minute), 3)
      assert.equal(await counted(cache, slow, 20, now + day + minute), 1, 'they are forgotten a window after the last')
    },
  },
  {
    name: 'tries are forgotten a window after the first, or after the last pause',
    async run(cache) {
      const [few, many] = [chargeOf(10), chargeOf(10)]
      await counted(cache, few, 9)
      await counted(cache, many, 10)

      assert.equal(await counted(cache, few, 20, now + windowMs), 10)
      assert.equal(await counted(cache, many, 20, now + windowMs), 1)
      assert.equal(await counted(cache, many, 20, now + windowMs * 2.2), 10)
    },
  },
  {
    name: 'what is refunded may be tried again at once',
    async run(cache) {
      const charge = chargeOf(3, 5)
      await counted(cache, charge, 3)

      await parallel(2, () => cache.refund(charge, false, now))
      assert.equal(await counted(cache, charge, 20), 2)
      await parallel(9, () => cache.refund(charge, false, now))

      assert.equal(await counted(cache, charge, 20), 3, 'no more than was charged is refunded')
      await cache.refund(chargeOf(1), false, now)
    },
  },
  {
    name: 'a client that is known is charged to its own tally alone, until its time is over',
    async run(cache) {
      const charge = knownTo('home')
      const away = { ...charge, known: { ...charge.known, client: 'away' } }
      assert.deepEqual(await cache.charge(charge, now), { waitMs: 0, known: false, share: 0.5 })
      assert.equal(await counted(cache, away, 20), 1)
      await acquaint(cache, charge)

      assert.deepEqual(await cache.charge(charge, now), { waitMs: 0, known: true, share: 0.333333 })
      assert.equal(await counted(cache, charge, 20), 2)
      await cache.refund(charge, true, now)
      assert.equal(await counted(cache, charge, 20), 1)

      assert.equal((await cache.charge(away, now)).known, false)
      assert.equal((await cache.charge(charge, now + day)).known, false)
    },
  },
  {
    name: 'a known client without a tally of its own has no limit, and a limit may be large',
    async run(cache) {
      const charge = knownTo('home', chargeOf(1, 16_000_000))
      charge.known.tallies = []
      assert.equal(await counted(cache, charge, 20), 1)
      await acquaint(cache, charge)

      assert.equal(await counted(cache, charge, 20), 20)
      await cache.refund(charge, true, now)
      assert.equal((await cache.charge(chargeOf(16_000_000), now)).waitMs, 0)
    },
  },
  {
    name: 'a list knows the first 32 clients, and on demand the newest alone',
    async run(cache) {
      const charge = knownTo('')
      const named = (client: string) => ({ ...charge, known: { ...charge.known, client } })
      for (let n = 0; n < 33; n++) await acquaint(cache, named(`c${n}`), { until: now + day + n })
      const known = async (client: string) => (await cache.charge(named(client), now)).known

      assert.deepEqual([await known('c0'), await known('c31'), await known('c32')], [true, true, false])
      await acquaint(cache, named('c0'), { until: now + 2 * day })
      assert.deepEqual([await known('c0'), await known('c31')], [true, true], 'a renewal displaces nobody')
      await acquaint(cache, named('c5'), { alone: true })
      assert.deepEqual([await known('c5'), await known('c31')], [true, false])
      await acquaint(cache, named(''), { until: now, alone: true })
      assert.equal(await known('c5'), false)
    },
  },
  {
    name: '[R-OTP-12] a code past its charge is stored as a decoy, and charged once',
    async run(cache) {
      const charge = chargeOf(2)
      const { slot: tag } = charge
      const [first, second, third] = [newCode({ tag }), newCode({ tag }), newCode({ tag })]
      const put = (code: NewCode) => cache.put({ ...code, charge }, now)

      assert.deepEqual(await put(first), { endsAt: expiresAt, decoy: false })
      for (let again = 0; again < 5; again++) assert.equal((await put(first)).decoy, false)
      assert.equal((await put(second)).decoy, false)
      for (let again = 0; again < 2; again++) assert.deepEqual(await put(third), { endsAt: expiresAt, decoy: true })

      assert.equal(await cache.guess(refOf(first), right, now), 'right')
      assert.equal(await cache.guess(refOf(third), right, now), 'wrong')
      assert.equal(await cache.guess(refOf(third), [{ kid: '', mac: right[0]!.mac }], now), 'wrong')
      const last = await parallel(20, () => cache.guess(refOf(third), wrong, now))
      assert.equal(last.filter((outcome) => outcome === 'wrong').length, 3)
      const given = newCode({ tag })
      const records = given.records.map(({ mac, ...record }) => ({ ...record, mac: { ...mac, kid: '' } }))
      const decoy = { ...given, records }
      for (let again = 0; again < 2; again++) assert.equal((await cache.put(decoy, now)).decoy, true, 'without a kid')
    },
  },
  {
    name: 'a clock that is set back or forward lets nobody wait longer than a pause and a minute',
    async run(cache) {
      const charge = chargeOf(10)
      await counted(cache, charge, 10)

      for (const skew of [1, 5000, 60_000]) {
        assert.equal((await cache.charge(charge, now - skew)).waitMs, windowMs / 10 + skew, 'clocks that differ a bit')
      }
      for (const at of [now - day, now + day]) assert.equal((await cache.charge(charge, at)).waitMs, 0, `${at - now}`)
    },
  },
]
