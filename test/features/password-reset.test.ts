import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache, memoryStorage } from '../../lib/adapters/memory/index.ts'
import { noClient } from '../../lib/core/client.ts'
import { borrowGrant, newCode } from '../../lib/core/codes.ts'
import { hashQueue } from '../../lib/core/hash-queue.ts'
import { resetPassword } from '../../lib/features/password-reset.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { type Answer, openDatabase, secret, settableClock } from '../helpers/app.ts'
import { fillHashQueue } from '../helpers/hash-queue.ts'
import { noPostgres, noRedis, redisUrl, rounds, startRedis, stores, uniqueName, until } from '../helpers/helper.ts'
import { instance, newPassword, password, wrong } from '../helpers/reset-flow.ts'

type Parts = Partial<AccountsOptions>

const url = 'https://app.example.com/reset'
const backends = stores<[string, { skip?: string | false }, (t: Test) => Promise<Parts>]>([
  ['memory', {}, async () => ({ storage: memoryStorage(), cache: memoryCache() })],
  ['PostgreSQL and Redis', { skip: noPostgres }, realParts],
])

async function realParts(t: Test): Promise<Parts> {
  const { db } = await openDatabase(t)
  return { name: uniqueName(), db, redis: redisUrl() }
}

for (const [backend, options, parts] of backends) {
  t.test(`on ${backend}`, options, async (t) => {
    const shared = await parts(t)
    const clock = settableClock()
    const all = { ...shared, clock, passwordReset: { url } }
    const host = await instance(t, all)
    const { app, accounts, mailer, enrol, ask, grant, check, reset, login, refresh, get } = host

    await t.test(
      '[R-OTP-10] a reset sets the password, ends every session, mails a notice and logs nobody in',
      async (t) => {
        const { email } = await enrol()
        const sessions = [await login(email), await login(email)].map(({ body }) => body)

        const { token, code } = await ask(email)
        const checked = await check(token, code)
        const done = await reset(token)

        t.strictSame([checked.status, checked.body], [200, { message: 'OTP is valid.' }])
        t.strictSame([done.status, done.body], [200, { message: 'Password has been reset successfully.' }])
        t.strictSame(Object.keys(done.headers).includes('set-cookie'), false)
        await until(() => mailer.sent.some(({ kind, to }) => kind === 'password_changed' && to === email))
        refused(t, await login(email), 401, 'CREDENTIALS_INVALID')
        for (const { access, refresh: refreshToken } of sessions) {
          refused(t, await get('/auth/user/', access), 401, 'TOKEN_INVALID')
          refused(t, await refresh(refreshToken), 401, 'TOKEN_INVALID')
        }
        t.equal((await login(email, newPassword)).status, 200)
      },
    )

    await t.test('[R-OTP-11] asking for a reset changes nothing on the account', async (t) => {
      const { email } = await enrol()
      const { body } = await login(email)
      const before = await realmOf(accounts).storage.findUserByEmail(email)

      await grant(email)

      t.strictSame(await realmOf(accounts).storage.findUserByEmail(email), before)
      t.equal((await get('/auth/user/', body.access)).status, 200)
      t.equal((await refresh(body.refresh)).status, 200)
      t.equal((await login(email)).status, 200)
    })

    await t.test('the code is only in the mail, and the answered token never is', async (t) => {
      const { email } = await enrol()

      const { body } = await host.post('/auth/email_request/', { email })

      const mail = mailer.sent.at(-1)
      t.strictSame(Object.keys(body).sort(), ['message', 'token'])
      t.match(body.token, /^[\w-]{22}\.[\w-]{43}$/)
      t.match(mail?.code, /^\d{8}$/)
      t.notOk(JSON.stringify(mail).includes(body.token), 'the answered token is not mailed')
      t.notOk(JSON.stringify(body).includes(mail?.code ?? ''), 'the code is not answered')
      t.notOk(JSON.stringify(body).includes(mail?.token ?? ''), 'the token of the link is not answered')
    })

    await t.test('[R-OTP-7] link token: it is a token of its own with five tries of its own', async (t) => {
      const { email } = await enrol()
      const first = await ask(email)
      const second = await ask(email)
      t.ok(first.linkToken)

      await repeat(6, () => check(first.token, wrong(first.code)))
      refused(t, await check(first.token, first.code), 400, 'CODE_INVALID')
      t.equal((await check(first.linkToken, first.code)).status, 200, 'tries of the answered token are its own')

      await repeat(6, () => check(second.linkToken, wrong(second.code)))
      refused(t, await check(second.linkToken, second.code), 400, 'CODE_INVALID')
      t.equal((await check(second.token, second.code)).status, 200, 'tries of the link token are its own')
    })

    await t.test('[R-OTP-7] link token: it and the answered token never verify each other', async (t) => {
      const { email } = await enrol()
      const { token, linkToken, code } = await ask(email)

      await check(linkToken, code)
      refused(t, await reset(token), 400, 'CODE_INVALID')
      t.equal((await reset(linkToken)).status, 200)
      refused(t, await check(token, code), 400, 'CODE_INVALID')

      const next = await ask(email)
      await check(next.token, next.code)
      refused(t, await reset(next.linkToken), 400, 'CODE_INVALID')
      t.equal((await reset(next.token, password)).status, 200)
    })

    await t.test('[R-OTP-7] a code works with its own token alone', async (t) => {
      const [one, other] = [await enrol(), await enrol()]
      const [mine, theirs] = [await ask(one.email), await ask(other.email)]

      refused(t, await check(theirs.token, mine.code), 400, 'CODE_INVALID')
      refused(t, await check(mine.token, theirs.code), 400, 'CODE_INVALID')

      await check(mine.token, mine.code)
      refused(t, await reset(theirs.token), 400, 'CODE_INVALID')
    })

    await t.test('spaces in a typed code are ignored, and nothing but digits passes', async (t) => {
      const { token, code } = await ask((await enrol()).email)

      t.equal((await check(token, `${code.slice(0, 4)} ${code.slice(4)}`)).status, 200)
      t.equal((await check(token, ` ${[...code].join(' ')} \n`)).status, 200)
      const typed = [Number(code), code.slice(1), `${code}0`, '', `${code.slice(1)}a`, `-${code}`, `٣${code.slice(1)}`]
      for (const otp of [...typed, null, [code], { code }, true, `${code}\0`]) {
        refused(t, await check(token, otp), 400, 'VALIDATION')
      }
    })

    await t.test('[R-OTP-4] a code that is not eight digits costs no try', async (t) => {
      const { token, code } = await ask((await enrol()).email)

      await repeat(10, () => check(token, code.slice(1)))

      t.equal((await check(token, code)).status, 200)
    })

    await t.test('[R-OTP-3] the right code after five wrong ones is refused', async (t) => {
      // docs: "It takes 5 guesses per token"
      const { token, code } = await ask((await enrol()).email)

      await repeat(5, async () => refused(t, await check(token, wrong(code)), 400, 'CODE_INVALID'))

      refused(t, await check(token, code), 400, 'CODE_INVALID')
      refused(t, await reset(token), 400, 'CODE_INVALID')
    })

    await t.test('[R-OTP-5] a right code may be repeated, a wrong one is refused and harms nothing', async (t) => {
      const { token, code } = await grant((await enrol()).email)

      await repeat(10, async () => refused(t, await check(token, wrong(code)), 400, 'CODE_INVALID'))
      await repeat(10, async () => t.equal((await check(token, code)).status, 200))

      t.equal((await reset(token)).status, 200)
    })

    await t.test('[R-OTP-9] a reset before its code was checked fails and burns nothing', async (t) => {
      const { token, code } = await ask((await enrol()).email)

      refused(t, await reset(token), 400, 'CODE_INVALID')

      await check(token, code)
      t.equal((await reset(token)).status, 200)
    })

    await t.test('[R-OTP-9] four refused passwords leave the grant, the fifth burns it', async (t) => {
      const [lucky, unlucky] = [await grant((await enrol()).email), await grant((await enrol()).email)]
      const refuse = async (token: string) => refused(t, await reset(token, 'short'), 400, 'PASSWORD_REFUSED')

      await repeat(4, () => refuse(lucky.token))
      t.equal((await reset(lucky.token)).status, 200)

      await repeat(5, () => refuse(unlucky.token))
      refused(t, await reset(unlucky.token), 400, 'CODE_INVALID')
    })

    await t.test('[R-OTP-9] a full hash queue gives the grant back', async (t) => {
      const { email } = await enrol()
      const { token } = await grant(email)
      const leave = fillHashQueue()

      const full = resetPassword(realmOf(accounts), { token, new_password: newPassword }, noClient)
      await t.rejects(full, { code: 'ACCOUNTS_OVERLOADED' })
      const answer = await reset(token)
      await leave()

      refused(t, answer, 503, 'OVERLOADED')
      t.equal((await reset(token)).status, 200)
      t.equal((await login(email, newPassword)).status, 200)
    })

    await t.test('[R-OTP-9] a client that hangs up in line gives the grant back', async (t) => {
      const { token } = await grant((await enrol()).email)
      const address = await app.listen({ port: 0, host: '127.0.0.1' })
      const leave = fillHashQueue(hashQueue.concurrency + 1)
      const hangUp = new AbortController()
      const { waiting } = hashQueue.size()

      const request = fetch(`${address}/auth/reset_password/`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ token, new_password: newPassword }),
        signal: hangUp.signal,
      })
      request.catch(() => {})
      await until(() => hashQueue.size().waiting === waiting + 1)
      hangUp.abort()
      await until(() => hashQueue.size().waiting === waiting)
      await leave()

      t.equal((await reset(token)).status, 200)
    })

    await t.test(
      '[R-OTP-9] lease owner: who borrowed a grant first cannot give back what another took over',
      async (t) => {
        const { token } = await grant((await enrol()).email)
        const first = await borrowGrant(realmOf(accounts), 'reset', token)
        await t.rejects(borrowGrant(realmOf(accounts), 'reset', token), { code: 'ACCOUNTS_CODE_INVALID' })
        clock.pass(30_000)
        const second = await borrowGrant(realmOf(accounts), 'reset', token)

        await first.giveBack('outage')
        refused(t, await reset(token), 400, 'CODE_INVALID')

        await second.giveBack('outage')
        t.equal((await reset(token)).status, 200)
      },
    )

    await t.test('[R-OTP-6] of resets at once with several grants of an account one succeeds', async (t) => {
      const { email } = await enrol()
      const grants = [await grant(email), await grant(email), await grant(email), await grant(email)]
      let readers = 0
      // Each has read the user before one of them writes.
      accounts.addHook('beforePasswordChange', () => {
        readers++
        return until(() => readers >= grants.length)
      })

      const answers = await Promise.all(grants.map(({ token }, n) => reset(token, `new password ${n}`)))

      t.strictSame(answers.map(({ status }) => status).sort(), [200, 400, 400, 400])
      const winner = answers.findIndex(({ status }) => status === 200)
      t.equal((await login(email, `new password ${winner}`)).status, 200)
    })

    await t.test('[R-OTP-5] a used token resets nothing more', async (t) => {
      const { email } = await enrol()
      const { token, code } = await grant(email)
      await reset(token)

      refused(t, await reset(token, 'another password'), 400, 'CODE_INVALID')
      refused(t, await check(token, code), 400, 'CODE_INVALID')

      t.equal((await login(email, newPassword)).status, 200)
    })

    await t.test('[R-OTP-8] further requests leave a live code alone, and one success ends them all', async (t) => {
      const { email } = await enrol()
      const first = await ask(email)
      const later = await Promise.all(Array.from({ length: 10 }, () => host.post('/auth/email_request/', { email })))

      const second = await grant(email)
      t.equal((await check(first.token, first.code)).status, 200, 'the first code still works')
      t.equal((await reset(first.token)).status, 200)

      refused(t, await reset(second.token), 400, 'CODE_INVALID')
      const codes = mailer.sent.slice(-11).map(({ code }) => code)
      for (const { body } of later) {
        for (const code of codes.slice(0, 5)) refused(t, await check(body.token, code), 400, 'CODE_INVALID')
      }
    })

    await t.test('[R-OTP-6] a grant issued before another password change is dead', async (t) => {
      const { email } = await enrol()
      const [early, late] = [await grant(email), await grant(email)]
      const { storage } = realmOf(accounts)
      const user = await storage.findUserByEmail(email)
      const { id: userId, credentialVersion: fence, passwordHash } = user!
      const changed = await storage.changeCredentials({
        ...{ userId, fence, now: clock(), credentialVersion: fence + 1 },
        ...{ set: { passwordHash }, sessions: 'end', start: null, mails: [] },
      })
      t.same(changed, { ended: [] })

      refused(t, await reset(early.token), 400, 'CODE_INVALID')
      refused(t, await reset(late.token), 400, 'CODE_INVALID')
      t.equal((await login(email)).status, 200)
    })

    await t.test('[R-OTP-4] a code lives ten minutes by the clock', async (t) => {
      const { email } = await enrol()
      const [inTime, tooLate] = [await ask(email), await ask(email)]

      clock.pass(599_999)
      t.equal((await check(inTime.token, inTime.code)).status, 200)
      clock.pass(1)
      refused(t, await check(tooLate.token, tooLate.code), 400, 'CODE_INVALID')
    })

    await t.test('[R-OTP-4] a grant lives ten minutes from the right code', async (t) => {
      // docs: "sets the password within 10 minutes"
      const [inTime, tooLate] = [await enrol(), await enrol()]
      const first = await ask(inTime.email)
      const second = await ask(tooLate.email)
      clock.pass(599_000)
      await check(first.token, first.code)
      await check(second.token, second.code)

      clock.pass(599_999)
      t.equal((await check(first.token, first.code)).status, 200, 'a repeated code does not lengthen the grant')
      t.equal((await reset(first.token)).status, 200)
      clock.pass(1)
      refused(t, await reset(second.token), 400, 'CODE_INVALID')
    })

    await t.test('an address with a +tag is an account of its own', async (t) => {
      const name = uniqueName()
      const plain = await enrol(`${name}@example.com`)
      const tagged = await enrol(`${name}+x@example.com`)
      const mine = await grant(plain.email)
      const theirs = await grant(tagged.email)

      t.equal((await reset(theirs.token)).status, 200)
      t.equal((await login(plain.email)).status, 200, 'the plain account keeps its password')
      t.equal((await login(tagged.email, newPassword)).status, 200)

      t.equal((await reset(mine.token, 'a third password')).status, 200, 'its grant was not burnt')
      t.equal((await login(tagged.email, newPassword)).status, 200)
    })

    await t.test('any spelling of an address gets the code, at the stored spelling', async (t) => {
      const name = uniqueName()
      await enrol(`${name}@Example.com`)

      const { token } = (await host.post('/auth/email_request/', { email: `${name.toUpperCase()}@EXAMPLE.COM` })).body

      t.equal(mailer.sent.at(-1)?.to, `${name}@Example.com`)
      t.equal((await check(token, mailer.sent.at(-1)?.code)).status, 200)
    })

    await t.test('a reset in flight survives a rotation of the secret and ends with the old secret', async (t) => {
      const [older, newer] = [secret, 'b'.repeat(10) + secret]
      const { email } = await enrol()
      const early = await instance(t, { ...all, secret: [older, newer] })
      const rotated = await instance(t, { ...all, secret: [newer, older] })
      const dropped = await instance(t, { ...all, secret: newer })
      const asked = await early.ask(email)
      const forgotten = await early.grant(email)
      const again = await rotated.ask(email)

      refused(t, await dropped.check(asked.token, asked.code), 400, 'CODE_INVALID')
      refused(t, await dropped.reset(forgotten.token), 400, 'CODE_INVALID')
      t.equal((await early.check(again.token, again.code)).status, 200, 'the old instances know new codes')
      t.equal((await rotated.check(asked.token, asked.code)).status, 200)
      t.equal((await rotated.reset(asked.token)).status, 200)
      refused(t, await early.check(again.token, again.code), 400, 'CODE_INVALID')
    })
  })
}

t.test('a disabled user gets a decoy and no grant', { skip: noPostgres }, async (t) => {
  const parts = await realParts(t)
  const { enrol, ask, grant, check, reset, mailer } = await instance(t, parts)
  const { email } = await enrol()
  const early = await grant(email)
  await parts.db!.updateTable('accounts_users').set({ active: false }).execute()
  const mails = mailer.sent.length

  const { token } = await ask(email)

  t.equal(mailer.sent.length, mails, 'nobody gets a mail')
  refused(t, await check(token, '12345678'), 400, 'CODE_INVALID')
  refused(t, await reset(early.token), 400, 'CODE_INVALID')
})

t.test('[R-OTP-6] a used grant is dead though Redis is restored', { skip: noPostgres || noRedis }, async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'redis-'))
  const first = await startRedis({ dir })
  const { db } = await openDatabase(t)
  const { enrol, grant, reset, login } = await instance(t, { db, redis: first.url })
  const { email } = await enrol()
  const { token } = await grant(email)
  const redis = new Redis(first.url)
  await redis.save()
  redis.disconnect()

  t.equal((await reset(token)).status, 200)
  await first.kill()
  const second = await startRedis({ dir, port: first.port })
  t.teardown(() => second.stop())

  const back = new Redis(second.url)
  t.teardown(() => back.disconnect())
  const [record] = (await back.keys('*:reset:*')) as [string]
  t.equal(await back.hget(record, 'state'), 'verified', 'the snapshot has the grant')

  await until(async () => (await reset(token, 'another password')).status !== 503)
  refused(t, await reset(token, 'another password'), 400, 'CODE_INVALID')
  t.equal((await login(email, newPassword)).status, 200)
})

t.test('[R-OTP-1] the digits of codes are uniform and tokens are 32 random bytes', async (t) => {
  const forgetful = { ...memoryCache(), put: async () => ({ endsAt: 0, decoy: false }) }
  const { accounts } = await instance(t, { storage: memoryStorage(), cache: forgetful, passwordReset: { url } })
  const subject = { address: 'ada@example.com', credentialVersion: null }

  const issue = () => newCode(realmOf(accounts), 'reset', subject, { network: '', mailed: true })

  const issued = Array.from({ length: rounds(20_000, 4000) }, issue)

  for (let position = 0; position < 8; position++) {
    const counts = Array<number>(10).fill(0)
    for (const { code } of issued) counts[Number(code[position])]!++
    const chiSquare = counts.reduce((sum, count) => sum + (count - issued.length / 10) ** 2 / (issued.length / 10), 0)
    // 9 degrees of freedom: once in ten million runs by chance.
    t.ok(chiSquare < 50, `position ${position}: ${chiSquare}`)
  }
  const tokens = issued.flatMap(({ token, linkToken }) => [token, linkToken as string])
  t.equal(new Set(tokens.map((token) => token.split('.')[1])).size, tokens.length)
  t.ok(tokens.every((token) => Buffer.from(token.split('.')[1]!, 'base64url').length === 32))
  const bytes = Buffer.concat(tokens.map((token) => Buffer.from(token.split('.')[1]!, 'base64url')))
  const counts = Array<number>(256).fill(0)
  for (const byte of bytes) counts[byte]!++
  const chiSquare = counts.reduce((sum, count) => sum + (count - bytes.length / 256) ** 2 / (bytes.length / 256), 0)
  // 255 degrees of freedom.
  t.ok(chiSquare < 400, `bytes of tokens: ${chiSquare}`)
})

t.test('[R-OTP-2] Redis holds HMACs and sealed values, no code, token or address', { skip: noPostgres }, async (t) => {
  const parts = await realParts(t)
  const { enrol, ask, check, reset } = await instance(t, { ...parts, passwordReset: { url } })
  const redis = new Redis(redisUrl())
  t.teardown(() => redis.disconnect())
  const { id, email } = await enrol()
  const dump = async () => {
    const keys = await redis.keys(`${parts.name}:*`)
    const values = await Promise.all(keys.map((key) => contentOf(redis, key)))
    return { keys, text: JSON.stringify([keys, values]) }
  }

  const issued = await ask(email)
  const whileIssued = await dump()
  await check(issued.token, issued.code)
  const whileVerified = await dump()
  await reset(issued.token)
  const afterReset = await dump()

  t.equal(whileIssued.keys.length, 3, 'two records and the index')
  for (const { text } of [whileIssued, whileVerified, afterReset]) {
    const secrets = [issued.code, issued.token, issued.linkToken!, email, email.split('@')[0]!, 'userId', `:${id},`]
    const random = [issued.token, issued.linkToken!].map((token) => token.split('.')[1]!)
    for (const secret of [...secrets, ...random]) t.notOk(text.includes(secret))
  }
})

async function contentOf(redis: Redis, key: string): Promise<unknown> {
  const type = await redis.type(key)
  if (type === 'hash') return redis.hgetall(key)
  if (type === 'zset') return redis.zrange(key, '0', '-1', 'WITHSCORES')
  throw new Error(`a ${type} is not one of our keys`)
}

function refused(t: Test, { status, body }: Answer, expected: number, code: string): void {
  t.strictSame([status, body.code], [expected, `ACCOUNTS_${code}`])
}

async function repeat(times: number, act: () => Promise<unknown>): Promise<void> {
  for (let round = 0; round < times; round++) await act()
}

/** Occupies the hash queue of this process until the answered function is called. */
