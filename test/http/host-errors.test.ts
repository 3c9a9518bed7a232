import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { AccountsError, type AccountsOptions } from '../../lib/index.ts'
import { settableClock } from '../helpers/app.ts'
import { hostApp, liveThrough, memoryParts } from '../helpers/host-app.ts'

const refusedConnection = { code: 'ECONNREFUSED', syscall: 'connect' }
const down = () => Promise.reject(Object.assign(new Error('connect 10.0.0.1:5432 canary'), refusedConnection))

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

t.test('an error handler of the host that sets no status keeps the status of the refusal', async (t) => {
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

t.test('an error handler of the host may set another status', async (t) => {
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
  t.test(`a not-found handler of the host, set ${order} us, handles what is not ours`, async (t) => {
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

t.test('hooks of the host that throw or wrap responses work on our routes too', async (t) => {
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

const driverError = () =>
  Object.assign(new TypeError('canary: column "x" does not exist'), { detail: 'Key (email)=(row canary)' })

/** A host whose function `claims` throws at each login, and the lines of its log. */
async function faultyHost(t: Test, thrown: () => unknown, before?: (app: FastifyInstance) => unknown) {
  const lines: string[] = []
  const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
  const claims = () => {
    throw thrown()
  }
  const host = await hostApp(t, { server: { logger }, options: { tokens: { claims } }, before })
  const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
  t.equal((await host.post('/api/register/', ada)).status, 201)
  return { lines, answer: await host.post('/api/login/', ada) }
}

t.test('a bug is 500 without its text, and its stack is logged once', async (t) => {
  const { lines, answer } = await faultyHost(t, driverError)

  t.equal(answer.status, 500)
  t.strictSame(answer.body, {
    statusCode: 500,
    error: 'Internal Server Error',
    message: 'Internal Server Error',
  })
  t.match(answer.headers, { 'cache-control': 'no-store', 'retry-after': undefined })
  const logged = lines.map((line) => JSON.parse(line)).filter(({ msg }) => msg === 'fastify-accounts: "login" failed')
  t.match(logged, [{ err: { type: 'Error', stack: /TypeError: canary: column.*\n\s+at driverError/ } }])
  t.equal(logged.length, 1)
  t.notOk(lines.join('').includes('row canary'), 'drivers put rows into other members of their errors')
})

t.test('a bug of the storage is 500 on our routes and behind guards, without its text', async (t) => {
  const { storage, mailer } = memoryParts()
  let broken = false
  const throwing = <Args extends unknown[], Result>(verb: (...args: Args) => Promise<Result>) => {
    return (...args: Args) => (broken ? Promise.reject(driverError()) : verb(...args))
  }
  const { findUserById, findUserByEmail } = storage
  const buggy = { ...storage, findUserById: throwing(findUserById), findUserByEmail: throwing(findUserByEmail) }
  const host = await hostApp(t, {
    options: { storage: buggy, mailer, roles: { admin: ['*'] } },
    after(app) {
      app.get('/admin', { onRequest: app.accounts.require({ role: 'admin' }) }, async () => 'ok')
    },
  })
  const { access } = await liveThrough(t, { ...host, mailer })
  broken = true

  for (const { status, body } of [
    await host.get('/auth/user/', access),
    await host.get('/admin', access),
    await host.post('/api/login/', { email: 'ada@example.org', password: 'x' }),
  ]) {
    t.strictSame([status, body.message, body.code], [500, 'Internal Server Error', undefined])
  }
})

t.test('an error handler of the host that sets no status keeps the 500 of a bug', async (t) => {
  const before = (app: FastifyInstance) =>
    app.setErrorHandler((error, _request, reply) => reply.send({ text: (error as Error).message }))
  const network = () => {
    throw driverError()
  }
  const { answer } = await faultyHost(t, driverError, before)
  const { post } = await hostApp(t, { options: { network }, before })

  t.match(answer, { status: 500, body: { text: 'Internal Server Error' } })
  const user = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
  t.match(await post('/api/register/', user), { status: 500, body: { text: 'Internal Server Error' } })
})

t.test('a function of the host refuses with a status of its own, as an Error or as an object', async (t) => {
  const refusal = { statusCode: 402, message: 'Pay first.', code: 'UNPAID', headers: { 'x-price': '5' } }
  for (const thrown of [() => refusal, () => Object.assign(new Error(), refusal)]) {
    const { answer } = await faultyHost(t, thrown)

    t.strictSame(answer.body, { statusCode: 402, code: 'UNPAID', error: 'Payment Required', message: 'Pay first.' })
    t.equal(answer.headers['x-price'], '5')
  }
  const refuse = () => {
    throw refusal
  }
  for (const options of [{ network: refuse }, { session: refuse }]) {
    const host = await hostApp(t, { options: options as Partial<AccountsOptions> })
    const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
    await host.post('/api/register/', ada)
    t.match(await host.post('/api/login/', ada), { status: 402, body: { code: 'UNPAID' } })
  }
  const hooked = await hostApp(t, { after: (app) => app.accounts.addHook('beforeRegister', refuse) })
  const user = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
  t.match(await hooked.post('/api/register/', user), { status: 402, body: { code: 'UNPAID', message: 'Pay first.' } })
})

t.test('an outage of a part is 503 with Retry-After, and no response carries its text', async (t) => {
  const { storage, cache, mailer } = memoryParts()
  const causes: unknown[] = []
  const broken = { ...storage, findUserByEmail: down, findUserById: down, insertUser: down, refreshSession: down }
  const host = await hostApp(t, {
    options: { storage: broken, cache: { ...cache, guess: down, lease: down }, mailer },
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

t.test('an expired token has a code of its own, and its header, before and behind a handler of the host', async (t) => {
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

t.test('whatever a hook of the host throws on a route of ours, it never leaves as a 200', async (t) => {
  let thrown: unknown
  const host = await hostApp(t, {
    options: {
      routes: {
        login: {
          onRequest: async () => {
            throw thrown
          },
        },
      },
    } as Partial<AccountsOptions>,
  })
  const statuses: [unknown, number][] = [
    [{ statusCode: 403, message: 'Banned.' }, 403],
    [Object.assign(new Error('slow down'), { statusCode: 429, code: 429 }), 429],
    [{ code: 429, statusCode: 429, error: 'Too Many Requests' }, 429],
    ['text', 500],
    [42, 500],
    [{ message: 'no status' }, 500],
    [new Error('no status'), 500],
  ]

  for (const [what, status] of statuses) {
    thrown = what
    const payload = { email: 'a@b.co', password: 'x' }
    const { statusCode } = await host.app.inject({ method: 'POST', url: '/api/login/', payload })
    t.equal(statusCode, status, String(what))
  }
})

t.test('neither a 503 nor verifyToken lets out what a driver says', async (t) => {
  const parts = memoryParts()
  const row = { detail: 'ROW canary', parameters: ['ada@example.org'] }
  const causes: unknown[] = []
  const storage = { ...parts.storage, findUserByEmail: () => Promise.reject(outage()), sessionActive: failing }
  function outage() {
    return Object.assign(new Error('connect'), refusedConnection, row)
  }
  async function failing(): Promise<never> {
    throw Object.assign(new Error('canary'), { statusCode: 422 })
  }
  const host = await hostApp(t, {
    options: { ...parts, storage, revocation: 'storage' } as Partial<AccountsOptions>,
    before(app) {
      app.setErrorHandler((error, _request, reply) => {
        causes.push((error as Error).cause)
        return reply.send(error)
      })
    },
  })

  t.equal((await host.post('/api/login/', { email: 'a@b.co', password: 'x' })).status, 503)
  const { tokens } = realmOf(host.app.accounts)
  const session = {
    id: 'x',
    userId: 1,
    createdAt: 0,
    authTime: 0,
    lastUsedAt: Date.now(),
    idleMs: 1e9,
    expiresAt: 1e14,
  }
  const token = await tokens.signAccess(session as never, { id: 1 } as never)

  t.match(causes, [{ message: 'connect', code: 'ECONNREFUSED' }])
  t.notMatch(JSON.stringify(Object.entries(causes[0] as object)), /canary|ada@/)
  await t.rejects(host.app.accounts.verifyToken(token), { statusCode: 500, message: 'Internal Server Error' })
})
