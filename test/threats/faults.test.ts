import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { hash } from '@node-rs/argon2'
import { Cluster } from 'ioredis'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { migrateToLatest } from '../../lib/adapters/kysely/index.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { User } from '../../lib/contracts.ts'
import { sweepOutbox } from '../../lib/core/outbox.ts'
import { accountActs, counted, kindsTo, password, passwords, told } from '../helpers/account-acts.ts'
import { type Answer, bearer, clientOf, openDatabase, realApp, settableClock, startServer } from '../helpers/app.ts'
import { onPort, tripwire } from '../helpers/fault-proxy.ts'
import {
  databaseUrl,
  faultProxy,
  freshDatabase,
  longRun,
  noPostgres,
  noRedis,
  redisUrl,
  startPostgres,
  startRedis,
  uniqueName,
  until,
} from '../helpers/helper.ts'
import { catchMails } from '../helpers/mail-catch.ts'
import { sessionFor } from '../helpers/members.ts'
import { instance, newPassword, resetActs } from '../helpers/reset-flow.ts'

type Acts = Awaited<ReturnType<typeof instance>>

const verifying = { verifyEmail: true }
/** Calls of the housekeeping, whenever it does its work. */
const background = ['close', 'purge', 'claimMails', 'progress', 'settleMails']
const registrationOnce = { username: 'ada', email: 'ada@example.com', password }
const needsRedis = [
  ...(['email_request', 'check_otp', 'reset_password'] as const),
  ...(['verify_email', 'resend_verification', 'confirm_email'] as const),
]

for (const mode of ['refuse', 'freeze'] as const) {
  t.test(`Redis: ${mode}`, { skip: noPostgres }, async (t) => {
    const { acts, redis, user, before, steps } = await behindProxies(t)
    redis.mode = mode

    await t.test('[R-LOG-4] what needs Redis answers 503 in time, and tells nothing', async (t) => {
      for (const name of needsRedis) await unavailable(t, steps[name])
    })

    await t.test('everything else goes on', async (t) => {
      const others = Object.entries(steps).filter(([name]) => !needsRedis.includes(name as (typeof needsRedis)[number]))
      for (const [name, step] of others) {
        const { answer, ms } = await quickest(step)
        t.ok(answer.status === 200 || answer.status === 201, `${name}: ${answer.status}`)
        t.ok(ms < 1200, `${name}: ${ms} ms`)
      }
    })

    await t.test('[R-OTP-9] it recovers by itself, and the grant of before works', async (t) => {
      redis.mode = 'pass'
      await until(async () => (await steps.email_request()).status === 200)
      t.equal((await acts.reset(before.token)).status, 200)
      t.equal((await acts.login(user.email, newPassword)).status, 200)
      for (const name of ['verify_email', 'confirm_email'] as const) t.equal((await steps[name]()).status, 200, name)
    })
  })

  t.test(`PostgreSQL: ${mode}`, { skip: noPostgres }, async (t) => {
    const { acts, postgres, user, before, steps } = await behindProxies(t)
    postgres.mode = mode

    await t.test(
      '[R-LOG-4] [R-SQL-4] what needs PostgreSQL answers 503 in time, never 401, and tells nothing',
      async (t) => {
        const { check_otp, ...needy } = steps
        for (const step of Object.values(needy)) await unavailable(t, step)
        t.equal((await check_otp()).status, 200, 'check_otp needs no database')
      },
    )

    await t.test('[R-OTP-9] it recovers by itself, and the grant that met the fault works', async (t) => {
      await unavailable(t, () => acts.reset(before.token))
      postgres.mode = 'pass'
      await until(async () => (await steps.user()).status === 200)
      await until(async () => (await acts.reset(before.token)).status === 200)
      t.equal((await acts.login(user.email, newPassword)).status, 200)
      for (const name of ['verify_email', 'confirm_email'] as const) t.equal((await steps[name]()).status, 200, name)
    })
  })
}

t.test(
  '[R-LOG-4] servers stopped in their tracks: 503, then all goes on',
  { skip: noPostgres || noRedis },
  async (t) => {
    const [redis, postgres] = await Promise.all([startRedis(), startPostgres()])
    t.teardown(() => Promise.all([redis.stop(), postgres.stop()]))
    const db = openPool(t, postgres.url)
    await migrateToLatest(db)
    const acts = await instance(t, { db, redis: redis.url })
    const { email } = await acts.enrol()
    const { token } = await acts.grant(email)

    redis.freeze()
    await unavailable(t, () => acts.reset(token))
    t.equal((await acts.login(email)).status, 200)
    redis.thaw()
    await until(async () => (await acts.post('/auth/email_request/', { email })).status === 200)

    postgres.freeze()
    await unavailable(t, () => acts.reset(token))
    await unavailable(t, () => acts.login(email))
    postgres.thaw()
    await until(async () => (await acts.login(email)).status === 200)
    t.equal((await acts.reset(token)).status, 200)
  },
)

t.test(
  'boot with PostgreSQL and Redis down works, and both are found when they come',
  { skip: noPostgres },
  async (t) => {
    const { redis, postgres, urls } = await proxies(t)
    await migrateToLatest(openPool(t, urls.database))
    redis.mode = 'refuse'
    postgres.mode = 'refuse'

    const acts = await instance(t, { db: openPool(t, urls.throughProxy), redis: urls.redis })

    await unavailable(t, () => acts.post('/auth/email_request/', { email: 'ada@example.com' }))
    await unavailable(t, () => acts.login('ada@example.com'))
    redis.mode = 'pass'
    postgres.mode = 'pass'
    await until(async () => (await acts.post('/auth/email_request/', { email: 'a@b.example' })).status === 200)
    const { email } = await acts.enrol()
    t.equal((await acts.reset((await acts.grant(email)).token)).status, 200)
  },
)

t.test('a connection that breaks at a statement', { skip: noPostgres }, async (t) => {
  const { url, db } = await openDatabase(t)
  const wire = await tripwire(Number(new URL(url).port))
  t.teardown(() => wire.close())
  const clock = settableClock()
  const throughWire = { name: uniqueName(), db: openPool(t, onPort(url, wire.port)), redis: redisUrl() }
  const acts = await instance(t, { ...throughWire, clock })
  const { accounts, enrol, grant, reset, login, refresh, get } = acts
  const rounds = 5

  const change = (access: string) =>
    acts.post('/auth/change_password/', { current_password: password, new_password: newPassword }, bearer(access))
  const remove = (access: string, typed: string) =>
    clientOf(acts.app).send({
      ...{ method: 'DELETE', url: '/auth/user/', headers: bearer(access), payload: { password: typed } },
    })
  const noticesTo = (email: string) =>
    acts.mailer.sent.filter(({ to, code }) => to === email && code === null).map(({ kind }) => kind as string)
  /** Sweeps when the request's own time for its mails is over. */
  async function sweepLater() {
    clock.pass(31_000)
    await sweepOutbox(realmOf(accounts))
  }

  /** Lets a request meet the fault; afterwards idle connections that broke are gone. */
  async function meet(pattern: RegExp, when: 'before' | 'after', act: () => Promise<Answer>) {
    wire.arm(pattern, when)
    const answer = await act()
    t.ok(wire.pulled(), `${pattern} was sent`)
    t.strictSame([answer.status, answer.body.code], [503, 'ACCOUNTS_UNAVAILABLE'])
    tellsNothing(t, answer)
  }

  await t.test('[R-OTP-9] before the password is stored: the same grant works afterwards', async (t) => {
    for (const pattern of [
      /join "accounts_users"/,
      /update "accounts_users"/,
      /update "accounts_sessions"/,
      /commit\0/,
    ]) {
      const { email } = await enrol()
      const { token } = await grant(email)

      await meet(pattern, 'before', () => reset(token))

      t.equal((await login(email)).status, 200)
      t.equal((await reset(token)).status, 200)
      t.equal((await login(email, newPassword)).status, 200)
    }
  })

  await t.test(
    '[R-OTP-6] the answer to COMMIT is lost: a reset retried is 400 and the new password works',
    async (t) => {
      const tokens: string[] = []
      for (let round = 0; round < rounds; round++) {
        const { email } = await enrol()
        const { body } = await login(email)
        const { token } = await grant(email)
        tokens.push(body.access)

        await meet(/commit\0/, 'after', () => reset(token))

        const retried = await reset(token)
        t.strictSame([retried.status, retried.body.code], [400, 'ACCOUNTS_CODE_INVALID'])
        t.equal((await login(email, newPassword)).status, 200)
        t.equal((await login(email)).status, 401)
      }
      // Nobody here knows that the sessions have ended before the next poll, which comes within 10 s.
      for (const access of tokens) await until(async () => (await get('/auth/user/', access)).status === 401)
    },
  )

  await t.test('[R-REG-1] the answer to a registration is lost: retried it is 409, and one row', async (t) => {
    for (let round = 0; round < rounds; round++) {
      const body = { username: uniqueName(), email: `${uniqueName()}@example.com`, password }

      await meet(/insert into "accounts_users"/, 'after', () => acts.post('/api/register/', body))

      t.equal((await acts.post('/api/register/', body)).status, 409)
      const rows = await db.selectFrom('accounts_users').select('id').where('email', '=', body.email).execute()
      t.equal(rows.length, 1)
      t.equal((await login(body.email)).status, 200)
    }
  })

  await t.test(
    '[R-SES-9] a change that did not commit mails nothing; repeated, it mails its notice once',
    async (t) => {
      for (const pattern of [/update "accounts_users"/, /insert into "accounts_outbox"/, /commit\0/]) {
        const { email } = await enrol()
        const { access } = (await login(email)).body

        await meet(pattern, 'before', () => change(access))

        await sweepLater()
        t.strictSame(noticesTo(email), [])
        t.equal((await change(access)).status, 200)
        t.equal((await login(email, newPassword)).status, 200)
        await sweepLater()
        t.strictSame(noticesTo(email), ['password_changed'])
      }
    },
  )

  await t.test(
    '[R-SES-9] the answer to COMMIT is lost: the change is done, and its notice is mailed once',
    async (t) => {
      for (let round = 0; round < 2; round++) {
        const { email } = await enrol()
        const { access } = (await login(email)).body

        await meet(/commit\0/, 'after', () => change(access))

        t.strictSame(noticesTo(email), [], 'the request does not know that it may')
        t.equal((await login(email)).status, 401)
        const again = (await login(email, newPassword)).body
        await sweepLater()
        t.strictSame(noticesTo(email), ['password_changed'])

        await meet(/commit\0/, 'after', () => remove(again.access, newPassword))

        t.equal((await login(email, newPassword)).status, 401)
        t.equal(await accounts.users.find({ email }), null)
        await sweepLater()
        t.strictSame(noticesTo(email), ['password_changed', 'account_deleted'])
      }
    },
  )

  await t.test('the answer to a log-in or a refresh is lost: both can be repeated', async (t) => {
    const { email } = await enrol()
    await meet(/insert into "accounts_sessions"/, 'after', () => login(email))
    const { body } = await login(email)

    await meet(/update "accounts_sessions"/, 'after', () => refresh(body.refresh))

    const again = await refresh(body.refresh)
    t.equal(again.status, 200)
    t.equal((await refresh(again.body.refresh)).status, 200)
  })
})

t.test('[R-LOG-5] a port that throws at any of its calls is a 503, and the request can be repeated', async (t) => {
  const calls = await resetWithFault(t, null)
  t.strictSame(calls.broken, [])
  const verbs = ['findUserById', 'findUserByEmail', 'insertUser', 'replacePasswordHash', 'changeCredentials']
  verbs.push('insertSession', 'sessionActive', 'refreshSession', 'put', 'guess', 'lease', 'giveBack', 'burn', 'send')
  verbs.push('samplePasswordHashes')
  t.strictSame([...calls.counts.keys()].sort(), verbs.sort(), 'the flow asks every verb')

  // The work is done when these are asked, and what they leave undone ends by itself, or the sweeper does it.
  const harmless = ['burn', 'giveBack', 'replacePasswordHash', 'samplePasswordHashes']
  const notice = 2
  await breakEachCall(
    t,
    calls.counts,
    resetWithFault,
    ({ verb, call }) => harmless.includes(verb) || (verb === 'send' && call === notice),
  )
})

t.test('[R-LOG-5] a port that throws in the life of an account is a 503, or only delays a mail', async (t) => {
  const calls = await lifeWithFault(t, null)
  t.strictSame(calls.broken, [])
  const verbs = ['insertUser', 'findUserById', 'findUserByEmail', 'findUserWithPassword', 'updateUser', 'addMails']
  verbs.push('changeCredentials', 'deleteUser', 'sessionActive', 'listSessions', 'endSession', 'endSessions')
  verbs.push('put', 'peek', 'guess', 'lease', 'burn', 'send')
  t.strictSame([...calls.counts.keys()].sort(), verbs.sort(), 'the flow asks every verb')

  // Only the mail of `resend_verification`, the second, is not in the outbox.
  const posts = ['put', 'send']
  await breakEachCall(
    t,
    calls.counts,
    lifeWithFault,
    ({ verb, call }) => verb === 'burn' || (posts.includes(verb) && call !== 2),
  )
})

t.test(
  '[F13] a request delivered again and in parallel leaves the state as after one',
  { skip: noPostgres },
  async (t) => {
    const host = await realApp(t, { passwords, registration: verifying })
    const { db, mailer } = host
    const acts = accountActs(host)
    const { member, rowOf, accounts, newSession } = acts

    /** Runs an act eight times at once and once more, and answers how often each answer came. */
    async function repeatedly(act: () => Promise<Answer>) {
      const answers = await Promise.all(Array.from({ length: 8 }, act))
      return counted([...answers, await act()])
    }
    const live = async (id: User['id']) => (await realmOf(accounts).storage.listSessions(id, 1000, Date.now())).length
    const versionOf = async (id: User['id']) => Number((await rowOf(id))?.credential_version)
    const mailsTo = (email: string) => kindsTo({ mailer }, email)
    const waiting = async () => (await db.selectFrom('accounts_outbox').select('id').execute()).length

    await t.test('register: one user, one mail', async (t) => {
      const body = registration()
      const before = await waiting()
      t.strictSame(await repeatedly(() => acts.post('/api/register/', body)), { '201': 1, '409 EMAIL_TAKEN': 8 })
      t.strictSame(mailsTo(body.email), ['verify'])
      t.equal(await waiting(), before + 1)
    })

    await t.test('verify_email: one step of the credentials, the session goes on', async (t) => {
      const { email, ...rest } = registration()
      const { body } = await acts.post('/api/register/', { email, ...rest })
      const { code } = mailer.sent.findLast(({ to }) => to === email)!
      const session = await newSession(body.id)
      const before = await versionOf(body.id)

      const answers = await repeatedly(() => acts.post('/auth/verify_email/', { token: body.token, otp: code }))

      t.strictSame(answers, { '200': 1, '400 CODE_INVALID': 8 })
      t.equal(await versionOf(body.id), before + 1)
      t.equal((await session.read()).body.email_verified, true)
      t.equal((await acts.login(email)).status, 200)
    })

    await t.test('reset_password: one step, one notice, no session', async (t) => {
      const { id, email } = await member()
      const { token, code } = await acts.askReset(email)
      await acts.check(token, code)
      const before = await versionOf(id)

      t.strictSame(await repeatedly(() => acts.reset(token)), { '200': 1, '400 CODE_INVALID': 8 })

      t.equal(await versionOf(id), before + 1)
      t.strictSame([mailsTo(email), await live(id)], [['reset', 'password_changed'], 0])
      t.equal(told(await acts.login(email, newPassword)), '200')
    })

    await t.test('change_password: one step, one notice, one session', async (t) => {
      const user = await member()
      const before = await versionOf(user.id)

      const answers = await repeatedly(() => user.changePassword())

      // Whoever reads the user after the change has proved a password that is none any more.
      const { '200': changed, '401 TOKEN_INVALID': late = 0, '403 PASSWORD_WRONG': wrong = 0, ...others } = answers
      t.strictSame([changed, late + wrong, others], [1, 8, {}])
      t.equal(await versionOf(user.id), before + 1)
      t.strictSame([mailsTo(user.email), await live(user.id)], [['password_changed'], 1])
    })

    await t.test('confirm_email: one step, one notice, the session that asked goes on', async (t) => {
      const user = await member()
      const email = `${uniqueName()}@example.org`
      const code = await user.askEmail(email)
      const before = await versionOf(user.id)

      t.strictSame(await repeatedly(() => user.confirmEmail(code)), { '200': 1, '400 CODE_INVALID': 8 })

      t.equal(await versionOf(user.id), before + 1)
      t.strictSame([mailsTo(user.email), mailsTo(email)], [['email_changed'], ['change']])
      t.equal((await user.read()).body.email, email)
    })

    await t.test('delete: one row less, one notice', async (t) => {
      const user = await member()
      t.strictSame(await repeatedly(() => user.remove()), { '204': 1, '401 TOKEN_INVALID': 8 })
      t.equal(await rowOf(user.id), null)
      t.strictSame([mailsTo(user.email), await live(user.id)], [['account_deleted'], 0])
    })
  },
)

longRun('the whole flow works on a cluster of one node', { skip: noPostgres || noRedis }, async (t) => {
  const server = await startRedis({ cluster: true, args: ['--cluster-announce-ip', '127.0.0.1'] })
  t.teardown(() => server.stop())
  const cluster = new Cluster([{ host: '127.0.0.1', port: server.port }])
  t.teardown(() => cluster.disconnect())
  const { db } = await openDatabase(t)

  for (const redis of [server.url, cluster]) {
    const name = uniqueName()
    const sent = catchMails(t, { redis: server.url, name })
    const host = await instance(t, {
      name,
      db,
      redis,
      mailer: undefined,
      passwordReset: { url: 'https://app.example/' },
    })
    const { enrol, ask, check, reset, login } = resetActs(host, sent)
    const { email } = await enrol()
    const { token } = await ask(email)
    await until(() => sent.length === 1)
    const { code, token: linkToken } = sent[0]!

    t.equal((await check(linkToken, code)).status, 200)
    t.equal((await check(token, code)).status, 200)
    t.equal((await reset(token)).status, 200)
    t.equal((await check(linkToken, code)).status, 400, 'one success ends them all')
    t.equal((await login(email, newPassword)).status, 200)
  }
})

t.test('app.close() under load answers what was accepted and ends with 0', { skip: noPostgres }, async (t) => {
  const { url } = await openDatabase(t)
  const OPTIONS = JSON.stringify({ name: uniqueName() })
  for (let round = 0; round < 3; round++) {
    const { address, child } = await startServer(t, { DATABASE_URL: url, REDIS_URL: redisUrl(), OPTIONS })
    const agent = new Agent({ keepAlive: true, maxSockets: 20 })
    const exited = once(child, 'exit')
    // Each connection is accepted before the end begins.
    await Promise.all(Array.from({ length: 20 }, () => send(agent, address, 'GET', '/auth/user/')))

    const answers = Array.from({ length: 20 }, (_, n) => {
      if (n % 4 === 0) return send(agent, address, 'POST', '/auth/email_request/', { email: 'ada@example.com' })
      if (n % 4 === 1) return send(agent, address, 'POST', '/api/register/', registration())
      return send(agent, address, 'POST', '/api/login/', { email: 'ada@example.com', password })
    })
    await Promise.race(answers)
    child.kill('SIGTERM')

    const statuses = await Promise.all(answers)
    t.strictSame(
      statuses.filter((status) => ![200, 201, 401].includes(status)),
      [],
    )
    // Fastify leaves an idle connection open; that of a client that waits for nothing must not keep the process.
    agent.destroy()
    t.strictSame(await exited, [0, null])
  }
})

function registration() {
  return { username: uniqueName(), email: `${uniqueName()}@example.com`, password }
}

async function send(agent: Agent, address: string, method: string, path: string, body?: object): Promise<number> {
  const outgoing = request(address + path, { agent, method, headers: { 'content-type': 'application/json' } })
  outgoing.end(body && JSON.stringify(body))
  const [incoming] = await once(outgoing, 'response')
  incoming.resume()
  await once(incoming, 'end')
  return incoming.statusCode
}

async function proxies(t: Test) {
  const { url, drop } = await freshDatabase()
  const [redis, postgres] = await Promise.all([faultProxy(portOf(redisUrl())), faultProxy(portOf(databaseUrl()))])
  t.teardown(async () => {
    await Promise.all([redis.close(), postgres.close()])
    await drop()
  })
  const urls = { database: url, throughProxy: onPort(url, postgres.port), redis: onPort(redisUrl(), redis.port) }
  return { redis, postgres, urls }
}

/** A host behind proxies, a user with a grant, and a step for every route. */
async function behindProxies(t: Test) {
  const { redis, postgres, urls } = await proxies(t)
  const db = openPool(t, urls.throughProxy)
  await migrateToLatest(db)
  const name = uniqueName()
  const acts: Acts = await instance(t, { name, db, redis: urls.redis, passwords, registration: verifying })
  const { app, mailer } = acts
  const { member } = accountActs({ app, name, mailer, ...clientOf(app) })
  const user = await member()
  const before = await acts.grant(user.email)
  const other = await member()
  const grant = await acts.grant(other.email)
  const { access, refresh } = (await acts.login(other.email)).body
  const [changing, moving] = [{ headers: bearer((await member()).access) }, bearer((await member()).access)]
  const unproved = registration()
  const verification = await acts.post('/api/register/', unproved)
  const move = await acts.post('/auth/change_email/', { email: newAddress(), password }, moving)
  const codeOf = (kind: string) => acts.mailer.sent.findLast((mail) => mail.kind === kind)?.code
  const [verifyCode, moveCode] = [codeOf('verify'), codeOf('change')]
  async function changePassword() {
    const body = { current_password: password, new_password: password }
    const answer = await acts.post('/auth/change_password/', body, changing.headers)
    if (answer.status === 200) changing.headers = bearer(answer.body.access)
    return answer
  }
  const steps = {
    register: () => acts.post('/api/register/', registration()),
    login: () => acts.login(other.email),
    refresh: () => acts.refresh(refresh),
    user: () => acts.get('/auth/user/', access),
    email_request: () => acts.post('/auth/email_request/', { email: other.email }),
    check_otp: () => acts.check(grant.token, grant.code),
    reset_password: () => acts.reset(grant.token),
    verify_email: () => acts.post('/auth/verify_email/', { token: verification.body.token, otp: verifyCode }),
    resend_verification: () => acts.post('/auth/resend_verification/', { email: unproved.email }),
    confirm_email: () => acts.post('/auth/confirm_email/', { token: move.body.token, otp: moveCode }, moving),
    change_password: changePassword,
    change_email: () => acts.post('/auth/change_email/', { email: newAddress(), password }, changing.headers),
  }
  return { acts, redis, postgres, user, before, steps }
}

function newAddress(): string {
  return `${uniqueName()}@example.org`
}

/** A pool as the README shows it: a connection that breaks must not end the process. */
function openPool(t: Test, connectionString: string) {
  const pool = new pg.Pool({ connectionString, max: 10 })
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  const db = new Kysely<any>({ dialect: new PostgresDialect({ pool }) })
  t.teardown(() => db.destroy())
  return db
}

function portOf(url: string): number {
  return Number(new URL(url).port)
}

// The other test files share the processor: one slow turn of three is not ours.
async function quickest(act: () => Promise<Answer>) {
  const turns = []
  for (let turn = 0; turn < 3; turn++) {
    const started = performance.now()
    const answer = await act()
    turns.push({ answer, ms: performance.now() - started })
    if (turns.at(-1)!.ms < 1200) break
  }
  return turns.reduce((one, other) => (other.ms < one.ms ? other : one))
}

async function unavailable(t: Test, act: () => Promise<Answer>): Promise<void> {
  const { answer, ms } = await quickest(act)
  t.ok(ms < 1200, `${ms} ms`)
  t.strictSame([answer.status, answer.body.code], [503, 'ACCOUNTS_UNAVAILABLE'])
  t.match(answer.headers['retry-after'], /^[1-9]\d*$/)
  tellsNothing(t, answer)
}

function tellsNothing(t: Test, { body }: Answer): void {
  t.strictSame(body, {
    statusCode: 503,
    code: 'ACCOUNTS_UNAVAILABLE',
    error: 'Service Unavailable',
    message: 'The service is not available; try again in a moment.',
  })
}

interface Fault {
  verb: string
  call: number
}

interface Flow {
  counts: Map<string, number>
  broken: Answer[]
}

/** Breaks each call of each verb in turn; all but the harmless ones must be told, once, as a 503. */
async function breakEachCall(
  t: Test,
  counts: Flow['counts'],
  run: (t: Test, fault: Fault) => Promise<Flow>,
  harmless: (fault: Fault) => boolean,
): Promise<void> {
  for (const [verb, count] of counts) {
    for (let call = 1; call <= count; call++) {
      const { broken } = await run(t, { verb, call })

      t.equal(broken.length, harmless({ verb, call }) ? 0 : 1, `${verb}, call ${call}`)
      for (const answer of broken) {
        t.strictSame([answer.status, answer.body.code], [503, 'ACCOUNTS_UNAVAILABLE'])
        t.match(answer.headers['retry-after'], /^[1-9]\d*$/)
        tellsNothing(t, answer)
      }
    }
  }
}

function outage(): Error {
  return Object.assign(new Error('connect ECONNREFUSED 10.1.2.3:5432'), { code: 'ECONNREFUSED' })
}

/** Ports of which one verb throws at one call, before it does its work; a step that met the fault is repeated. */
function faultyHost(t: Test, fault: Fault | null) {
  const counts: Flow['counts'] = new Map()
  const broken: Answer[] = []
  function faulty<Port extends object>(port: Port): Port {
    const members = Object.entries(port).map(([name, member]) => {
      if (typeof member !== 'function' || background.includes(name)) return [name, member]
      const verb = (...args: unknown[]) => {
        counts.set(name, (counts.get(name) ?? 0) + 1)
        const { verb, call } = fault ?? {}
        if (name === verb && counts.get(name) === call) throw outage()
        return member.apply(port, args)
      }
      return [name, verb]
    })
    return Object.fromEntries(members) as Port
  }
  async function step(act: () => Promise<Answer>, expected = 200) {
    const first = await act()
    if (first.status === expected) return first.body
    broken.push(first)
    const second = await act()
    t.equal(second.status, expected, `${JSON.stringify(fault)}: repeated`)
    return second.body
  }
  const [storage, mailer] = [memoryStorage(), memoryMailer()]
  const ports = { storage: faulty(storage), cache: faulty(memoryCache()), mailer: faulty(mailer) }
  // The feed asks in the background, whenever it does.
  return { counts, broken, step, storage, mailer, options: { ...ports, revocation: 'storage' as const } }
}

/** The way from a registration to a new password. */
async function resetWithFault(t: Test, fault: Fault | null): Promise<Flow> {
  const { counts, broken, step, storage, mailer, options } = faultyHost(t, fault)
  await storage.insertUser(await userWithOldHash())
  const acts = await instance(t, options)
  const { login, get, refresh, check, reset } = resetActs(acts, mailer.sent)
  const { email } = registrationOnce
  await step(() => login('old@example.com'))
  await step(() => acts.post('/api/register/', registrationOnce), 201)
  const tokens = await step(() => login(email))
  await step(() => get('/auth/user/', tokens.access))
  await step(() => refresh(tokens.refresh))
  const { token } = await step(() => acts.post('/auth/email_request/', { email }))
  await step(() => check(token, mailer.sent.at(-1)?.code))
  await step(() => reset(token, 'short'), 400)
  if (fault?.verb !== 'giveBack') {
    await step(() => reset(token))
    await step(() => login(email, newPassword))
  }
  return { counts, broken }
}

/** The way from a registration with a code to the end of the account. */
async function lifeWithFault(t: Test, fault: Fault | null): Promise<Flow> {
  const { counts, broken, step, storage, mailer, options } = faultyHost(t, fault)
  const clock = settableClock()
  const { accounts, app, post } = await instance(t, { ...options, passwords, registration: verifying, clock })
  const { send } = clientOf(app)
  const { email } = registrationOnce
  const moved = 'new@example.com'
  /** The code in the last mail to an address; what a fault has held back the sweeper sends. */
  async function codeTo(address: string) {
    const sent = () => mailer.sent.findLast(({ to, code }) => to === address && code !== null)?.code
    if (sent()) return sent()
    clock.pass(31_000)
    await sweepOutbox(realmOf(accounts))
    return sent()
  }
  const newSession = async (address: string) =>
    sessionFor({ ...realmOf(accounts), storage }, (await storage.findUserByEmail(address)) as User)
  async function act(access: string, method: 'GET' | 'POST' | 'PATCH' | 'DELETE', url: string, payload?: object) {
    const request = { method, url, payload, headers: { authorization: `Bearer ${access}` } }
    return step(() => send(request), method === 'DELETE' || url.includes('logout') ? 204 : 200)
  }

  const first = await step(() => post('/api/register/', registrationOnce), 201)
  await codeTo(email)
  mailer.sent.length = 0
  const { token } = await step(() => post('/auth/resend_verification/', { email, token: first.token }))
  const otp = await codeTo(email)
  await step(() => post('/auth/verify_email/', { token, otp }))
  const { access } = await newSession(email)
  const { sessionId } = await newSession(email)
  await act(access, 'PATCH', '/auth/user/', { username: 'lovelace' })
  await act(access, 'GET', '/auth/sessions/')
  await act(access, 'DELETE', `/auth/sessions/${sessionId}/`)
  const change = await act(access, 'POST', '/auth/change_email/', { email: moved, password })
  await act(access, 'POST', '/auth/confirm_email/', { token: change.token, otp: await codeTo(moved) })
  await act(access, 'POST', '/auth/logout_all/')
  const words = { current_password: password, new_password: newPassword }
  const renewed = await act((await newSession(moved)).access, 'POST', '/auth/change_password/', words)
  await act(renewed.access, 'DELETE', '/auth/user/', { password: newPassword })
  return { counts, broken }
}

async function userWithOldHash() {
  const passwordHash = await hash(password, { memoryCost: 8, timeCost: 1 })
  const names = { username: null, usernameCanonical: null, email: 'old@example.com', emailCanonical: 'old@example.com' }
  const nothing = { emailVerifiedAt: null, role: null, expiresAt: null }
  return { ...names, ...nothing, passwordHash, credentialVersion: 1, profile: {}, createdAt: 0 }
}
