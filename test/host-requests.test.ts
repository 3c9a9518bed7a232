import type { AddressInfo } from 'node:net'
import { connect } from 'node:net'
import t from 'tap'
import { hostApp } from './host-app.ts'

const json = { 'content-type': 'application/json' }
const posts = [
  '/api/register/',
  '/api/login/',
  '/auth/refresh/',
  '/auth/email_request/',
  '/auth/check_otp/',
  '/auth/reset_password/',
]

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

t.test('[R-WEB-4] keys that reach into prototypes are 400 and pollute nothing', async (t) => {
  const { send, post } = await hostApp(t, {})

  for (const url of posts) {
    for (const payload of [
      '{"__proto__":{"polluted":1}}',
      '{"email":"ada@example.org","password":"x","__proto__":{"polluted":1}}',
      '{"\\u005f_proto__":{"polluted":1}}',
      '{"deep":[{"__proto__":{"polluted":1}}]}',
      '{"constructor":{"prototype":{"polluted":1}}}',
    ]) {
      const answer = await send({ method: 'POST', url, headers: json, payload })
      t.match(answer, { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } }, `${url} ${payload}`)
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
  const { send } = await hostApp(t, {})
  const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels)
  const bodies = [
    '',
    ' ',
    '{',
    '}',
    '{"email"',
    '{"email":"a@b.co",}',
    "{'email':'a@b.co'}",
    '[]',
    'null',
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

  for (const url of posts) {
    for (const payload of bodies) {
      const answer = await send({ method: 'POST', url, headers: json, payload })
      t.match(answer, { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } }, `${url} ${payload.slice(0, 20)}`)
    }
    t.equal((await send({ method: 'POST', url, headers: {} })).status, 400, 'no body at all')
  }
})

t.test('[R-WEB-5] a body over 16 KiB is 413, also at 10 MB and over a socket', async (t) => {
  const { app, send } = await hostApp(t, {})
  const body = (size: number) => `{"email":"a@b.co","password":"${'x'.repeat(size - 32)}"}`

  for (const url of posts) {
    const answer = await send({ method: 'POST', url, headers: json, payload: body(16_385) })
    t.match(answer, {
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

t.test(
  '[R-WEB-9] [R-REG-7] the routes are the documented ones: state changes by POST alone, never by a link',
  async (t) => {
    const { app } = await hostApp(t, {})
    const methods = app.supportedMethods
    const mounted = [...posts, '/auth/user/'].flatMap((path) =>
      [path, path.slice(0, -1)].flatMap((url) =>
        methods.filter((method) => app.hasRoute({ method: method as 'GET', url })).map((method) => `${method} ${url}`),
      ),
    )
    const lines = app.printRoutes({ commonPrefix: false }).split('\n')

    t.strictSame(
      mounted.sort(),
      [
        ...posts.flatMap((path) => [`POST ${path}`, `POST ${path.slice(0, -1)}`]),
        ...['GET', 'HEAD'].flatMap((method) => [`${method} /auth/user/`, `${method} /auth/user`]),
      ].sort(),
    )
    t.equal(lines.filter((line) => line.includes('(')).length, 14, lines.join('\n'))
  },
)

t.test('[R-TOK-9] [R-WEB-10] every answer, refusals too, is no-store, nosniff and JSON', async (t) => {
  const { send, post, app } = await hostApp(t, {})
  await post('/api/register/', { username: 'ada', email: 'ada@example.org', password: 'correct horse' })
  const { body: tokens } = await post('/api/login/', { email: 'ada@example.org', password: 'correct horse' })
  const authorization = `Bearer ${tokens.access}`
  const answers = [
    ...(await Promise.all(posts.map((url) => post(url, {})))),
    ...(await Promise.all(posts.map((url) => send({ method: 'POST', url, headers: json, payload: '{' })))),
    ...(await Promise.all(posts.map((url) => send({ method: 'POST', url, payload: 'a=b' })))),
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
  const head = await app.inject({ method: 'HEAD', url: '/auth/user/', headers: { authorization } })
  t.match(head, { statusCode: 200, body: '', headers: { 'cache-control': 'no-store' } })
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
