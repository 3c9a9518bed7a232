import t, { type Test } from 'tap'
import Type from 'typebox'
import type { AccountsOptions } from '../../lib/index.ts'
import { type Answer, memoryApp, realApp } from '../helpers/app.ts'
import { noPostgres } from '../helpers/helper.ts'
import { allRoutes } from '../helpers/inventory.ts'

type App = Awaited<ReturnType<typeof memoryApp>>

const ada = { username: 'ada', password: 'correct horse', email: 'Ada@Example.org' }

t.test('the six routes keep the contract on the memory parts', (t) => contract(t, memoryApp))
t.test('the six routes keep the contract on PostgreSQL and Redis', { skip: noPostgres }, (t) => contract(t, realApp))

async function contract(t: Test, start: (t: Test) => Promise<App>): Promise<void> {
  const { post, get, mailer } = await start(t)

  const registered = await post('/api/register/', ada)
  t.equal(registered.status, 201)
  t.same(Object.keys(registered.body), ['id', 'username', 'email'])
  t.match(registered.body, { id: Number, username: 'ada', email: 'Ada@Example.org' })

  const loggedIn = await post('/api/login/', { email: 'ada@example.ORG', password: ada.password })
  t.equal(loggedIn.status, 200)
  t.same(Object.keys(loggedIn.body), ['access', 'refresh'])

  const user = await get('/auth/user/', loggedIn.body.access)
  t.equal(user.status, 200)
  t.same(user.body, { ...registered.body, email_verified: false })

  const refreshed = await post('/auth/refresh/', { refresh: loggedIn.body.refresh })
  t.equal(refreshed.status, 200)
  t.same(Object.keys(refreshed.body), ['access', 'refresh'])
  t.not(refreshed.body.refresh, loggedIn.body.refresh)

  const asked = await post('/auth/email_request/', { email: ada.email })
  t.equal(asked.status, 200)
  t.same(asked.body, { message: 'Password reset link sent to email.', token: asked.body.token })

  const { token } = asked.body
  const otp = mailer.sent.at(-1)?.code
  const checked = await post('/auth/check_otp/', { token, otp })
  t.same([checked.status, checked.body], [200, { message: 'OTP is valid.' }])

  const reset = await post('/auth/reset_password/', { token, new_password: 'another horse' })
  t.same([reset.status, reset.body], [200, { message: 'Password has been reset successfully.' }])

  refusal(t, await get('/auth/user/', refreshed.body.access), 401, 'ACCOUNTS_TOKEN_INVALID')
  refusal(t, await post('/api/login/', ada), 401, 'ACCOUNTS_CREDENTIALS_INVALID')
  t.equal((await post('/api/login/', { email: ada.email, password: 'another horse' })).status, 200)
}

function refusal(t: Test, { status, body, headers }: Answer, expected: number, code: string): void {
  t.equal(status, expected)
  t.match(body, { statusCode: expected, code, error: String, message: String })
  t.equal(headers['cache-control'], 'no-store')
  t.equal(headers['www-authenticate'], expected === 401 ? 'Bearer' : undefined)
}

t.test('the routes of the account life keep the contract on the memory parts', (t) => life(t, memoryApp))
t.test('the routes of the account life keep the contract on PostgreSQL and Redis', { skip: noPostgres }, (t) =>
  life(t, realApp),
)

const iso = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

async function life(t: Test, start: (t: Test, options: Partial<AccountsOptions>) => Promise<App>): Promise<void> {
  const { send, post, get, mailer } = await start(t, allRoutes)
  const code = () => mailer.sent.findLast((mail) => mail.code)?.code
  const withToken = (access: string) => ({ authorization: `Bearer ${access}` })
  const act = (access: string, method: 'PATCH' | 'PUT' | 'DELETE' | 'POST', url: string, payload?: object) =>
    send({ method, url, payload, headers: withToken(access) })

  const registered = await post('/api/register/', ada)
  t.equal(registered.status, 201)
  t.same(Object.keys(registered.body), ['id', 'username', 'email', 'token'])
  refusal(t, await post('/api/login/', ada), 403, 'ACCOUNTS_EMAIL_UNVERIFIED')

  const { token } = registered.body
  const resent = await post('/auth/resend_verification/', { email: ada.email, token })
  t.same([resent.status, Object.keys(resent.body)], [200, ['message', 'token']])
  const verified = await post('/auth/verify_email/', { token: resent.body.token, otp: code() })
  t.same([verified.status, Object.keys(verified.body)], [200, ['message']])
  const first = (await post('/api/login/', ada)).body

  for (const method of ['PATCH', 'PUT'] as const) {
    const { status, body } = await act(first.access, method, '/auth/user/', { username: `ada-${method}` })
    t.same([status, Object.keys(body)], [200, ['id', 'username', 'email', 'email_verified']])
    t.match(body, { id: registered.body.id, username: `ada-${method}`, email: ada.email, email_verified: true })
  }

  const wrong = 'ACCOUNTS_PASSWORD_WRONG'
  const passwords = { current_password: ada.password, new_password: 'another horse' }
  refusal(
    t,
    await act(first.access, 'POST', '/auth/change_password/', { ...passwords, current_password: 'x' }),
    403,
    wrong,
  )
  const changed = await act(first.access, 'POST', '/auth/change_password/', passwords)
  t.same([changed.status, Object.keys(changed.body)], [200, ['message', 'access', 'refresh']])
  refusal(t, await get('/auth/user/', first.access), 401, 'ACCOUNTS_TOKEN_INVALID')

  const { access, refresh } = changed.body
  const wish = { email: 'Grace@Example.org', password: 'another horse' }
  const asked = await act(access, 'POST', '/auth/change_email/', wish)
  t.same([asked.status, Object.keys(asked.body)], [200, ['message', 'token']])
  const proof = { token: asked.body.token, otp: code() }
  const confirmed = await act(access, 'POST', '/auth/confirm_email/', proof)
  t.same([confirmed.status, Object.keys(confirmed.body)], [200, ['message']])
  t.match((await get('/auth/user/', access)).body, { email: 'Grace@Example.org', email_verified: true })

  const other = (await post('/api/login/', wish)).body
  const { status, body: sessions } = await get('/auth/sessions/', access)
  t.equal(status, 200)
  t.equal(sessions.length, 2)
  t.same(Object.keys(sessions[0]), ['id', 'created_at', 'last_used_at', 'ip', 'user_agent', 'current'])
  t.match(sessions[0], { created_at: iso, last_used_at: iso, ip: '127.0.0.1', user_agent: String, current: Boolean })
  const { id } = sessions.find(({ current }: { current: boolean }) => !current)
  empty(t, await act(access, 'DELETE', `/auth/sessions/${id}/`))
  refusal(t, await act(access, 'DELETE', '/auth/sessions/unknown/'), 404, 'ACCOUNTS_NOT_FOUND')
  refusal(t, await get('/auth/user/', other.access), 401, 'ACCOUNTS_TOKEN_INVALID')

  empty(t, await post('/auth/logout/', { refresh }))
  empty(t, await post('/auth/logout/', undefined, withToken(access)))
  refusal(t, await post('/auth/refresh/', { refresh }), 401, 'ACCOUNTS_TOKEN_INVALID')
  refusal(t, await post('/auth/logout/', {}), 401, 'ACCOUNTS_TOKEN_INVALID')

  const again = (await post('/api/login/', wish)).body
  empty(t, await act(again.access, 'POST', '/auth/logout_all/'))
  refusal(t, await get('/auth/user/', again.access), 401, 'ACCOUNTS_TOKEN_INVALID')

  const last = (await post('/api/login/', wish)).body
  refusal(t, await act(last.access, 'DELETE', '/auth/user/', { password: 'x' }), 403, wrong)
  empty(t, await act(last.access, 'DELETE', '/auth/user/', { password: 'another horse' }))
  refusal(t, await get('/auth/user/', last.access), 401, 'ACCOUNTS_TOKEN_INVALID')
  refusal(t, await post('/api/login/', wish), 401, 'ACCOUNTS_CREDENTIALS_INVALID')
  const notices = mailer.sent.map(({ kind }) => kind).filter((kind) => !['verify', 'change', 'reset'].includes(kind))
  t.strictSame(notices, ['password_changed', 'email_changed', 'account_deleted'])
}

function empty(t: Test, { status, body, headers }: Answer): void {
  t.same([status, body, headers['cache-control']], [204, undefined, 'no-store'])
}

t.test('each path works with and without its trailing slash, without a redirect', async (t) => {
  const { post, get } = await memoryApp(t)

  t.equal((await post('/api/register', ada)).status, 201)
  const { status, body } = await post('/api/login', ada)
  t.equal(status, 200)
  t.equal((await post('/auth/refresh', { refresh: body.refresh })).status, 200)
  t.equal((await get('/auth/user', body.access)).status, 200)
  t.equal((await post('/auth/email_request', { email: ada.email })).status, 200)
  t.equal((await post('/auth/check_otp', { token: 'x', otp: '12345678' })).body.code, 'ACCOUNTS_CODE_INVALID')
  t.equal((await post('/auth/reset_password', { token: 'x', new_password: 'y' })).body.code, 'ACCOUNTS_CODE_INVALID')
})

t.test('a taken e-mail address or username is a conflict, in any spelling', async (t) => {
  const { post } = await memoryApp(t)
  await post('/api/register/', ada)

  const email = await post('/api/register/', { ...ada, username: 'other', email: 'ADA@example.org' })
  const username = await post('/api/register/', { ...ada, username: 'ADA', email: 'other@example.org' })

  t.same([email.status, email.body.code], [409, 'ACCOUNTS_EMAIL_TAKEN'])
  t.same([username.status, username.body.code], [409, 'ACCOUNTS_USERNAME_TAKEN'])
})

t.test('validation names every failing field', async (t) => {
  const { post } = await memoryApp(t)

  const { status, body } = await post('/api/register/', { username: 5, email: 'a@localhost' })

  t.same([status, body.code], [400, 'ACCOUNTS_VALIDATION'])
  t.same(body.errors.map(({ field }: { field: string }) => field).sort(), ['email', 'password', 'username'])
})

t.test('a code of the wrong shape is refused in words, not by a regular expression', async (t) => {
  for (const digits of [8, 10]) {
    const { post } = await memoryApp(t, { passwordReset: { digits } })

    const { status, body } = await post('/auth/check_otp/', { token: 'any', otp: 'abc' })

    t.same([status, body.errors], [400, [{ field: 'otp', message: `must be ${digits} digits` }]])
  }
})

t.test('a message of a profile field of the host is its schema’s own', async (t) => {
  const profile = Type.Object({ zip: Type.String({ pattern: '^\\d{5}$' }) })
  const { post } = await memoryApp(t, { registration: { profile } })

  const { body } = await post('/api/register/', { ...ada, zip: 'x' })

  t.same(body.errors, [{ field: 'zip', message: 'must match pattern "^\\d{5}$"' }])
})

t.test('a refused password says why', async (t) => {
  const { post } = await memoryApp(t)

  const { status, body } = await post('/api/register/', { ...ada, password: 'short' })

  t.same([status, body.code, body.reasons], [400, 'ACCOUNTS_PASSWORD_REFUSED', ['too_short']])
})

t.test('a lone surrogate in a new password is refused, and logs nobody in [R-PW-3]', async (t) => {
  const { post } = await memoryApp(t)
  await post('/api/register/', { ...ada, password: 'replaced \ufffd character' })

  const registered = await post('/api/register/', { ...ada, password: 'replaced \ud800 character' })
  const loggedIn = await post('/api/login/', { ...ada, password: 'replaced \ud800 character' })

  t.same(registered.body.reasons, ['ill_formed'])
  t.equal(loggedIn.body.code, 'ACCOUNTS_CREDENTIALS_INVALID')
})
