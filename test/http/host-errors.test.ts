import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { AccountsError } from '../../lib/index.ts'
import { settableClock } from '../helpers/app.ts'
import { hostApp, liveThrough, memoryParts } from '../helpers/host-app.ts'

const down = () => Promise.reject(new Error('connect ECONNREFUSED 10.0.0.1:5432 canary'))

t.test('an error handler of the host, set before us, gets every refusal and its own shape passes whole', async (t) => {
  const seen: AccountsError[] = []
  const host = await hostApp(t, {
    before(app) {
      app.setErrorHandler((error, _request, reply) => {
        seen.push(error as AccountsError)
        const { statusCode, code } = error as AccountsError
        const error_ = { code, deep: { list: [1, { two: null }], text: 'é' } }
        return reply.code(statusCode).send({ ok: false, error: error_, errors: { not: 'a list' }, traceId: 't-1' })
      })
    },
  })
  await host.post('/api/register/', { username: 'ada', email: 'ada@example.org', password: 'correct horse' })
  const { findUserById } = realmOf(host.app.accounts).storage
  t.ok(findUserById)

  const refusals = [
    [await host.post('/api/register/', { username: 5 }), 400, 'ACCOUNTS_VALIDATION'],
    [
      await host.post('/api/register/', { username: 'b', email: 'b@b.co', password: 'x' }),
      400,
      'ACCOUNTS_PASSWORD_REFUSED',
    ],
    [await host.post('/api/login/', { email: 'ada@example.org', password: 'x' }), 401, 'ACCOUNTS_CREDENTIALS_INVALID'],
    [await host.get('/auth/user/'), 401, 'ACCOUNTS_TOKEN_INVALID'],
    [
      await host.post('/api/register/', { username: 'x', email: 'ADA@example.org', password: 'correct horse' }),
      409,
      'ACCOUNTS_EMAIL_TAKEN',
    ],
    [await host.post('/api/login/', { email: 'x'.repeat(20_000) }), 413, 'ACCOUNTS_BODY_TOO_LARGE'],
    [await host.send({ method: 'POST', url: '/api/login/', payload: 'x' }), 415, 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED'],
  ] as const
  for (const [answer, status, code] of refusals) {
    t.equal(answer.status, status)
    t.strictSame(answer.body, {
      ok: false,
      error: { code, deep: { list: [1, { two: null }], text: 'é' } },
      errors: { not: 'a list' },
      traceId: 't-1',
    })
    t.match(answer.headers, { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
    if (status === 401) t.equal(answer.headers['www-authenticate'], 'Bearer')
  }
  t.strictSame(
    seen.map(({ code, statusCode }) => [statusCode, code]),
    refusals.map(([, status, code]) => [status, code]),
  )
  t.ok(seen.every((error) => error instanceof AccountsError))
  t.match(seen[0]?.errors, [{ field: 'email', message: 'is required' }, { field: 'password' }, { field: 'username' }])
  t.strictSame(seen[1]?.reasons, ['too_short'])
})

t.test('an error handler of the host that names no status answers with that of the refusal', async (t) => {
  const host = await hostApp(t, {
    before: (app) =>
      app.setErrorHandler((_error, request, reply) =>
        request.headers['x-how'] === 'text' ? reply.type('text/plain').send('no') : reply.send({ ok: false }),
      ),
  })
  const user = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
  await host.post('/api/register/', user)
  const refused = (how: string, payload: object) =>
    host.app.inject({ method: 'POST', url: '/api/register/', payload, headers: { 'x-how': how } })

  t.match(await refused('text', {}), { statusCode: 400, body: 'no', headers: { 'content-type': /^text\/plain/ } })
  t.match(await refused('json', user), {
    statusCode: 409,
    body: '{"ok":false}',
    headers: { 'cache-control': 'no-store' },
  })
})

t.test('an error handler of the host may answer with another status', async (t) => {
  const host = await hostApp(t, {
    before: (app) => app.setErrorHandler((_error, _request, reply) => reply.code(200).send({ ok: false })),
  })

  t.match(await host.post('/api/login/', {}), { status: 200, body: { ok: false } })
})

t.test('an error handler of the host, set after us, breaks nothing', async (t) => {
  const host = await hostApp(t, {
    after: (app) => app.setErrorHandler((_error, _request, reply) => reply.code(500).send({ mine: true })),
  })

  await liveThrough(t, host)
  const refused = await host.post('/api/login/', { email: 'ada@example.org', password: 'x' })
  t.ok([401, 500].includes(refused.status))
})

for (const order of ['before', 'after'] as const) {
  t.test(`a not-found handler of the host, set ${order} us, answers what is not ours`, async (t) => {
    const missing = (app: FastifyInstance) =>
      app.setNotFoundHandler((_request, reply) => reply.code(404).send({ nothing: 'here' }))
    const host = await hostApp(t, { [order]: missing })

    await liveThrough(t, host)
    for (const url of ['/elsewhere', '/auth/nothing/']) {
      t.match(await host.get(url), { status: 404, body: { nothing: 'here' } })
    }
    t.match(await host.get('/api/login/'), { status: 404, body: { nothing: 'here' } })
  })
}

t.test('hooks of the host that throw or wrap answers work on our routes too', async (t) => {
  const host = await hostApp(t, {
    before(app) {
      app.addHook('onRequest', async (request) => {
        if (request.headers['x-banned']) {
          throw Object.assign(new Error('Go away.'), { statusCode: 403, code: 'HOST_BANNED' })
        }
      })
      app.addHook('preSerialization', async (_request, _reply, payload) => ({ wrapped: payload }))
    },
  })

  const banned = await host.post('/api/login/', {}, { 'x-banned': '1' })
  t.match(banned, { status: 403, body: { statusCode: 403, code: 'HOST_BANNED', message: 'Go away.' } })
  const registered = await host.post('/api/register/', { username: 'a', email: 'a@b.co', password: 'correct horse' })
  t.match(registered, { status: 201, body: { wrapped: { id: 1, username: 'a', email: 'a@b.co' } } })
})

t.test('a fault of a part is 503 with Retry-After, and no answer carries its text', async (t) => {
  const { storage, cache, mailer } = memoryParts()
  const causes: unknown[] = []
  const broken = { ...storage, findUserByEmail: down, findUserById: down, insertUser: down, refreshSession: down }
  const claims = () => {
    throw new Error('canary')
  }
  const host = await hostApp(t, {
    options: { storage: broken, cache: { ...cache, guess: down, lease: down }, mailer, tokens: { claims } },
    before: (app) => app.addHook('onError', async (_request, _reply, error) => void causes.push(error.cause)),
  })
  const token = `${'a'.repeat(22)}.${'b'.repeat(43)}`

  const answers = [
    await host.post('/api/register/', { username: 'a', email: 'a@b.co', password: 'correct horse' }),
    await host.post('/api/login/', { email: 'a@b.co', password: 'correct horse' }),
    await host.post('/auth/email_request/', { email: 'a@b.co' }),
    await host.post('/auth/check_otp/', { token, otp: '12345678' }),
    await host.post('/auth/reset_password/', { token, new_password: 'correct horse' }),
  ]

  for (const answer of answers) {
    t.strictSame(answer.body, {
      statusCode: 503,
      code: 'ACCOUNTS_UNAVAILABLE',
      error: 'Service Unavailable',
      message: 'The service is not available; try again in a moment.',
    })
    t.match(answer, { status: 503, headers: { 'retry-after': /^[1-9]\d*$/, 'cache-control': 'no-store' } })
  }
  t.equal(causes.length, answers.length)
  t.ok(
    causes.every((cause) => String(cause).includes('canary')),
    'the log learns the cause',
  )
})

t.test('an expired token is told apart, with its header, before and behind a handler of the host', async (t) => {
  const clock = settableClock()
  const host = await hostApp(t, { options: { clock } })
  const { access } = await liveThrough(t, host)
  clock.pass(301_000)

  t.match(await host.get('/auth/user/', access), {
    status: 401,
    body: { code: 'ACCOUNTS_TOKEN_EXPIRED' },
    headers: { 'www-authenticate': 'Bearer', 'cache-control': 'no-store' },
  })
})
