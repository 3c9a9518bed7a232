import { setTimeout as sleep } from 'node:timers/promises'
import * as bcrypt from '@node-rs/bcrypt'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import Type from 'typebox'
import { realmOf } from '../../lib/accounts.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage, User } from '../../lib/contracts.ts'
import { sweepOutbox } from '../../lib/core/outbox.ts'
import plugin, { type Accounts, type AccountsOptions, createAccounts } from '../../lib/index.ts'
import { createUser, loginAs, testOptions } from '../../lib/testing/index.ts'
import { passwordChange } from '../../lib/testing/samples.ts'
import { type Answer, accountsOf, memoryApp, openDatabase, realApp, secret, settableClock } from '../helpers/app.ts'
import { noPostgres, redisUrl, rounds, uniqueName, until } from '../helpers/helper.ts'
import { sessionFor } from '../helpers/members.ts'

const ada = { username: 'ada', email: 'Ada@Example.org', password: 'correct horse battery' }

function told({ status, body }: Answer) {
  return [status, body.code]
}

async function open(t: Test, options: Partial<AccountsOptions> = {}) {
  const host = await memoryApp(t, options)
  const accounts = accountsOf({ app: host.app })
  const login = (password = ada.password, email = ada.email) => host.post('/api/login/', { email, password })
  return { ...host, accounts, users: accounts.users, login }
}

t.test('a created user is found and logs in', async (t) => {
  const { users, login, mailer } = await open(t)

  const user = await users.create({ ...ada, role: 'admin', verified: true })

  t.match(user, { id: Number, username: 'ada', email: ada.email, role: 'admin', active: true, emailVerifiedAt: Number })
  t.notOk('passwordHash' in user)
  t.same(await users.find({ id: user.id }), user)
  t.same(await users.find({ email: 'ADA@example.ORG' }), user)
  t.equal(await users.find({ email: 'nobody@example.org' }), null)
  t.equal((await login()).status, 200)
  t.same(mailer.sent, [])
})

t.test('a user without a password cannot log in before a reset', async (t) => {
  const { users, login } = await open(t)
  const { password, ...rest } = ada
  await users.create(rest)

  t.same(told(await login()), [401, 'ACCOUNTS_CREDENTIALS_INVALID'])
  t.same(told(await login('')), [401, 'ACCOUNTS_CREDENTIALS_INVALID'])
})

t.test('a user that cannot be created is refused as a registration is', async (t) => {
  const { users } = await open(t, { roles: { admin: [] } })
  await users.create(ada)

  await t.rejects(users.create({ ...ada, username: 'b' }), { code: 'ACCOUNTS_EMAIL_TAKEN' })
  await t.rejects(users.create({ ...ada, email: 'b@example.org' }), { code: 'ACCOUNTS_USERNAME_TAKEN' })
  await t.rejects(users.create({ email: 'c@example.org', password: 'short' }), {
    code: 'ACCOUNTS_PASSWORD_REFUSED',
    reasons: ['too_short'],
  })
  const invalid = (field: string) => ({ code: 'ACCOUNTS_VALIDATION', errors: [{ field }] })
  await t.rejects(users.create({ email: 'c@localhost' }), invalid('email'))
  await t.rejects(users.create({ email: 'c@example.org', username: 'a\tb' }), invalid('username'))
  await t.rejects(users.create({ email: 'c@example.org', username: ' c' }), invalid('username'))
  await t.rejects(users.create({ email: 'c@example.org', username: 'd@example.org' }), invalid('username'))
  await t.rejects(users.create({ email: 'c@example.org', role: 'root' }), invalid('role'))
  t.equal((await users.list()).length, 1)
})

t.test('users are listed by id, page by page', async (t) => {
  const { users } = await open(t)
  for (let n = 0; n < 5; n++) await users.create({ email: `user${n}@example.org` })

  const first = await users.list({ limit: 2 })
  const rest = await users.list({ after: first.at(-1)?.id })

  t.same(
    [...first, ...rest].map(({ email }) => email),
    [0, 1, 2, 3, 4].map((n) => `user${n}@example.org`),
  )
  t.same(await users.list({ after: rest.at(-1)?.id }), [])
})

t.test('a password set by an administrator ends all sessions and is told by mail', async (t) => {
  const { users, login, get, mailer } = await open(t)
  const { id } = await users.create(ada)
  const { access } = (await login()).body

  await users.setPassword(id, 'another horse battery')

  t.same(told(await get('/auth/user/', access)), [401, 'ACCOUNTS_TOKEN_INVALID'])
  t.equal((await login()).status, 401)
  t.equal((await login('another horse battery')).status, 200)
  t.same(
    mailer.sent.map(({ kind, to }) => [kind, to]),
    [['password_changed', ada.email]],
  )
  await t.rejects(users.setPassword(id, 'short'), { code: 'ACCOUNTS_PASSWORD_REFUSED' })
})

t.test('a disabled user is out at once, and in again when enabled', async (t) => {
  const { users, login, get, post } = await open(t)
  const { id } = await users.create(ada)
  const { access, refresh } = (await login()).body

  await users.disable(id)
  await users.disable(id)

  t.same(told(await get('/auth/user/', access)), [401, 'ACCOUNTS_TOKEN_INVALID'])
  t.same(told(await post('/auth/refresh/', { refresh })), [401, 'ACCOUNTS_TOKEN_INVALID'])
  t.same((await login()).body, (await login('a wrong password')).body, 'like a wrong password')
  await users.enable(id)
  await users.enable(id)
  t.same(told(await post('/auth/refresh/', { refresh })), [401, 'ACCOUNTS_TOKEN_INVALID'])
  t.equal((await login()).status, 200)
})

t.test('what is no user is refused with the field, whatever a caller without types passes', async (t) => {
  const { users } = await open(t, {
    registration: { profile: Type.Object({ company: Type.String({ maxLength: 5 }) }) },
  })
  const profile = { company: 'Acme' }
  const refused = (given: object, field: string) =>
    t.rejects(users.create(given as never), { code: 'ACCOUNTS_VALIDATION', errors: [{ field }] })

  await refused({ email: 'a@example.org' }, 'profile.company')
  await refused({ email: 'a@example.org', profile: { company: 7 } }, 'profile.company')
  await refused({ email: 'a@example.org', profile: { company: 'too long' } }, 'profile.company')
  await refused({ email: 5, profile }, 'email')
  await refused({ email: 'a@example.org', profile, verified: 'false' }, 'verified')
  await refused({ email: 'a@example.org', profile, password: 12345678 }, 'password')
  await t.rejects(users.create({ email: 'a@example.org', profile, verfied: true } as never), {
    code: 'ACCOUNTS_VALIDATION',
  })
  t.same(await users.list(), [])
  const rows = [null, 7, { email: 'b@example.org', profile: { company: 1n } }, { email: 'c@example.org' }] as never[]
  t.same(
    (await users.import(rows)).map((outcome) => 'id' in outcome),
    [false, false, false, true],
  )
  for (const limit of [0, -1, 1.5, Number.NaN, 1001, '5' as never]) {
    await t.rejects(users.list({ limit }), { name: 'TypeError' })
    await t.rejects(users.history(1, { limit }), { name: 'TypeError' })
  }
  await t.rejects(users.find({} as never), { name: 'TypeError', message: /find/ })
  await t.rejects(users.find(4 as never), { name: 'TypeError', message: /find/ })
  await t.rejects(users.setPassword(1, 5 as never), { name: 'TypeError' })
})

t.test('a disabled account may get a new password, and stays disabled', async (t) => {
  const { users, login } = await open(t)
  const { id } = await users.create(ada)
  await Promise.all([users.disable(id), users.disable(id)])

  await users.setPassword(id, 'another horse battery')

  t.equal((await login('another horse battery')).status, 401)
  await users.enable(id)
  t.equal((await login('another horse battery')).status, 200)
})

t.test('an administrator ends the sessions of a user, and of nobody else', async (t) => {
  const { users, accounts, get } = await open(t)
  const [one, two] = [await users.create(ada), await users.create({ email: 'bob@example.org' })]
  const [first, second] = [await sessionFor(accounts, one), await sessionFor(accounts, two)]

  await users.endSessions(one.id)

  t.equal((await get('/auth/user/', first.access)).status, 401)
  t.equal((await get('/auth/user/', second.access)).status, 200)
})

t.test('a deleted user is gone, is told by mail, and the address is free', async (t) => {
  const { users, accounts, get, mailer } = await open(t)
  const user = await users.create(ada)
  const { access } = await sessionFor(accounts, user)

  await users.delete(user.id)

  t.equal(await users.find({ id: user.id }), null)
  t.equal((await get('/auth/user/', access)).status, 401)
  t.equal(mailer.sent.at(-1)?.kind, 'account_deleted')
  t.ok(await users.create(ada))
})

t.test('ids that do not exist are not found', async (t) => {
  const { users, accounts } = await open(t)
  const nobody = { code: 'ACCOUNTS_NOT_FOUND' }

  for (const id of [99, -1, 1.5, 'x', '\0'] as never[]) {
    t.equal(await users.find({ id }), null)
    await t.rejects(users.setPassword(id, 'another horse battery'), nobody)
    await t.rejects(users.setRole(id, 'admin'), nobody)
    await t.rejects(users.disable(id), nobody)
    await t.rejects(users.enable(id), nobody)
    await t.rejects(users.endSessions(id), nobody)
    await t.rejects(users.delete(id), nobody)
    await t.rejects(accounts.startSession(id), nobody)
    t.same(await users.history(id), [])
  }
})

t.test('an import tells what became of each user', async (t) => {
  const { users, accounts, login } = await open(t)
  await users.create({ username: 'taken', email: 'taken@example.org' })
  const { password, ...person } = ada
  const passwordHash = await realmOf(accounts).passwords.hash(password)

  const outcomes = await users.import([
    { ...person, passwordHash, role: 'admin', verified: true, createdAt: 1000 },
    { email: 'taken@example.org' },
    { email: 'b@example.org', username: 'TAKEN' },
    { email: 'not an address' },
    { email: 'c@example.org', passwordHash: '$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHRzYWx0$aGFzaGhhc2hoYXNo' },
    { email: 'd@example.org', passwordHash: 'md5$1' },
    { email: 'ADA@example.org' },
    { email: 'e@example.org', profile: { unknown: 1 } },
  ])

  t.same(
    outcomes.map((outcome) => ('refused' in outcome ? outcome.refused : 'id')),
    ['id', 'email_taken', 'username_taken', 'invalid', 'hash_unusable', 'hash_unusable', 'email_taken', 'id'],
  )
  t.match(outcomes[3], { message: /email/ })
  t.equal((await login()).status, 200)
  const [first] = outcomes as [{ id: number }]
  t.match(await users.find(first), { role: 'admin', createdAt: 1000, emailVerifiedAt: 1000 })
})

t.test('an imported user keeps its id and stays disabled', async (t) => {
  const { users, login } = await open(t)
  const passwordHash = await bcrypt.hash(ada.password, 4)
  const statusOf = async (email: string) => (await login(ada.password, email)).status

  const outcomes = await users.import([
    { id: 4711, email: 'ada@example.org', passwordHash },
    { id: 4712, email: 'gone@example.org', passwordHash, active: false },
    { id: 4711, email: 'other@example.org' },
    ...['x', 0, -7, 1.5, 2 ** 53 - 1].map((id) => ({ id, email: 'odd@example.org' })),
  ])

  t.match(outcomes, [{ id: 4711 }, { id: 4712 }, { refused: 'id_taken' }])
  for (const outcome of outcomes.slice(3)) t.match(outcome, { refused: 'invalid', message: /^id must be/ })
  t.equal(await statusOf('ada@example.org'), 200)
  t.equal(await statusOf('gone@example.org'), 401)
  await users.enable(4712)
  t.equal(await statusOf('gone@example.org'), 200)
  t.equal((await users.create({ email: 'next@example.org' })).id, 4713)
})

t.test('a password that is set without a notice is mailed to nobody', async (t) => {
  const { mailer, users } = await open(t)
  const { id } = await users.create({ email: 'ada@example.org', verified: true })

  await users.setPassword(id, 'correct horse battery', { notice: false })
  t.equal(mailer.sent.length, 0)
  await users.setPassword(id, 'correct horse battery 2')
  t.equal(mailer.sent.length, 1)
})

t.test('an import takes nothing that it would lose', async (t) => {
  const { users } = await open(t)
  const email = 'ada@example.org'

  const outcomes = await users.import([
    { email, password_hash: '$argon2id$' },
    { email, password: 'correct horse battery' },
    { email, company: 'Engines' },
    { email, profile: { company: 'Engines' } },
  ] as never)

  t.match(outcomes.slice(0, 3), [
    { refused: 'invalid', message: 'password_hash is unknown' },
    { refused: 'invalid', message: 'password is unknown' },
    { refused: 'invalid', message: 'company is unknown' },
  ])
  t.match(outcomes[3], { id: 1 })
  await t.rejects(users.create({ email, passwrd: 'x' } as never), {
    errors: [{ field: 'passwrd', message: 'is unknown' }],
  })
  for (const wrong of [undefined, null, 'x', new Set([{ email }])]) {
    await t.rejects(users.import(wrong as never), { name: 'TypeError', message: /takes an array of users/ })
  }
})

t.test('a batch that the database did not take in time loses no outcome of the others', async (t) => {
  const storage = memoryStorage()
  const batches = { count: 0 }
  const failing: Storage = {
    ...storage,
    async importUsers(users) {
      if (++batches.count === 2) throw new Error('the connection is gone')
      return storage.importUsers(users)
    },
  }
  const { users } = await open(t, { storage: failing })

  const outcomes = await users.import(Array.from({ length: 1100 }, (_, n) => ({ email: `u${n}@example.org` })))

  t.equal(outcomes.length, 1100)
  t.ok(outcomes.every((outcome, n) => 'id' in outcome === (n < 500 || n >= 1000)))
  t.same(outcomes[700], { refused: 'unavailable' })
})

t.test('a storage with other ids is not taken for a transaction', async (t) => {
  const { accounts } = await open(t)

  t.throws(() => accounts.using(memoryStorage({ ids: 'uuid' })), { name: 'TypeError', message: /'integer'/ })
})

t.test('what does not boot leaves nothing open', async (t) => {
  const closed: string[] = []
  const parts = () => ({
    ...testOptions(),
    cache: { ...memoryCache(), close: async () => void closed.push('cache') },
    mailer: { ...memoryMailer(), close: async () => void closed.push('mailer') },
  })
  const app = Fastify()
  app.post('/api/login/', async () => 'the host’s own')
  await t.rejects(async () => app.register(plugin, parts()), { name: 'TypeError', message: /already declared/ })
  await app.close()
  t.same(closed.sort(), ['cache', 'mailer'])

  closed.length = 0
  await t.rejects(createAccounts({ ...parts(), routes: { login: '/x/', refresh: '/x/' } }))
  t.same(closed.sort(), ['cache', 'mailer'])
})

t.test('a session that a host starts while the password changes is started', { skip: noPostgres }, async (t) => {
  const host = await realApp(t)
  const accounts = accountsOf({ app: host.app, name: host.name })
  const { id } = await accounts.users.create({ email: 'changing@example.org' })
  for (let round = 0; round < rounds(20, 5); round++) {
    const [, ...started] = await Promise.all([
      accounts.users.setPassword(id, `correct horse battery ${round}`),
      ...Array.from({ length: 20 }, async (_, index) => {
        await sleep(index * 2)
        return accounts.startSession(id)
      }),
    ])
    t.equal(started.length, 20)
  }
})

t.test('[R-SES-1] whoever is disabled while logging in or refreshing is out', { skip: noPostgres }, async (t) => {
  const host = await realApp(t)
  const accounts = accountsOf({ app: host.app, name: host.name })
  const user = await accounts.users.create({ email: 'raced@example.org' })
  for (let round = 0; round < rounds(30, 10); round++) {
    const before = await sessionFor(accounts, (await accounts.users.find({ id: user.id })) as User)
    const racing = Array.from({ length: 5 }, () => accounts.startSession(user.id).catch(() => null))
    const refreshing = Array.from({ length: 5 }, () => host.post('/auth/refresh/', { refresh: before.refresh }))

    const [, started, refreshed] = await Promise.all([
      accounts.users.disable(user.id),
      Promise.all(racing),
      Promise.all(refreshing),
    ])

    const tokens = [before.access, ...started.map((pair) => pair?.access), ...refreshed.map(({ body }) => body.access)]
    for (const access of tokens.filter((token) => token !== undefined)) {
      t.equal((await host.get('/auth/user/', access)).status, 401)
    }
    await accounts.users.enable(user.id)
  }
})

t.test('ten thousand users are imported well within the minute', { skip: noPostgres }, async (t) => {
  // docs: "Ten thousand users take well under a minute"
  const { app, name } = await realApp(t)
  const accounts = accountsOf({ app, name })
  const { users } = accounts
  const { passwords } = realmOf(accounts)
  const passwordHash = await passwords.hash(ada.password)
  const many = Array.from({ length: 10_000 }, (_, n) => ({
    ...{ username: `user${n}`, email: `user${n}@example.org`, passwordHash },
  }))
  const started = performance.now()

  const outcomes = await users.import(many)

  t.ok(outcomes.every((outcome) => 'id' in outcome))
  const perMinute = 60_000 / ((performance.now() - started) / 10_000)
  t.comment(`${Math.round(perMinute)} users a minute`)
  t.ok(perMinute > 20_000)
})

t.test('within a transaction of the host everything comes and goes with it', { skip: noPostgres }, async (t) => {
  const { db } = await openDatabase(t)
  await db.schema.createTable('orders').addColumn('user_id', 'bigint').execute()
  const options = testOptions()
  const app = Fastify()
  t.teardown(() => app.close())
  const { storage, ...parts } = options
  await app.register(plugin, { ...parts, db })
  const accounts = accountsOf({ app })
  const { id } = await accounts.users.create({ ...ada })
  const { access } = await accounts.startSession(id)
  const act = (fails: boolean) =>
    db.transaction().execute(async (trx) => {
      const { users, startSession } = accounts.using(kyselyStorage(trx))
      const user = await users.create({ email: 'grace@example.org' })
      await startSession(user.id)
      await trx.insertInto('orders').values({ user_id: user.id }).execute()
      await users.setPassword(id, 'another horse battery')
      if (fails) throw new Error('the host thinks better of it')
    })

  await t.rejects(act(true), { message: 'the host thinks better of it' })
  await sweepOutbox(realmOf(accounts))
  t.equal(await accounts.users.find({ email: 'grace@example.org' }), null)
  t.match(await accounts.verifyToken(access), { id })
  t.same(options.mailer.sent, [])

  await act(false)
  t.same(options.mailer.sent, [], 'nothing leaves before the commit is known')
  await sweepOutbox(realmOf(accounts))
  t.ok(await accounts.users.find({ email: 'grace@example.org' }))
  t.same(
    options.mailer.sent.map(({ kind, to }) => [kind, to]),
    [['password_changed', ada.email]],
  )
  t.equal(await realmOf(accounts).storage.endSession('x', null, 0), null)
  const rows = await db.selectFrom('accounts_sessions').select('ended_at').where('user_id', '=', id).execute()
  t.ok(rows.every((row: { ended_at: unknown }) => row.ended_at !== null))
})

for (const revocation of ['feed', 'storage', 'none'] as const) {
  t.test(
    `[R-SES-1] the token of a session that a transaction starts works once it has committed, with '${revocation}'`,
    { skip: noPostgres },
    async (t) => {
      const { db } = await openDatabase(t)
      const { storage, ...parts } = testOptions()
      const claims = () => ({ plan: 'pro', uncommitted: 'mine' }) as never
      // Another process, as one of the same realm without what this one knows.
      const instances = [1, 2].map(async () => {
        const app = Fastify()
        t.teardown(() => app.close())
        await app.register(plugin, { ...parts, db, revocation, tokens: { claims } })
        return accountsOf({ app })
      })
      const [accounts, other] = (await Promise.all(instances)) as [Accounts, Accounts]
      const { id } = await accounts.users.create({ ...ada, verified: true })
      const session = await accounts.startSession(id)
      if (revocation === 'feed') {
        for (const one of [accounts, other]) {
          await one.verifyToken(session.access)
          await until(() => realmOf(one).revocation.alive('nobody', id) === true)
        }
      }
      const start = async (fails: boolean) => {
        let access = ''
        const work = db.transaction().execute(async (trx) => {
          access = (await accounts.using(kyselyStorage(trx)).startSession(id)).access
          if (fails) throw new Error('rolled back')
        })
        await work.catch(() => {})
        return access
      }
      const works = (one: Accounts, access: string) =>
        one.verifyToken(access).then(
          () => true,
          () => false,
        )

      const undone = await start(true)
      for (const one of [accounts, other]) t.equal(await works(one, undone), false, 'rolled back')

      const done = await start(false)
      for (const one of [accounts, other]) t.equal(await works(one, done), true, 'committed')
      t.strictSame((await accounts.verifyToken(done)).claims, { plan: 'pro' })
      t.match((await accounts.verifyToken(session.access)).claims, { plan: 'pro' })
      await accounts.users.disable(id)
      if (revocation === 'none') return
      for (const one of [accounts, other]) await until(async () => !(await works(one, done)))
      t.equal(await works(accounts, undone), false)
    },
  )
}

/** Accounts on a database, and the errors that they log. */
async function openJoinable(t: Test) {
  const { db } = await openDatabase(t)
  const { storage, ...parts } = testOptions()
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  await app.register(plugin, { ...parts, db })
  const accounts = accountsOf({ app })
  const { id } = await accounts.users.create(ada)
  const sessions = () => db.selectFrom('accounts_sessions').select('ended_at as endedAt').where('user_id', '=', id)
  return { db, accounts, id, lines, sessions: () => sessions().execute() }
}

for (const level of ['repeatable read', 'serializable'] as const) {
  t.test(`within a transaction of the host nothing ends sessions at ${level}`, { skip: noPostgres }, async (t) => {
    const { db, accounts, id, lines, sessions } = await openJoinable(t)
    const user = await realmOf(accounts).storage.findUserWithPassword(id)
    const cause = { name: 'TypeError', message: /isolation level "read committed"/ }

    await db
      .transaction()
      .setIsolationLevel(level)
      .execute(async (trx) => {
        const { users } = accounts.using(kyselyStorage(trx))
        await users.find({ id })
        await accounts.startSession(id)
        await t.rejects(users.setPassword(id, 'another horse battery'), cause)
        await t.rejects(users.disable(id), cause)
        await t.rejects(users.endSessions(id), cause)
        await t.rejects(users.delete(id), cause)
        await t.rejects(kyselyStorage(trx).changeCredentials(passwordChange(user!, { sessions: { keep: 'x' } })), cause)
        await users.create({ email: 'grace@example.org' })
      })

    t.same(await realmOf(accounts).storage.findUserWithPassword(id), user)
    t.same(await sessions(), [{ endedAt: null }])
    t.same(await db.selectFrom('accounts_outbox').selectAll().execute(), [])
    t.ok(await accounts.users.find({ email: 'grace@example.org' }), 'the transaction went on')
    const logged = lines.map((line) => JSON.parse(line))
    t.match(
      logged.map(({ msg }) => msg),
      [/"changeCredentials" failed/, /"changeCredentials" failed/, /"endSessions" failed/, /"deleteUser" failed/],
    )
    for (const { err } of logged) t.match(err.message, cause.message)
  })

  t.test(`within a transaction of the host other verbs work at ${level}`, { skip: noPostgres }, async (t) => {
    const { db, accounts, id, lines, sessions } = await openJoinable(t)

    await db
      .transaction()
      .setIsolationLevel(level)
      .execute(async (trx) => {
        const storage = kyselyStorage(trx)
        const { users, startSession } = accounts.using(storage)
        await users.setRole(id, 'admin')
        await startSession(id)
        const change = passwordChange((await users.find({ id }))!, { sessions: 'keep' })
        t.same(await storage.changeCredentials(change), { ended: [] })
      })

    t.match(await realmOf(accounts).storage.findUserWithPassword(id), { role: 'admin', passwordHash: '$argon2id$new' })
    t.same(await sessions(), [{ endedAt: null }])
    t.same(lines, [])
  })
}

t.test('[R-SES-1] a log-in that a transaction of the host has not seen is ended', { skip: noPostgres }, async (t) => {
  const { db, accounts, id, sessions } = await openJoinable(t)

  await db
    .transaction()
    .setIsolationLevel('read committed')
    .execute(async (trx) => {
      const { users } = accounts.using(kyselyStorage(trx))
      await users.find({ id })
      await accounts.startSession(id)
      await users.setPassword(id, 'another horse battery')
    })

  t.match(await sessions(), [{ endedAt: String }])
})

t.test('accounts do without an app of the host', { skip: noPostgres }, async (t) => {
  const { db } = await openDatabase(t)
  const settings = { name: uniqueName(), secret, db, redis: redisUrl() }
  const accounts = await createAccounts(settings)
  t.teardown(() => accounts.close())

  const { id } = await accounts.users.create(ada)
  const { access, refresh } = await accounts.startSession(id)

  t.ok(refresh)
  t.match(await accounts.verifyToken(access), { id, sessionId: String })
  t.match(await accounts.health(), { status: 'ok', storage: { ok: true }, cache: { ok: true }, mailer: { ok: true } })
  await accounts.users.disable(id)
  await t.rejects(accounts.verifyToken(access), { code: 'ACCOUNTS_TOKEN_INVALID' })
})

t.test('what accounts without an app lack is told', async (t) => {
  await t.rejects(createAccounts({ secret, storage: memoryStorage() }), { name: 'TypeError', message: /"redis"/ })
  await t.rejects(createAccounts({ secret } as AccountsOptions), { name: 'TypeError', message: /"db"/ })
})

t.test('health tells of each dependency, and never throws', async (t) => {
  const options = testOptions()
  const down = async () => {
    throw new Error('connection refused')
  }
  const { accounts } = await open(t, { ...options, cache: { ...options.cache, ping: down } })

  const health = await accounts.health()

  t.same(health.status, 'degraded')
  t.same(health.cache, { ok: false, offsetMs: null })
  t.match(health.storage, { ok: true, offsetMs: Number })
  t.match(health.mailer, { ok: true })
})

t.test('a mail that only its own process knows of is done when it is accepted', async (t) => {
  const options = testOptions()
  const sent: unknown[] = []
  const unknown = async (ids: string[]) => ids.map(() => 'unknown' as const)
  const inProcess = (n: number) => ({
    ...options.mailer,
    inProcess: true,
    progress: unknown,
    send: async () => void sent.push(n),
  })
  const clock = settableClock()
  const one = await open(t, { ...options, clock, mailer: inProcess(1) })
  const two = await open(t, { ...options, clock, mailer: inProcess(2) })
  const { id } = await one.users.create(ada)

  await one.users.setPassword(id, 'another horse battery')
  clock.pass(60_000)
  await sweepOutbox(realmOf(two.accounts))
  await sweepOutbox(realmOf(one.accounts))

  t.same(sent, [1])
})

t.test('an access token does not outlive an idle session', async (t) => {
  const clock = settableClock()
  const { users, accounts, get } = await open(t, { clock, session: { idle: 60 } })
  const { id } = await users.create(ada)
  const { access } = await accounts.startSession(id)

  clock.pass(59_000)
  t.equal((await get('/auth/user/', access)).status, 200)
  clock.pass(2000)
  t.same(told(await get('/auth/user/', access)), [401, 'ACCOUNTS_TOKEN_EXPIRED'])
})

t.test('no notice goes to a mailbox that nobody has proved, where addresses are proved', async (t) => {
  for (const [verifyEmail, expected] of [
    [true, []],
    [false, ['password_changed', 'account_deleted']],
  ] as const) {
    const { users, mailer } = await open(t, { registration: { verifyEmail } })
    const { id } = await users.create(ada)
    const proved = await users.create({ username: 'bob', email: 'bob@example.org', verified: true })

    for (const user of [id, proved.id]) {
      await users.setPassword(user, 'another horse battery')
      await users.delete(user)
    }

    const kindsTo = (email: string) => mailer.sent.filter(({ to }) => to === email).map(({ kind }) => kind)
    t.strictSame(kindsTo(ada.email), expected)
    t.strictSame(kindsTo(proved.email), ['password_changed', 'account_deleted'])
  }
})

t.test('a user who has yet to prove the address gets no session that would never be refreshed', async (t) => {
  const { app, accounts, users } = await open(t, { registration: { verifyEmail: true } })
  const { id } = await users.create(ada)

  await t.rejects(accounts.startSession(id), { code: 'ACCOUNTS_EMAIL_UNVERIFIED', statusCode: 403 })
  await t.rejects(loginAs(app, id), { message: /loginAs: user 1 has not proved the address.*verified: true/ })
  await t.rejects(loginAs(app, 99), { message: 'loginAs: user 99 does not exist or is disabled' })

  const proved = await createUser(app, { verified: true })
  t.type((await accounts.startSession(proved.id)).access, 'string')
  t.match(await loginAs(app, proved), { authorization: /^Bearer / })
})

t.test('createUser stores no user that cannot exist', async (t) => {
  const profile = Type.Object({ company: Type.String() })
  const roles = { admin: ['*'] }
  const { app } = await open(t, { registration: { profile }, roles })
  const given = { profile: { company: 'x' } }
  const wrong = {
    'profile.company': {},
    role: { ...given, role: 'amdin' },
    email: { ...given, email: 'nobody' },
    username: { ...given, username: ' ' },
    admin: { ...given, admin: true },
  }

  for (const [field, user] of Object.entries(wrong)) {
    await t.rejects(createUser(app, user), { code: 'ACCOUNTS_VALIDATION', errors: [{ field }] }, field)
  }
  await t.rejects(createUser(app, { ...given, password: 'short' }), { code: 'ACCOUNTS_PASSWORD_REFUSED' })
  t.match(await createUser(app, { ...given, role: 'admin' }), { profile: given.profile, role: 'admin' })
})
