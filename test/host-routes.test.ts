import { Writable } from 'node:stream'
import t from 'tap'
import { hostApp, liveThrough } from './host-app.ts'

const good = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }

t.test('every route answers with and without its trailing slash, without a redirect', async (t) => {
  const { send, app } = await hostApp(t, {})
  const posts = ['/api/register', '/api/login', '/auth/refresh', '/auth/email_request', '/auth/check_otp']

  for (const url of [...posts, '/auth/reset_password']) {
    for (const path of [url, `${url}/`]) {
      const { status, body } = await send({ method: 'POST', url: path, payload: {} })
      t.match([status, body.code], [400, 'ACCOUNTS_VALIDATION'], path)
    }
  }
  for (const url of ['/auth/user', '/auth/user/']) t.equal((await app.inject(url)).statusCode, 401)
})

for (const server of [{ ignoreTrailingSlash: true }, { routerOptions: { ignoreTrailingSlash: true } }]) {
  t.test(`a host with ${JSON.stringify(server)} boots, and both spellings answer`, async (t) => {
    const host = await hostApp(t, { server })

    await liveThrough(t, host)
    t.equal((await host.post('/api/login', {})).status, 400)
    t.equal((await host.post('/api/login/', {})).status, 400)
  })
}

for (const prefix of ['/v1', '/v1/', '/deep/er']) {
  t.test(`the prefix ${prefix} goes before every route`, async (t) => {
    const host = await hostApp(t, { options: { prefix } })

    await liveThrough(t, host, { prefix: prefix.replace(/\/$/, '') })
    t.equal((await host.post('/api/login/', {})).status, 404)
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

t.test('every route can be switched off', async (t) => {
  const names = ['register', 'login', 'refresh', 'emailRequest', 'checkOtp', 'resetPassword', 'user'] as const
  const { app } = await hostApp(t, { options: { routes: Object.fromEntries(names.map((name) => [name, false])) } })

  t.match(app.printRoutes(), /empty tree/)
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
