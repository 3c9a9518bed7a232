import { createHash } from 'node:crypto'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { type Answer, openDatabase, startServer } from '../helpers/app.ts'
import { noPostgres, redisUrl, rounds, uniqueName, until } from '../helpers/helper.ts'
import { catchMails } from '../helpers/mail-catch.ts'
import { password, resetActs, wrong } from '../helpers/reset-flow.ts'

t.test('over two processes', { skip: noPostgres }, async (t) => {
  const { one, other, both, sent, db, tried } = await twoInstances(t)
  const { enrol, login, check, reset } = one

  /** Asks for a code by mail, which takes the way over the queue. */
  async function ask(email: string) {
    const before = sent.length
    const { token } = await one.ask(email)
    await until(() => sent.slice(before).some(({ to }) => to === email))
    return { token, code: sent.findLast(({ to }) => to === email)!.code }
  }
  async function grant(email: string) {
    const asked = await ask(email)
    await check(asked.token, asked.code)
    return asked
  }

  await t.test('[R-OTP-3] of 200 parallel guesses with 5 tries exactly 5 are compared', async (t) => {
    const { token, code } = await ask((await enrol()).email)

    const guesses = await parallel(200, (n) => both[n % 2]!.check(token, wrong(code)))

    t.strictSame(kinds(guesses), { '400 ACCOUNTS_CODE_INVALID': 200 })
    t.strictSame(await tried(token), { state: 'exhausted', used: '6' }, 'five were compared and the sixth ended it')
    t.equal((await check(token, code)).status, 400)
  })

  await t.test('[R-OTP-3] count before compare: the right code sent as the sixth guess fails', async (t) => {
    for (let round = 0; round < 5; round++) {
      const { token, code } = await ask((await enrol()).email)
      await parallel(5, (n) => both[n % 2]!.check(token, wrong(code)))

      const late = await parallel(20, (n) => both[n % 2]!.check(token, code))

      t.strictSame(kinds(late), { '400 ACCOUNTS_CODE_INVALID': 20 })
      t.equal((await reset(token)).status, 400)
    }
  })

  await t.test('[R-OTP-3] 200 different guesses at once open at most what five tries open', async (t) => {
    const { token, code } = await ask((await enrol()).email)
    const guesses = Array.from({ length: 200 }, (_, n) => String((Number(code) + n - 150) % 1e8).padStart(8, '0'))

    const answers = await parallel(200, (n) => both[n % 2]!.check(token, guesses[n]))

    const { state, used } = await tried(token)
    const opened = answers[150]?.status === 200
    t.equal(state, opened ? 'verified' : 'exhausted')
    t.ok(Number(used) <= 6, `${used} tries`)
  })

  await t.test('[R-OTP-5] 50 parallel checks with the right code are all 200 and one step', async (t) => {
    const { token, code } = await ask((await enrol()).email)

    const checks = await parallel(50, (n) => both[n % 2]!.check(token, code))

    t.strictSame(kinds(checks), { '200 ': 50 })
    t.strictSame(await tried(token), { state: 'verified', used: '1' })
  })

  await t.test('[R-OTP-5] of 50 parallel resets one succeeds, and its password alone works', async (t) => {
    const { email } = await enrol()
    const { token } = await grant(email)
    const passwordOf = (n: number) => `new password ${n}`

    const resets = await parallel(50, (n) => both[n % 2]!.reset(token, passwordOf(n)))

    t.strictSame(kinds(resets), { '200 ': 1, '400 ACCOUNTS_CODE_INVALID': 49 })
    const winner = resets.findIndex(({ status }) => status === 200)
    t.equal((await login(email, passwordOf(winner))).status, 200)
    const losers = [password, passwordOf((winner + 1) % 50), passwordOf((winner + 49) % 50)]
    for (const typed of losers) t.equal((await login(email, typed)).status, 401)
  })

  await t.test('[R-OTP-6] resets with several grants of one account: one succeeds', async (t) => {
    const { email } = await enrol()
    const grants = [await grant(email), await grant(email), await grant(email), await grant(email)]

    const resets = await parallel(4, (n) => both[n % 2]!.reset(grants[n]!.token, `new password ${n}`))

    t.strictSame(kinds(resets), { '200 ': 1, '400 ACCOUNTS_CODE_INVALID': 3 })
    const winner = resets.findIndex(({ status }) => status === 200)
    t.equal((await login(email, `new password ${winner}`)).status, 200)
  })

  await t.test('[R-ENUM-5] [R-REG-1] 20 parallel registrations of one address make one account', async (t) => {
    const name = uniqueName()
    const emailOf = (n: number) => (n % 3 ? `${name}@example.com` : `${name.toUpperCase()}@EXAMPLE.com`)

    const answers = await parallel(20, (n) =>
      both[n % 2]!.post('/api/register/', { username: uniqueName(), email: emailOf(n), password }),
    )

    t.strictSame(kinds(answers), { '201 ': 1, '409 ACCOUNTS_EMAIL_TAKEN': 19 })
    const rows = db.selectFrom('accounts_users').select('id').where('email_canonical', '=', `${name}@example.com`)
    t.equal((await rows.execute()).length, 1)
  })

  await t.test('[R-OTP-10] session fence: no session of the old password survives a reset', async (t) => {
    const opened: Answer[] = []
    for (let round = 0; round < rounds(100, 20); round++) {
      const { email } = await enrol()
      const { token } = await grant(email)
      const logins = parallel(3, (n) => both[n % 2]!.login(email))
      await Promise.all([other.reset(token), logins.then((answers) => opened.push(...answers))])

      const live = await db
        .selectFrom('accounts_sessions')
        .innerJoin('accounts_users', 'accounts_users.id', 'accounts_sessions.user_id')
        .select('accounts_sessions.id')
        .where('email', '=', email)
        .where('ended_at', 'is', null)
        .execute()
      t.equal(live.length, 0)
    }
    const won = opened.filter(({ status }) => status === 200)
    t.ok(won.length > 0, 'some log-ins were in time')
    t.ok(opened.every(({ status }) => status === 200 || status === 401))
    for (const { body } of won) {
      t.equal((await one.get('/auth/user/', body.access)).status, 401)
      t.equal((await other.refresh(body.refresh)).status, 401)
    }
  })
})

async function twoInstances(t: Test) {
  const { url, db } = await openDatabase(t)
  const name = uniqueName()
  const settings = { DATABASE_URL: url, REDIS_URL: redisUrl(), OPTIONS: JSON.stringify({ name }) }
  const sent = catchMails(t, { redis: redisUrl(), name })
  const both = (await Promise.all([startServer(t, settings), startServer(t, settings)])).map((server) =>
    resetActs(server, sent),
  )
  const redis = new Redis(redisUrl())
  t.teardown(() => redis.disconnect())
  async function tried(token: string) {
    const [key] = await redis.keys(`${name}:*:${createHash('sha256').update(token).digest('base64url')}`)
    const [state, used] = await redis.hmget(key!, 'state', 'used')
    return { state, used }
  }
  return { one: both[0]!, other: both[1]!, both, sent, db, tried }
}

function parallel<T>(callers: number, act: (caller: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: callers }, (_, caller) => act(caller)))
}

/** How often each kind of answer came. */
function kinds(answers: Answer[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { status, body } of answers) {
    const kind = `${status} ${body.code ?? ''}`
    counts[kind] = (counts[kind] ?? 0) + 1
  }
  return counts
}
