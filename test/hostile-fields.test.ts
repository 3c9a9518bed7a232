import { readFileSync } from 'node:fs'
import t from 'tap'
import Type from 'typebox'
import { accountsOf, memoryApp, realApp } from './app.ts'
import { noPostgres } from './helper.ts'

function vectors(name: string) {
  return JSON.parse(readFileSync(new URL(`vectors/${name}`, import.meta.url), 'utf8'))
}

const naughty: string[] = [
  ...vectors('blns.json'),
  "' or 1=1 --",
  "'); drop table accounts_users; --",
  '${jndi:ldap://x}',
  '\u0000',
  '\ud800',
  '\u202Eabc',
  '%00',
  '$1',
]
const stores = [
  { on: 'memory', open: memoryApp, skip: false as const },
  { on: 'PostgreSQL', open: realApp, skip: noPostgres },
]

// The least costly hash that the options allow: hundreds are made here.
const passwords = { argon2: { memoryCost: 7168, timeCost: 5 } }

t.test('[R-SQL-1] [R-WEB-5] hostile texts in every field of every route are never a 5xx', async (t) => {
  const { post, send } = await memoryApp(t, { passwords })
  const token = `${'a'.repeat(22)}.${'b'.repeat(43)}`
  const otp = '12345678'
  const requests: [url: string, body: (text: string) => object][] = [
    ['/api/register/', (email) => ({ username: 'a', email, password: 'short' })],
    ['/api/register/', (password) => ({ username: 'a', email: 'a@b', password })],
    ['/api/login/', (text) => ({ email: text, password: text })],
    ['/auth/refresh/', (refresh) => ({ refresh })],
    ['/auth/email_request/', (email) => ({ email })],
    ['/auth/check_otp/', (text) => ({ token: text, otp })],
    ['/auth/check_otp/', (text) => ({ token, otp: text })],
    ['/auth/reset_password/', (text) => ({ token: text, new_password: 'correct horse' })],
    ['/auth/reset_password/', (text) => ({ token, new_password: text })],
  ]

  for (const [url, body] of requests) {
    const seen = new Set<number>()
    for (const text of naughty) seen.add((await post(url, body(text))).status)
    t.ok(
      [...seen].every((status) => status >= 200 && status < 500),
      `${url} ${[...seen]}`,
    )
  }
  for (const text of naughty.map((text) => text.replace(/[^\x20-\x7e]/g, '?'))) {
    const headers = { authorization: `Bearer ${text}`, 'user-agent': text, 'accept-language': text }
    t.equal((await send({ url: '/auth/user/', headers })).status, 401)
  }
})

for (const { on, open, skip } of stores) {
  t.test(`[R-SQL-1] hostile usernames that are taken come back byte for byte, on ${on}`, { skip }, async (t) => {
    const host = await open(t, { passwords })
    const { post } = host
    const taken = new Set<string>()

    for (const [index, username] of naughty.entries()) {
      const user = { username, email: `u${index}@example.org`, password: 'correct horse' }
      const { status, body } = await post('/api/register/', user)
      const normal = username.normalize('NFC')
      if (status === 201) {
        const stored = await accountsOf(host).storage.findUserById(body.id)
        t.strictSame([body.username, stored?.username], [normal, normal])
        taken.add(normal.toLowerCase())
      } else if (status === 409) t.ok(taken.has(normal.toLowerCase()), username)
      else t.equal(status, 400, username)
    }
    t.ok(taken.size > 250, `${taken.size} were taken`)
  })

  t.test(`[R-SQL-1] hostile profile texts come back byte for byte, on ${on}`, { skip }, async (t) => {
    const profile = Type.Object({ notes: Type.Array(Type.String()), keyed: Type.Record(Type.String(), Type.String()) })
    const { post, get } = await open(t, { registration: { profile, username: false }, passwords })
    const storable = naughty.filter((text) => text.isWellFormed() && !text.includes('\0') && text !== '__proto__')

    for (let start = 0; start < storable.length; start += 60) {
      const notes = storable.slice(start, start + 60)
      // Type.Record does not name keys of several lines.
      const keyed = Object.fromEntries(
        notes.filter((text) => !/[\n\r\u2028\u2029]/.test(text)).map((text) => [text, text]),
      )
      const user = { email: `u${start}@example.org`, password: 'correct horse' }
      const registered = await post('/api/register/', { ...user, notes, keyed })
      const { body } = await post('/api/login/', user)
      const read = await get('/auth/user/', body.access)
      t.equal(registered.status, 201)
      t.strictSame(read.body.notes, notes)
      t.strictSame(read.body.keyed, keyed)
    }
  })

  t.test(
    `[R-REG-1] [R-REG-2] usernames that look alike are one or two as they should, on ${on}`,
    { skip },
    async (t) => {
      const { post } = await open(t, { passwords })
      const password = 'correct horse'
      const pairs: { a: string; b: string; expect: string }[] = vectors('identity-collisions.json').usernames
      const allowed: Record<string, number[]> = {
        same: [409],
        'differ-or-reject': [201, 400],
        'reject-or-same': [400, 409],
        'differ on every store': [201],
        'reject as username': [400],
        'either; no 500, no pollution': [201],
        reject: [400],
      }

      for (const [index, { a, b, expect }] of pairs.entries()) {
        const first = await post('/api/register/', { username: a, email: `a${index}@example.org`, password })
        const second = await post('/api/register/', { username: b, email: `b${index}@example.org`, password })
        // "admin" comes in many pairs: it is taken after its first.
        t.ok((expect.startsWith('reject') && !expect.includes('same') ? [400] : [201, 409]).includes(first.status), a)
        t.ok(allowed[expect]?.includes(second.status), `${a} ${b} ${expect}: ${second.status}`)
      }
      const own = { username: 'Eve@Example.org', email: 'eve@example.org', password }
      t.equal((await post('/api/register/', own)).status, 201, "a username may be the account's own address")
    },
  )
}

const values: unknown[] = [
  null,
  0,
  1,
  -1.5,
  true,
  false,
  [],
  ['a@b.co'],
  [['x']],
  {},
  { a: 1 },
  { toString: 'x' },
  { length: 5 },
]
const fields: Record<string, Record<string, unknown>> = {
  '/api/register/': { username: 'ada', email: 'ada@example.org', password: 'correct horse' },
  '/api/login/': { email: 'ada@example.org', password: 'correct horse' },
  '/auth/refresh/': { refresh: 'x' },
  '/auth/email_request/': { email: 'ada@example.org' },
  '/auth/check_otp/': { token: 'x', otp: '12345678' },
  '/auth/reset_password/': { token: 'x', new_password: 'correct horse' },
}

t.test('[R-WEB-2] a field of a wrong type is 400 and named, on every route', async (t) => {
  const { post, mailer, app } = await memoryApp(t)

  for (const [url, good] of Object.entries(fields)) {
    for (const field of Object.keys(good)) {
      for (const value of values) {
        const { status, body } = await post(url, { ...good, [field]: value })
        const title = `${url} ${field}: ${JSON.stringify(value)}`
        t.match([status, body.code], [400, 'ACCOUNTS_VALIDATION'], title)
        t.ok(body.errors.length > 0 && body.errors.every((error: { field: string }) => error.field === field), title)
      }
      const { [field]: _, ...rest } = good
      const missing = await post(url, rest)
      t.match(missing.body.errors, [{ field, message: 'is required' }], `${url} without ${field}`)
      const empty = await post(url, { ...good, [field]: '' })
      t.ok([400, 401].includes(empty.status), `${url} with an empty ${field}`)
    }
    const all = await post(url, Object.fromEntries(Object.keys(good).map((field) => [field, 5])))
    const named = all.body.errors.map((error: { field: string }) => error.field)
    t.strictSame([...new Set(named)].sort(), Object.keys(good).sort(), `${url} names all`)
  }
  t.equal(await app.accounts.storage.findUserById(1), null, 'nobody was registered')
  t.strictSame(mailer.sent, [])
})

t.test('[R-WEB-2] the strict rules of our scope do not reach routes of the host', async (t) => {
  const { app, post } = await memoryApp(t)
  const schema = {
    body: { type: 'object', properties: { n: { type: 'number' }, d: { type: 'string', default: 'x' } } },
  }
  app.post('/host', { schema }, async (request) => request.body)

  t.strictSame((await post('/host', { n: '5' })).body, { n: 5, d: 'x' })
})
