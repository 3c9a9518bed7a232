import * as argon2 from '@node-rs/argon2'
import * as bcrypt from '@node-rs/bcrypt'
import t, { type Test } from 'tap'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import { readOldHash } from '../../lib/core/old-hashes.ts'
import { argon2Form, bcryptForm, djangoForm } from '../../lib/core/written-hashes.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { sampleUser } from '../../lib/testing/samples.ts'
import { accountsOf, memoryApp } from '../helpers/app.ts'
import { withoutPackage } from '../helpers/program.ts'

const owasp = { memoryCost: 19_456, timeCost: 2, parallelism: 1 }
const password = 'correct horse battery'
const ada = { username: 'ada', email: 'ada@example.org', password }

async function open(t: Test, passwords: AccountsOptions['passwords'], passwordHash?: string) {
  const storage = memoryStorage()
  if (passwordHash) await storage.insertUser(sampleUser({ ...ada, emailCanonical: ada.email, passwordHash }))
  const host = await memoryApp(t, { storage, passwords })
  return {
    ...host,
    users: accountsOf({ app: host.app }).users,
    login: (typed = password) => host.post('/api/login/', { email: ada.email, password: typed }),
    stored: async () => (await storage.findUserByEmail(ada.email))?.passwordHash as string,
  }
}

t.test('passwords are hashed with bcrypt, as software beside the app reads it', async (t) => {
  const { post, login, stored, users } = await open(t, { write: 'bcrypt' })

  t.equal((await post('/api/register/', ada)).status, 201)
  const first = await stored()
  t.match(first, /^\$2b\$12\$[./A-Za-z\d]{53}$/)
  t.equal(await bcrypt.verify(password, first), true)
  t.equal((await login()).status, 200)
  t.equal(await stored(), first, 'it stays')
  const { id } = (await users.find({ email: ada.email }))!
  await users.setPassword(id, 'another horse battery')
  t.equal(await bcrypt.verify('another horse battery', await stored()), true)
})

t.test('with bcrypt a new password has at most 72 bytes, since it knows no more', async (t) => {
  const { post, login } = await open(t, { write: 'bcrypt' })
  const long = 'correct horse é '.repeat(5).slice(0, 68)
  t.ok(long.length < 72 && Buffer.byteLength(long) === 72)

  t.match(await post('/api/register/', { ...ada, password: `${long}x` }), {
    status: 400,
    body: { reasons: ['too_long'] },
  })
  t.equal((await post('/api/register/', { ...ada, password: long })).status, 201)
  t.equal((await login(long)).status, 200)
  t.equal((await login(long.slice(0, -1))).status, 401)
})

t.test('an argon2id hash becomes one that the other software reads, and back', async (t) => {
  let hash = await argon2.hash(password, { ...owasp, algorithm: 2 })
  for (const [write, form] of [
    ['bcrypt', /^\$2b\$12\$/],
    ['argon2id', /^\$argon2id\$v=19\$m=19456/],
    ['django', /^pbkdf2_sha256\$600000\$/],
    ['argon2id', /^\$argon2id\$v=19\$m=19456/],
  ] as const) {
    const { login, stored } = await open(t, { write }, hash)
    t.equal((await login('wrong horse battery')).status, 401)
    t.equal(await stored(), hash)
    t.equal((await login()).status, 200)
    hash = await stored()
    t.match(hash, form)
    t.equal((await login()).status, 200)
    t.equal(await stored(), hash)
  }
})

t.test('which hashes are replaced depends on the form, never by a weaker one of the same', async (t) => {
  const tail = `${'a'.repeat(22)}${'b'.repeat(31)}`
  const bcrypts = ['$2b$12$', '$2a$14$', '$2y$12$'].map((start) => start + tail)
  const others = [
    `$2b$10$${tail}`,
    `bcrypt_sha256$$2b$12$${tail}`,
    'pbkdf2_sha256$600000$s$aGFzaA==',
    '$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g',
  ]
  const djangos = [
    'pbkdf2_sha256$600000$s$aA==',
    'pbkdf2_sha256$1200000$s$aA==',
    'argon2$argon2id$…',
    'scrypt$…',
    'bcrypt_sha256$…',
  ]

  t.same(bcrypts.map(bcryptForm().outdated), [false, false, false])
  t.same(others.map(bcryptForm().outdated), [true, true, true, true])
  t.same(djangos.map(djangoForm().outdated), [false, false, false, false, false])
  t.same(['pbkdf2_sha256$260000$s$aA==', 'pbkdf2_sha1$1000000$s$aA==', ...bcrypts].map(djangoForm().outdated), [
    true,
    true,
    true,
    true,
    true,
  ])
})

t.test('[R-ENUM-2] the decoy of a form costs what its hashes cost', async (t) => {
  for (const { decoy, hash, alike } of [bcryptForm(), djangoForm()]) {
    const timed = async (stored: string) => {
      const started = performance.now()
      t.equal(await readOldHash(stored)!('wrong horse battery'), false)
      return performance.now() - started
    }
    const own = await hash(password)
    t.equal(alike(own), true)
    t.equal(alike(decoy), true)
    t.equal(await readOldHash(own)!(password), true)
    t.equal(own.length, decoy.length)
    const [real, vain] = [await timed(own), await timed(decoy)]
    // One that is refused as malformed takes no time at all.
    t.ok(vain > real / 4, `${vain} ms instead of ${real} ms`)
  }
  t.equal(argon2Form(owasp, []).alike(bcryptForm().decoy), false)
})

t.test('a hash that knew the whole password is not replaced by one of its beginning', async (t) => {
  const long = `${'x'.repeat(72)}SECRET-TAIL`
  const before = await argon2.hash(long, { ...owasp, algorithm: 2 })
  const { login, stored } = await open(t, { write: 'bcrypt' }, before)

  t.equal((await login(long)).status, 200)
  t.equal(await stored(), before)
  t.equal((await login(long.slice(0, 72))).status, 401)
})

t.test('what was typed in another form stays right in both', async (t) => {
  for (const write of ['bcrypt', 'django'] as const) {
    const before = await argon2.hash('p\u00e4ssw\u00f6rd12', { ...owasp, algorithm: 2 })
    const { login, stored } = await open(t, { write }, before)
    t.equal((await login('pa\u0308sswo\u0308rd12')).status, 200)
    t.equal(await stored(), before)
    t.equal((await login('p\u00e4ssw\u00f6rd12')).status, 200)
    t.not(await stored(), before)
  }
})

t.test('a NUL, at which much software stops, is no part of a password under bcrypt', async (t) => {
  const { post, login } = await open(t, { write: 'bcrypt' }, await bcrypt.hash('a\0a\0a\0a\0a', 4))

  t.match(await post('/api/register/', { username: 'bob', email: 'bob@example.org', password: 'a\0a\0a\0a\0a' }), {
    status: 400,
  })
  for (const typed of ['a\0', 'a\0a\0a\0a\0a']) t.not((await login(typed)).status, 200, JSON.stringify(typed))
})

t.test('what does not go together is refused at boot', async (t) => {
  const pepper = { id: '2026', secret: 'q8Zk3vJx5T1mNw7bRy2cLp9dHs6fGa4eUoIiXjVkBnM' }
  await t.rejects(memoryApp(t, { passwords: { write: 'bcrypt', pepper } }), {
    message: /option "passwords.pepper" must be left out with passwords.write/,
  })
  await t.rejects(memoryApp(t, { passwords: { write: 'md5' as never } }), {
    message: /option "passwords.write" must be/,
  })
})

t.test('without @node-rs/bcrypt nothing is written with it', async (t) => {
  const printed = await withoutPackage(
    t,
    '@node-rs/bcrypt',
    `const { bcryptForm } = await import('./dist/core/written-hashes.js')
    try { bcryptForm() } catch ({ message }) { console.log(message) }`,
  )

  t.match(printed, /passwords.write "bcrypt" takes the package @node-rs\/bcrypt/)
})
