// DATABASE_URL=postgres://localhost/shop_test JWT_SECRET=… BCRYPT_ROUNDS=4 npm test, on a migrated database
const assert = require('node:assert')
const { randomUUID } = require('node:crypto')
const { after, before, test } = require('node:test')
const build = require('../app')

const app = build()
before(() => app.ready())
after(() => app.close())

const password = 'correct horse battery'

async function send(method, url, payload, token) {
  const headers = token ? { authorization: `Bearer ${token}` } : {}
  const response = await app.inject({ method, url, payload, headers })
  return { status: response.statusCode, body: response.body && response.json() }
}

const newEmail = () => `Test-${randomUUID()}@Example.com`
const register = (email) => send('POST', '/register', { email, password, name: 'Test' })
const login = (email, typed = password) => send('POST', '/login', { email, password: typed })

async function customer() {
  const email = newEmail()
  const { id } = (await register(email)).body
  const { token } = (await login(email)).body
  return { id, email, token }
}

test('a customer registers', async () => {
  const email = newEmail()

  const { status, body } = await register(email)

  assert.strictEqual(status, 201)
  assert.deepStrictEqual(body, { id: body.id, email, name: 'Test' })
  assert.ok(Number.isInteger(body.id))
})

test('an address has one account, in any spelling', async () => {
  const { email } = await customer()

  assert.strictEqual((await register(email.toUpperCase())).status, 409)
})

test('a registration without a name or with a short password is refused', async () => {
  assert.strictEqual((await send('POST', '/register', { email: newEmail(), password })).status, 400)
  assert.strictEqual((await send('POST', '/register', { email: newEmail(), password: 'short', name: 'A' })).status, 400)
})

test('a customer logs in with any spelling of the address', async () => {
  const { email } = await customer()

  const { status, body } = await login(email.toLowerCase())

  assert.strictEqual(status, 200)
  assert.strictEqual(typeof body.token, 'string')
})

test('a wrong password and an unknown address are refused alike', async () => {
  const { email } = await customer()

  const [wrong, unknown] = [await login(email, 'wrong password'), await login(newEmail())]

  assert.strictEqual(wrong.status, 401)
  assert.deepStrictEqual(unknown, wrong)
})

test('a customer sees their own account', async () => {
  const { id, email, token } = await customer()

  const { status, body } = await send('GET', '/me', undefined, token)

  assert.strictEqual(status, 200)
  assert.deepStrictEqual(body, { id, email, name: 'Test', role: 'customer', created_at: body.created_at })
})

test('nobody sees anything without a token', async () => {
  for (const url of ['/me', '/orders', '/admin/customers']) {
    assert.strictEqual((await send('GET', url)).status, 401)
    assert.strictEqual((await send('GET', url, undefined, 'no-token')).status, 401)
  }
})

test('a customer orders, and sees their own orders alone', async () => {
  const [one, other] = [await customer(), await customer()]

  const ordered = await send('POST', '/orders', { article: 'tea', cents: 450 }, one.token)

  assert.strictEqual(ordered.status, 201)
  const orders = (await send('GET', '/orders', undefined, one.token)).body
  assert.deepStrictEqual(orders, [{ ...ordered.body, created_at: orders[0].created_at }])
  assert.deepStrictEqual((await send('GET', '/orders', undefined, other.token)).body, [])
})

test('who has left cannot log in, and may come back with the same address', async () => {
  const { id, email, token } = await customer()
  await send('POST', '/orders', { article: 'tea', cents: 450 }, token)

  assert.strictEqual((await send('DELETE', '/me', undefined, token)).status, 204)

  assert.strictEqual((await login(email)).status, 401)
  const again = await register(email)
  assert.strictEqual(again.status, 201)
  assert.notStrictEqual(again.body.id, id)
  assert.strictEqual((await login(email)).status, 200)
})

test('the list of customers is for the staff alone', async () => {
  const { id, email, token } = await customer()
  await app.pg.query("update users set role = 'admin' where id = $1", [id])
  const { token: asAdmin } = (await login(email)).body

  const { status, body } = await send('GET', '/admin/customers', undefined, asAdmin)

  assert.strictEqual((await send('GET', '/admin/customers', undefined, token)).status, 403)
  assert.strictEqual(status, 200)
  assert.ok(body.length > 0 && body.every((row) => Number.isInteger(row.orders)))
})
