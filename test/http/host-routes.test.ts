import { Writable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import t from 'tap'
import { routeNames } from '../../lib/options/options.ts'
import { createUser, loginAs } from '../../lib/testing/index.ts'
import { hostApp, liveThrough } from '../helpers/host-app.ts'
import { allRoutes, inventory, spellings, type WireRoute } from '../helpers/inventory.ts'

type Host = Awaited<ReturnType<typeof hostApp>>

const good = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }

/** What a route answers to a stranger, whom it asks for a token or for a body: no route of ours is not found. */
async function stranger(host: Host, { method }: WireRoute, url: string) {
  const { status, body } = await host.send({ method, url, ...(method !== 'GET' && { payload: {} }) })
  return `${status} ${body?.code ?? ''}`
}

function strangersAnswer({ name, guarded, partial }: WireRoute): string {
  if (name === 'jwks') return '200 '
  return guarded || partial === 'body' ? '401 ACCOUNTS_TOKEN_INVALID' : '400 ACCOUNTS_VALIDATION'
}

t.test('every route works with and without its trailing slash, without a redirect', async (t) => {
  const host = await hostApp(t, { options: allRoutes })

  for (const route of inventory) {
    for (const url of spellings(route.path)) {
      t.equal(await stranger(host, route, url), strangersAnswer(route), `${route.method} ${url}`)
    }
  }
})

for (const server of [{ ignoreTrailingSlash: true }, { routerOptions: { ignoreTrailingSlash: true } }]) {
  t.test(`a host with ${JSON.stringify(server)} boots, and both spellings work`, async (t) => {
    const host = await hostApp(t, { server })
    const whole = await hostApp(t, { server, options: allRoutes })

    await liveThrough(t, host)
    for (const route of inventory) {
      for (const url of spellings(route.path)) {
        t.equal(await stranger(whole, route, url), strangersAnswer(route), `${route.method} ${url}`)
      }
    }
  })
}

for (const prefix of ['/v1', '/v1/', '/deep/er']) {
  t.test(`the prefix ${prefix} goes before every route`, async (t) => {
    const host = await hostApp(t, { options: { prefix } })

    const before = prefix.replace(/\/$/, '')
    await liveThrough(t, host, { prefix: before })
    t.equal((await host.post('/api/login/', {})).status, 404)
    const whole = await hostApp(t, { options: { ...allRoutes, prefix } })
    for (const route of inventory) {
      for (const url of spellings(route.path)) {
        t.equal(await stranger(whole, route, before + url), strangersAnswer(route), `${route.method} ${url}`)
        t.match(await stranger(whole, route, url), /^404/)
      }
    }
  })
}

t.test('routes are renamed and switched off', async (t) => {
  const host = await hostApp(t, {
    options: {
      prefix: '/v1',
      routes: { login: '/in', register: { url: '/people/' }, user: '/me', checkOtp: false, refresh: { url: '/' } },
    },
  })

  t.equal((await host.post('/v1/people/', good)).status, 201)
  const login = await host.post('/v1/in', good)
  t.equal(login.status, 200)
  t.equal((await host.post('/v1/in/', good)).status, 200)
  t.equal((await host.get('/v1/me/', login.body.access)).status, 200)
  t.equal((await host.post('/v1/', { refresh: login.body.refresh })).status, 200)
  t.equal((await host.post('/v1', { refresh: login.body.refresh })).status, 200)
  for (const gone of ['/v1/api/register/', '/v1/api/login/', '/v1/auth/check_otp/', '/v1/auth/check_otp']) {
    t.equal((await host.post(gone, good)).status, 404, gone)
  }
  t.equal((await host.get('/v1/auth/user/', login.body.access)).status, 404)
})

t.test('every route is renamed by its name, and no other with it', async (t) => {
  const renamed = (route: WireRoute) => `/v2/${route.name}/${route.path.includes(':id') ? ':id/' : ''}`

  for (const name of routeNames) {
    const host = await hostApp(t, { options: { ...allRoutes, routes: { [name]: `/v2/${name}` } } })
    for (const route of inventory) {
      const [now, then] = route.name === name ? [renamed(route), route.path] : [route.path, renamed(route)]
      for (const url of spellings(now)) t.equal(await stranger(host, route, url), strangersAnswer(route), url)
      for (const url of spellings(then)) t.match(await stranger(host, route, url), /^404/, url)
    }
    await host.app.close()
  }
})

t.test('a renamed list of sessions ends them below its new path', async (t) => {
  const { app } = await hostApp(t, { options: { routes: { sessions: { url: '/devices' } } } })
  const user = await createUser(app)
  const [headers, other] = [await loginAs(app, user), await loginAs(app, user)]
  const ids = async (): Promise<string[]> =>
    (await app.inject({ url: '/devices', headers })).json().map(({ id }: { id: string }) => id)
  const [first] = (await app.inject({ url: '/devices/', headers: other }))
    .json()
    .filter(({ current }: { current: boolean }) => current)

  t.equal((await ids()).length, 2)
  t.equal((await app.inject({ method: 'DELETE', url: `/devices/${first.id}`, headers })).statusCode, 204)
  t.notOk((await ids()).includes(first.id))
})

t.test('every route can be switched off, alone and with all others', async (t) => {
  const { app } = await hostApp(t, {
    options: { ...allRoutes, routes: Object.fromEntries(routeNames.map((name) => [name, false])) },
  })
  t.match(app.printRoutes(), /empty tree/)

  for (const name of routeNames) {
    const host = await hostApp(t, { options: { ...allRoutes, routes: { [name]: false } } })
    for (const route of inventory) {
      const expected = route.name === name ? /^404/ : strangersAnswer(route)
      for (const url of spellings(route.path)) t.match(await stranger(host, route, url), expected, url)
    }
    await host.app.close()
  }
})

t.test('account.delete: false takes the route away that deletes', async (t) => {
  const host = await hostApp(t, { options: { account: { delete: false } } })

  t.equal((await host.send({ method: 'DELETE', url: '/auth/user/' })).status, 404)
  t.equal((await host.send({ method: 'PATCH', url: '/auth/user/' })).status, 401)
})

t.test('without verifyEmail there are no routes that verify', async (t) => {
  const host = await hostApp(t, {})

  for (const url of ['/auth/verify_email/', '/auth/resend_verification/']) {
    for (const path of spellings(url)) t.equal((await host.post(path, {})).status, 404)
  }
})

t.test('registration: false and passwordReset: false take their routes away', async (t) => {
  const host = await hostApp(t, { options: { registration: false, passwordReset: false } })

  for (const url of ['/api/register/', '/auth/email_request/', '/auth/check_otp/', '/auth/reset_password/']) {
    t.equal((await host.post(url, {})).status, 404)
  }
  t.equal((await host.post('/api/login/', {})).status, 400)
})

t.test('a route takes config and hooks of the host, and its hooks run before ours', async (t) => {
  const calls: string[] = []
  const config = Object.freeze({ rateLimit: { max: 3 } })
  const host = await hostApp(t, {
    before: (app) =>
      app.addHook('onRoute', ({ url, method, config }) => {
        if (url.startsWith('/api/login') && config && 'rateLimit' in config) calls.push(`${method} ${url}`)
      }),
    options: {
      routes: {
        login: { config: config as object },
        user: {
          onRequest: [
            async (request) => {
              calls.push(`host ${request.headers.authorization}`)
              if (request.headers['x-stop']) throw Object.assign(new Error('stopped'), { statusCode: 418 })
            },
            (_request, _reply, done) => {
              calls.push('second')
              done()
            },
          ],
        },
      },
    },
  })

  t.strictSame(calls.splice(0), ['POST /api/login/', 'POST /api/login'])
  t.equal((await host.get('/auth/user/', 'x')).status, 401)
  t.strictSame(calls.splice(0), ['host Bearer x', 'second'])
  t.equal((await host.send({ url: '/auth/user', headers: { 'x-stop': '1' } })).status, 418)
  t.strictSame(calls, ['host undefined'])
})

t.test('every route takes config and hooks of the host, for each of its methods and spellings', async (t) => {
  const configured: string[] = []
  const called: string[] = []
  const decorate = (name: string) => ({
    config: { mark: name } as object,
    onRequest: async (request: FastifyRequest) => {
      called.push(`${name} ${request.method} ${request.routeOptions.url}`)
    },
  })
  const host = await hostApp(t, {
    before: (app) =>
      app.addHook('onRoute', ({ url, method, config }) => {
        if (method !== 'HEAD') configured.push(`${(config as { mark?: string }).mark} ${method} ${url}`)
      }),
    options: { ...allRoutes, routes: Object.fromEntries(routeNames.map((name) => [name, decorate(name)])) },
  })
  const expected = inventory.flatMap(({ name, method, path }) =>
    spellings(path).map((url) => `${name} ${method} ${url}`),
  )

  for (const route of inventory) for (const url of spellings(route.path)) await stranger(host, route, url)

  t.strictSame(configured.sort(), expected.toSorted())
  t.strictSame(called.sort(), expected.toSorted(), 'before the guard, which refuses')
})

t.test('a route takes a log level of its own', async (t) => {
  const lines: { reqId: string; msg: string }[] = []
  const stream = new Writable({
    write(line, _encoding, done) {
      lines.push(JSON.parse(line))
      done()
    },
  })
  const host = await hostApp(t, {
    server: { logger: { level: 'info', stream } },
    options: { routes: { login: { logLevel: 'silent' } } },
  })
  lines.length = 0

  await host.post('/api/login/', {})
  t.strictSame(lines, [])
  await host.post('/auth/refresh/', {})
  t.ok(lines.length > 0)
})
