import type { AddressInfo } from 'node:net'
import { connect } from 'node:net'
import t from 'tap'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { createUser, loginAs } from '../../lib/testing/index.ts'
import type { Teardown } from '../helpers/app.ts'
import { hostApp } from '../helpers/host-app.ts'
import { allRoutes, bodied, defaultRoutes, inventory, opener, spellings, type WireRoute } from '../helpers/inventory.ts'

const json = { 'content-type': 'application/json' }

/** A host with every route, and a client that sends a text as JSON, logged in where a route asks for it. */
async function wholeHost(t: Teardown) {
  const host = await hostApp(t, { options: allRoutes })
  const headersFor = await opener(host.app)
  const sendText = (route: WireRoute, payload: string | undefined, type = 'application/json') =>
    host.send({
      method: route.method,
      url: route.path,
      headers: { ...headersFor(route), ...(payload !== undefined && { 'content-type': type }) },
      payload,
    })
  return { ...host, headersFor, sendText }
}

t.test('[R-WEB-3] nothing but JSON is read, however the content type is spelt', async (t) => {
  const { send } = await hostApp(t, {})
  const good = '{"email":"ada@example.org","password":"correct horse"}'
  const login = (type: string | undefined, payload: string) =>
    send({ method: 'POST', url: '/api/login/', headers: type === undefined ? {} : { 'content-type': type }, payload })

  for (const type of [
    'application/json',
    'application/json; charset=utf-8',
    'application/json;charset=UTF-8',
    'Application/JSON',
    'application/json\t; charset=utf-8',
    ' application/json',
    'application/json ',
    'application/json; a=b; a=c',
  ]) {
    t.equal((await login(type, good)).status, 401, `${JSON.stringify(type)} is read`)
    t.match(await login(type, '{"email":["ada@example.org"],"password":{}}'), {
      status: 400,
      body: { errors: [{ field: 'email' }, { field: 'password' }] },
    })
  }
  for (const type of [
    'text/plain',
    'text/plain; application/json',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/jsonp',
    'application/json,text/plain',
    'application/vnd.api+json',
    'application/merge-patch+json',
    'application\t/json',
    'application/jsön',
    'json',
    '',
    undefined,
  ]) {
    t.match(
      await login(type, good),
      { status: 415, body: { code: 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED', message: 'The request body must be JSON.' } },
      `${JSON.stringify(type)} is refused`,
    )
  }
})

t.test('[R-WEB-3] every route with a body refuses what is not JSON', async (t) => {
  const { sendText } = await wholeHost(t)

  for (const route of bodied) {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
      const answer = await sendText(route, JSON.stringify(route.body), type)
      t.match(answer, { status: 415, body: { code: 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED' } }, `${route.path} ${type}`)
    }
  }
})

t.test('[R-WEB-4] keys that reach into prototypes are 400 and pollute nothing', async (t) => {
  const { post, sendText } = await wholeHost(t)

  for (const route of bodied) {
    for (const payload of [
      '{"__proto__":{"polluted":1}}',
      '{"email":"ada@example.org","password":"x","__proto__":{"polluted":1}}',
      '{"\\u005f_proto__":{"polluted":1}}',
      '{"deep":[{"__proto__":{"polluted":1}}]}',
      '{"constructor":{"prototype":{"polluted":1}}}',
    ]) {
      const answer = await sendText(route, payload)
      const errors = [{ field: '', message: 'must not have the key "__proto__" or "constructor.prototype"' }]
      t.match(answer, { status: 400, body: { code: 'ACCOUNTS_VALIDATION', errors } }, `${route.path} ${payload}`)
    }
  }
  t.equal(({} as { polluted?: number }).polluted, undefined)

  for (const username of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    const user = { username, email: `${username.replaceAll('_', '')}@example.org`, password: 'correct horse' }
    t.match(await post('/api/register/', user), { status: 201, body: { username } })
    t.match(await post('/api/register/', { ...user, email: `two-${user.email}` }), {
      status: 409,
      body: { code: 'ACCOUNTS_USERNAME_TAKEN' },
    })
  }
})

t.test('[R-WEB-11] of a key that comes twice the last one counts, once and for all', async (t) => {
  const { send, post } = await hostApp(t, {})
  await post('/api/register/', { username: 'ada', email: 'ada@example.org', password: 'correct horse' })
  const login = (payload: string) => send({ method: 'POST', url: '/api/login/', headers: json, payload })

  t.equal((await login('{"email":"ada@example.org","password":"no","password":"correct horse"}')).status, 200)
  t.equal((await login('{"email":"ada@example.org","password":"correct horse","password":"no"}')).status, 401)
  t.match(await login('{"email":"ada@example.org","password":"correct horse","password":7}'), {
    status: 400,
    body: { errors: [{ field: 'password' }] },
  })
  t.equal((await login('{"email":"ada@example.org","password":["correct horse"]}')).status, 400)
})

t.test('[R-WEB-5] bodies that are broken, empty, no object or nested too deeply are 400', async (t) => {
  const { sendText } = await wholeHost(t)
  const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels)
  // One route may be called without a body; it then asks for an access token.
  const missing = ['', 'null', undefined]
  const bodies = [
    ' ',
    '{',
    '}',
    '{"email"',
    '{"email":"a@b.co",}',
    "{'email':'a@b.co'}",
    '[]',
    'true',
    '0',
    '"text"',
    'NaN',
    '1e400',
    '\u0000',
    '\ufeff',
    nested(8000),
    `${'{"a":'.repeat(2500)}1${'}'.repeat(2500)}`,
    `{"email":${nested(7000)},"password":"x","token":"x","refresh":"x"}`,
  ]

  for (const route of bodied) {
    for (const payload of bodies) {
      const answer = await sendText(route, payload)
      t.match(answer, { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } }, `${route.path} ${payload.slice(0, 20)}`)
    }
    const refusal = route.partial === 'body' ? [401, 'ACCOUNTS_TOKEN_INVALID'] : [400, 'ACCOUNTS_VALIDATION']
    for (const payload of missing) {
      const { status, body } = await sendText(route, payload)
      t.strictSame([status, body.code], refusal, `${route.path} ${payload}`)
    }
  }
})

t.test('[R-WEB-5] a body over 16 KiB is 413, also at 10 MB and over a socket', async (t) => {
  // docs: "at most 16 KiB of `application/json`"
  const { app, send, sendText } = await wholeHost(t)
  const body = (size: number) => `{"email":"a@b.co","password":"${'x'.repeat(size - 32)}"}`

  for (const route of inventory.filter(({ method }) => method !== 'GET')) {
    t.match(await sendText(route, body(16_385)), {
      status: 413,
      body: { code: 'ACCOUNTS_BODY_TOO_LARGE' },
      headers: { 'cache-control': 'no-store' },
    })
  }
  t.equal((await send({ method: 'POST', url: '/api/login/', headers: json, payload: body(16_384) })).status, 400)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  t.match(await rawStatus(port, 10_000_000, true), / 413 /)
  t.match(await rawStatus(port, 10_000_000, false), / 413 /)
})

/** The status line that answers a body of so many bytes, announced by its length or sent in chunks. */
function rawStatus(port: number, size: number, announced: boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1')
    const length = announced ? `content-length: ${size}` : 'transfer-encoding: chunked'
    socket.write(`POST /api/login/ HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n${length}\r\n\r\n`)
    const piece = ' '.repeat(65_536)
    const text = announced ? piece : `10000\r\n${piece}\r\n`
    const write = () => {
      while (!socket.destroyed && socket.write(text)) if (socket.bytesWritten > size) return
    }
    socket.on('drain', write)
    write()
    socket.once('data', (answer) => {
      socket.destroy()
      resolve(String(answer).split('\r\n')[0] as string)
    })
    socket.once('error', reject)
  })
}

/** The endpoints of an app: what it routes, and what `inventory` says that it routes. */
async function endpoints(t: Teardown, options: Partial<AccountsOptions>, expected: WireRoute[]) {
  const { app } = await hostApp(t, { options })
  const paths = [...new Set(inventory.flatMap(({ path }) => spellings(path)))]
  const mounted = paths.flatMap((url) =>
    app.supportedMethods
      .filter((method) => app.hasRoute({ method: method as 'GET', url }))
      .map((method) => `${method} ${url}`),
  )
  const named = expected.flatMap(({ method, path }) =>
    (method === 'GET' ? ['GET', 'HEAD'] : [method]).flatMap((verb) => spellings(path).map((url) => `${verb} ${url}`)),
  )
  // The tree has a line for each address, whoever added it.
  const lines = app.printRoutes({ commonPrefix: false }).split('\n')
  return { mounted: mounted.sort(), named: named.sort(), addresses: lines.filter((line) => line.includes('(')).length }
}

t.test('[R-WEB-9] [R-REG-7] the routes are the documented ones, and no GET is one that changes anything', async (t) => {
  const all = await endpoints(t, allRoutes, inventory)
  const byDefault = await endpoints(t, {}, defaultRoutes)

  for (const { mounted, named, addresses } of [all, byDefault]) {
    t.strictSame(mounted, named)
    t.equal(addresses, new Set(named.map((line) => line.split(' ')[1])).size)
  }
  t.strictSame(
    inventory.filter(({ method }) => method === 'GET').map(({ path }) => path),
    ['/auth/user/', '/auth/sessions/', '/.well-known/jwks.json'],
  )
})

t.test('[R-WEB-9] reading by GET and HEAD changes nothing that is stored', async (t) => {
  const storage = memoryStorage()
  const { app, mailer } = await hostApp(t, { options: { ...allRoutes, storage } })
  const user = await createUser(app, { verified: true })
  const headers = await loginAs(app, user)
  const state = async () => [await storage.findUserById(user.id), await storage.listSessions(user.id, 1000, Date.now())]
  const before = await state()

  for (const { path } of inventory.filter(({ method }) => method === 'GET')) {
    for (const method of ['GET', 'HEAD'] as const) {
      t.equal((await app.inject({ method, url: path, headers })).statusCode, 200)
    }
  }

  t.strictSame(await state(), before)
  t.strictSame(mailer.sent, [])
})

t.test('[R-TOK-9] [R-WEB-10] every response, refusals too, is no-store, nosniff and JSON', async (t) => {
  const { send, post, app } = await hostApp(t, {})
  await post('/api/register/', { username: 'ada', email: 'ada@example.org', password: 'correct horse' })
  const { body: tokens } = await post('/api/login/', { email: 'ada@example.org', password: 'correct horse' })
  const authorization = `Bearer ${tokens.access}`
  const whole = await wholeHost(t)
  const nonPublic = inventory.filter(({ name }) => name !== 'jwks')
  const answers = [
    ...(await Promise.all(bodied.map((route) => whole.sendText(route, '{"refresh":5,"username":5}')))),
    ...(await Promise.all(bodied.map((route) => whole.sendText(route, '{')))),
    ...(await Promise.all(bodied.map((route) => whole.sendText(route, 'a=b', 'text/plain')))),
    ...(await Promise.all(nonPublic.map(({ method, path: url }) => whole.send({ method, url })))),
    await post('/api/register/', { username: 'b', email: 'b@b.co', password: 'correct horse' }),
    await post('/api/register/', { username: 'b', email: 'b@b.co', password: 'correct horse' }),
    await post('/api/login/', { email: 'b@b.co', password: 'wrong horse' }),
    await post('/auth/refresh/', { refresh: tokens.refresh }),
    await post('/auth/refresh/', { refresh: 'x' }),
    await post('/auth/email_request/', { email: 'b@b.co' }),
    await post('/auth/email_request/', { email: 'nobody@b.co' }),
    await post('/auth/check_otp/', { token: 'x', otp: '12345678' }),
    await post('/auth/reset_password/', { token: 'x', new_password: 'correct horse' }),
    await send({ url: '/auth/user/' }),
    await send({ url: '/auth/user/', headers: { authorization } }),
    await send({ url: '/auth/user', headers: { authorization: 'Bearer x' } }),
  ]

  t.ok(new Set(answers.map(({ status }) => status)).size >= 6)
  for (const { headers, status } of answers) {
    t.match(
      headers,
      {
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
        'content-type': 'application/json; charset=utf-8',
      },
      String(status),
    )
  }
  t.strictSame(
    answers.filter(({ status }) => ![200, 201, 400, 401, 409, 415].includes(status)).map(({ status }) => status),
    [],
  )
  const head = await app.inject({ method: 'HEAD', url: '/auth/user/', headers: { authorization } })
  t.match(head, { statusCode: 200, body: '', headers: { 'cache-control': 'no-store' } })
})

t.test('[R-TOK-9] [R-WEB-10] every response to a logged-in user is no-store, empty ones too', async (t) => {
  const { app, mailer } = await hostApp(t, { options: allRoutes })
  const password = 'correct horse'
  const user = await createUser(app, { verified: true, password })
  const act = async (method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE', url: string, payload?: object) =>
    app.inject({ method, url, payload, headers: await loginAs(app, user) })
  const asked = await act('POST', '/auth/change_email/', { email: 'new@example.org', password })
  const { token } = asked.json()
  const otp = mailer.sent.at(-1)?.code
  const answers = [
    await act('GET', '/auth/sessions/'),
    await act('PATCH', '/auth/user/', { username: 'grace' }),
    await act('PUT', '/auth/user/', {}),
    await act('POST', '/auth/confirm_email/', { token, otp }),
    await act('POST', '/auth/change_password/', { current_password: password, new_password: 'another horse' }),
    await act('DELETE', '/auth/sessions/unknown/'),
    await act('POST', '/auth/logout/'),
    await act('POST', '/auth/logout', { refresh: 'x' }),
    await act('POST', '/auth/logout_all'),
    await act('DELETE', '/auth/user/', { password }),
    await act('DELETE', '/auth/user/', { password: 'another horse' }),
  ]

  t.strictSame(
    answers.map(({ statusCode }) => statusCode),
    [200, 200, 200, 200, 200, 404, 204, 401, 204, 403, 204],
  )
  for (const { statusCode, headers, body } of answers) {
    t.match(headers, { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' }, String(statusCode))
    const type = statusCode === 204 ? undefined : 'application/json; charset=utf-8'
    t.equal(headers['content-type'], type)
    t.equal(body === '', statusCode === 204)
  }
})

t.test('[R-TOK-9] a token in the address, a cookie or the body opens nothing', async (t) => {
  const { send, post } = await hostApp(t, {})
  await post('/api/register/', { username: 'ada', email: 'ada@example.org', password: 'correct horse' })
  const { body } = await post('/api/login/', { email: 'ada@example.org', password: 'correct horse' })
  const { access, refresh } = body

  for (const name of ['access', 'token', 'access_token', 'jwt']) {
    t.equal((await send({ url: `/auth/user/?${name}=${access}` })).status, 401)
    t.equal((await send({ url: '/auth/user/', headers: { cookie: `${name}=${access}` } })).status, 401)
  }
  t.equal(
    (await send({ method: 'POST', url: `/auth/refresh/?refresh=${refresh}`, headers: json, payload: '{}' })).status,
    400,
  )
  for (const scheme of ['Basic', 'Token', 'JWT', '']) {
    t.equal((await send({ url: '/auth/user/', headers: { authorization: `${scheme} ${access}` } })).status, 401)
  }
  t.equal((await send({ url: '/auth/user/', headers: { authorization: `bearer ${access}` } })).status, 200)
})
