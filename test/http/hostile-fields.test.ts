import { readFileSync } from 'node:fs'
import t from 'tap'
import Type from 'typebox'
import { realmOf } from '../../lib/accounts.ts'
import { accountsOf, memoryApp, passwords, realApp } from '../helpers/app.ts'
import { noPostgres, sampled, stores } from '../helpers/helper.ts'
import { allRoutes, bodied, inventory, opener } from '../helpers/inventory.ts'
import { newMember } from '../helpers/members.ts'

function vectors(name: string) {
  return JSON.parse(readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8'))
}

const naughty: string[] = [
  ...sampled<string>(vectors('blns.json'), 60),
  "' or 1=1 --",
  "'); drop table accounts_users; --",
  '${jndi:ldap://x}',
  '\u0000',
  '\ud800',
  '\u202Eabc',
  '%00',
  '$1',
]
const backends = stores([
  { on: 'memory', open: memoryApp, skip: false as const },
  { on: 'PostgreSQL', open: realApp, skip: noPostgres },
])

// A password that is refused is not hashed: these routes take all texts, those that have to hash one in five.
const unhashed: Record<string, Record<string, string>> = {
  '/api/register/': { password: 'short' },
  '/auth/change_password/': { new_password: 'short' },
}
const fewer = naughty.filter((_, index) => index % 5 === 0 || index >= naughty.length - 8)

function textsFor(url: string, method: string, field: string): string[] {
  const hashed = ['/api/login/ email', '/auth/change_email/ password', '/auth/change_password/ new_password']
  return hashed.includes(`${url} ${field}`) || method === 'DELETE' ? fewer : naughty
}

t.test('[R-SQL-1] [R-WEB-5] hostile texts in every field of every route are never a 5xx', async (t) => {
  const { app, send } = await memoryApp(t, { passwords, ...allRoutes })
  const headersFor = await opener(app)
  const code = { token: `${'a'.repeat(22)}.${'b'.repeat(43)}` }

  for (const { method, path: url, body, guarded } of bodied) {
    for (const field of Object.keys(body)) {
      const rest = { ...body, ...('token' in body && code), ...unhashed[url] }
      const seen = new Set<number>()
      for (const text of textsFor(url, method, field)) {
        const payload = { ...rest, [field]: text }
        seen.add((await send({ method, url, payload, headers: headersFor({ guarded }) })).status)
      }
      t.ok(
        [...seen].every((status) => status >= 200 && status < 500),
        `${method} ${url} ${field} ${[...seen]}`,
      )
    }
  }
})

t.test('[R-WEB-5] hostile texts in the headers are 401 on every guarded route, and never a 5xx', async (t) => {
  const { send } = await memoryApp(t, allRoutes)
  const printable = naughty.map((text) => text.replace(/[^\x20-\x7e]/g, '?'))

  for (const { method, path: url } of inventory.filter(({ guarded, name }) => guarded || name === 'logout')) {
    const seen = new Set<number>()
    for (const text of printable) {
      const headers = { authorization: `Bearer ${text}`, 'user-agent': text, 'accept-language': text }
      seen.add((await send({ method, url, headers })).status)
    }
    t.strictSame([...seen], [401], `${method} ${url}`)
  }
})

for (const { on, open, skip } of backends) {
  t.test(`[R-SQL-1] hostile usernames that are taken come back byte for byte, on ${on}`, { skip }, async (t) => {
    const host = await open(t, { passwords })
    const { post } = host
    const taken = new Set<string>()

    for (const [index, username] of naughty.entries()) {
      const user = { username, email: `u${index}@example.org`, password: 'correct horse' }
      const { status, body } = await post('/api/register/', user)
      const normal = username.normalize('NFC')
      if (status === 201) {
        const stored = await realmOf(accountsOf(host)).storage.findUserById(body.id)
        t.strictSame([body.username, stored?.username], [normal, normal])
        taken.add(normal.toLowerCase())
      } else if (status === 409) t.ok(taken.has(normal.toLowerCase()), username)
      else t.equal(status, 400, username)
    }
    t.ok(taken.size > naughty.length / 2, `${taken.size} of ${naughty.length} were taken`)
  })

  t.test(
    `[R-SQL-1] hostile texts in an update come back byte for byte or change nothing, on ${on}`,
    { skip },
    async (t) => {
      const profile = Type.Object({ note: Type.Optional(Type.String()) })
      const host = await open(t, { registration: { profile } })
      const { access } = await newMember(accountsOf(host))
      const headers = { authorization: `Bearer ${access}` }
      const update = (payload: object) => host.send({ method: 'PATCH', url: '/auth/user/', payload, headers })

      for (const text of naughty) {
        const before = await host.get('/auth/user/', access)
        const name = await update({ username: text })
        const note = await update({ note: text })
        const after = await host.get('/auth/user/', access)
        t.ok([200, 400].includes(name.status), text)
        t.equal(after.body.username, name.status === 200 ? text.normalize('NFC') : before.body.username)
        t.equal(note.status, text.isWellFormed() && !text.includes('\0') ? 200 : 400, text)
        t.equal(after.body.note, note.status === 200 ? text : before.body.note)
      }
    },
  )

  t.test(`[R-SQL-1] [R-SES-4] a hostile id of a session is 404, on ${on}`, { skip }, async (t) => {
    const host = await open(t)
    const { app } = host
    const headers = { authorization: `Bearer ${(await newMember(accountsOf(host))).access}` }
    const ids = naughty.filter((text) => text.isWellFormed()).map(encodeURIComponent)

    for (const id of [...ids, '%00', '%', '%ff', '..%2f..%2fuser', '__proto__', 'x'.repeat(5000)]) {
      const url = `/auth/sessions/${id}/`
      const { statusCode } = await app.inject({ method: 'DELETE', url, headers })
      // What cannot be decoded is refused by the router.
      t.ok(['%', '%ff'].includes(id) ? statusCode === 400 : [404, 414].includes(statusCode), `${url}: ${statusCode}`)
    }
    t.equal((await app.inject({ url: '/auth/sessions/', headers })).json().length, 1, 'none was ended')
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
t.test('[R-WEB-2] a field of a wrong type is 400 and named, on every route', async (t) => {
  const { send, mailer, app } = await memoryApp(t, { passwords, ...allRoutes })
  const headersFor = await opener(app)
  const namesOf = (body: { errors: { field: string }[] }) => [...new Set(body.errors.map(({ field }) => field))].sort()

  for (const route of bodied) {
    const { method, path: url, body: good, partial } = route
    const post = (payload: object) => send({ method, url, payload, headers: headersFor(route) })
    for (const field of Object.keys(good)) {
      for (const value of values) {
        const { status, body } = await post({ ...good, [field]: value })
        const title = `${method} ${url} ${field}: ${JSON.stringify(value)}`
        t.match([status, body.code], [400, 'ACCOUNTS_VALIDATION'], title)
        t.strictSame(namesOf(body), [field], title)
      }
      const { [field]: _, ...rest } = good
      const missing = await post(rest)
      if (!partial) t.match(missing.body.errors, [{ field, message: 'is required' }], `${url} without ${field}`)
      const empty = await post({ ...good, [field]: '' })
      const fine = partial === 'members' && field === 'token' ? [200] : [400, 401, 403]
      t.ok(fine.includes(empty.status), `${url} with an empty ${field}`)
    }
    const all = await post(Object.fromEntries(Object.keys(good).map((field) => [field, 5])))
    t.strictSame(namesOf(all.body), Object.keys(good).sort(), `${url} names all`)
  }
  t.equal((await app.accounts.users.list()).length, 1, 'nobody was registered, nobody deleted')
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
