import Fastify, { type FastifyRequest } from 'fastify'
import t from 'tap'
import accounts, { type Accounts, type AccountsOptions } from '../../lib/index.ts'
import { clientOf } from '../helpers/app.ts'
import { hostApp, liveThrough, memoryParts } from '../helpers/host-app.ts'

declare module 'fastify' {
  interface FastifyInstance {
    staff: Accounts
  }
}

t.test('authenticate called without the reply refuses all the same', async (t) => {
  const { get } = await hostApp(t, {
    after(app) {
      const authenticate = app.accounts.authenticate as unknown as (request: FastifyRequest) => Promise<void>
      app.get('/short', { preHandler: async (request) => void (await authenticate(request)) }, () => 'in')
      t.throws(() => app.accounts.authenticate({} as never), { message: /takes \{ optional: true \}/ })
    },
  })

  t.match(await get('/short'), { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' } })
})

t.test('request.account is who is logged in, behind the guard as any hook', async (t) => {
  const claims = () => ({ plan: 'pro' })
  const host = await hostApp(t, {
    options: { tokens: { claims } },
    after(app) {
      app.get('/first', { onRequest: app.accounts.authenticate }, (request) => request.account)
      app.get('/later', { preHandler: [app.accounts.authenticate] }, (request) => request.account)
      app.get('/frozen', { onRequest: app.accounts.authenticate }, (request) => Object.isFrozen(request.account))
    },
  })
  const { access } = await liveThrough(t, host)

  const first = await host.get('/first', access)
  t.match(first, { status: 200, body: { id: 1, sessionId: /^[\w-]{22}$/, claims: { plan: 'pro' } } })
  t.strictSame((await host.get('/later', access)).body, first.body)
  t.equal((await host.get('/frozen', access)).body, true)
  t.match(await host.get('/first'), {
    status: 401,
    body: { code: 'ACCOUNTS_TOKEN_INVALID' },
    headers: { 'www-authenticate': 'Bearer' },
  })
})

t.test('request.account read on a route without a guard throws and names the route', async (t) => {
  const { get } = await hostApp(t, {
    after(app) {
      app.setErrorHandler((error, _request, reply) => reply.code(500).send({ text: (error as Error).message }))
      app.get('/orders/:id', async (request) => request.account)
      app.get('/lists/:id', async (request) => ({ account: request.accountOrNull }))
    },
  })

  t.match(
    (await get('/orders/1')).body.text,
    /request\.account was read on GET \/orders\/:id, but no guard let anybody in; give the route/,
  )
  t.match(await get('/lists/1'), { status: 200, body: { account: null } })
})

t.test('an optional guard lets a request without a token pass, and refuses a wrong token', async (t) => {
  const host = await hostApp(t, {
    after(app) {
      const onRequest = app.accounts.authenticate({ optional: true })
      app.get('/news', { onRequest }, async (request) => ({ account: request.accountOrNull }))
      app.get('/mine', { onRequest }, async (request) => {
        try {
          return request.account
        } catch (error) {
          return { text: (error as Error).message }
        }
      })
    },
  })
  const { access } = await liveThrough(t, host)

  t.match(await host.get('/news'), { status: 200, body: { account: null } })
  t.match(await host.get('/news', access), { status: 200, body: { account: { id: 1 } } })
  t.match(await host.get('/news', `${access}x`), { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' } })
  t.match(await host.send({ url: '/news', headers: { authorization: '' } }), { status: 401 })
  t.match(
    (await host.get('/mine')).body.text,
    /GET \/mine, but no guard let anybody in; .* read request\.accountOrNull/,
  )
})

t.test('two realms live in one app, and the tokens and codes of one open nothing of the other', async (t) => {
  // One secret, one database, one cache, one issuer and audience: the name alone parts them.
  const parts = { ...memoryParts(), tokens: { issuer: 'https://example.org', audience: 'api' } }
  const host = await hostApp(t, {
    options: { ...parts, prefix: '/shop' },
    async after(app) {
      // A copy, or it would be refused.
      const storage = { ...parts.storage }
      await app.register(accounts, { ...parts, storage, name: 'staff', prefix: '/staff' })
      app.get('/of-staff', { onRequest: app.staff.authenticate }, (request) => request.account)
      app.get('/of-customers', { onRequest: app.accounts.authenticate }, (request) => request.account)
      app.get('/staff-alone', { onRequest: app.staff.authenticate }, (request) => app.staff.accountOf(request))
      app.get('/mixed-up', { onRequest: app.accounts.authenticate }, async (request) => {
        await t.rejects(async () => app.staff.accountOf(request), {
          message: /accountOf\(\) was read on GET \/mixed-up/,
        })
        return app.accounts.accountOf(request)
      })
    },
  })
  const customer = await liveThrough(t, { ...host, mailer: parts.mailer }, { prefix: '/shop' })
  const member = await liveThrough(
    t,
    { ...host, mailer: parts.mailer },
    { prefix: '/staff', email: 'grace@example.org' },
  )
  const asked = await host.post('/shop/auth/email_request/', { email: 'ada@example.org' })

  t.match(await host.get('/of-customers', customer.access), { status: 200, body: { id: 1 } })
  t.match(await host.get('/of-staff', member.access), { status: 200, body: { id: 2 } })
  t.match(await host.get('/staff-alone', member.access), { status: 200, body: { id: 2 } })
  t.match(await host.get('/mixed-up', customer.access), { status: 200, body: { id: 1 } })
  for (const [path, token] of [
    ['/of-staff', customer.access],
    ['/staff/auth/user/', customer.access],
    ['/of-customers', member.access],
    ['/shop/auth/user/', member.access],
  ] as const) {
    t.match(await host.get(path, token), { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' } }, path)
  }
  t.equal((await host.post('/staff/auth/refresh/', { refresh: customer.refresh })).status, 401)
  t.equal((await host.post('/shop/auth/refresh/', { refresh: member.refresh })).status, 401)
  const guess = { token: asked.body.token, otp: parts.mailer.sent.at(-1)?.code }
  t.match(await host.post('/staff/auth/check_otp/', guess), { status: 400, body: { code: 'ACCOUNTS_CODE_INVALID' } })
  t.equal((await host.post('/shop/auth/check_otp/', guess)).status, 200)
})

t.test('a name that is registered twice is an error at boot, also in two contexts', async (t) => {
  const again = (options: object) => ({ ...memoryParts(), prefix: '/again', ...options }) as AccountsOptions
  const message = /option "name" must differ from that of another registration \("accounts"\)/
  const { app } = await hostApp(t, { after: () => {} })
  t.ok(app.accounts)

  const twice = hostApp(t, { after: (app) => app.register(accounts, again({})) })
  await t.rejects(twice, { name: 'TypeError', message })

  const contexts = Fastify()
  t.teardown(() => contexts.close())
  contexts.register(async (scope) => void (await scope.register(accounts, again({ prefix: '/one' }))))
  contexts.register(async (scope) => void (await scope.register(accounts, again({ prefix: '/two' }))))
  await t.rejects(async () => contexts.ready(), { name: 'TypeError', message })
})

t.test('a decorator of the host with our name is an error at boot, before and after', async (t) => {
  const before = hostApp(t, { before: (app) => app.decorate('accounts', {} as Accounts) })
  await t.rejects(before, {
    name: 'TypeError',
    message: /option "name".*a decorator of the app already \("accounts"\)/,
  })

  const after = hostApp(t, { after: (app) => app.decorate('accounts', {} as Accounts) })
  await t.rejects(after, { code: 'FST_ERR_DEC_ALREADY_PRESENT' })

  for (const name of ['server', 'log', 'get', 'constructor']) {
    await t.rejects(hostApp(t, { options: { name } }), { name: 'TypeError', message: /option "name"/ }, name)
  }
})

t.test('in a context of its own the plugin decorates nothing outside, and follows the prefix', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  const parts = memoryParts()
  app.register(
    async (scope) => {
      await scope.register(accounts, { ...parts, prefix: '/v1' })
      scope.get('/mine', { onRequest: scope.accounts.authenticate }, (request) => request.account)
    },
    { prefix: '/shop' },
  )
  app.get('/outside', async (request) => ({ seen: 'account' in request }))
  await app.ready()
  const client = { ...clientOf(app), mailer: parts.mailer }

  const { access } = await liveThrough(t, client, { prefix: '/shop/v1' })

  t.match(await client.get('/shop/mine', access), { status: 200, body: { id: 1 } })
  t.equal(app.hasDecorator('accounts'), false)
  t.match(await client.get('/outside'), { status: 200, body: { seen: false } })
})

t.test('two contexts may each have a realm of their own name', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  const parts = { one: memoryParts(), two: memoryParts() }
  for (const name of ['one', 'two'] as const) {
    app.register(async (scope) => {
      await scope.register(accounts, { ...parts[name], name, prefix: `/${name}` })
    })
  }
  await app.ready()

  for (const name of ['one', 'two'] as const) {
    await liveThrough(t, { ...clientOf(app), mailer: parts[name].mailer }, { prefix: `/${name}` })
  }
})

t.test('the decorators of the app and of requests are ours alone', async (t) => {
  const plain = Fastify()
  await plain.ready()
  const { app } = await hostApp(t, {})

  for (const name of ['auth', 'jwt', 'redis', 'authenticate']) t.equal(app.hasDecorator(name), false, name)
  for (const name of ['user', 'jwtVerify', 'jwtDecode']) t.equal(app.hasRequestDecorator(name), false, name)
  for (const name of ['jwtSign']) t.equal(app.hasReplyDecorator(name), false, name)
  t.strictSame(
    Object.keys(app).filter((name) => !(name in plain)),
    ['accounts'],
  )
  await plain.close()
})
