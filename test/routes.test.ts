import t, { type Test } from 'tap'
import { type Answer, memoryApp, realApp } from './app.ts'
import { noPostgres } from './helper.ts'

type App = Awaited<ReturnType<typeof memoryApp>>

const ada = { username: 'ada', password: 'correct horse', email: 'Ada@Example.org' }

t.test('the six routes answer as the contract says on the memory parts', (t) => contract(t, memoryApp))
t.test('the six routes answer as the contract says on PostgreSQL and Redis', { skip: noPostgres }, (t) =>
  contract(t, realApp),
)

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
