import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import type { Cache, CodeMac, CodePurpose, CodeRef, NewCode } from './contracts.ts'

/** One promise of a contract, checked by running it against an adapter; it throws when the promise is broken. */
export interface CacheCase {
  name: string
  run(subject: Cache): Promise<void>
}

// Far from this machine's time: adapters judge expiry by the caller's clock alone.
const now = 4_000_000_000_000
const expiresAt = now + 600_000
const grantMs = 300_000
const right = [{ kid: 'k1', mac: 'right' }]
const wrong = [{ kid: 'k1', mac: 'wrong' }]

/** What every `Cache` must do. Uses fresh keys, so it may run on a server in use. */
export const cacheContract: CacheCase[] = [
  {
    name: 'ping answers',
    run: (cache) => cache.ping(),
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
    name: '[R-OTP-3] 200 parallel guesses with 5 tries compare exactly 5',
    async run(cache) {
      const [ref] = await put(cache)

      const results = await parallel(200, () => cache.guess(ref, wrong, now))

      assert.deepEqual(count(results), { wrong: 5, dead: 195 })
      assert.equal(await cache.guess(ref, right, now), 'dead')
    },
  },
  {
    name: '[R-OTP-3] count before compare: the right code sent as the sixth guess is dead',
    async run(cache) {
      const [ref] = await put(cache)
      const [other] = await put(cache)

      for (let guess = 1; guess <= 5; guess++) assert.equal(await cache.guess(ref, wrong, now), 'wrong')
      const together = await Promise.all([...Array(5).fill(wrong), right].map((macs) => cache.guess(other, macs, now)))

      assert.equal(await cache.guess(ref, right, now), 'dead')
      assert.equal(await cache.guess(ref, right, now), 'dead')
      assert.equal(await cache.lease(ref, 'lease', now + 30_000, now), null)
      assert.deepEqual(together, ['wrong', 'wrong', 'wrong', 'wrong', 'wrong', 'dead'])
    },
  },
  {
    name: '[R-OTP-3] the fifth guess still counts',
    async run(cache) {
      const [ref] = await put(cache)
      for (let guess = 1; guess <= 4; guess++) await cache.guess(ref, wrong, now)

      assert.equal(await cache.guess(ref, right, now), 'right')
    },
  },
  {
    name: '[R-OTP-5] 50 parallel right guesses move the record once, to one grant',
    async run(cache) {
      const [ref] = await put(cache)

      const results = await parallel(50, () => cache.guess(ref, right, now))

      assert.deepEqual(count(results), { right: 50 })
      assert.deepEqual(count(await parallel(50, (n) => cache.lease(ref, `lease ${n}`, now + 30_000, now))), {
        subject: 1,
        null: 49,
      })
    },
  },
  {
    name: '[R-OTP-3] a verified record says right and wrong without counting',
    async run(cache) {
      const ref = await putVerified(cache)

      const results = await parallel(20, () => cache.guess(ref, wrong, now))

      assert.deepEqual(count(results), { wrong: 20 })
      assert.equal(await cache.guess(ref, right, now), 'right')
    },
  },
  {
    name: '[R-OTP-9] only a verified record can be leased',
    async run(cache) {
      const [ref] = await put(cache)
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
    name: '[R-OTP-4] an issued code ends at its end by the clock of the caller',
    async run(cache) {
      const [ref] = await put(cache)

      assert.equal(await cache.guess(ref, right, expiresAt), 'dead')
      assert.equal(await cache.guess(ref, right, expiresAt + 3_600_000), 'dead')
      assert.equal(await cache.guess(ref, right, expiresAt - 1), 'right')
    },
  },
  {
    name: '[R-OTP-4] a grant lives its own life from the right guess, and giving it back does not lengthen it',
    async run(cache) {
      const [ref] = await put(cache)
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
        assert.deepEqual(count(last), state === 'used' ? { wrong: 3, dead: 2 } : { dead: 5 }, state)
      }
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
      const [answered, link] = [refOf(code, 0), refOf(code, 1)]

      await parallel(6, () => cache.guess(answered, wrong, now))

      assert.equal(await cache.guess(answered, right, now), 'dead')
      assert.equal(await cache.guess(link, right, now), 'right')
      assert.equal(await cache.lease(answered, 'lease', now + 30_000, now), null)
      assert.equal(await cache.lease(link, 'lease', now + 30_000, now), 'subject 1')
    },
  },
  {
    name: '[R-OTP-7] the key that made the record chooses among the MACs of a guess',
    async run(cache) {
      const [ref] = await put(cache)

      assert.equal(await cache.guess(ref, macs('k0 wrong', 'k1 wrong', 'k2 right'), now), 'wrong')
      assert.equal(await cache.guess(ref, macs('k2 right'), now), 'wrong')
      assert.equal(await cache.guess(ref, [], now), 'wrong')
      assert.equal(await cache.guess(ref, macs('k0 wrong', 'k1 right', 'k2 wrong'), now), 'right')
    },
  },
  {
    name: '[R-OTP-4] a guess under no known key counts',
    async run(cache) {
      const [ref] = await put(cache)

      const results = await parallel(6, () => cache.guess(ref, macs('k9 right'), now))

      assert.deepEqual(count(results), { wrong: 5, dead: 1 })
      assert.equal(await cache.guess(ref, right, now), 'dead')
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
    name: 'strings of an attacker are one name each and never another',
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

async function put(cache: Cache): Promise<[CodeRef]> {
  const code = newCode()
  await cache.put(code, now)
  return [refOf(code)]
}

async function putVerified(cache: Cache): Promise<CodeRef> {
  const [ref] = await put(cache)
  assert.equal(await cache.guess(ref, right, now), 'right')
  return ref
}

function newCode({ tag = unique(), account = unique(), records = 1 } = {}): NewCode {
  return {
    purpose: 'reset',
    tag,
    account,
    records: Array.from({ length: records }, (_, n) => ({
      tokenHash: unique(),
      mac: right[0]!,
      subject: n === 0 ? 'subject' : `subject ${n}`,
    })),
    tries: 5,
    expiresAt,
    grantMs,
  }
}

function refOf({ purpose, tag, records }: NewCode, record = 0): CodeRef {
  return { purpose, tag, tokenHash: records[record]!.tokenHash }
}

function macs(...pairs: string[]): CodeMac[] {
  return pairs.map((pair) => {
    const [kid, mac] = pair.split(' ') as [string, string]
    return { kid, mac }
  })
}

function unique(): string {
  return randomBytes(16).toString('base64url')
}

function parallel<T>(times: number, call: (n: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: times }, (_, n) => call(n)))
}

function count(results: unknown[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const result of results) counts[String(result)] = (counts[String(result)] ?? 0) + 1
  return counts
}
