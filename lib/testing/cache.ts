import assert from 'node:assert/strict'
import type { CodePurpose, CodeRef, NewCode } from '../contracts.ts'
import { channelCases } from './channel.ts'
import {
  type CacheCase,
  count,
  expiresAt,
  grantMs,
  newCode,
  now,
  parallel,
  refOf,
  right,
  unique,
  wrong,
} from './codes.ts'
import { guessCases } from './guesses.ts'
import { leaseCases } from './leases.ts'
import { peekCases } from './peeks.ts'
import { tallyCases } from './tallies.ts'

const recordCases: CacheCase[] = [
  {
    name: 'ping returns the time of the cache, in milliseconds',
    async run(cache) {
      const [first, second] = [await cache.ping(), await cache.ping()]

      assert.ok(Number.isInteger(first) && first > 1_600_000_000_000 && first <= second && second < first + 60_000)
    },
  },
  {
    name: 'what is stored comes back unchanged',
    async run(cache) {
      const code = newCode()
      code.records[0]!.subject = `k1.${'é"\\\n\0 {}'.repeat(50)}`
      await cache.put(code, now)
      await cache.guess(refOf(code), right, now)

      assert.equal(await cache.lease(refOf(code), 'lease', now + 30_000, now), code.records[0]!.subject)
    },
  },
  {
    name: '[R-OTP-8] put never overwrites a record, alive or dead',
    async run(cache) {
      const states: Record<string, (ref: CodeRef, code: NewCode) => Promise<unknown>> = {
        used: (ref) => cache.guess(ref, wrong, now),
        exhausted: (ref) => parallel(6, () => cache.guess(ref, wrong, now)),
        burnt: (_, code) => cache.burn(code),
      }
      for (const [state, bring] of Object.entries(states)) {
        const code = newCode()
        const ref = refOf(code)
        await cache.put(code, now)
        await bring(ref, code)

        await cache.put({ ...code, records: [{ ...code.records[0]!, mac: { kid: 'k1', mac: 'other' } }] }, now)

        assert.equal(await cache.guess(ref, [{ kid: 'k1', mac: 'other' }], now), state === 'used' ? 'wrong' : 'dead')
        const last = await parallel(5, () => cache.guess(ref, wrong, now))
        assert.deepEqual(count(last), state === 'used' ? { wrong: 3, exhausted: 1, dead: 1 } : { dead: 5 }, state)
      }
    },
  },
  {
    name: 'put returns when the life of the code that is stored ends, and 0 when it is dead',
    async run(cache) {
      const code = newCode()
      const [ref, later] = [refOf(code), { ...code, expiresAt: code.expiresAt + 5000 }]

      assert.equal((await cache.put(code, now)).endsAt, code.expiresAt)
      assert.equal((await cache.put(later, now + 5000)).endsAt, code.expiresAt)
      await cache.guess(ref, right, now + 6000)
      assert.equal((await cache.put(later, now + 7000)).endsAt, now + 6000 + code.grantMs)
      await cache.burn(code)
      assert.equal((await cache.put(later, now + 8000)).endsAt, 0)

      const exhausted = newCode()
      await cache.put(exhausted, now)
      await parallel(6, () => cache.guess(refOf(exhausted), wrong, now))
      assert.equal((await cache.put(exhausted, now)).endsAt, 0)
    },
  },
  {
    name: '[R-OTP-8] another code of the account displaces none',
    async run(cache) {
      const code = newCode()
      await cache.put(code, now)

      for (let more = 1; more <= 20; more++) {
        await cache.put(newCode({ tag: code.tag, account: code.account }), now)
      }

      assert.equal(await cache.guess(refOf(code), right, now), 'right')
    },
  },
  {
    name: '[R-OTP-8] burn kills every record of the account, in every state, and none of its neighbours',
    async run(cache) {
      const tag = unique()
      const account = unique()
      const codes = Array.from({ length: 4 }, () => newCode({ tag, account, records: 2 }))
      const neighbour = newCode({ tag })
      const stranger = newCode({ account })
      for (const code of [...codes, neighbour, stranger]) await cache.put(code, now)
      const [, verified, leased, exhausted] = codes.map((code) => refOf(code)) as CodeRef[]
      await cache.guess(verified!, right, now)
      await cache.guess(leased!, right, now)
      await cache.lease(leased!, 'lease', now + 30_000, now)
      await parallel(6, () => cache.guess(exhausted!, wrong, now))

      await cache.burn({ tag, account })
      await cache.giveBack(leased!, 'lease', 'outage', now)

      for (const ref of codes.flatMap((code) => [refOf(code, 0), refOf(code, 1)])) {
        assert.equal(await cache.guess(ref, right, now), 'dead')
        assert.equal(await cache.lease(ref, 'late', now + 90_000, now + 60_000), null)
      }
      assert.equal(await cache.guess(refOf(neighbour), right, now), 'right')
      assert.equal(await cache.guess(refOf(stranger), right, now), 'right')
    },
  },
  {
    name: '[R-OTP-8] burn reaches a grant that outlived its code, also after later codes',
    async run(cache) {
      const code = newCode()
      await cache.put(code, now)
      await cache.guess(refOf(code), right, expiresAt - 1)
      const later = expiresAt + grantMs - 2
      const shorter = { expiresAt: later + 1000, grantMs: 1000 }
      await cache.put({ ...newCode({ tag: code.tag, account: code.account }), ...shorter }, later)

      await cache.burn(code)

      assert.equal(await cache.guess(refOf(code), right, later), 'dead')
    },
  },
  {
    name: '[R-OTP-8] burning twice, and an account without codes, does nothing',
    async run(cache) {
      const code = newCode()

      await cache.burn(code)
      await cache.put(code, now)
      assert.equal(await cache.guess(refOf(code), right, now), 'right')
      await cache.burn(code)
      await cache.burn(code)

      assert.equal(await cache.guess(refOf(code), right, now), 'dead')
    },
  },
  {
    name: '[R-OTP-7] the two records of one code have tries and grants of their own',
    async run(cache) {
      const code = newCode({ records: 2 })
      await cache.put(code, now)
      const [given, link] = [refOf(code, 0), refOf(code, 1)]

      await parallel(6, () => cache.guess(given, wrong, now))

      assert.equal(await cache.guess(given, right, now), 'dead')
      assert.equal(await cache.guess(link, right, now), 'right')
      assert.equal(await cache.lease(given, 'lease', now + 30_000, now), null)
      assert.equal(await cache.lease(link, 'lease', now + 30_000, now), 'subject 1')
    },
  },
  {
    name: '[R-OTP-7] an unknown purpose, tag or token is dead and leaves nothing behind',
    async run(cache) {
      const code = newCode()
      const ref = refOf(code)
      const strangers: CodeRef[] = [
        { ...ref, purpose: 'other' as CodePurpose },
        { ...ref, tag: unique() },
        { ...ref, tokenHash: unique() },
      ]
      await cache.put(code, now)

      for (const stranger of strangers) {
        assert.deepEqual(count(await parallel(6, () => cache.guess(stranger, right, now))), { dead: 6 })
        assert.equal(await cache.lease(stranger, 'lease', now + 30_000, now), null)
        await cache.giveBack(stranger, 'lease', 'refused', now)
        await cache.put({ ...newCode(), ...stranger, records: [{ ...code.records[0]!, ...stranger }] }, now)
        assert.equal(await cache.guess(stranger, right, now), 'right')
      }
      assert.equal(await cache.guess(ref, right, now), 'right')
    },
  },
  {
    name: 'each string of an attacker names one record and never another',
    async run(cache) {
      const base = unique()
      const hostile = [
        '',
        '}',
        '{',
        '{}',
        '}:reset:x',
        ':',
        '*',
        '%',
        '%007d',
        ' ',
        '\r\n',
        '\0',
        'é',
        '\ud800',
        '\udfff',
      ]
      const refs = hostile.flatMap((text): CodeRef[] => [
        { purpose: 'reset', tag: `${base}${text}`, tokenHash: 'hash' },
        { purpose: 'reset', tag: `${base}-`, tokenHash: `${base}${text}` },
        { purpose: 'reset', tag: `${text}${base}`, tokenHash: 'prefixed' },
      ])
      refs.push({ purpose: 'reset', tag: `${base}a`, tokenHash: 'b}:reset:c' })
      refs.push({ purpose: 'reset', tag: `${base}a}:reset:b`, tokenHash: 'c' })

      for (const [n, ref] of refs.entries()) {
        assert.equal(await cache.guess(ref, right, now), 'dead', JSON.stringify(ref))
        const records = [{ tokenHash: ref.tokenHash, mac: { kid: 'k1', mac: `mac ${n}` }, subject: 'subject' }]
        await cache.put({ ...newCode(), ...ref, records }, now)
        assert.equal(await cache.guess(ref, [{ kid: 'k1', mac: `mac ${n}` }], now), 'right', JSON.stringify(ref))
      }
    },
  },
]

/**
 * What every `Cache` must do: give each case a fresh cache, since some close theirs. They take keys of their own, so a
 * server in use will do.
 */
export const cacheContract: CacheCase[] = [
  ...recordCases,
  ...peekCases,
  ...guessCases,
  ...leaseCases,
  ...tallyCases,
  ...channelCases,
]
