import t from 'tap'
import Type from 'typebox'
import { realmOf } from '../../lib/accounts.ts'
import { accountsOf, memoryApp, realApp } from '../helpers/app.ts'
import { noPostgres, stores } from '../helpers/helper.ts'

const profile = Type.Object({
  company: Type.Object({
    name: Type.String({ maxLength: 80 }),
    size: Type.Optional(Type.Integer({ minimum: 1 })),
    address: Type.Optional(Type.Object({ city: Type.String(), 'post code': Type.Optional(Type.String()) })),
  }),
  tags: Type.Optional(Type.Array(Type.Object({ text: Type.String() }))),
  score: Type.Optional(Type.Number()),
  newsletter: Type.Optional(Type.Boolean()),
  contact: Type.Optional(Type.Union([Type.String({ format: 'email' }), Type.Object({ phone: Type.String() })])),
  labels: Type.Optional(Type.Record(Type.String(), Type.String())),
  free: Type.Optional(Type.Unknown()),
})
const registration = { profile, username: 'optional' as const }
const backends = stores([
  { on: 'memory', open: memoryApp, skip: false as const },
  { on: 'PostgreSQL', open: realApp, skip: noPostgres },
])

type App = Awaited<ReturnType<typeof memoryApp>> | Awaited<ReturnType<typeof realApp>>

/** Registers with these profile fields, logs in and reads the account. */
async function roundTrip({ post, get }: App, fields: object) {
  const email = `u${Math.random()}@example.org`
  const registered = await post('/api/register/', { email, password: 'correct horse', ...fields })
  if (registered.status !== 201) return { registered }
  const { body } = await post('/api/login/', { email, password: 'correct horse' })
  const read = await get('/auth/user/', body.access)
  const { id, username, email: shown, ...answered } = registered.body
  const { id: _, username: __, email: ___, email_verified, ...kept } = read.body
  return { registered, answered, kept, id }
}

for (const { on, open, skip } of backends) {
  t.test(`profile fields are stored and answered as they came, on ${on}`, { skip }, async (t) => {
    const app = await open(t, { registration })
    const all = {
      company: { name: 'Söhne 👩‍💻', size: 7, address: { city: '東京', 'post code': '' } },
      tags: [{ text: 'a' }, { text: '"quoted" \\u0041 \u2028' }],
      score: -1.5e-7,
      newsletter: false,
      contact: { phone: '+1' },
      labels: { 'a/b~c': 'x', constructor: 'y', '': 'z' },
      free: [null, { deep: [1, 'x', true] }],
    }

    for (const fields of [all, { company: { name: '' } }, { ...all, contact: 'a@example.org', free: null }]) {
      const { registered, answered, kept } = await roundTrip(app, fields)
      t.equal(registered.status, 201)
      t.strictSame(answered, fields)
      t.strictSame(kept, fields)
    }
  })

  t.test(`members that the profile does not name, nested ones too, are never stored, on ${on}`, { skip }, async (t) => {
    const app = await open(t, { registration })
    const extra = { role: 'admin', isAdmin: true }
    const { kept, id } = await roundTrip(app, {
      ...extra,
      company: { name: 'A', ...extra, address: { city: 'B', ...extra } },
      tags: [{ text: 'c', ...extra }],
      contact: { phone: '1', ...extra },
    })
    const wanted = {
      company: { name: 'A', address: { city: 'B' } },
      tags: [{ text: 'c' }],
      contact: { phone: '1' },
    }

    t.strictSame(kept, wanted)
    t.strictSame((await realmOf(accountsOf(app)).storage.findUserById(id))?.profile, wanted)
  })

  t.test(`posted fields of ours that registration does not take change nothing, on ${on}`, { skip }, async (t) => {
    const app = await open(t)
    const answer = await app.post('/api/register/', {
      ...{ username: 'ada', email: 'ada@example.org', password: 'correct horse' },
      ...{ id: 77, role: 'admin', roles: ['admin'], is_admin: true, active: false, is_active: false, disabled: false },
      ...{ email_verified: true, email_verified_at: 1, emailVerifiedAt: 1, verified: true, created_at: 1 },
      ...{ credential_version: 1, credentialVersion: 1, password_hash: 'x', passwordHash: 'x' },
      ...{ username_canonical: 'root', email_canonical: 'root@example.org', emailCanonical: 'root@example.org' },
      ...{ profile: { role: 'admin' }, token: 'x', createdAt: 1 },
    })
    const { storage } = realmOf(accountsOf(app))
    const user = await storage.findUserById(answer.body.id)

    t.strictSame(answer.body, { id: 1, username: 'ada', email: 'ada@example.org' })
    t.match(user, { id: 1, emailVerifiedAt: null, active: true, profile: {}, username: 'ada' })
    t.strictSame(user?.profile, {})
    t.ok((user?.createdAt ?? 0) > 1)
    t.ok((user?.credentialVersion ?? 0) > 1)
    t.equal(await storage.findUserByEmail('root@example.org'), null)
    t.equal((await app.post('/api/login/', { email: 'ada@example.org', password: 'correct horse' })).status, 200)
  })

  t.test(
    `NUL, lone surrogates and numbers past the end are 400, wherever they stand, on ${on}`,
    { skip },
    async (t) => {
      const { send } = await open(t, { registration })
      const bad = ['"a\\u0000b"', '"\\ud800"', '"x\\udc00\\ud800"', '1e400', '-1e999']
      const places: [field: string, fragment: (value: string) => string][] = [
        ['company', (value) => `"company":{"name":${value}}`],
        ['company', (value) => `"company":{"name":"a","address":{"city":${value}}}`],
        ['tags', (value) => `"company":{"name":"a"},"tags":[{"text":"a"},{"text":${value}}]`],
        ['labels', (value) => `"company":{"name":"a"},"labels":{"a":${value}}`],
        ['free', (value) => `"company":{"name":"a"},"free":${value}`],
        ['free', (value) => `"company":{"name":"a"},"free":[{"a":[${value}]}]`],
        [
          'labels',
          (value) => `"company":{"name":"a"},"labels":{${value.startsWith('"') ? value : `"${value}\\u0000"`}:"x"}`,
        ],
        [
          'free',
          (value) => `"company":{"name":"a"},"free":{"a":{${value.startsWith('"') ? value : `"${value}\\u0000"`}:"x"}}`,
        ],
      ]

      for (const value of bad) {
        for (const [field, fragment] of places) {
          const payload = `{"email":"a@example.org","password":"correct horse",${fragment(value)}}`
          const headers = { 'content-type': 'application/json' }
          const { status, body } = await send({ method: 'POST', url: '/api/register/', headers, payload })
          t.match([status, body.code], [400, 'ACCOUNTS_VALIDATION'], payload)
          t.ok(
            body.errors.some((error: { field: string }) => error.field.split('.')[0] === field),
            payload,
          )
        }
      }
    },
  )

  t.test(`the greatest and smallest numbers come back the same, on ${on}`, { skip }, async (t) => {
    const app = await open(t, { registration })

    for (const score of [Number.MAX_VALUE, 5e-324, -1e300, 2 ** 53 + 2, 0.1 + 0.2]) {
      const { kept } = await roundTrip(app, { company: { name: 'a' }, score })
      t.equal((kept as { score: number }).score, score)
    }
  })

  t.test(`values nested too deeply are 400, on ${on}`, { skip }, async (t) => {
    const app = await open(t, { registration })
    const register = (levels: number) =>
      app.send({
        method: 'POST',
        url: '/api/register/',
        headers: { 'content-type': 'application/json' },
        payload: `{"email":"a${levels}@example.org","password":"correct horse","company":{"name":"a"},"free":${
          '['.repeat(levels) + ']'.repeat(levels)
        }}`,
      })

    t.equal((await register(60)).status, 201)
    for (const levels of [65, 7000]) {
      t.match(await register(levels), { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } })
    }
  })
}

t.test('every field of a wrong type is named, however many and however deep', async (t) => {
  const { post } = await memoryApp(t, { registration: { profile } })
  const { status, body } = await post('/api/register/', {
    username: 1,
    email: 2,
    password: 3,
    company: { size: 1.5, address: { city: 4, 'post code': 5 } },
    tags: [{ text: 'a' }, { text: 6 }, 7],
    score: '8',
    newsletter: 'yes',
    contact: 9,
    labels: { 'a/b~c': 10 },
  })
  const fields = new Set(body.errors.map((error: { field: string }) => error.field))

  t.equal(status, 400)
  t.strictSame(
    [...fields].sort(),
    [
      ...['username', 'email', 'password', 'company.name', 'company.size', 'company.address.city'],
      ...['company.address.post code', 'tags.1.text', 'tags.2', 'score', 'newsletter', 'contact', 'labels.a/b~c'],
    ].sort(),
  )
})

t.test(
  'a field with a default may be left out, and the default is stored: at a registration and users.create',
  async (t) => {
    const plan = Type.Object({ name: Type.String() }, { default: { name: 'free' } })
    const profile = Type.Object({ plan, beta: Type.Optional(Type.Boolean({ default: false })), note: Type.String() })
    const app = await memoryApp(t, { registration: { profile, username: 'optional' } })
    const { users } = accountsOf(app)

    const { answered, kept, registered } = await roundTrip(app, { note: 'x' })
    t.equal(registered.status, 201)
    t.strictSame(answered, { plan: { name: 'free' }, beta: false, note: 'x' })
    t.strictSame(kept, answered)
    t.strictSame((await roundTrip(app, { note: 'x', plan: { name: 'pro' }, beta: true })).kept, {
      ...{ plan: { name: 'pro' }, beta: true, note: 'x' },
    })
    t.match((await roundTrip(app, {})).registered.body.errors, [{ field: 'note', message: 'is required' }])

    const { profile: created, id } = await users.create({ email: 'bob@example.org', profile: { note: 'y' } })
    t.strictSame(created, { plan: { name: 'free' }, beta: false, note: 'y' })
    ;(created.plan as { name: string }).name = 'changed'
    t.strictSame((await users.create({ email: 'cyd@example.org', profile: { note: 'y' } })).profile.plan, {
      name: 'free',
    })

    const [imported] = await users.import([{ email: 'dan@example.org', profile: { note: 'z' } }])
    t.strictSame((await users.find(imported as { id: number }))?.profile, { note: 'z' }, 'an import fills in nothing')
    const { storage } = realmOf(app.app.accounts)
    await storage.updateUser({ id, profile: { beta: true } })
    t.match((await users.find({ id }))?.profile, { beta: true })
  },
)

t.test('a row of an older profile is answered with what it has of the new one', async (t) => {
  const before = await memoryApp(t, {
    registration: { profile: Type.Object({ old: Type.String(), size: Type.String() }) },
  })
  const user = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
  await before.post('/api/register/', { ...user, old: 'x', size: 'big' })
  const { storage } = realmOf(before.app.accounts)
  const after = await memoryApp(t, {
    storage,
    registration: { profile: Type.Object({ size: Type.Integer(), company: Type.Object({ name: Type.String() }) }) },
  })
  const { body } = await after.post('/api/login/', user)

  const read = await after.get('/auth/user/', body.access)

  t.strictSame(read.body, { id: 1, username: 'ada', email: 'ada@example.org', email_verified: false, size: 'big' })
})

t.test('usernames are required, optional or none, as the option says', async (t) => {
  const user = { email: 'ada@example.org', password: 'correct horse' }
  const required = await memoryApp(t)
  t.match((await required.post('/api/register/', user)).body.errors, [{ field: 'username', message: 'is required' }])

  const optional = await memoryApp(t, { registration: { username: 'optional' } })
  t.strictSame((await optional.post('/api/register/', user)).body, { id: 1, username: null, email: user.email })
  const second = await optional.post('/api/register/', { ...user, email: 'b@b.co' })
  t.equal(second.status, 201, 'two without a username do not collide')
  t.equal((await optional.post('/api/register/', { ...user, email: 'c@b.co', username: 'c' })).body.username, 'c')

  const none = await memoryApp(t, { registration: { username: false } })
  const answer = await none.post('/api/register/', { ...user, username: 'ignored' })
  t.strictSame(answer.body, { id: 1, email: user.email })
  t.equal((await realmOf(none.app.accounts).storage.findUserById(1))?.username, null)
  const { body } = await none.post('/api/login/', user)
  t.strictSame((await none.get('/auth/user/', body.access)).body, { id: 1, email: user.email, email_verified: false })
})
