// First, or the library has the uncounted functions.
import '../helpers/counted-argon2.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import * as argon2 from '@node-rs/argon2'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { CredentialChange, Storage, UserWithPassword } from '../../lib/contracts.ts'
import { createHashQueue } from '../../lib/core/hash-queue.ts'
import { createPasswords } from '../../lib/core/passwords.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import accounts from '../../lib/index.ts'
import { sampleUser } from '../../lib/testing/samples.ts'
import { clientOf, memoryApp, openDatabase, secret } from '../helpers/app.ts'
import { calls } from '../helpers/counted-argon2.ts'
import { noPostgres } from '../helpers/helper.ts'

const vector = (name: string) => JSON.parse(readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8'))
const unicode: {
  verify_same: [string, string][]
  verify_different: [string, string][]
  reject: string[]
} = vector('passwords-unicode.json')

const owasp = { memoryCost: 19_456, timeCost: 2, parallelism: 1 }
/** The least that OWASP allows: cheaper than the default in no way but its memory. */
const older = { memoryCost: 7168, timeCost: 5, parallelism: 1 }
const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse battery' }
const refusedLogin = { status: 401, body: { code: 'ACCOUNTS_CREDENTIALS_INVALID' } }

/** The hashing by itself, with the alarms it gave. */
function rules({ cost = owasp } = {}) {
  const alarms: unknown[] = []
  const log = { error: (...args: unknown[]) => alarms.push(args) } as never
  return { alarms, ...createPasswords({ argon2: cost }, createHashQueue(2), log) }
}

t.test('[R-PW-2] equal forms verify, and nothing else does', async (t) => {
  const { hash, verify } = rules()

  for (const [one, other] of unicode.verify_same) t.equal(await verify(await hash(one), other), true, one)
  const last = 'x'.repeat(127)
  for (const [one, other] of [...unicode.verify_different, [`${last}A`, `${last}B`]] as [string, string][]) {
    const stored = await hash(one)
    t.equal(await verify(stored, one), true, JSON.stringify(one))
    t.equal(await verify(stored, other), false, `${JSON.stringify(one)} is not ${JSON.stringify(other)}`)
  }
})

t.test('[R-PW-3] passwords that are not well-formed are refused when set, and match nothing', async (t) => {
  const { post } = await memoryApp(t)
  const { hash, verify } = rules()

  for (const password of unicode.reject) {
    const answer = await post('/api/register/', { ...ada, password })
    t.match(answer, { status: 400, body: { code: 'ACCOUNTS_PASSWORD_REFUSED', reasons: ['ill_formed'] } })
  }
  t.match(await post('/api/login/', { ...ada, password: unicode.reject[0] }), refusedLogin)
  // argon2 takes all lone surrogates for U+FFFD.
  const stored = await hash('\ufffdlone-surrogate-pass')
  t.equal(await verify(stored, '\ud800lone-surrogate-pass'), false)
  t.equal(await verify(stored, '\ufffdlone-surrogate-pass'), true)
})

t.test('[R-PW-1] [R-HASH-7] a refused password is told why, and the bound on its length is the schema’s', async (t) => {
  const { post } = await memoryApp(t)
  const register = (password: string) => post('/api/register/', { ...ada, password })

  t.match(await register('a'.repeat(7)), { status: 400, body: { reasons: ['too_short'] } })
  t.match(await register('a'.repeat(129)), { status: 400, body: { reasons: ['too_long'] } })
  t.match(await register('a'.repeat(1024)), { status: 400, body: { code: 'ACCOUNTS_PASSWORD_REFUSED' } })
  for (const password of ['a'.repeat(1025), '😀'.repeat(513)]) {
    t.match(await register(password), {
      status: 400,
      body: { code: 'ACCOUNTS_VALIDATION', errors: [{ field: 'password' }] },
    })
    t.match(await post('/api/login/', { ...ada, password }), { status: 400 })
  }
  t.match(await register('a'.repeat(17_000)), { status: 413, body: { code: 'ACCOUNTS_BODY_TOO_LARGE' } })
  t.match(await register('é'.repeat(8)), { status: 201 })
})

t.test('[R-PW-7] the policy is not asked at log-in', async (t) => {
  const storage = memoryStorage()
  const before = await memoryApp(t, { storage })
  await before.post('/api/register/', { ...ada, password: 'eight 88' })

  const { post } = await memoryApp(t, { storage, passwords: { minLength: 15, maxLength: 64 } })

  t.equal((await post('/api/login/', { ...ada, password: 'eight 88' })).status, 200)
  t.match(await post('/api/login/', { ...ada, password: 'x' }), refusedLogin)
  t.match(await post('/api/login/', { ...ada, password: 'x'.repeat(500) }), refusedLogin)
  t.match(await post('/api/register/', { ...ada, password: 'eight 88' }), { body: { reasons: ['too_short'] } })
})

t.test('[R-HASH-1] a hash is argon2id at the configured cost, with a salt of 16 and a tag of 32 bytes', async (t) => {
  for (const cost of [owasp, older, { ...owasp, parallelism: 2 }]) {
    const { hash, outdated } = rules({ cost })
    const [one, other] = [await hash(ada.password), await hash(ada.password)]

    const [, algorithm, version, parameters, salt, tag] = one.split('$') as string[]
    t.equal(algorithm, 'argon2id')
    t.equal(version, 'v=19')
    t.equal(parameters, `m=${cost.memoryCost},t=${cost.timeCost},p=${cost.parallelism}`)
    t.equal(Buffer.from(salt as string, 'base64').length, 16)
    t.equal(Buffer.from(tag as string, 'base64').length, 32)
    t.not(one, other, 'each hash has a salt of its own')
    t.equal(outdated(one, ''), false)
  }
  const { outdated } = rules()
  t.equal(outdated(await rules({ cost: older }).hash('x'), ''), true)
})

t.test(
  '[R-HASH-4] a stored hash is outdated when it is weaker or of another variant, never when it is stronger',
  async (t) => {
    const { outdated } = rules()
    const stored = (start: string) => `${start}$${'A'.repeat(22)}$${'A'.repeat(43)}`

    for (const cost of ['m=65536,t=3,p=4', 'm=65536,t=3,p=1', 'm=47104,t=1,p=1', 'm=19456,t=2,p=2']) {
      t.equal(outdated(stored(`$argon2id$v=19$${cost}`), ''), false, cost)
    }
    for (const cost of ['m=19456,t=1,p=1', 'm=4096,t=3,p=1', 'm=7168,t=5,p=1']) {
      t.equal(outdated(stored(`$argon2id$v=19$${cost}`), ''), true, cost)
    }
    for (const variant of ['$argon2i$v=19', '$argon2d$v=19', '$argon2id$v=16', '$argon2id']) {
      t.equal(outdated(stored(`${variant}$m=65536,t=3,p=1`), ''), true, variant)
    }
  },
)

t.test('[R-HASH-1] costs below OWASP’s table are refused at boot', async (t) => {
  const weak = [
    { memoryCost: 19_455 },
    { timeCost: 1 },
    { memoryCost: 7168, timeCost: 4 },
    { memoryCost: 1024, timeCost: 10 },
  ]
  for (const argon2 of weak) {
    await t.rejects(memoryApp(t, { passwords: { argon2 } }), { name: 'TypeError', message: /"passwords\.argon2/ })
  }
  for (const argon2 of [{ memoryCost: 47_104, timeCost: 1 }, { memoryCost: 7168, timeCost: 5 }, {}])
    await t.resolves(memoryApp(t, { passwords: { argon2 } }))
})

t.test('stored hashes of the reference implementation verify', async (t) => {
  const { verify, alarms } = rules()
  const vectors: { m_kib: number; password: string; encoded: string }[] = vector('argon2-reference.json').vectors

  for (const { password, encoded } of vectors.filter(({ m_kib }) => m_kib <= 65_536)) {
    t.equal(await verify(encoded, password), true, encoded)
  }
  t.equal(await verify(vectors[0]?.encoded as string, 'drowssap'), false)
  t.same(alarms, [])
})

const salt = 'c29tZXNhbHRzb21lc2FsdA'
const tag = 'CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc'
const ofCost = (cost: string) =>
  ['argon2id', 'argon2i', 'argon2d'].map((name) => `$${name}$v=19$${cost}$${salt}$${tag}`)
/** Out of bounds, but not so far that verifying them would end this process. */
const costly = ['m=262145,t=1,p=1', 'm=19456,t=11,p=1', 'm=19456,t=2,p=17'].flatMap(ofCost)
/** These would: they are for a process of their own. */
const monstrous = ['m=4294967295,t=2,p=1', 'm=999999999,t=1,p=1', 'm=19456,t=4294967295,p=1', 'm=99999999999,t=2,p=1']
const malformed = [
  '',
  'x',
  '$',
  'plain text password',
  '5f4dcc3b5aa765d61d8327deb882cf99',
  '$1$salt$qJH7.N4xYta3aEG/dfqo/0',
  '$argon2id$v=19$m=19456,t=2,p=1$',
  `$argon2id$v=19$m=19456,t=2,p=1$${salt}`,
  `$argon2id$v=19$m=19456,t=2,p=1$${salt}$`,
  `$argon2id$v=20$m=19456,t=2,p=1$${salt}$${tag}`,
  `$argon2id$v=19$m=19456,t=0,p=1$${salt}$${tag}`,
  `$argon2id$v=19$m=19456,t=2,p=0$${salt}$${tag}`,
  `$argon2id$v=19$m=7,t=2,p=1$${salt}$${tag}`,
  `$argon2id$v=19$m=-1,t=2,p=1$${salt}$${tag}`,
  `$argon2id$v=19$m=1e9,t=2,p=1$${salt}$${tag}`,
  `$argon2x$v=19$m=19456,t=2,p=1$${salt}$${tag}`,
  `$argon2id$v=19$m=19456,t=2,p=1$${salt}$${'A'.repeat(600)}`,
  `$argon2id$v=19$m=19456,t=2,p=1$${salt}$${tag}\n`,
  `$argon2id$v=19$m=19456,t=2,p=1$!!!!!!!!!!!!!!!!!!!!!!$${tag}`,
  ...['', '!', 'A', 'A'.repeat(23), 'MjAyNg==', 'MjAyNg,keyid=MjAyNg', 'MjAyNg,data=MjAyNg'].map(
    (keyId) => `$argon2id$v=19$m=19456,t=2,p=1,keyid=${keyId}$${salt}$${tag}`,
  ),
  `$argon2id$v=19$keyid=MjAyNg,m=19456,t=2,p=1$${salt}$${tag}`,
  `$argon2id$v=19,keyid=MjAyNg$m=19456,t=2,p=1$${salt}$${tag}`,
  `$argon2id$v=19$m=19456,t=2,p=1,data=MjAyNg$${salt}$${tag}`,
  `$argon2id$v=19$m=19456,t=2,p=1$${'A'.repeat(13)}$${'A'.repeat(17)}`,
]

/** An app whose log-ins tell what argon2 did and how often the log was alarmed. */
async function countedApp(t: Test, options: Partial<AccountsOptions> = {}) {
  const errors: string[] = []
  const stream = { write: (line: string) => void errors.push(line) }
  const app = Fastify({ logger: { level: 'error', stream } })
  const parts = { storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
  await app.register(accounts, { secret, ...parts, ...options } as AccountsOptions)
  t.teardown(() => app.close())
  /** The raw answer to a log-in, and the argon2 calls that it took. */
  async function login(email: string, password: string) {
    calls.length = 0
    errors.length = 0
    const { statusCode, headers, body } = await app.inject({
      method: 'POST',
      url: '/api/login/',
      payload: { email, password },
    })
    return {
      answer: { statusCode, body, names: Object.keys(headers).sort() },
      calls: [...calls],
      alarms: errors.length,
    }
  }
  return { login, ...clientOf(app) }
}

/** A storage in which the users of these addresses have something else than what was stored. */
function altered(storage: Storage, changes: Record<string, Partial<UserWithPassword>>): Storage {
  return {
    ...storage,
    async findUserByEmail(email) {
      const user = await storage.findUserByEmail(email)
      return user && { ...user, ...changes[email] }
    },
  }
}

async function addUser(storage: Storage, name: string, passwordHash: string): Promise<void> {
  const email = `${name}@example.org`
  const stored = await storage.insertUser(
    sampleUser({ username: name, usernameCanonical: name, email, emailCanonical: email, passwordHash }),
  )
  if (typeof stored === 'string') throw new Error(`A new user was refused: ${stored}`)
}

t.test(
  '[R-ENUM-1] [R-ENUM-2] the dummy verify: every refused log-in is the same answer after one argon2 of the same cost',
  async (t) => {
    const storage = memoryStorage()
    const stored = await rules().hash(ada.password)
    for (const name of ['ada', 'disabled', 'passkey']) await addUser(storage, name, stored)
    const { login } = await countedApp(t, {
      storage: altered(storage, {
        'disabled@example.org': { active: false },
        'passkey@example.org': { passwordHash: null },
      }),
    })
    t.equal((await login('ada@example.org', ada.password)).answer.statusCode, 200)

    const refused = {
      'a wrong password': await login('ada@example.org', 'wrong horse battery'),
      'an unknown account': await login('nobody@example.org', ada.password),
      'what is no address': await login('no address at all', ada.password),
      'an empty address': await login('', ada.password),
      'a disabled user with the right password': await login('disabled@example.org', ada.password),
      'a disabled user with a wrong password': await login('disabled@example.org', 'wrong horse battery'),
      'a user without a password': await login('passkey@example.org', ada.password),
      'an empty password': await login('ada@example.org', ''),
      'an ill-formed password': await login('ada@example.org', '\ud800wrong horse'),
      'an unknown account, ill-formed': await login('nobody@example.org', '\ud800wrong horse'),
    }

    const { answer } = refused['a wrong password']
    t.equal(answer.statusCode, 401)
    t.equal(JSON.parse(answer.body).code, 'ACCOUNTS_CREDENTIALS_INVALID')
    for (const [what, result] of Object.entries(refused)) {
      t.same(result.answer, answer, `${what}: status, body and header names`)
      t.same(result.calls, [{ memoryCost: 19_456, timeCost: 2 }], `${what}: one argon2`)
      t.equal(result.alarms, 0, `${what}: no alarm`)
    }
  },
)

t.test(
  '[R-ENUM-2] a stored hash of another cost is verified alone, and some unknown accounts cost as much',
  async (t) => {
    const storage = memoryStorage()
    for (let n = 0; n < 10; n++) {
      const cost = n < 5 ? older : owasp
      await addUser(storage, `user${n}`, await argon2.hash(ada.password, { ...cost, algorithm: 2 }))
    }
    const { login } = await countedApp(t, { storage })
    const cheap = await login('user0@example.org', 'wrong horse battery')
    await new Promise(setImmediate)

    const unknown = []
    for (let n = 0; n < 40; n++) unknown.push(await login(`nobody${n}@example.org`, 'wrong horse battery'))
    const again = []
    for (let n = 0; n < 40; n++) again.push(await login(`nobody${n}@example.org`, 'wrong horse battery'))

    t.same(cheap.calls, [{ memoryCost: older.memoryCost, timeCost: older.timeCost }])
    for (const { answer, calls } of unknown) {
      t.same(answer, cheap.answer)
      t.equal(calls.length, 1)
    }
    const share = unknown.filter(({ calls }) => calls[0]?.timeCost === older.timeCost).length
    // Half of the users; less than 5 or more than 35 of 40 come up once in a million times.
    t.ok(share >= 5 && share <= 35, `${share} of 40`)
    t.same(
      again.map(({ calls }) => calls),
      unknown.map(({ calls }) => calls),
      'an address stays what it is',
    )
  },
)

t.test(
  '[R-HASH-2] [R-HASH-3] the bound on stored hashes: one out of bounds is never verified, but refused like any',
  async (t) => {
    const storage = memoryStorage()
    const rows = [...costly, ...malformed]
    for (const [index, stored] of rows.entries()) await addUser(storage, `user${index}`, stored)
    const { login } = await countedApp(t, { storage })
    const unknown = await login('nobody@example.org', ada.password)

    for (const [index, stored] of rows.entries()) {
      const { answer, calls, alarms } = await login(`user${index}@example.org`, ada.password)
      t.same(answer, unknown.answer, JSON.stringify(stored.slice(0, 60)))
      // A stored hash of our own cost may be tried first, and costs nothing where it is malformed.
      t.same(calls.at(-1), { memoryCost: 19_456, timeCost: 2 })
      t.ok(calls.every(({ memoryCost, timeCost }) => memoryCost === 19_456 && timeCost === 2))
      t.ok(calls.length === 1 || malformed.includes(stored))
      t.equal(alarms, 1, 'an alarm in the log')
    }
  },
)

t.test(
  '[R-HASH-2] the bound on stored hashes: monstrous ones neither kill the process nor take its memory',
  async (t) => {
    const rows = [...costly, ...monstrous.flatMap(ofCost)]
    const code = `
    import { createPasswords } from './dist/core/passwords.js'
    import { createHashQueue } from './dist/core/hash-queue.js'
    let alarms = 0
    const log = { error: () => void alarms++ }
    const cost = { memoryCost: 19456, timeCost: 2, parallelism: 1 }
    const passwords = createPasswords({ minLength: 8, maxLength: 128, argon2: cost }, createHashQueue(2), log)
    const rows = ${JSON.stringify(rows)}
    const right = await Promise.all(rows.map((stored) => passwords.verify(stored, 'password')))
    const megabytes = process.resourceUsage().maxRSS / 1024
    console.log(JSON.stringify({ right: right.filter(Boolean).length, alarms, megabytes }))`
    // 16 GB of addresses: Node reserves many, and 4 TB are far above.
    const shell = 'ulimit -v 16777216; exec "$0" --input-type=module -e "$1"'
    const child = spawn('sh', ['-c', shell, process.execPath, code], {
      cwd: new URL('../..', import.meta.url),
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: 30_000,
      killSignal: 'SIGKILL',
    })
    const chunks: Buffer[] = []
    child.stdout.on('data', (chunk) => chunks.push(chunk))

    const [exit] = await once(child, 'close')

    t.equal(exit, 0)
    const { right, alarms, megabytes } = JSON.parse(Buffer.concat(chunks).toString())
    t.equal(right, 0)
    t.equal(alarms, rows.length)
    t.ok(megabytes < 200, `${megabytes} MB`)
  },
)

const stores: Record<string, (t: Test) => Promise<Storage>> = {
  memory: async () => memoryStorage(),
  PostgreSQL: async (t) => kyselyStorage((await openDatabase(t)).db),
}

for (const [store, open] of Object.entries(stores)) {
  t.test(`stored hashes over the ${store}`, { skip: store === 'PostgreSQL' && noPostgres }, async (t) => {
    await t.test('[R-HASH-4] a log-in replaces a stored hash of another cost, once, and ends no session', async (t) => {
      const storage = await open(t)
      await addUser(storage, 'ada', await rules({ cost: older }).hash(ada.password))
      const { post, get } = await memoryApp(t, { storage, passwords: {} })
      const stored = async () => (await storage.findUserByEmail(ada.email))?.passwordHash as string

      t.match(await post('/api/login/', { ...ada, password: 'wrong horse' }), refusedLogin)
      t.match(await stored(), /m=7168,t=5,p=1/, 'a refused log-in replaces nothing')
      const first = await post('/api/login/', ada)
      const upgraded = await stored()
      const second = await post('/api/login/', ada)

      t.match(upgraded, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/)
      t.equal(await stored(), upgraded, 'a current hash stays')
      for (const { body } of [first, second]) t.equal((await get('/auth/user/', body.access)).status, 200)
    })

    await t.test('[R-HASH-4] a better hash of the old password never replaces a new password', async (t) => {
      const storage = await open(t)
      await addUser(storage, 'ada', await rules({ cost: older }).hash(ada.password))
      const fresh = await rules().hash('another horse battery')
      const replaced: boolean[] = []
      // The password changes after the log-in has verified the old one, right before it stores the better hash.
      const raced: Storage = {
        ...storage,
        async replacePasswordHash(id, oldHash, newHash) {
          const { credentialVersion: fence } = (await storage.findUserById(id)) ?? { credentialVersion: 0 }
          const credentialVersion = fence + 1
          await storage.changeCredentials({
            ...{ userId: id, fence, credentialVersion, now: Date.now() },
            ...{ set: { passwordHash: fresh }, sessions: 'end', start: null, mails: [] },
          })
          const done = await storage.replacePasswordHash(id, oldHash, newHash)
          replaced.push(done)
          return done
        },
      }
      const { post, get } = await memoryApp(t, { storage: raced, revocation: 'storage', passwords: {} })

      const late = await post('/api/login/', ada)

      t.same(replaced, [false])
      t.equal((await storage.findUserByEmail(ada.email))?.passwordHash, fresh)
      t.equal(late.status, 200)
      t.equal((await get('/auth/user/', late.body.access)).status, 401, 'the change ended that session')
      t.match(await post('/api/login/', ada), refusedLogin)
      t.equal((await post('/api/login/', { ...ada, password: 'another horse battery' })).status, 200)
    })

    await t.test('[R-HASH-4] log-ins and a change at the same time leave the new password', async (t) => {
      const storage = await open(t)
      for (let round = 0; round < 5; round++) {
        const email = `ada${round}@example.org`
        await addUser(storage, `ada${round}`, await rules({ cost: older }).hash(ada.password))
        const { post } = await memoryApp(t, { storage, passwords: {} })
        const user = (await storage.findUserByEmail(email)) as UserWithPassword
        const fresh = await rules().hash('another horse battery')
        const { id: userId, credentialVersion: fence } = user
        const change: CredentialChange = {
          ...{ userId, fence, credentialVersion: fence + 1, now: Date.now() },
          ...{ set: { passwordHash: fresh }, sessions: 'end', start: null, mails: [] },
        }
        const after = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

        await Promise.all([
          ...Array.from({ length: 4 }, () => post('/api/login/', { ...ada, email })),
          after(round * 25).then(() => storage.changeCredentials(change)),
        ])

        t.equal((await storage.findUserByEmail(email))?.passwordHash, fresh)
      }
    })
  })
}

t.test('a better hash that cannot be stored does not spoil the log-in', async (t) => {
  const storage = memoryStorage()
  await addUser(storage, 'ada', await rules({ cost: older }).hash(ada.password))
  const broken: Storage = {
    ...storage,
    replacePasswordHash: async () => {
      throw new Error('read-only')
    },
  }
  const { post, get } = await memoryApp(t, { storage: broken, passwords: {} })

  const { status, body } = await post('/api/login/', ada)

  t.equal(status, 200)
  t.equal((await get('/auth/user/', body.access)).status, 200)
})
