import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage } from '../../lib/contracts.ts'
import { createHashQueue } from '../../lib/core/hash-queue.ts'
import { createPasswords, type PasswordHashing } from '../../lib/core/passwords.ts'
import { legacyHashes } from '../../lib/options/rules.ts'
import { sampleUser } from '../../lib/testing/samples.ts'
import { memoryApp } from '../helpers/app.ts'
import { withoutPackage } from '../helpers/program.ts'

const vectors: { by: string; password: string; stored: string }[] = JSON.parse(
  readFileSync(new URL('../vectors/old-hashes.json', import.meta.url), 'utf8'),
)
const owasp = { memoryCost: 19_456, timeCost: 2, parallelism: 1 }
const right = 'correct horse battery'
const email = 'ada@example.org'
const of = (by: string) => vectors.find((vector) => vector.by.includes(by) && vector.password === right)!.stored
const bcrypt = of('bcrypt 3.2.2')

function rules(given: Partial<PasswordHashing> = {}) {
  const alarms: unknown[] = []
  const log = { error: (...args: unknown[]) => alarms.push(args) } as never
  return { alarms, ...createPasswords({ argon2: owasp, ...given }, createHashQueue(2), log) }
}

async function addUser(storage: Storage, passwordHash: string): Promise<() => Promise<string>> {
  await storage.insertUser(sampleUser({ email, emailCanonical: email, passwordHash }))
  return async () => (await storage.findUserByEmail(email))?.passwordHash as string
}

t.test('hashes of other software verify as they are', async (t) => {
  const { verify, usable, alarms } = rules()
  for (const { by, password, stored } of vectors) {
    t.equal(usable(stored), true, `${by}: ${stored}`)
    t.equal(await verify(stored, password), true, `${by}: ${stored}`)
  }
  for (const stored of new Map(vectors.map(({ by, stored }) => [by, stored])).values()) {
    t.equal(await verify(stored, 'wrong horse battery'), false, stored)
    t.equal(await verify(stored, '\ud800'), false, stored)
  }
  t.same(alarms, [])
})

t.test('they hash what was typed: another form of the same letters is another password', async (t) => {
  const { verify } = rules()
  const [composed, decomposed] = ['l\u00e8tmein', 'le\u0300tmein']
  for (const { by, password, stored } of vectors.filter(({ password }) => password === decomposed)) {
    // As always for argon2: what is typed composed is looked for composed, whoever has stored it.
    t.equal(await verify(stored, composed), false, by)
    t.equal(await verify(stored, password), true, by)
  }
})

t.test('a malformed or too costly hash is never verified, and told', async (t) => {
  const { verify, usable, alarms } = rules()
  const cut = (stored: string) => stored.slice(0, -1)
  const bad = [
    ...[bcrypt, of('bcrypt_sha256')].flatMap((stored) => [cut(stored), `${stored}\n`, `${stored}A`]),
    ...['03', '16', '31', '99'].map((rounds) => bcrypt.replace('$10$', `$${rounds}$`)),
    ...['$2$', '$2x$', '$2c$'].map((prefix) => bcrypt.replace(/^\$2.\$/, prefix)),
    ...['0', '5000001', '99999999', '1e5', '-1'].map((n) => of('pbkdf2_sha256').replace('260000', n)),
    of('pbkdf2_sha256').replace('pbkdf2_sha256', 'pbkdf2_md5'),
    of('pbkdf2_sha256').replace('pbkdf2_sha256', 'pbkdf2_sha1'),
    of('pbkdf2_sha256').replace(/\$[^$]+$/, '$c2hvcnQ='),
    ...['0', '1', '16383', '4194304', '99999999'].map((n) => of('as Django lays it out').replace('$16384$', `$${n}$`)),
    of('as Django lays it out').replace('$8$1$', '$8$999$'),
    of('Passlib 1.7.4 scrypt').replace('ln=14,r=8', 'ln=17,r=1'),
    of('argon2-cffi').replace(/.{4}$/, 'a_b_'),
    of('as Django lays it out').replace('$8$1$', '$0$1$'),
    ...['0', '30', '99'].map((ln) => of('Passlib 1.7.4 scrypt').replace('ln=14', `ln=${ln}`)),
    of('PHC string').replace('i=20000', 'i=5000001'),
    of('argon2-cffi').replace('m=65536', 'm=4294967295'),
    `argon2${of('argon2-cffi').replace('m=65536', 'm=4294967295')}`,
    'bcrypt$',
    '!Kx9',
    'sha1$salt$0123456789012345678901234567890123456789',
    `pbkdf2_sha256$1000$${'s'.repeat(129)}$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g=`,
  ]
  for (const stored of bad) {
    const unusable = t.equal(usable(stored), false, stored)
    // It may take minutes otherwise.
    if (unusable) t.equal(await verify(stored, right), false, stored)
  }
  t.equal(alarms.length, bad.length)
})

t.test('[R-HASH-4] a log-in replaces a hash of other software by one of ours', async (t) => {
  for (const by of ['pbkdf2_sha256', 'bcrypt_sha256', 'Django 3.2.25 bcrypt', 'bcrypt 3.2.2', 'Passlib 1.7.4 scrypt']) {
    const storage = memoryStorage()
    const stored = await addUser(storage, of(by))
    const { post, get } = await memoryApp(t, { storage, passwords: {} })

    t.equal((await post('/api/login/', { email, password: 'wrong horse battery' })).status, 401)
    t.equal(await stored(), of(by), 'a refused one replaces nothing')
    const { status, body } = await post('/api/login/', { email, password: right })

    t.equal(status, 200, by)
    t.match(await stored(), /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/)
    t.equal((await post('/api/login/', { email, password: right })).status, 200)
    t.equal((await get('/auth/user/', body.access)).status, 200)
  }
})

t.test('a stronger argon2 hash of other software stays, and so does every hash with upgrade: false', async (t) => {
  const { outdated } = rules()
  t.equal(outdated(of('argon2-cffi'), right), false)
  t.equal(outdated(of('Django 3.2.25 argon2'), right), false)
  t.equal(outdated(of('Django 3.2.25 argon2').replace('m=102400', 'm=8192'), right), true)

  const storage = memoryStorage()
  const stored = await addUser(storage, bcrypt)
  const { post } = await memoryApp(t, { storage, passwords: { upgrade: false } })
  t.equal((await post('/api/login/', { email, password: right })).status, 200)
  t.equal(await stored(), bcrypt)
})

t.test('of a long password bcrypt knows 72 bytes: what comes after them is never made the password', async (t) => {
  const { password, stored: long } = vectors.find(
    ({ by, password }) => by === 'bcrypt 3.2.2' && password.length === 80,
  )!
  const storage = memoryStorage()
  const stored = await addUser(storage, long)
  const { post } = await memoryApp(t, { storage, passwords: {} })

  for (const typed of [password, `${password.slice(0, 72)}mistyped`]) {
    t.equal((await post('/api/login/', { email, password: typed })).status, 200)
    t.equal(await stored(), long)
  }
  t.equal((await post('/api/login/', { email, password: password.slice(0, 71) })).status, 401)
  t.equal((await post('/api/login/', { email, password: password.slice(0, 72) })).status, 200)
  t.match(await stored(), /^\$argon2id/)
})

t.test('bits after the last one of a bcrypt salt or tag, as old libraries wrote them, do not matter', async (t) => {
  const { verify } = rules()
  const alphabet = './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'
  const later = (at: number) => alphabet[alphabet.indexOf(bcrypt[at]!) + 1]!
  const dirty = [`${bcrypt.slice(0, 28)}${later(28)}${bcrypt.slice(29)}`, `${bcrypt.slice(0, -1)}${later(59)}`]
  for (const stored of dirty) {
    t.equal(await verify(stored, right), true, stored)
    t.equal(await verify(stored, 'wrong horse battery'), false, stored)
  }
})

t.test('a form of the host’s is asked before ours, and has no time without end', async (t) => {
  const own = rules({ legacy: { form: /^\$2a\$/, verify: async (_stored, password) => password === 'mine' } })
  t.equal(await own.verify(bcrypt, 'mine'), true)
  t.equal(await own.verify(bcrypt, right), false)
})

t.test('hashes of a form of the host’s verify by its function', async (t) => {
  const salted = (password: string) => createHash('sha256').update(`salt:${password}`).digest('hex')
  const legacy = {
    form: /^sha:/g,
    verify: async (stored: string, password: string) => stored === `sha:${salted(password)}`,
  }
  const storage = memoryStorage()
  const stored = await addUser(storage, `sha:${salted(right)}`)
  const { app, post } = await memoryApp(t, { storage, passwords: { legacy } })

  t.equal((await post('/api/login/', { email, password: 'wrong horse battery' })).status, 401)
  t.equal((await post('/api/login/', { email, password: right })).status, 200)
  t.match(await stored(), /^\$argon2id/)
  t.equal((await post('/api/login/', { email, password: right })).status, 200)
  const imported = await app.accounts.users.import([
    { username: 'old', email: 'old@example.org', passwordHash: `sha:${salted('x')}` },
    { username: 'odd', email: 'odd@example.org', passwordHash: `md5:${salted('x')}` },
    { username: 'bob', email: 'bob@example.org', passwordHash: bcrypt },
  ])
  t.match(imported, [{ id: 2 }, { refused: 'hash_unusable' }, { id: 3 }])
})

t.test('a function of the host’s that fails or returns no boolean refuses, and is logged', async (t) => {
  const faults = [() => 'yes' as never, () => Promise.reject(new Error('broken')), () => undefined as never]
  for (const verify of faults) {
    const legacy = legacyHashes('passwords.legacy', { form: /^sha:/, verify })
    const hashing = rules({ legacy })
    t.equal(await hashing.verify('sha:x', right), false)
    t.equal(hashing.alarms.length, 1)
  }
})

t.test('without @node-rs/bcrypt a bcrypt hash is refused, and the log names the package', async (t) => {
  const printed = await withoutPackage(
    t,
    '@node-rs/bcrypt',
    `const { createPasswords } = await import('./dist/core/passwords.js')
    const { createHashQueue } = await import('./dist/core/hash-queue.js')
    const log = { error: (text) => console.log(text) }
    const { verify, usable } = createPasswords({ argon2: ${JSON.stringify(owasp)} }, createHashQueue(2), log)
    console.log(usable(${JSON.stringify(bcrypt)}), await verify(${JSON.stringify(bcrypt)}, ${JSON.stringify(right)}))`,
  )

  t.match(printed, /takes the package @node-rs\/bcrypt\nfalse false/)
})
