// First, or the library has the uncounted functions.
import '../helpers/counted-argon2.ts'
import * as bcrypt from '@node-rs/bcrypt'
import t, { type Test } from 'tap'
import type { AccountsOptions } from '../../lib/index.ts'
import { accountsOf, clientOf, memoryApp } from '../helpers/app.ts'
import { calls } from '../helpers/counted-argon2.ts'

const ada = { email: 'Ada@Example.org', password: 'correct horse battery' }
const limits = { throttle: { login: { tries: 3, seconds: 900 } } }

/** A host with a login route of its own, beside ours. */
async function open(t: Test, options: Partial<AccountsOptions> = {}) {
  const { app } = await memoryApp(t, options)
  const accounts = accountsOf({ app })
  app.post<{ Body: { mail: string; pass: string } }>('/v1/sign-in', async (request) => {
    const { mail: email, pass: password } = request.body
    const { user, ...tokens } = await accounts.login({ email, password }, request)
    return { name: user.email, ...tokens }
  })
  app.post<{ Body: { id: number; pass: string } }>('/v1/sudo', async (request) => ({
    right: await accounts.users.verifyPassword(request.body.id, request.body.pass, request),
  }))
  const client = clientOf(app)
  const { post } = client
  return {
    ...client,
    accounts,
    users: accounts.users,
    signIn: (mail: unknown, pass: unknown) => post('/v1/sign-in', { mail, pass }),
    sudo: (id: unknown, pass: unknown) => post('/v1/sudo', { id, pass }),
    login: (password = ada.password) => post('/api/login/', { email: ada.email, password }),
  }
}

t.test('a login route of the host’s answers as it likes, and the tokens are ours', async (t) => {
  const { users, signIn, get, accounts } = await open(t)
  await users.create(ada)

  const { status, body } = await signIn('ADA@example.org', ada.password)

  t.equal(status, 200)
  t.strictSame(Object.keys(body), ['name', 'access', 'refresh'])
  t.equal(body.name, ada.email)
  t.equal((await get('/auth/user/', body.access)).status, 200)
  const { sessionId } = await accounts.verifyToken(body.access)
  t.equal(await accounts.sessionActive(sessionId), true)
})

t.test('it refuses as ours does', async (t) => {
  const { users, signIn, login } = await open(t, { registration: { verifyEmail: true } })
  const { id } = await users.create(ada)

  t.match(await signIn(ada.email, ada.password), { status: 403, body: { code: 'ACCOUNTS_EMAIL_UNVERIFIED' } })
  const wrong = await signIn(ada.email, 'wrong horse battery')
  t.match(wrong, { status: 401, body: { code: 'ACCOUNTS_CREDENTIALS_INVALID' } })
  t.equal(wrong.headers['www-authenticate'], 'Bearer')
  t.equal((await signIn('nobody@example.org', ada.password)).status, 401)
  await users.disable(id)
  t.equal((await signIn(ada.email, ada.password)).status, 401)
  t.equal((await login()).status, 401)
  for (const [mail, pass] of [
    [undefined, 'x'],
    ['a@example.org', 1],
    [{}, []],
    ['a'.repeat(1025), 'x'],
    ['x', 'a'.repeat(1025)],
  ]) {
    t.match(await signIn(mail, pass), { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } })
  }
})

t.test('[R-THR-2] guesses through a route of the host’s and through ours are one budget', async (t) => {
  const { users, signIn, sudo, login } = await open(t, limits)
  const { id } = await users.create(ada)

  t.equal((await signIn(ada.email, 'wrong horse battery')).status, 401)
  t.match(await sudo(id, 'wrong horse battery'), { status: 200, body: { right: false } })
  t.equal((await login('wrong horse battery')).status, 401)

  for (const refused of [await signIn(ada.email, ada.password), await sudo(id, ada.password), await login()]) {
    t.match(refused, { status: 429, body: { code: 'ACCOUNTS_TOO_MANY_REQUESTS' } })
    t.match(refused.headers['retry-after'], /^\d+$/)
  }
})

t.test('a request is needed, since limits depend on where it comes from', async (t) => {
  const { accounts, users } = await open(t)
  const { id } = await users.create(ada)

  for (const request of [undefined, null, {}, 'x']) {
    await t.rejects(accounts.login(ada, request as never), { name: 'TypeError', message: /and the request/ })
  }
  t.equal(await users.verifyPassword(id, ada.password), true)
  await t.rejects(users.verifyPassword(id, 1 as never), { name: 'TypeError', message: /must be a text/ })
})

t.test('[R-ENUM-1] a password is judged after the same work, whoever it is for', async (t) => {
  const { users } = await open(t, { passwords: {} })
  const { id } = await users.create(ada)
  const { id: disabled } = await users.create({ ...ada, email: 'b@example.org' })
  const { id: passwordless } = await users.create({ email: 'c@example.org' })
  await users.disable(disabled)
  const judged = async (id: number | string, password: string) => {
    calls.length = 0
    return [await users.verifyPassword(id as never, password), calls.map(({ memoryCost }) => memoryCost)]
  }

  t.strictSame(await judged(id as number, ada.password), [true, [19_456]])
  for (const other of [disabled, passwordless, 4711, 'no id']) {
    t.strictSame(await judged(other as number, ada.password), [false, [19_456]])
  }
  t.strictSame(await judged(id as number, 'wrong horse battery'), [false, [19_456]])
})

t.test('who has not proved the mailbox is told so, and becomes no friend of its owner', async (t) => {
  const { users, accounts, sudo } = await open(t, { registration: { verifyEmail: true }, throttle: {} })
  const { id } = await users.create(ada)
  const known: boolean[] = []
  accounts.addHook('beforeAttempt', async (attempt) => void known.push(attempt.known))

  for (let n = 0; n < 2; n++) {
    t.match(await sudo(id, ada.password), { status: 403, body: { code: 'ACCOUNTS_EMAIL_UNVERIFIED' } })
  }
  t.strictSame(known, [false, false])
})

t.test('a wrong guess is an event, and what is no password is refused at once', async (t) => {
  const { users, accounts } = await open(t)
  const { id } = await users.create(ada)
  const told: unknown[] = []
  accounts.addHook('afterPasswordFail', async ({ userId }) => void told.push(userId))

  t.equal(await users.verifyPassword(id, 'wrong horse battery'), false)
  t.strictSame(told, [id])
  await t.rejects(users.verifyPassword(id, 'x'.repeat(1025)), { code: 'ACCOUNTS_VALIDATION' })
  t.equal(await users.verifyPassword(id, ada.password, {} as never), true)
})

t.test('[R-HASH-4] an old hash is replaced when the password was right', async (t) => {
  const { users, accounts } = await open(t)
  const passwordHash = await bcrypt.hash(ada.password, 4)
  const [outcome] = await users.import([{ email: ada.email, passwordHash }])
  const { id } = outcome as { id: number }
  const replaced: unknown[] = []
  accounts.addHook('afterLogin', async () => void replaced.push('login'))

  t.equal(await users.verifyPassword(id, 'wrong horse battery'), false)
  t.equal(await users.verifyPassword(id, ada.password), true)
  calls.length = 0
  t.equal(await users.verifyPassword(id, ada.password), true)

  t.equal(calls.length, 1, 'argon2 by now')
  t.same(replaced, [], 'no session began')
})

t.test('a session is active until it ends, whoever asks', async (t) => {
  const { users, login, post, accounts } = await open(t)
  await users.create(ada)
  const { access, refresh } = (await login()).body
  const { sessionId } = await accounts.verifyToken(access)

  t.equal(await accounts.sessionActive(sessionId), true)
  for (const other of ['', 'x', '\0', `${sessionId}x`, 1 as never, null as never, {} as never]) {
    t.equal(await accounts.sessionActive(other), false)
  }
  await post('/auth/logout/', { refresh })
  t.equal(await accounts.sessionActive(sessionId), false)
})
