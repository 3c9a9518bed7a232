import fastifyAuth from '@fastify/auth'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import Type from 'typebox'
import type { AccountsOptions } from '../../lib/index.ts'
import { createUser, loginAs } from '../../lib/testing/index.ts'
import { bearer, memoryApp, newPassword, password, settableClock } from '../helpers/app.ts'
import { hostApp, memoryParts } from '../helpers/host-app.ts'

const json = 'application/json; charset=utf-8'
const realm = 'Bearer realm="api"'
const errors = 'drf'
const ada = { username: 'ada', email: 'ada@example.org', password }
const wrongToken = {
  detail: 'Given token not valid for any token type',
  code: 'token_not_valid',
  messages: [{ token_class: 'AccessToken', token_type: 'access', message: 'Token is invalid or expired' }],
}
const wrongRefresh = { detail: 'Token is invalid or expired', code: 'token_not_valid' }
const noToken = { detail: 'Authentication credentials were not provided.' }

t.test('fields that are wrong are named as a serializer names them', async (t) => {
  const profile = Type.Object({
    age: Type.Optional(Type.Integer({ minimum: 18, maximum: 150 })),
    share: Type.Optional(Type.Number()),
    newsletter: Type.Optional(Type.Boolean()),
    motto: Type.Optional(Type.String({ minLength: 2, maxLength: 5 })),
    kind: Type.Optional(Type.Union([Type.Literal('a'), Type.Literal('b')])),
    address: Type.Optional(Type.Object({ street: Type.String(), zip: Type.String() })),
    tags: Type.Optional(Type.Array(Type.String())),
    notes: Type.Optional(Type.Record(Type.String(), Type.String())),
  })
  const { post } = await memoryApp(t, { errors, registration: { profile } })
  const register = async (fields: object) => (await post('/api/register/', { ...ada, ...fields })).body

  t.strictSame(await post('/api/register/', {}).then(({ status, body }) => [status, body]), [
    400,
    {
      email: ['This field is required.'],
      password: ['This field is required.'],
      username: ['This field is required.'],
    },
  ])
  t.strictSame(await register({ username: 5, email: 'x', password: true, age: 'x', share: 'x', newsletter: 'x' }), {
    age: ['A valid integer is required.'],
    share: ['A valid number is required.'],
    newsletter: ['Must be a valid boolean.'],
    username: ['Not a valid string.'],
    email: ['Enter a valid email address.'],
    password: ['Not a valid string.'],
  })
  t.strictSame(await register({ username: 'x'.repeat(300), age: 17, motto: 'x' }), {
    age: ['Ensure this value is greater than or equal to 18.'],
    motto: ['Ensure this field has at least 2 characters.'],
    username: ['Ensure this field has no more than 256 characters.'],
  })
  t.strictSame(await register({ age: 151, motto: 'too long' }), {
    age: ['Ensure this value is less than or equal to 150.'],
    motto: ['Ensure this field has no more than 5 characters.'],
  })
  t.strictSame(await register({ address: { street: 5 }, tags: ['a', 1] }), {
    address: { street: ['Not a valid string.'], zip: ['This field is required.'] },
    tags: { 1: ['Not a valid string.'] },
  })
  const { notes } = await register({ notes: { toString: 1, 'constructor.name.x': 2, 'a.b': 3, 'a.c': 4 } })
  const wrong = ['Not a valid string.']
  t.strictSame(Object.entries(notes), [
    ['toString', wrong],
    ['constructor', { name: { x: wrong } }],
    ['a', { b: wrong, c: wrong }],
  ])
  t.match(await register({ kind: 'c' }), { kind: [/^[A-Z].*\.$/] })
  const bad = { username: 'a\u0000' }
  t.match(await register(bad), { username: [/^[A-Z].*\.$/] })
})

t.test('a body that is none is refused as DRF refuses it', async (t) => {
  const { send } = await memoryApp(t, { errors })
  const answer = async (payload: string, type = 'application/json') => {
    const headers = { 'content-type': type }
    const { status, body } = await send({ method: 'POST', url: '/api/login/', payload, headers })
    return [status, body]
  }

  t.strictSame(await answer('{'), [400, { detail: 'JSON parse error - must be JSON in UTF-8' }])
  t.strictSame(await answer('{"__proto__":1}'), [
    400,
    { detail: 'JSON parse error - must not have the key "__proto__" or "constructor.prototype"' },
  ])
  t.strictSame(await answer('[]'), [400, { non_field_errors: ['Invalid data. Expected a dictionary.'] }])
  t.strictSame(await answer('null'), [400, { non_field_errors: ['No data provided'] }])
  t.strictSame(await answer('email=a', 'application/x-www-form-urlencoded'), [
    415,
    { detail: 'Unsupported media type "application/x-www-form-urlencoded" in request.' },
  ])
  t.strictSame(await answer(`"${'x'.repeat(20_000)}"`), [
    413,
    { detail: 'The request body is too large.', code: 'body_too_large' },
  ])
})

t.test('a password that the policy refuses is an error of the field it came in', async (t) => {
  const { app, post, mailer } = await memoryApp(t, { errors, passwords: { minLength: 10, context: ['acme'] } })
  const refused = async (typed: string) => (await post('/api/register/', { ...ada, password: typed })).body
  const { body: asked } = await createUser(app, { email: ada.email, password }).then(() =>
    post('/auth/email_request/', { email: ada.email }),
  )
  const { token } = asked
  await post('/auth/check_otp/', { token, otp: mailer.sent.at(-1)!.code })

  t.strictSame(await refused('a b'), {
    password: ['This password is too short. It must contain at least 10 characters.'],
  })
  t.strictSame(await refused('x'.repeat(3) + 'yz '.repeat(50)), {
    password: ['Ensure this field has no more than 128 characters.'],
  })
  t.strictSame(await refused('1234567890'), { password: ['This password is too common.'] })
  t.strictSame(await refused('acme acme!'), {
    password: ['The password is too similar to other information of the account.'],
  })
  t.strictSame(await refused('\ud800 a long password'), { password: ['Not a valid string.'] })
  const reset = await post('/auth/reset_password/', { token, new_password: 'short' })
  t.strictSame(
    [reset.status, reset.body],
    [400, { new_password: ['This password is too short. It must contain at least 10 characters.'] }],
  )
})

t.test('what is taken is an error of its field, and keeps its 409', async (t) => {
  const { post } = await memoryApp(t, { errors })
  await post('/api/register/', ada)

  const email = await post('/api/register/', { ...ada, username: 'other' })
  const username = await post('/api/register/', { ...ada, email: 'other@example.org' })

  t.strictSame([email.status, email.body], [409, { email: ['user with this email address already exists.'] }])
  t.strictSame([username.status, username.body], [409, { username: ['A user with that username already exists.'] }])
})

t.test('[R-ENUM-1] a login fails as in simplejwt, alike for every account', async (t) => {
  const { app, post, accounts } = await memoryApp(t, { errors })
  const known = await createUser(app, { password })
  const disabled = await createUser(app, { password })
  await accounts.users.disable(disabled.id)
  const bare = await createUser(app, {})
  const emails = ['nobody@example.org', 'no address', known.email, disabled.email, bare.email]

  const answers = await Promise.all(emails.map((email) => post('/api/login/', { email, password: 'a wrong one' })))

  for (const { status, headers, body } of answers) {
    t.equal(status, 401)
    t.strictSame(body, { detail: 'No active account found with the given credentials' })
    t.match(headers, { 'www-authenticate': realm, 'cache-control': 'no-store', 'content-type': json })
    t.strictSame(Object.keys(headers).toSorted(), Object.keys(answers[0]!.headers).toSorted())
  }
})

t.test('[R-ENUM-3] a reset is asked for, and a code refused, alike for every address', async (t) => {
  const { app, post } = await memoryApp(t, { errors })
  const { email } = await createUser(app, { password })

  for (const address of [email, 'nobody@example.org']) {
    const asked = await post('/auth/email_request/', { email: address })
    const { token } = asked.body
    const guessed = await post('/auth/check_otp/', { token, otp: '00000000' })
    const reset = await post('/auth/reset_password/', { token, new_password: newPassword })

    t.equal(asked.status, 200)
    t.strictSame(Object.keys(asked.body), ['message', 'token'])
    for (const { status, body } of [guessed, reset]) {
      t.strictSame([status, body], [400, { non_field_errors: ['The code is not valid or no longer valid.'] }])
    }
  }
})

t.test('tokens are refused as by simplejwt', async (t) => {
  const clock = settableClock()
  const { post, send } = await memoryApp(t, { errors, clock })
  await post('/api/register/', ada)
  const { access, refresh } = (await post('/api/login/', ada)).body
  const second = (await post('/auth/refresh/', { refresh })).body
  const third = (await post('/auth/refresh/', { refresh: second.refresh })).body
  const read = (authorization?: string) =>
    send({ method: 'GET', url: '/auth/user/', headers: authorization === undefined ? {} : { authorization } })
  const twoParts = {
    detail: 'Authorization header must contain two space-delimited values',
    code: 'bad_authorization_header',
  }

  const expected: [string | undefined, object][] = [
    [undefined, noToken],
    ['', noToken],
    ['Basic YTpi', noToken],
    ['Bearer', twoParts],
    ['Bearer a b', twoParts],
    ['Bearer abc', wrongToken],
    [`Bearer ${refresh}`, wrongToken],
  ]
  for (const [authorization, body] of expected) {
    const answer = await read(authorization)
    t.strictSame([answer.status, answer.body], [401, body], String(authorization))
    t.match(answer.headers, { 'www-authenticate': realm, 'cache-control': 'no-store' })
  }
  t.match(await read(`Bearer ${access}`), { status: 200 })

  const unusable = await post('/auth/refresh/', { refresh: access })
  t.strictSame([unusable.status, unusable.body], [401, wrongRefresh])
  t.strictSame((await post('/auth/refresh/', {})).body, { refresh: ['This field is required.'] })
  t.strictSame((await post('/auth/logout/', {})).body, noToken)
  clock.pass(301_000)
  t.strictSame((await read(`Bearer ${access}`)).body, wrongToken)
  const reused = await post('/auth/refresh/', { refresh: second.refresh })
  t.ok(third.access)
  t.equal(reused.status, 200)
  clock.pass(31_000)
  const fourth = (await post('/auth/refresh/', { refresh: reused.body.refresh })).body
  clock.pass(31_000)
  const late = await post('/auth/refresh/', { refresh: second.refresh })
  t.strictSame([late.status, late.body], [401, { detail: 'Token is blacklisted', code: 'token_not_valid' }])
  t.match(late.headers, { 'www-authenticate': realm })
  t.strictSame((await post('/auth/refresh/', { refresh: fourth.refresh })).body, wrongRefresh)
})

t.test('too many tries wait for as long as they are told', async (t) => {
  const clock = settableClock()
  const throttle = { login: { tries: 1, seconds: 60 } }
  const { post } = await memoryApp(t, { errors, clock, throttle } as Partial<AccountsOptions>)
  const guess = () => post('/api/login/', { ...ada, password: 'a wrong one' })
  await guess()
  const { status, headers, body } = await guess()
  const wait = Number(headers['retry-after'])
  clock.pass((wait - 1) * 1000)
  const last = await guess()

  t.equal(status, 429)
  t.ok(wait > 1)
  t.strictSame(body, { detail: `Request was throttled. Expected available in ${wait} seconds.` })
  t.equal(last.headers['retry-after'], '1')
  t.strictSame(last.body, { detail: 'Request was throttled. Expected available in 1 second.' })
})

t.test('what DRF has no words for has ours, with a code', async (t) => {
  const parts = memoryParts()
  const bug = () => Promise.reject(new TypeError('canary'))
  const storage = { ...parts.storage, findUserByEmail: down, listSessions: bug }
  const host = await hostApp(t, { options: { ...parts, storage, errors } })
  const { id } = await createUser(host.app, { password })
  const { authorization } = await loginAs(host.app, id)
  const ofUser = (method: 'GET' | 'DELETE', url: string, payload?: object) =>
    host.send({ method, url, headers: { authorization }, payload } as never)

  const wrong = await ofUser('DELETE', '/auth/user/', { password: 'a wrong one' })
  const foreign = await ofUser('DELETE', '/auth/sessions/none/')
  const outage = await host.post('/api/login/', ada)
  const fault = await ofUser('GET', '/auth/sessions/')

  t.strictSame([wrong.status, wrong.body], [403, { detail: 'The password is wrong.', code: 'password_wrong' }])
  t.strictSame([foreign.status, foreign.body], [404, { detail: 'Not found.' }])
  t.equal(outage.status, 503)
  const detail = 'The service is not available; try again in a moment.'
  t.strictSame(outage.body, { detail, code: 'unavailable' })
  t.match(outage.headers['retry-after'], /^[1-9]$/)
  t.strictSame([fault.status, fault.body], [500, { detail: 'Internal Server Error' }])
})

t.test('functions of the host refuse our routes in this shape, and nothing leaves as a 200', async (t) => {
  let thrown: unknown
  const onRequest = async () => {
    throw thrown
  }
  const { app } = await hostApp(t, {
    options: { errors, routes: { login: { onRequest } } } as Partial<AccountsOptions>,
  })
  const expected: [unknown, number, object][] = [
    [{ statusCode: 402, message: 'Pay first.', code: 'UNPAID' }, 402, { detail: 'Pay first.', code: 'UNPAID' }],
    [Object.assign(new Error('Banned.'), { statusCode: 403 }), 403, { detail: 'Banned.' }],
    ['text', 500, { detail: 'A server error occurred.' }],
    [new Error('canary'), 500, { detail: 'A server error occurred.' }],
  ]

  for (const [what, status, body] of expected) {
    thrown = what
    const answer = await app.inject({ method: 'POST', url: '/api/login/', payload: {} })
    t.strictSame([answer.statusCode, answer.json()], [status, body], String(what))
  }
})

function down() {
  return Promise.reject(Object.assign(new Error('canary'), { code: 'ECONNREFUSED', syscall: 'connect' }))
}

/** A host with routes behind guards and routes of its own that fail in every way. */
async function hostWithRoutes(t: Parameters<typeof hostApp>[0], options: Partial<AccountsOptions>, own = false) {
  const failures: Record<string, unknown> = {
    error: new Error('mine'),
    status: Object.assign(new Error('mine'), { statusCode: 402, code: 'MINE', headers: { 'x-mine': '1' } }),
    object: { statusCode: 403, mine: true },
    text: 'text',
    nothing: undefined,
  }
  return hostApp(t, {
    options: { roles: { admin: ['*'] }, ...options },
    before(app) {
      app.register(fastifyAuth as never)
      if (own) app.setErrorHandler((error, _request, reply) => reply.code(418).send({ mine: String(error) }))
    },
    after(app: FastifyInstance) {
      const { accounts } = app
      const auth = (app as unknown as { auth(guards: unknown[]): never }).auth.bind(app)
      const other = async () => Promise.reject(Object.assign(new Error('No key.'), { statusCode: 401 }))
      app.get('/guarded', { onRequest: accounts.authenticate }, () => 'in')
      app.get('/admin', { preHandler: accounts.require({ role: 'admin' }) }, () => 'in')
      app.get('/recent', { onRequest: accounts.require({ recent: true }) }, () => 'in')
      app.get('/owned', { onRequest: accounts.require({ owner: () => 0 }) }, () => 'in')
      app.get('/either', { onRequest: auth([other, accounts.authenticate]) }, () => 'in')
      app.get('/key', { onRequest: auth([accounts.authenticate, other]) }, () => 'in')
      app.get('/users/9', () => accounts.users.setRole(9, null))
      for (const [name, what] of Object.entries(failures)) {
        app.get(`/fails/${name}`, { onRequest: accounts.authenticate }, async () => Promise.reject(what))
      }
      const refuse = () => {
        throw Object.assign(new Error('mine'), { statusCode: 402 })
      }
      app.get('/fails/owner', { onRequest: accounts.require({ owner: refuse }) }, () => 'in')
      app.get('/fails/schema', { schema: { querystring: { type: 'object', required: ['a'] } } }, () => 'in')
      app.get('/fails/handled', { errorHandler: (_error, _request, reply) => void reply.send('handled') }, () => {
        throw new Error('mine')
      })
      app.get(
        '/fails/later',
        { errorHandler: (_error, _request, reply) => void setImmediate(() => reply.code(400).send('later')) },
        async () => Promise.reject(new Error('mine')),
      )
      app.register(async (scope) => {
        scope.setErrorHandler((error, _request, reply) => reply.code(409).send({ scope: String(error) }))
        scope.get('/fails/scope', async () => Promise.reject(new Error('mine')))
      })
    },
  })
}

t.test('guards refuse in this shape on routes of the host, also in @fastify/auth', async (t) => {
  const clock = settableClock()
  for (const own of [false, true]) {
    const host = await hostWithRoutes(t, { errors, clock }, own)
    const { id } = await createUser(host.app, { password })
    const { authorization } = await loginAs(host.app, id)
    clock.pass(299_000)
    const again = async (url: string, headers = { authorization }) => {
      const { status, body } = await host.send({ method: 'GET', url, headers })
      return [status, body]
    }

    t.strictSame(await again('/guarded', {} as never), [401, noToken])
    t.strictSame(await again('/guarded', bearer('x')), [401, wrongToken])
    t.strictSame(await again('/either', {} as never), [401, noToken])
    t.strictSame(await again('/admin'), [403, { detail: 'You do not have permission to perform this action.' }])
    t.strictSame(await again('/owned'), [404, { detail: 'Not found.' }])
    const { headers } = await host.get('/guarded')
    t.match(headers, { 'www-authenticate': realm, 'content-type': json })
    clock.pass(2000)
    t.strictSame(await again('/recent'), [401, wrongToken])
  }
})

t.test('errors of the host’s own routes do not change', async (t) => {
  for (const own of [false, true]) {
    const [plain, shaped] = [await hostWithRoutes(t, {}, own), await hostWithRoutes(t, { errors }, own)]
    const { authorization } = await loginAs(plain.app, (await createUser(plain.app, { password })).id)
    const access = await loginAs(shaped.app, (await createUser(shaped.app, { password })).id)
    const paths = ['error', 'status', 'object', 'text', 'nothing', 'owner', 'schema', 'handled', 'later', 'scope']
    for (const url of [...paths.map((name) => `/fails/${name}`), '/key', '/users/9', '/nowhere']) {
      const [before, after] = await Promise.all([
        plain.app.inject({ url, headers: url === '/key' ? {} : { authorization } }),
        shaped.app.inject({ url, headers: url === '/key' ? {} : access }),
      ])
      const shown = ({ statusCode, headers: { date, ...headers }, payload }: typeof before) => ({
        ...{ statusCode, headers, payload },
      })
      t.strictSame(shown(after), shown(before), url)
      t.ok(after.statusCode >= 400 || url === '/fails/handled')
    }
  }
})

t.test('two realms of one app each have their own shape', async (t) => {
  const host = await hostApp(t, { options: { errors } })
  t.ok(host)
  const other = await hostApp(t, {
    options: { name: 'staff', prefix: '/staff' },
    async before(app) {
      const { default: accounts } = await import('../../lib/index.ts')
      await app.register(accounts, { ...memoryParts(), errors } as AccountsOptions)
    },
    after(app) {
      const { staff } = app as unknown as { staff: typeof app.accounts }
      app.get('/customers', { onRequest: app.accounts.authenticate }, () => 'in')
      app.get('/employees', { onRequest: staff.authenticate }, () => 'in')
    },
  })

  t.strictSame((await other.get('/customers')).body, noToken)
  t.strictSame((await other.get('/auth/user/')).body, noToken)
  t.match((await other.get('/employees')).body, { code: 'ACCOUNTS_TOKEN_INVALID', statusCode: 401 })
  t.match((await other.get('/staff/auth/user/')).body, { code: 'ACCOUNTS_TOKEN_INVALID' })
})

t.test('what is not the client’s fault is logged with its cause', async (t) => {
  const lines: { level: number; msg: string; err?: { stack: string } }[] = []
  const logger = { level: 'info', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
  const parts = memoryParts()
  const storage = { ...parts.storage, findUserByEmail: down }
  const options = { ...parts, storage, errors, browser: { origins: ['https://app.example.com'] } }
  const seen: unknown[] = []
  const { get, post } = await hostApp(t, {
    options: options as Partial<AccountsOptions>,
    server: { logger },
    before: (app) => app.addHook('onError', async (_request, _reply, error) => void seen.push(error)),
  })

  await get('/auth/user/')
  await post('/auth/logout/', {}, { cookie: '__Host-accounts-refresh=x' })
  await post('/api/login/', ada)

  t.match(
    lines.filter(({ err, msg }) => err && !/failed/.test(msg)),
    [
      {
        level: 30,
        msg: 'You are not allowed to do this.',
        err: { stack: /the refresh cookie came without an Origin/ },
      },
      { level: 50, msg: 'The service is not available; try again in a moment.', err: { stack: /canary/ } },
    ],
  )
  t.equal(seen.length, 3, 'onError hooks are called')
})

t.test('the OpenAPI entries describe these members', async (t) => {
  const members: Record<string, string[]> = {}
  await hostApp(t, {
    options: { errors },
    before: (app) =>
      app.addHook('onRoute', ({ url, schema }) => {
        const { 401: refused } = (schema?.response ?? {}) as Record<number, { properties: object }>
        if (refused) members[url] = Object.keys(refused.properties)
      }),
  })

  t.strictSame(members['/api/login/'], ['detail', 'code', 'messages', 'non_field_errors'])
})
