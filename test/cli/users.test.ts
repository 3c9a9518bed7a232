import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { sql } from 'kysely'
import t, { type Test } from 'tap'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { redisCache } from '../../lib/adapters/redis/index.ts'
import { sampleSession, sampleUser } from '../../lib/testing/samples.ts'
import { startMailWorker } from '../../lib/worker.ts'
import { openDatabase, realApp, secret, startServer, type Teardown } from '../helpers/app.ts'
import {
  freePort,
  freshDatabase,
  longRun,
  noPostgres,
  redisUrl,
  sampled,
  uniqueName,
  until,
} from '../helpers/helper.ts'
import { done } from '../helpers/program.ts'

/** The lines of JSON that a run printed. */
function printed({ out }: { out: string }): any[] {
  return out
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

/** Runs `user` on an app of its own. */
async function administration(t: Test) {
  const { name, url, post, get } = await realApp(t)
  const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: name }
  const user = (args: string[], input = '') => done(t, ['user', ...args], env, { input })
  const login = (password: string) => post('/api/login/', { email: 'ada@example.com', password })
  return { name, user, login, post, get }
}

t.test('user creates, shows, changes and deletes accounts', { skip: noPostgres }, async (t) => {
  const { name, user, login, get } = await administration(t)
  const mails: string[] = []
  const transport = async ({ subject }: { subject: string }) => void mails.push(subject)
  const mailed = startMailWorker({ redis: redisUrl(), secret: secret, name, transport, from: 'a@example.com' })
  t.teardown(() => mailed.close())

  const profile = ['--email', 'Ada@Example.com', '--username', 'ada', '--role', 'admin', '--verified']
  const created = await user(['create', ...profile, '--password-stdin'], 'correct horse battery\n')
  t.match(created, { code: 0, err: '' })
  const [ada] = printed(created)
  t.match(ada, { id: 1, email: 'Ada@Example.com', username: 'ada', role: 'admin', active: true, profile: {} })
  t.ok(ada.emailVerifiedAt > 0)
  t.match(await login('correct horse battery'), { status: 200 })

  const byAddress = await user(['show', 'ADA@example.com'])
  t.strictSame(printed(byAddress), [ada])
  t.strictSame(Object.keys(ada).sort(), [
    ...['active', 'createdAt', 'email', 'emailVerifiedAt', 'id', 'profile', 'role', 'username'],
  ])

  const { access } = (await login('correct horse battery')).body
  t.match(await get('/auth/user/', access), { status: 200 })
  t.match(await user(['set-password', '1', '--password-stdin'], 'another good password'), { code: 0 })
  await until(async () => (await get('/auth/user/', access)).status === 401, 5000)
  t.match(await login('correct horse battery'), { status: 401 })
  t.match(await login('another good password'), { status: 200 })

  t.match(printed(await user(['delete', 'ada@example.com'])), [{ id: 1, username: 'ada' }])
  t.match(await login('another good password'), { status: 401 })
  await until(() => mails.length === 2)
  t.match(mails.sort(), [/account was deleted/, /password was changed/])
})

longRun('user sets roles, disables, enables, ends sessions and lists', { skip: noPostgres }, async (t) => {
  const { user, login, post } = await administration(t)
  await user(['create', '--email', 'ada@example.com', '--role', 'admin', '--password-stdin'], 'correct horse battery')

  t.match(printed(await user(['set-role', 'ada@example.com', 'support'])), [{ role: 'support' }])
  t.match(printed(await user(['set-role', '1', 'none'])), [{ role: null }])
  t.match(printed(await user(['disable', '1'])), [{ active: false }])
  t.match(await login('correct horse battery'), { status: 401 })
  t.match(printed(await user(['enable', 'ada@example.com'])), [{ active: true }])
  const { refresh } = (await login('correct horse battery')).body
  t.match(printed(await user(['end-sessions', '1'])), [{ id: 1 }])
  t.match(await post('/auth/refresh/', { refresh }), { status: 401 })

  t.match(printed(await user(['create', '--email', 'bob@example.com'])), [{ id: 2, username: null, role: null }])
  t.match(printed(await user(['create', '--email', 'cyd@example.com'])), [{ id: 3, emailVerifiedAt: null }])
  const ids = async (...args: string[]) => printed(await user(['list', ...args])).map(({ id }) => id)
  t.strictSame(await ids(), [1, 2, 3])
  t.strictSame(await ids('--after', '1', '--limit', '1'), [2])
})

longRun('user works on ids that are UUIDs', { skip: noPostgres }, async (t) => {
  const { url } = await openDatabase(t, { ids: 'uuid' })
  const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
  const user = (...args: string[]) => done(t, ['user', ...args, '--ids', 'uuid'], env)

  const [created] = printed(await user('create', '--email', 'ada@example.com'))

  t.match(created.id, /^[0-9a-f-]{36}$/)
  t.match(printed(await user('set-role', created.id.toUpperCase(), 'admin')), [{ id: created.id, role: 'admin' }])
  t.strictSame(printed(await user('list', '--after', created.id)), [])
  t.match(await user('show', '1'), { code: 2, out: '', err: '"1" is neither an address nor an id' })
})

t.test(
  'user prints each refusal on one line, with its reasons and without what was given',
  {
    skip: noPostgres,
  },
  async (t) => {
    const { url, db } = await openDatabase(t)
    const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
    const user = (args: string[], input: string | Buffer = '') => done(t, ['user', ...args], env, { input })
    const ada = {
      email: 'ada@example.com',
      emailCanonical: 'ada@example.com',
      username: 'ada',
      usernameCanonical: 'ada',
    }
    await kyselyStorage(db).insertUser(sampleUser(ada))
    const refused: [string[], string, RegExp][] = [
      [['create', '--email', 'ADA@example.com'], '', /^ACCOUNTS_EMAIL_TAKEN: The e-mail address is already in use\.$/],
      [['create', '--email', 'b@example.com', '--username', 'Ada'], '', /^ACCOUNTS_USERNAME_TAKEN: [^()]+$/],
      [['create', '--email', 'nobody'], '', /^ACCOUNTS_VALIDATION: .+ \(email must be an e-mail address\)$/],
      [['create', '--email', 'b@example.com', '--role', 'a b'], '', /^ACCOUNTS_VALIDATION: .+ \(role must be .+\)$/],
      [['set-password', '1', '--password-stdin'], 'canary\r\n', /^ACCOUNTS_PASSWORD_REFUSED: .+ \(too_short\)$/],
      [['show', '7'], '', /^ACCOUNTS_NOT_FOUND: [^()]+$/],
      [['delete', 'nobody@example.com'], '', /^ACCOUNTS_NOT_FOUND: [^()]+$/],
    ]

    for (const [args, input, line] of sampled(refused, 2)) {
      const { code, out, err } = await user(args, input)
      t.equal(code, 1, args.join(' '))
      t.equal(out, '')
      t.match(err.trimEnd(), line)
      t.notMatch(err, 'canary')
    }
    const { code, err } = await user(['set-password', '1', '--password-stdin'], Buffer.from([0xff, 0xfe, 0x61, 0x62]))
    t.equal(code, 2)
    t.match(err, /is not UTF-8/)
  },
)

t.test(
  'user ends while the database or Redis is down, and says so without their passwords',
  {
    skip: noPostgres,
  },
  async (t) => {
    const { url } = await openDatabase(t)
    const port = await freePort()
    const right = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
    const noDatabase = { ...right, DATABASE_URL: `postgres://user:canary@127.0.0.1:${port}/app` }
    const withoutRedis = { ...right, REDIS_URL: `redis://:canary@127.0.0.1:${port}` }

    const database = await done(t, ['user', 'list'], noDatabase)
    const redis = await done(t, ['user', 'create', '--email', 'ada@example.com'], withoutRedis)
    const names = sampled(['DATABASE_URL', 'REDIS_URL', 'ACCOUNTS_SECRET'] as const, 1)
    const missing = await Promise.all(names.map((name) => done(t, ['end-sessions', '--all'], { ...right, [name]: '' })))

    t.match(database, { code: 1, out: '', err: /^ACCOUNTS_UNAVAILABLE: .+ \(connect ECONNREFUSED .+\)\n$/ })
    t.match(redis, { code: 0, out: /"ada@example.com"/, err: /^(fastify-accounts: Redis is not reachable: .+\n)*$/ })
    t.notMatch(database.err + redis.err, 'canary')
    t.strictSame(
      missing.map(({ code, err }) => [code, err.split(' ')[1]]),
      names.map((name) => [1, name]),
    )
  },
)

t.test('user asks to migrate a database whose tables are missing or old', { skip: noPostgres }, async (t) => {
  const { url, drop } = await freshDatabase()
  t.teardown(() => drop())
  const old = await openDatabase(t)
  await sql`alter table accounts_users drop column role`.execute(old.db)
  const env = { REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
  const list = (url: string) => done(t, ['user', 'list'], { ...env, DATABASE_URL: url })

  const [empty, behind] = await Promise.all([url, old.url].map(list))

  const fix = /^ACCOUNTS_UNAVAILABLE: .+ does not exist \(42(P01|703)\)\); run fastify-accounts migrate\n$/
  for (const run of [empty, behind]) t.match(run, { code: 1, out: '', err: fix })
})

/** The shared Redis over a link that takes `ms` in each direction. */
async function slowRedis(t: Teardown, ms: number): Promise<string> {
  const { hostname, port } = new URL(redisUrl())
  const sockets: Socket[] = []
  const server = createServer((client) => {
    const redis = connect(Number(port), hostname)
    sockets.push(client, redis)
    for (const [from, to] of [
      [client, redis],
      [redis, client],
    ] as const) {
      from.on('data', (chunk) => setTimeout(() => to.write(chunk), ms))
      from.on('close', () => setTimeout(() => to.destroy(), 2 * ms))
      from.on('error', () => {})
    }
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `redis://127.0.0.1:${(server.address() as AddressInfo).port}`
}

t.test(
  'end-sessions --all notifies running apps before it ends, also over a slow link',
  { skip: noPostgres },
  async (t) => {
    const name = uniqueName()
    const { url, db } = await openDatabase(t)
    const storage = kyselyStorage(db)
    const user = sampleUser()
    const { id } = (await storage.insertUser(user)) as { id: number }
    const session = sampleSession({ ...user, id })
    await storage.insertSession(session, 1000)
    const heard: string[] = []
    const channel = redisCache({ redis: redisUrl(), name })
    t.teardown(() => channel.close())
    await new Promise<void>((listening) => {
      channel.subscribe((text) => void heard.push(...JSON.parse(text).ended), listening)
    })

    const env = { DATABASE_URL: url, REDIS_URL: await slowRedis(t, 120), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: name }
    const ended = await done(t, ['end-sessions', '--all'], env)

    t.match(ended, { code: 0, out: '1 session was ended.\n' })
    await until(() => heard.includes(session.id))
  },
)

longRun('end-sessions --all is kept as one event, as the config says', { skip: noPostgres }, async (t) => {
  const { url, db } = await openDatabase(t)
  const storage = kyselyStorage(db)
  const user = sampleUser()
  const { id } = (await storage.insertUser(user)) as { id: number }
  for (let count = 0; count < 3; count++) await storage.insertSession(sampleSession({ ...user, id }), 1000)
  const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
  const folder = t.testdir({ 'keeping.mjs': 'export default { eventLog: {} }', 'bare.mjs': 'export default {}' })

  for (const config of ['bare.mjs', 'keeping.mjs', 'keeping.mjs']) {
    t.match(await done(t, ['end-sessions', '--all', '--config', `${folder}/${config}`], env), { code: 0, err: '' })
    if (config === 'bare.mjs') await storage.insertSession(sampleSession({ ...user, id }), 1000)
  }

  const events = await db.selectFrom('accounts_events').selectAll().orderBy('id').execute()
  t.strictSame(
    events.map(({ name, user_id, details }) => ({ name, user_id, details })),
    [1, 0].map((count) => ({ name: 'sessionEnd', user_id: null, details: { reason: 'admin', count } })),
  )
})

t.test(
  'end-sessions --all ends every session, and running apps refuse the access tokens at once',
  {
    skip: noPostgres,
  },
  async (t) => {
    const name = uniqueName()
    const { url, db } = await openDatabase(t)
    const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: name }
    const account = { username: 'ada', email: 'ada@example.com', password: 'correct horse battery' }
    const server = await startServer(t, { ...env, OPTIONS: JSON.stringify({ name }) })
    await server.post('/api/register/', account)
    const { access, refresh } = (await server.post('/api/login/', account)).body
    t.match(await server.get('/auth/user/', access), { status: 200 })
    const storage = kyselyStorage(db)
    const { credentialVersion } = (await storage.findUserById(1))!
    const more = Array.from({ length: 1100 }, () => sampleSession({ id: 1, credentialVersion }))
    await Promise.all(more.map((session) => storage.insertSession(session, 9999)))
    const heard: string[] = []
    const channel = redisCache({ redis: redisUrl(), name })
    t.teardown(() => channel.close())
    await new Promise<void>((listening) => {
      channel.subscribe((text) => void heard.push(...JSON.parse(text).ended), listening)
    })

    const ended = await done(t, ['end-sessions', '--all'], env)

    const endedAt = performance.now()
    t.strictSame(ended, { code: 0, out: '1101 sessions were ended.\n', err: '' })
    await until(async () => (await server.get('/auth/user/', access)).status === 401, 5000)
    t.comment(`refused ${Math.round(performance.now() - endedAt)} ms after the program ended`)
    t.match(await server.post('/auth/refresh/', { refresh }), { status: 401 })
    await until(() => heard.length >= 1101)
    t.equal(new Set(heard).size, 1101)
    for (const { id } of more) t.ok(heard.includes(id))
    t.strictSame(await done(t, ['end-sessions', '--all'], env), { code: 0, out: '0 sessions were ended.\n', err: '' })
  },
)
