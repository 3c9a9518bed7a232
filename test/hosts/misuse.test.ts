import Fastify, { type FastifyInstance } from 'fastify'
import { Kysely, PostgresDialect, sql } from 'kysely'
import t from 'tap'
import { kyselyStorage, migrateToLatest } from '../../lib/adapters/kysely/index.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import accounts, { type AccountsOptions } from '../../lib/index.ts'
import { createUser, loginAs } from '../../lib/testing/index.ts'
import { clientOf, openDatabase, secret, type Teardown } from '../helpers/app.ts'
import { openPostgres } from '../helpers/databases.ts'
import { noPostgres } from '../helpers/helper.ts'

const ada = { username: 'ada', password: 'correct horse', email: 'ada@example.org' }

/** An app that writes its log into a list. */
async function loggedApp(t: Teardown, register: (app: FastifyInstance) => Promise<void>) {
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'warn', stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  await register(app)
  await app.ready()
  return { app, log: () => lines.join(''), ...clientOf(app) }
}

function parts(options: Partial<AccountsOptions> = {}): AccountsOptions {
  return { secret, storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer(), ...options }
}

t.test('realms that would share their users are refused', async (t) => {
  const storage = memoryStorage()
  const db = new Kysely<object>({
    dialect: new PostgresDialect({ pool: async () => Promise.reject(new Error('down')) }),
  })
  const shared = (own: object) =>
    loggedApp(t, async (app) => {
      const { storage: _, ...others } = parts()
      await app.register(accounts, { ...others, ...own } as AccountsOptions)
      await app.register(accounts, { ...others, ...own, name: 'staff', prefix: '/staff' } as AccountsOptions)
    })

  await t.rejects(shared({ storage }), {
    message: /option "storage" must not be that of "accounts", whose users "staff"/,
  })
  await t.rejects(shared({ db }), { message: /option "db" must not be that of "accounts".*withSchema/ })
  const apart = await loggedApp(t, async (app) => {
    await app.register(accounts, parts())
    await app.register(accounts, parts({ name: 'staff', prefix: '/staff' }))
  })

  t.equal(apart.log(), '')
})

t.test('realms that reach one table by different pools or adapters are refused', { skip: noPostgres }, async (t) => {
  const { db, url } = await openDatabase(t)
  const { db: second, close } = openPostgres(url)
  t.teardown(close)
  const staff = second.withSchema('staff')
  await sql`create schema staff`.execute(second)
  await migrateToLatest(staff)
  const both = (one: Partial<AccountsOptions>, other: Partial<AccountsOptions>) =>
    loggedApp(t, async (app) => {
      await app.register(accounts, parts({ storage: undefined, ...one }))
      await app.register(accounts, parts({ storage: undefined, name: 'staff', prefix: '/staff', ...other }))
    })

  const message = 'fastify-accounts: option "db" must not be that of "accounts", whose users "staff" would share; try'
  await t.rejects(both({ db }, { db: second }), { message: new RegExp(message) })
  await t.rejects(both({ db }, { db: second.withSchema('public') }), { message: /must not be that of "accounts"/ })
  await t.rejects(both({ storage: kyselyStorage(db) }, { storage: kyselyStorage(db) }), {
    message: /"storage" must not/,
  })
  const apart = await both({ db }, { db: staff })
  t.equal(apart.log(), '')
  const down = openPostgres('postgres://127.0.0.1:1/none')
  t.teardown(down.close)
  const unknown = await both({ db: down.db }, { db: second })
  t.match(unknown.log(), /"place\\" failed/, 'an app starts while a database is down')
})

t.test(
  'an adapter for other ids than the tables have says so instead of refusing every login',
  { skip: noPostgres },
  async (t) => {
    const { db } = await openDatabase(t, { ids: 'uuid' })
    const { post, log } = await loggedApp(t, async (app) => {
      await app.register(accounts, parts({ storage: kyselyStorage(db) }))
    })

    t.equal((await post('/api/register/', ada)).status, 500)
    t.match(log(), /use kyselyStorage\(db, \{ ids: 'uuid' \}\)/)
  },
)

t.test('claims that are too large for a token are logged when they are signed', async (t) => {
  const claims = () => ({ list: 'x'.repeat(9000) })
  const { post, log } = await loggedApp(t, async (app) => {
    await app.register(accounts, parts({ tokens: { claims } }))
  })
  await post('/api/register/', ada)

  t.equal((await post('/api/login/', ada)).status, 500)
  t.match(log(), /tokens\.claims/)
})

t.test('a host without the security scheme reads in the log where to declare it', async (t) => {
  const { default: swagger } = await import('@fastify/swagger')
  const { app, log } = await loggedApp(t, async (app) => {
    await app.register(swagger)
    await app.register(accounts, parts())
  })

  t.ok(Object.keys((app as unknown as { swagger(): { paths: object } }).swagger().paths).includes('/api/login/'))
  t.match(log(), /components\.securitySchemes/)
})

t.test('closing at once after boot complains of nothing', { skip: noPostgres }, async (t) => {
  const { redisUrl } = await import('../helpers/helper.ts')
  const { app, log } = await loggedApp(t, async (app) => {
    await app.register(accounts, { secret, storage: memoryStorage(), redis: redisUrl() })
  })

  await app.close()

  t.equal(log(), '')
})

t.test('the helpers for tests of hosts name what is wrong with their arguments', async (t) => {
  const { app } = await loggedApp(t, async (app) => {
    await app.register(accounts, parts())
  })
  const user = await createUser(app)

  t.match(await loginAs(app, user), { authorization: /^Bearer / })
  await t.rejects(createUser(app, { email: 'nope' }), { errors: [{ field: 'email', message: /e-mail address/ }] })
  await t.rejects(createUser(app, { name: 'staff' }), { message: /not registered under the name "staff"/ })
})

t.test('a host that has a route of ours itself meets an error that names it and what moves ours', async (t) => {
  const boot = async (url: string, options: Partial<AccountsOptions> = {}) => {
    const app = Fastify()
    t.teardown(() => app.close())
    app.post(url, async () => 'mine')
    await app.register(accounts, parts(options))
  }
  const fix = /; if it is the app's own, move ours with the option "prefix" or "routes.logout"$/

  for (const url of ['/auth/logout', '/auth/logout/']) {
    const error = await boot(url).catch((error) => error)
    t.match(error, { name: 'TypeError', message: fix })
    t.ok(error.message.includes(`POST' already declared for route '${url}'`), error.message)
  }
  await t.resolves(boot('/auth/logout', { prefix: '/v1' }))
  await t.resolves(boot('/auth/logout', { routes: { logout: '/auth/log_out/' } }))
})

t.test('a session function that returns nonsense for a request, or throws, is a logged 500', async (t) => {
  const broken: [(request: any) => any, RegExp][] = [
    [(request) => (request ? { idle: '1h' } : {}), /option \\"session.idle\\" must be a whole number/],
    [(request) => (request ? Promise.reject(new Error('late')) : {}), /option \\"session\\" must return/],
    [(request) => ({ idle: request.missing.idle }), /Cannot read properties of undefined/],
  ]

  for (const [session, reason] of broken) {
    const { post, log } = await loggedApp(t, async (app) => {
      await app.register(accounts, parts({ session }))
    })
    await post('/api/register/', ada)

    const { status, body } = await post('/api/login/', ada)

    t.equal(status, 500)
    t.notMatch(JSON.stringify(body), /session|properties/)
    t.match(log(), reason)
  }
})
