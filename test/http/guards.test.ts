import fastifyAuth from '@fastify/auth'
import type { FastifyInstance, FastifyRequest, FastifyServerOptions } from 'fastify'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage } from '../../lib/contracts.ts'
import plugin, { type Accounts, type AccountsOptions, type Requirements } from '../../lib/index.ts'
import { createUser, loginAs, testOptions } from '../../lib/testing/index.ts'
import { type Answer, accountsOf, clientOf, settableClock } from '../helpers/app.ts'

const roles = { admin: ['*'], manager: ['orders:*'], support: ['orders:read'] }

/** A host whose routes are added before it is ready. */
async function host(t: Test, options: Partial<AccountsOptions> = {}, server: FastifyServerOptions = {}) {
  const app: FastifyInstance = Fastify(server)
  t.teardown(() => app.close())
  await app.register(fastifyAuth)
  await app.register(plugin, { ...testOptions(), roles, ...options } as AccountsOptions)
  const { send } = clientOf(app)
  const visit = (url: string, headers: Record<string, string> = {}) => send({ url, headers })
  return { app, accounts: accountsOf({ app }), send, visit }
}

function guard(app: FastifyInstance, url: string, requirements: Requirements): void {
  app.get(url, { onRequest: app.accounts.require(requirements) }, async (request) => ({ id: request.account.id }))
}

function told({ status, body }: Answer) {
  return [status, body.code]
}

const invalid = [401, 'ACCOUNTS_TOKEN_INVALID']
const forbidden = [403, 'ACCOUNTS_FORBIDDEN']
const missing = [404, 'ACCOUNTS_NOT_FOUND']
const internal = { statusCode: 500, error: 'Internal Server Error', message: 'Internal Server Error' }

t.test('a required guard authenticates', async (t) => {
  const { app, visit } = await host(t)
  guard(app, '/admin', { role: 'admin' })

  t.same(told(await visit('/admin')), invalid)
  t.same(told(await visit('/admin', { authorization: 'Bearer x' })), invalid)
})

t.test('a role opens what asks for it, or for one of several', async (t) => {
  const { app, visit } = await host(t)
  guard(app, '/admin', { role: 'admin' })
  guard(app, '/staff', { role: ['admin', 'support'] })
  const as = async (role?: string) => loginAs(app, await createUser(app, { role }))
  const [admin, support, nobody] = [await as('admin'), await as('support'), await as()]

  t.equal((await visit('/admin', admin)).status, 200)
  t.equal((await visit('/staff', admin)).status, 200)
  t.equal((await visit('/staff', support)).status, 200)
  t.same(told(await visit('/admin', support)), forbidden)
  t.same(told(await visit('/admin', nobody)), forbidden)
  t.same(told(await visit('/staff', nobody)), forbidden)
})

t.test('a permission is what the role has, by itself or under a star', async (t) => {
  const { app, visit } = await host(t)
  for (const permission of ['orders:read', 'orders:reader', 'orders:delete', 'orders', 'users:read']) {
    guard(app, `/${permission.replace(':', '-')}`, { permission })
  }
  const allowed = {
    admin: ['orders:read', 'orders:reader', 'orders:delete', 'orders', 'users:read'],
    manager: ['orders:read', 'orders:reader', 'orders:delete'],
    support: ['orders:read'],
    none: [] as string[],
  }

  for (const [role, open] of Object.entries(allowed)) {
    const headers = await loginAs(app, await createUser(app, { role: role === 'none' ? undefined : role }))
    for (const permission of allowed.admin) {
      const expected = open.includes(permission) ? 200 : 403
      t.equal((await visit(`/${permission.replace(':', '-')}`, headers)).status, expected, `${role} ${permission}`)
    }
  }
})

t.test('a changed role holds from the next request on, whatever the token says', async (t) => {
  const { app, accounts, visit } = await host(t, { tokens: { claims: (user) => ({ role: user.role }) } })
  guard(app, '/admin', { role: 'admin' })
  const user = await createUser(app, { role: 'admin' })
  const headers = await loginAs(app, user)
  t.equal((await visit('/admin', headers)).status, 200)

  await accounts.users.setRole(user.id, 'support')
  t.same(told(await visit('/admin', headers)), forbidden)

  await accounts.users.setRole(user.id, 'admin')
  t.equal((await visit('/admin', headers)).status, 200)
})

t.test('the user is read once per request, and not at all where nothing asks', async (t) => {
  const storage = memoryStorage()
  const reads: unknown[] = []
  const counted: Storage = {
    ...storage,
    findUserById(id) {
      reads.push(id)
      return storage.findUserById(id)
    },
  }
  const { app, visit } = await host(t, { storage: counted })
  guard(app, '/all', { role: 'admin', permission: 'orders:read', verified: true })
  guard(app, '/none', { recent: true, owner: (request) => request.headers.owner })
  const user = await createUser(app, { role: 'admin', verified: true })
  const headers = await loginAs(app, user)
  reads.length = 0

  t.equal((await visit('/all', headers)).status, 200)
  t.equal(reads.length, 1)
  t.equal((await visit('/none', { ...headers, owner: String(user.id) })).status, 200)
  t.equal(reads.length, 1)
})

t.test('a guard that asks for a verified address refuses an unverified one', async (t) => {
  const { app, visit } = await host(t)
  guard(app, '/verified', { verified: true })

  const unverified = await visit('/verified', await loginAs(app, await createUser(app)))
  const verified = await visit('/verified', await loginAs(app, await createUser(app, { verified: true })))

  t.same(told(unverified), [403, 'ACCOUNTS_EMAIL_UNVERIFIED'])
  t.equal(verified.status, 200)
})

t.test('[R-SES-6] recent looks at the login, not at the age of the token', async (t) => {
  // docs: "within five minutes, or so many seconds"
  const clock = settableClock()
  const { app, send, visit } = await host(t, { clock })
  guard(app, '/recent', { recent: true })
  guard(app, '/hour', { recent: 3600 })
  const ada = { email: 'ada@example.org', password: 'correct horse battery' }
  await createUser(app, ada)
  const post = (url: string, payload: object, headers = {}) => send({ method: 'POST', url, payload, headers })
  const bearer = (answer: Answer) => ({ authorization: `Bearer ${answer.body.access}` })
  const login = await post('/api/login/', ada)

  clock.pass(299_000)
  t.equal((await visit('/recent', bearer(login))).status, 200)
  clock.pass(2000)
  const refreshed = await post('/auth/refresh/', { refresh: login.body.refresh })
  clock.pass(60_000)
  t.same(told(await visit('/recent', bearer(refreshed))), [403, 'ACCOUNTS_REAUTH_REQUIRED'])
  t.equal((await visit('/hour', bearer(refreshed))).status, 200)

  const passwords = { current_password: ada.password, new_password: 'another horse battery' }
  const changed = await post('/auth/change_password/', passwords, bearer(refreshed))
  t.equal((await visit('/recent', bearer(changed))).status, 200, 'a password was proved')
})

t.test('someone else’s resource is a 404, as if it were missing', async (t) => {
  const { app, visit } = await host(t)
  const owners = new Map<string, unknown>()
  guard(app, '/orders/:id', { owner: (request) => owners.get(request.params.id) })
  const [ada, bob] = [await createUser(app), await createUser(app)]
  owners.set('1', ada.id).set('2', bob.id).set('3', null).set('4', [ada.id]).set('5', String(ada.id))
  const headers = await loginAs(app, ada)

  t.equal((await visit('/orders/1', headers)).status, 200)
  t.equal((await visit('/orders/5', headers)).status, 200, 'ids of a host may be text')
  const foreign = await visit('/orders/2', headers)
  t.same(told(foreign), missing)
  for (const id of ['3', '4', '6']) t.same((await visit(`/orders/${id}`, headers)).body, foreign.body)
})

t.test('[R-LOG-5] a fault in a guard refuses the request', async (t) => {
  const storage = memoryStorage()
  const broken: Storage = {
    ...storage,
    findUserById: () => Promise.reject(Object.assign(new Error('connection lost'), { code: 'ECONNRESET' })),
  }
  const { app, visit } = await host(t, { storage: broken })
  guard(app, '/admin', { role: 'admin' })
  guard(app, '/verified', { verified: true })
  guard(app, '/orders', {
    owner: () => {
      throw new Error('orders are away')
    },
  })
  const { id } = (await storage.insertUser({
    ...{ username: null, usernameCanonical: null, email: 'a@example.org', emailCanonical: 'a@example.org' },
    ...{ emailVerifiedAt: 1, passwordHash: null, credentialVersion: 1, role: 'admin', profile: {} as never },
    ...{ createdAt: 0, expiresAt: null },
  })) as { id: number }
  const session = {
    ...{ id: 'session', userId: id as never, credentialVersion: 1, createdAt: Date.now(), authTime: Date.now() },
    ...{ lastUsedAt: Date.now(), idleMs: 1e9, expiresAt: Date.now() + 1e9, ip: '', userAgent: '' },
  }
  await storage.insertSession(session, 1000)
  const access = await realmOf(app.accounts).tokens.signAccess(session, { id } as never)
  const headers = { authorization: `Bearer ${access}` }

  t.same(told(await visit('/admin', headers)), [503, 'ACCOUNTS_UNAVAILABLE'])
  t.same(told(await visit('/verified', headers)), [503, 'ACCOUNTS_UNAVAILABLE'])
  t.equal((await visit('/orders', headers)).status, 500)
})

t.test('a function of a guard that throws is 500 without its text, or refuses with its own status', async (t) => {
  const lines: string[] = []
  const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
  const { app, visit } = await host(t, {}, { logger })
  const driver = Object.assign(new Error('invalid input syntax for type integer: "abc"'), {
    ...{ code: '22P02', detail: 'a row of the database' },
  })
  const thrown: Record<string, unknown> = {
    '/driver': driver,
    '/text': 'invalid input syntax',
    '/nothing': undefined,
    '/range': Object.assign(new Error('invalid input syntax'), { statusCode: 200 }),
    '/own': Object.assign(new Error('Order 7 is archived.'), { statusCode: 410, code: 'ORDER_ARCHIVED' }),
    '/plain': { statusCode: 410, message: 'Order 7 is archived.', code: 'ORDER_ARCHIVED', headers: { 'x-order': '7' } },
  }
  for (const [url, error] of Object.entries(thrown)) {
    guard(app, url, {
      owner() {
        throw error
      },
    })
  }
  guard(app, '/async/:id', { owner: () => Promise.reject(driver) })
  const headers = await loginAs(app, await createUser(app))

  for (const url of ['/driver', '/text', '/nothing', '/range', '/async/abc']) {
    const { status, body } = await visit(url, headers)
    t.strictSame([status, body], [500, internal], url)
  }
  for (const url of ['/own', '/plain']) {
    const { status, body } = await visit(url, headers)
    t.match([status, body], [410, { code: 'ORDER_ARCHIVED', message: 'Order 7 is archived.' }], url)
  }
  t.equal((await visit('/plain', headers)).headers['x-order'], '7')
  const [first] = lines.filter((line) => line.includes('a guard of GET /driver failed'))
  t.match(JSON.parse(first as string), { err: { stack: /invalid input syntax.*\n\s+at / } })
  t.ok(lines.some((line) => line.includes('a guard of GET /async/:id failed')))
  t.notOk(lines.join('').includes('a row of the database'))
})

t.test('a deleted or disabled user is refused by what reads the user', async (t) => {
  const { app, accounts, visit } = await host(t, { revocation: 'none' })
  guard(app, '/verified', { verified: true })
  const [ada, bob] = [await createUser(app, { verified: true }), await createUser(app, { verified: true })]
  const [first, second] = [await loginAs(app, ada), await loginAs(app, bob)]

  await accounts.users.disable(ada.id)
  await accounts.users.delete(bob.id)

  t.same(told(await visit('/verified', first)), invalid)
  t.same(told(await visit('/verified', second)), invalid)
})

t.test('a wrong requirement throws where the route is built, and names what was given', async (t) => {
  const { app } = await host(t)
  const wrong: [unknown, RegExp][] = [
    [{}, /one or more of role, permission, verified, recent, owner/],
    [{ roles: 'admin' }, /one or more of role.*it was given \{ roles: 'admin' \}/],
    [{ role: undefined }, /one or more of role/],
    [{ role: '' }, /"role"/],
    [{ role: [] }, /"role"/],
    [{ role: 'superuser' }, /"role".*admin, manager, support/],
    [{ role: ['admin', 'superuser'] }, /"role".*not 'superuser'/],
    [{ permission: '' }, /"permission"/],
    [{ permission: ['orders:read'] }, /"permission"/],
    [{ verified: false }, /"verified"/],
    [{ recent: 0 }, /"recent"/],
    [{ recent: false }, /"recent"/],
    [{ recent: 1.5 }, /"recent".*not 1\.5/],
    [{ owner: 7 }, /"owner"/],
  ]

  for (const [requirements, message] of wrong) {
    t.throws(() => app.accounts.require(requirements as Requirements), { name: 'TypeError', message })
  }
  const small = await host(t, { roles: { manager: ['orders:*'], support: ['orders:*', 'users:read'] } })
  t.throws(() => small.app.accounts.require({ permission: 'order:read' }), {
    name: 'TypeError',
    message: /"permission" .* grants \(orders:\*, users:read\), not 'order:read'/,
  })
  const plain = await host(t, { roles: undefined })
  t.throws(() => plain.app.accounts.require({ permission: 'orders:read' }), { name: 'TypeError', message: /"roles"/ })
  t.ok(plain.app.accounts.require({ role: 'anything' }), 'without the option any role may be asked for')
})

t.test('a guard is a hook of any kind, or awaited, and takes no fault of what follows for its own', async (t) => {
  const { app, send } = await host(t)
  const { authenticate } = app.accounts
  const seen = async (request: FastifyRequest) => ({ id: request.account.id })
  const fault = () => {
    throw new Error('a fault of the host')
  }
  app.post('/parsing', { preParsing: authenticate as never }, seen)
  app.get('/validation', { preValidation: authenticate }, seen)
  app.get('/awaited', { onRequest: async (request, reply) => authenticate(request, reply) }, seen)
  app.get('/hook', { onRequest: [authenticate, fault] }, seen)
  app.get('/handler', { onRequest: authenticate }, fault)
  const user = await createUser(app)
  const headers = await loginAs(app, user)

  for (const url of ['/parsing', '/validation', '/awaited', '/hook', '/handler']) {
    const method = url === '/parsing' ? 'POST' : 'GET'
    t.same(told(await send({ url, method })), invalid, url)
    const { status, body } = await send({ url, method, headers })
    if (['/hook', '/handler'].includes(url)) t.match([status, body], [500, { message: 'a fault of the host' }], url)
    else t.match([status, body], [200, { id: user.id }], url)
  }
})

t.test('a guard within a hook of the host is waited for, and what is thrown behind it is the host’s', async (t) => {
  const { app, visit } = await host(t)
  const { authenticate } = app.accounts
  type Hook = (...args: unknown[]) => unknown
  const runs: string[] = []
  const deny = async () => {
    throw Object.assign(new Error('of the host'), { statusCode: 403 })
  }
  const all = (...guards: unknown[]) =>
    async function (this: unknown, ...args: unknown[]) {
      for (const guard of guards) await (guard as Hook).apply(this, args)
    }
  const routes = {
    one: all(authenticate),
    both: all(authenticate, deny),
    chained: (request: never, reply: never) => authenticate(request, reply).then(deny),
    caught: (request: never, reply: never) => authenticate(request, reply).catch(() => {}),
    finally: (request: never, reply: never) => authenticate(request, reply).finally(() => runs.push('finally')),
    together: (...args: [never, never]) => Promise.all([authenticate(...args), deny()]).then(() => {}),
  }
  for (const [name, onRequest] of Object.entries(routes)) {
    app.get(`/${name}`, { onRequest: onRequest as never }, async (request) => {
      runs.push(name)
      return { id: request.accountOrNull?.id ?? null }
    })
  }
  const user = await createUser(app)
  const headers = await loginAs(app, user)

  for (const name of Object.keys(routes)) {
    const refused = ['both', 'chained', 'together'].includes(name)
    const { status, body } = await visit(`/${name}`, headers)
    t.match([status, body], refused ? [403, { message: 'of the host' }] : [200, { id: user.id }], name)
    const visitor = await visit(`/${name}`)
    t.match([visitor.status, visitor.body.id], name === 'caught' ? [200, null] : [401], name)
  }
  t.same(runs, ['one', 'caught', 'caught', 'finally', 'finally', 'finally'])
})

t.test('a refusal leaves no header on the response when another guard lets the request in', async (t) => {
  const { app, visit } = await host(t)
  const { authenticate, require } = app.accounts
  const key = async (request: { headers: Record<string, unknown> }) => {
    if (request.headers.key !== 'right') throw new Error('a wrong key')
  }
  const admin = require({ role: 'admin' })
  const seen = (request: { accountOrNull: { id: unknown } | null }) => ({ id: request.accountOrNull?.id ?? null })
  app.get('/or', { preHandler: app.auth([authenticate, key as never]) }, seen as never)
  app.get('/either', { preHandler: app.auth([admin, key as never]) }, seen as never)
  app.get('/both', { preHandler: app.auth([admin, key as never], { relation: 'and' }) }, seen as never)
  app.get('/key-first', { preHandler: app.auth([key as never, authenticate]) }, seen as never)
  app.get('/all', { preHandler: app.auth([admin, key as never], { run: 'all' }) }, seen as never)
  const support = await loginAs(app, await createUser(app, { role: 'support' }))
  const chief = await createUser(app, { role: 'admin' })
  const asChief = await loginAs(app, chief)

  const byKey = await visit('/or', { key: 'right' })
  t.equal(byKey.status, 200)
  t.same(byKey.body, { id: null })
  t.equal(byKey.headers['www-authenticate'], undefined)
  t.equal(byKey.headers['retry-after'], undefined)
  t.match(await visit('/key-first', { key: 'right' }), { status: 200, body: { id: null } }, 'in either order')
  t.match(await visit('/key-first', asChief), { status: 200, body: { id: chief.id } })
  const refused = await visit('/either', { ...support, key: 'wrong' })
  t.ok(refused.status >= 400)

  const asVisitor = await visit('/either', { ...support, key: 'right' })
  t.same([asVisitor.status, asVisitor.body], [200, { id: null }], 'let in by the key, and not as that account')
  t.same((await visit('/either', asChief)).body, { id: chief.id })
  t.same(told(await visit('/both', { ...support, key: 'right' })), forbidden)
  t.equal((await visit('/both', { ...asChief, key: 'right' })).status, 200)
  t.not((await visit('/both', { ...asChief, key: 'wrong' })).status, 200)
  t.same((await visit('/all', { ...support, key: 'right' })).body, { id: null })
})

t.test('a route of a protected scope without a guard fails at boot and says what to do', async (t) => {
  const open = async (add: (scope: FastifyInstance) => void) => {
    const { app } = await host(t)
    app.register(async (scope) => {
      app.accounts.protect(scope)
      add(scope)
    })
    return app.ready()
  }
  const answer = async () => 'ok'
  const fix = /GET \/open.*app\.accounts\.authenticate.*accounts: false/

  await t.rejects(
    open((scope) => scope.get('/open', answer)),
    { name: 'TypeError', message: fix },
  )
  await t.rejects(
    open((scope) => scope.get('/open', { onRequest: async () => {} }, answer)),
    { message: fix },
  )
  await t.rejects(
    open((scope) => scope.register(async (inner) => void inner.get('/open', answer), { prefix: '/deep' })),
    { message: /GET \/deep\/open/ },
  )
  await t.rejects(
    open((scope) => scope.route({ method: ['POST', 'PUT'], url: '/open', handler: answer })),
    { message: /POST,PUT \/open/ },
  )
  await t.rejects(
    open((scope) => scope.get('/open', { config: { accounts: true } as object }, answer)),
    { message: fix },
  )
})

t.test('a protected scope takes every kind of guard in every place, and open routes that say so', async (t) => {
  const { app, accounts, visit, send } = await host(t)
  const { authenticate, require } = accounts
  app.register(async (scope) => {
    accounts.protect(scope)
    scope.get('/one', { onRequest: authenticate }, async () => 'ok')
    scope.get('/two', { preValidation: [async () => {}, require({ role: 'admin' })] }, async () => 'ok')
    scope.get('/three', { preHandler: authenticate({ optional: true }) }, async () => '"visitor"')
    scope.get('/status', { config: { accounts: false } as object }, async () => '"up"')
    scope.register(async (inner) => void inner.delete('/deep', { onRequest: [authenticate] }, async () => 'ok'))
  })
  app.get('/outside', async () => '"open"')
  await app.ready()

  for (const url of ['/one', '/two']) t.equal((await visit(url)).status, 401)
  t.equal((await send({ method: 'HEAD', url: '/one' })).status, 401)
  t.equal((await send({ method: 'DELETE', url: '/deep' })).status, 401)
  for (const url of ['/three', '/status', '/outside']) t.equal((await visit(url)).status, 200)
})

t.test('a protected scope takes no guard of another realm', async (t) => {
  const { app, accounts } = await host(t)
  await app.register(plugin, { ...testOptions(), name: 'staff', prefix: '/staff' })
  const { staff } = app as unknown as { staff: Accounts }
  app.register(async (scope) => {
    staff.protect(scope)
    scope.get('/ours', { onRequest: staff.authenticate }, async () => 'ok')
    scope.get('/theirs', { onRequest: accounts.authenticate }, async () => 'ok')
  })

  await t.rejects(async () => app.ready(), { message: /GET \/theirs/ })
})

t.test('a guard that is made of nothing says what it takes', async (t) => {
  const { accounts } = await host(t)
  const wrong: [() => unknown, RegExp][] = [
    [() => accounts.require(null as never), /require\(\) takes one or more of role/],
    [() => accounts.require(undefined as never), /require\(\) takes one or more of role/],
    [() => accounts.authenticate(undefined as never), /authenticate\(\) takes \{ optional: true \}/],
    [() => accounts.protect(undefined as never), /protect\(\) takes the scope/],
  ]

  for (const [make, message] of wrong) t.throws(make, { name: 'TypeError', message })
})

t.test('what a host wraps around a guard is not taken for one', async (t) => {
  const { app, accounts } = await host(t)
  app.register(async (scope) => {
    accounts.protect(scope)
    const wrapped = async (request: never, reply: never) => accounts.authenticate(request, reply)
    scope.get('/wrapped', { onRequest: wrapped as never }, async () => 'ok')
  })

  await t.rejects(async () => app.ready(), { message: /GET \/wrapped/ })
})

t.test('a token is verified without a request as a guard does it', async (t) => {
  const { app, accounts } = await host(t)
  const user = await createUser(app)
  const { authorization } = await loginAs(app, user)
  const token = authorization.slice('Bearer '.length)

  t.match(await accounts.verifyToken(token), { id: user.id, sessionId: String })
  await accounts.users.endSessions(user.id)
  await t.rejects(accounts.verifyToken(token), { code: 'ACCOUNTS_TOKEN_INVALID' })
  for (const none of ['x', '', undefined, null, 7, {}] as string[]) {
    await t.rejects(accounts.verifyToken(none), { code: 'ACCOUNTS_TOKEN_INVALID' })
  }
})
