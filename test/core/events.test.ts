import { Writable } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import Fastify from 'fastify'
import type { Kysely } from 'kysely'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import type { AccountEvent, Storage } from '../../lib/contracts.ts'
import { eventNames } from '../../lib/core/hooks.ts'
import { purge } from '../../lib/core/housekeeping.ts'
import plugin, { type AccountsOptions, type HookName, type UseCases } from '../../lib/index.ts'
import { createUser, testOptions } from '../../lib/testing/index.ts'
import {
  type Answer,
  accountsOf,
  bearer,
  clientOf,
  memoryApp,
  openDatabase,
  realApp,
  settableClock,
} from '../helpers/app.ts'
import { noPostgres, until } from '../helpers/helper.ts'

const ada = { username: 'ada', email: 'Ada+home@Example.org', password: 'correct horse battery' }
const other = 'another horse battery'

/** The lines that a host's logger wrote. */
function logLines() {
  const lines: Record<string, unknown>[] = []
  const texts: string[] = []
  const stream = new Writable({
    write(chunk, _encoding, done) {
      texts.push(String(chunk))
      for (const line of String(chunk).trimEnd().split('\n')) lines.push(JSON.parse(line))
      done()
    },
  })
  return { lines, texts, logger: { level: 'trace', stream } }
}

async function open(t: Test, options: Partial<AccountsOptions> = {}) {
  const { lines, texts, logger } = logLines()
  const host = await memoryApp(t, options, { logger })
  const accounts = accountsOf({ app: host.app })
  const events: AccountEvent[] = []
  for (const name of eventNames) {
    accounts.addHook(`after${name[0]!.toUpperCase()}${name.slice(1)}` as HookName, (event) => {
      events.push(event as AccountEvent)
    })
  }
  const login = (password = ada.password, email = ada.email) => host.post('/api/login/', { email, password })
  const last = () => events.at(-1) as AccountEvent
  return { ...host, accounts, events, lines, texts, bearer, login, last }
}

/** Goes through every flow that tells of something. */
async function everything(t: Test, options: Partial<AccountsOptions> = {}) {
  const clock = settableClock()
  const host = await open(t, { clock, registration: { verifyEmail: true }, eventLog: {}, ...options })
  const { accounts, post, send, login, bearer, mailer } = host
  const code = () => mailer.sent.findLast((mail) => mail.code !== null)?.code
  const registered = (await post('/api/register/', ada)).body
  await login()
  await post('/auth/verify_email/', { token: registered.token, otp: code() })
  await login('a wrong password')
  await login(ada.password, 'nobody@example.org')
  const { access, refresh } = (await login()).body
  const me = bearer(access)
  const next = (await post('/auth/refresh/', { refresh })).body.refresh
  clock.pass(1)
  await post('/auth/refresh/', { refresh })
  await post('/auth/refresh/', { refresh: next })
  clock.pass(31_000)
  await post('/auth/refresh/', { refresh })
  await post('/auth/refresh/', { refresh })
  const second = bearer((await login()).body.access)
  await send({ method: 'PATCH', url: '/auth/user/', payload: { username: 'ada2' }, headers: second })
  const change = (await post('/auth/change_email/', { email: 'new@example.org', password: ada.password }, second)).body
  await post('/auth/confirm_email/', { token: change.token, otp: code() }, second)
  const passwords = { current_password: ada.password, new_password: other }
  await post('/auth/change_password/', { ...passwords, current_password: 'wrong horse' }, second)
  const third = bearer((await post('/auth/change_password/', passwords, second)).body.access)
  await post('/auth/logout/', {}, third)
  const fourth = bearer((await login(other, 'new@example.org')).body.access)
  await post('/auth/logout_all/', {}, fourth)
  const guessed = (await post('/auth/email_request/', { email: 'new@example.org' })).body.token
  for (let n = 0; n < 7; n++) await post('/auth/check_otp/', { token: guessed, otp: `9317425${n}` })
  const { token } = (await post('/auth/email_request/', { email: 'new@example.org' })).body
  await post('/auth/check_otp/', { token, otp: code() })
  await post('/auth/reset_password/', { token, new_password: ada.password })
  const { id } = registered
  await accounts.users.setRole(id, 'admin')
  await accounts.users.disable(id)
  await accounts.users.enable(id)
  const fifth = bearer((await login(ada.password, 'new@example.org')).body.access)
  await send({ method: 'DELETE', url: '/auth/user/', payload: { password: ada.password }, headers: fifth })
  return { ...host, id, me }
}

t.test('[R-LOG-3] every event is told to its hook, with when, who and from where', async (t) => {
  const { events, id } = await everything(t)
  const concealing = await open(t, { registration: { concealExisting: true } })
  await createUser(concealing.app, { email: ada.email, verified: true })
  await concealing.post('/api/register/', ada)

  const breached = () => Promise.reject(new Error('down'))
  const limited = await open(t, { throttle: { register: { tries: 1, seconds: 60 } }, passwords: { breached } })
  for (let n = 0; n < 2; n++) await limited.post('/api/register/', ada)

  const told = [...events, ...concealing.events, ...limited.events]
  t.same(
    eventNames.filter((name) => !told.some((event) => event.name === name)),
    [],
  )
  for (const event of told) {
    t.same(Object.keys(event).sort(), [
      ...[
        'at',
        'details',
        'identifier',
        'ip',
        'name',
        'network',
        'requestId',
        'sessionId',
        'userAgent',
        'userId',
      ].sort(),
    ])
    t.ok(
      // What a network does too often is about the network.
      event.userId !== null || event.identifier !== null || event.sessionId !== null || event.name === 'throttle',
      `${event.name} is about somebody`,
    )
    t.equal(typeof event.at, 'number')
  }
  const byRequest = events.filter(({ requestId }) => requestId !== null)
  t.ok(byRequest.length > 20)
  for (const { ip, network, userAgent } of byRequest) {
    t.same([ip, network, userAgent], ['127.0.0.1', '127.0.0.1', 'lightMyRequest'])
  }
  t.ok(events.some(({ name, userId }) => name === 'login' && userId === id))
  t.same(events.find(({ name }) => name === 'refreshReplay')?.details, {})
  t.same(
    events.filter(({ name }) => name === 'loginFail').map(({ details }) => details.reason),
    ['unverified', 'password', 'unknown'],
  )
  t.same(
    events.filter(({ name }) => name === 'codeExhaust').map(({ details }) => details),
    [{ purpose: 'reset' }],
  )
})

t.test('[R-LOG-3] each event is one line in the log, without a secret and without an address', async (t) => {
  const { events, lines, texts } = await everything(t)

  const logged = lines.filter(({ event }) => String(event).startsWith('accounts.'))
  t.same(
    logged.map(({ event }) => event),
    events.map(({ name }) => `accounts.${name}`),
  )
  for (const line of logged) t.match(line, { realm: 'accounts', at: Number, ip: String, network: String, msg: String })
  const text = texts.join('')
  for (const secret of [ada.password, other, 'example.org', 'Example.org', 'eyJ', '93174251']) {
    t.notOk(text.includes(secret), `${secret} is nowhere in the log`)
  }
})

t.test('a user agent cannot begin a line of its own in the log', async (t) => {
  const { post, texts, lines } = await open(t)

  await post('/api/login/', ada, { 'user-agent': 'x\\n{"event":"accounts.login"}' })

  t.equal(texts.length, texts.join('').trimEnd().split('\n').length)
  t.equal(lines.filter(({ event }) => event === 'accounts.loginFail').length, 1)
})

t.test('a reset that proves the mailbox is a proof too, and the next one is a reset alone', async (t) => {
  const { post, mailer, events } = await open(t)
  const { id } = (await post('/api/register/', ada)).body
  const reset = async () => {
    const { token } = (await post('/auth/email_request/', { email: ada.email })).body
    await post('/auth/check_otp/', { token, otp: mailer.sent.at(-1)?.code })
    events.length = 0
    await post('/auth/reset_password/', { token, new_password: other })
    return events.map(({ name, userId, details }) => [name, userId, details])
  }

  t.strictSame(await reset(), [
    ['passwordReset', id, {}],
    ['emailVerify', id, { password: 'discarded' }],
  ])
  t.strictSame(await reset(), [['passwordReset', id, {}]])
})

t.test('a registration that mails a code tells of it, and of that of a decoy as of any other', async (t) => {
  const unverified = { ...ada, username: 'bob', email: 'bob@example.org' }
  const decoy = { ...unverified, email: 'eve@example.org', username: 'cyd' }
  const concealing = await open(t, { registration: { concealExisting: true } })
  const plain = await open(t, { registration: { verifyEmail: true } })
  const told = async ({ post, events }: typeof plain, person: object) => {
    events.length = 0
    const { token } = (await post('/api/register/', person)).body
    if (token) await post('/auth/verify_email/', { token, otp: '93174250' })
    t.ok(events.slice(1).every(({ identifier }) => identifier !== null && identifier === events.at(-1)?.identifier))
    return events.map(({ name, userId, details }) => [name, userId, details])
  }
  const [issued, wrong] = [{ purpose: 'verify' }, { purpose: 'verify', reason: 'wrong' }]
  const stored = (id: number) => [
    ['register', id, {}],
    ['codeIssue', id, issued],
    ['codeFail', null, wrong],
  ]

  t.strictSame(await told(plain, ada), stored(1))
  const refused = (reason: string) => ['registerFail', null, { reason }]
  t.strictSame(await told(plain, { ...ada, username: 'ada2' }), [refused('email_taken')], 'a refusal mails nothing')
  t.strictSame(await told(plain, { ...ada, email: 'ada2@example.org' }), [refused('username_taken')])
  // One event for the registration, whatever it meets: with `eventLog` each is a statement.
  const begun = (id: number | null) => [
    ['codeIssue', id, issued],
    ['codeFail', null, wrong],
  ]
  t.strictSame(await told(concealing, ada), begun(null))
  await concealing.accounts.users.create({ email: unverified.email, username: 'cyd' })
  t.strictSame(await told(concealing, unverified), begun(1), 'who proves it has the account')
  t.strictSame(await told(concealing, decoy), [refused('username_taken'), ['codeFail', null, wrong]])
  await concealing.accounts.users.create({ email: ada.email, username: 'ada', verified: true })
  t.strictSame(await told(concealing, ada), [refused('email_taken'), ['codeFail', null, wrong]])
})

t.test('a concealed registration is registered when its mailbox is proved', async (t) => {
  const { post, mailer, events } = await open(t, { registration: { concealExisting: true } })
  const { token } = (await post('/api/register/', ada)).body
  events.length = 0

  await post('/auth/verify_email/', { token, otp: mailer.sent.at(-1)?.code })

  t.strictSame(
    events.map(({ name, userId, details }) => [name, userId, details]),
    [
      ['codeAccept', null, { purpose: 'verify' }],
      ['register', 1, {}],
      ['emailVerify', 1, { password: 'kept' }],
    ],
  )
})

t.test('events about the code of an e-mail change tell whose they are, under one identifier', async (t) => {
  const { post, accounts, bearer, mailer, events } = await open(t)
  const { id } = (await post('/api/register/', ada)).body
  const me = bearer((await accounts.startSession(id)).access)
  events.length = 0
  const ask = () => post('/auth/change_email/', { email: 'new@example.org', password: ada.password }, me)
  const confirm = (token: string, otp: unknown) => post('/auth/confirm_email/', { token, otp }, me)

  const exhausted = (await ask()).body.token
  for (let n = 0; n < 6; n++) await confirm(exhausted, '93174250')
  const { token } = (await ask()).body
  await confirm(token, mailer.sent.at(-1)?.code)

  const codes = events.filter(({ name }) => name.startsWith('code'))
  t.strictSame([...new Set(codes.map(({ name }) => name))], ['codeIssue', 'codeFail', 'codeExhaust', 'codeAccept'])
  t.strictSame([...new Set(codes.map(({ userId }) => userId))], [id])
  t.equal(new Set(codes.map(({ identifier }) => identifier)).size, 1)
  t.match(codes[0]?.identifier, /^[\w-]{22}$/)
})

t.test('one address has one identifier, however it is written, and another in another realm', async (t) => {
  const first = await open(t)
  const second = await open(t, { secret: 'another-secret-of-more-than-32-bytes-0123456789' })
  const identifierOf = async ({ login, last }: typeof first, email: string) => {
    await login('a wrong password', email)
    return last().identifier
  }

  const identifier = await identifierOf(first, 'ada@example.org')

  t.match(identifier, /^[\w-]{22}$/)
  t.equal(await identifierOf(first, 'ADA@Example.ORG'), identifier)
  t.equal(await identifierOf(first, 'ada+tag@example.org'), identifier)
  t.not(await identifierOf(first, 'bob@example.org'), identifier)
  t.not(await identifierOf(second, 'ada@example.org'), identifier)
})

const before: [HookName, (host: Awaited<ReturnType<typeof open>>) => Promise<Answer>, (seen: any) => boolean][] = [
  [
    'beforeRegister',
    ({ post }) => post('/api/register/', { ...ada, username: 'bob', email: 'bob@example.org' }),
    (seen) => seen.username === 'bob' && seen.email === 'bob@example.org' && seen.client.ip === '127.0.0.1',
  ],
  ['beforeLogin', ({ login }) => login(), (seen) => seen.user.username === 'ada'],
  [
    'beforePasswordChange',
    async ({ post, accounts, bearer }) => {
      const { access } = await accounts.startSession(1)
      const body = { current_password: ada.password, new_password: other }
      return post('/auth/change_password/', body, bearer(access))
    },
    (seen) => seen.by === 'user' && seen.user.username === 'ada',
  ],
  [
    'beforePasswordChange',
    async ({ post, mailer }) => {
      const { token } = (await post('/auth/email_request/', { email: ada.email })).body
      await post('/auth/check_otp/', { token, otp: mailer.sent.at(-1)?.code })
      return post('/auth/reset_password/', { token, new_password: other })
    },
    (seen) => seen.by === 'reset' && seen.user.username === 'ada',
  ],
  [
    'beforeEmailChange',
    async ({ post, accounts, bearer }) => {
      const { access } = await accounts.startSession(1)
      const body = { email: 'new@example.org', password: ada.password }
      return post('/auth/change_email/', body, bearer(access))
    },
    (seen) => seen.email === 'new@example.org' && seen.user.username === 'ada',
  ],
  [
    'beforeDelete',
    async ({ send, accounts, bearer }) => {
      const headers = bearer((await accounts.startSession(1)).access)
      return send({ method: 'DELETE', url: '/auth/user/', payload: { password: ada.password }, headers })
    },
    (seen) => seen.user.username === 'ada',
  ],
]

for (const [index, [name, act, right]] of before.entries()) {
  t.test(`${name} (${index}) sees what is asked for, and no password hash, and lets it be done`, async (t) => {
    const host = await open(t)
    await host.post('/api/register/', ada)
    const seen: unknown[] = []
    host.accounts.addHook(name, async (context) => void seen.push(context))

    const { status } = await act(host)

    t.ok(status < 300, `${status}`)
    t.equal(seen.length, 1)
    t.ok(right(seen[0]))
    t.notOk(JSON.stringify(seen[0], (key, value) => (key === 'request' ? undefined : value)).includes('$argon2'))
  })

  t.test(`${name} (${index}) refuses with a status of its own, and nothing is changed`, async (t) => {
    const host = await open(t)
    await host.post('/api/register/', ada)
    const mails = host.mailer.sent.length
    host.accounts.addHook(name, async () => {
      throw Object.assign(new Error('Not in this house.'), { statusCode: 422 })
    })

    const { status, body } = await act(host)

    t.equal(status, 422)
    t.equal(body.message, 'Not in this house.')
    t.same(
      host.mailer.sent.slice(mails).filter(({ kind }) => kind !== 'reset'),
      [],
    )
    const users = await host.accounts.users.list()
    t.same(
      users.map(({ username, email, credentialVersion }) => [username, email, credentialVersion]),
      [['ada', ada.email, users[0]?.credentialVersion]],
    )
    const again = await realmOf(host.accounts).storage.findUserByEmail('ada+home@example.org')
    t.ok(await realmOf(host.accounts).passwords.verify(again?.passwordHash as string, ada.password))
  })

  t.test(`[R-LOG-5] a fault in ${name} (${index}) is 500 and goes to the log alone`, async (t) => {
    const host = await open(t)
    await host.post('/api/register/', ada)
    host.accounts.addHook(name, () => {
      throw new Error('relation "bans" does not exist')
    })

    const { status, body } = await act(host)

    t.same([status, body.message], [500, 'Internal Server Error'])
    t.ok(host.texts.join('').includes('relation'))
  })
}

t.test('a refused reset gives the grant back', async (t) => {
  const { post, accounts, mailer } = await open(t)
  await post('/api/register/', ada)
  const bans = { on: true }
  accounts.addHook('beforePasswordChange', () => {
    if (bans.on) throw Object.assign(new Error('Not today.'), { statusCode: 403 })
  })
  const { token } = (await post('/auth/email_request/', { email: ada.email })).body
  await post('/auth/check_otp/', { token, otp: mailer.sent.at(-1)?.code })

  t.equal((await post('/auth/reset_password/', { token, new_password: other })).status, 403)
  bans.on = false
  t.equal((await post('/auth/reset_password/', { token, new_password: other })).status, 200)
})

t.test('hooks of one name are called one after the other, and the first refusal is the answer', async (t) => {
  const { post, accounts } = await open(t)
  const calls: string[] = []
  accounts.addHook('beforeRegister', async () => {
    await new Promise((resolve) => setImmediate(resolve))
    calls.push('first')
  })
  accounts.addHook('beforeRegister', () => {
    calls.push('second')
    throw Object.assign(new Error('No.'), { statusCode: 409 })
  })
  accounts.addHook('beforeRegister', () => void calls.push('third'))

  t.equal((await post('/api/register/', ada)).status, 409)
  t.same(calls, ['first', 'second'])
})

t.test('what a hook after an event throws, or waits for, changes no answer', async (t) => {
  const { post, accounts, texts } = await open(t)
  accounts.addHook('afterRegister', () => {
    throw new Error('a broken hook')
  })
  accounts.addHook('afterRegister', async () => {
    throw new Error('a rejected hook')
  })
  accounts.addHook('afterRegister', () => new Promise(() => {}))

  t.equal((await post('/api/register/', ada)).status, 201)
  for (const message of ['a broken hook', 'a rejected hook']) t.ok(texts.join('').includes(message))
})

t.test('a hook that is none is told at once', async (t) => {
  const { accounts } = await open(t)

  t.throws(() => accounts.addHook('afterLunch' as HookName, () => {}), { name: 'TypeError', message: /"afterLunch"/ })
  t.throws(() => accounts.addHook('afterLogin', 7 as never), { name: 'TypeError', message: /"afterLogin"/ })
})

t.test('an event is a thing of its own: a hook cannot change what others see', async (t) => {
  const { post, accounts, last } = await open(t)
  accounts.addHook('afterRegister', (event) => {
    t.throws(() => Object.assign(event, { ip: 'x' }))
  })

  await post('/api/register/', ada)

  t.equal(last().ip, '127.0.0.1')
})

t.test('events are kept where the option says so, and read as one user’s history', async (t) => {
  const { accounts, events, id } = await everything(t)

  const mine = events.filter(({ userId }) => userId === id).map(({ name }) => name)
  const kept = await accounts.users.history(id, { limit: 1000 })
  t.same(kept.map(({ name }) => name).sort(), mine.sort())
  t.ok(
    kept.every((event, index) => index === 0 || event.at <= kept[index - 1]!.at),
    'the newest first',
  )
  t.equal(kept[0]?.at, kept[2]?.at, 'several happened within one millisecond')
  t.same(await accounts.users.history(id, { limit: 2 }), kept.slice(0, 2))
  t.same(await accounts.users.history(id, { before: kept[1]?.id, limit: 1000 }), kept.slice(2))
  await t.rejects(accounts.users.history(id, { before: new Date() as never }), TypeError)
})

t.test('events are kept as long as the option says', async (t) => {
  const clock = settableClock()
  const { accounts, post } = await open(t, { clock, eventLog: { keep: 3600 } })
  const { id } = (await post('/api/register/', ada)).body

  clock.pass(3_600_000)
  await purge(realmOf(accounts))
  t.equal((await accounts.users.history(id)).length, 1)
  clock.pass(1)
  await purge(realmOf(accounts))
  t.same(await accounts.users.history(id), [])
})

t.test('without the option no event reaches the database', { skip: noPostgres }, async (t) => {
  const { app, name, post, statements, db } = await realApp(t)
  const { id } = (await post('/api/register/', ada)).body

  t.notOk(statements.some((statement: string) => statement.includes('accounts_events')))
  t.same(await accountsOf({ app, name }).users.history(id), [])
  t.same(await db.selectFrom('accounts_events').selectAll().execute(), [])
})

t.test('kept events come back from PostgreSQL as they were told', { skip: noPostgres }, async (t) => {
  const host = await realApp(t, { eventLog: {} })
  const accounts = accountsOf({ app: host.app, name: host.name })
  const told: AccountEvent[] = []
  accounts.addHook('afterRegister', (event) => void told.push(event))
  accounts.addHook('afterLogin', (event) => void told.push(event))
  const { id } = (await host.post('/api/register/', ada, { 'user-agent': 'Mozilla "5.0" \\ 💥' })).body
  // Events are written beside the requests: two at once may be kept in either order.
  await until(async () => (await accounts.users.history(id)).length === 1)
  await host.post('/api/login/', ada)
  await until(async () => (await accounts.users.history(id)).length === 2)

  const kept = await accounts.users.history(id)
  t.same(kept.map(({ id: _, ...event }) => event).reverse(), told)
})

/** A storage that takes its time with events. */
function slowToKeep(db: Kysely<any>): Storage {
  const storage = kyselyStorage(db)
  async function addEvent(event: AccountEvent): Promise<void> {
    await setTimeout(300)
    await storage.addEvent(event)
  }
  return { ...storage, addEvent }
}

t.test('events on their way are kept before the app has closed', { skip: noPostgres }, async (t) => {
  const { db } = await openDatabase(t)
  const storage = slowToKeep(db)
  const app = Fastify()
  await app.register(plugin, { ...testOptions(), storage, eventLog: {} })
  const registering = await clientOf(app).post('/api/register/', ada)
  t.equal(registering.status, 201)
  t.same(await storage.listEvents(registering.body.id, { limit: 10 }), [], 'no answer waits for an event')

  await app.close()

  t.equal((await storage.listEvents(registering.body.id, { limit: 10 })).length, 1)
})

t.test('events of use cases come and go with a transaction of the host', { skip: noPostgres }, async (t) => {
  const { app, name, db } = await realApp(t, { eventLog: {} })
  const accounts = accountsOf({ app, name })
  const { id } = await accounts.users.create({ username: 'grace', email: 'grace@example.org' })
  const acts: [string, (joined: UseCases) => Promise<unknown>][] = [
    ['register', ({ users }) => users.create(ada)],
    ['roleChange', ({ users }) => users.setRole(id, 'admin')],
    ['login', ({ startSession }) => startSession(id)],
    ['sessionEnd', ({ users }) => users.endSessions(id)],
    ['passwordChange', ({ users }) => users.setPassword(id, other)],
    ['accountDisable', ({ users }) => users.disable(id)],
    ['accountDelete', ({ users }) => users.delete(id)],
  ]
  const within = (act: (joined: UseCases) => Promise<unknown>, fault?: Error) =>
    db.transaction().execute(async (trx) => {
      await act(accounts.using(slowToKeep(trx)))
      if (fault) throw fault
    })
  const told = async () => {
    const rows = await db.selectFrom('accounts_events').select('name').orderBy('id').execute()
    return rows.map((row) => row.name)
  }
  await db.deleteFrom('accounts_events').execute()
  const fault = new Error('the host thinks better of it')

  for (const [, act] of acts) await t.rejects(within(act, fault), fault)
  t.same(await told(), [])

  for (const [, act] of acts) await within(act)
  t.same(
    await told(),
    acts.map(([event]) => event),
  )
})

t.test('a database that does not take events changes no answer', { skip: noPostgres }, async (t) => {
  const { post, db } = await realApp(t, { eventLog: {} })
  await db.schema.dropTable('accounts_events').execute()

  t.equal((await post('/api/register/', ada)).status, 201)
  t.equal((await post('/api/login/', ada)).status, 200)
})
