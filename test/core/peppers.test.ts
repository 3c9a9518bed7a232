// First, or the library has the uncounted functions.
import '../helpers/counted-argon2.ts'
import { randomBytes } from 'node:crypto'
import * as argon2 from '@node-rs/argon2'
import t, { type Test } from 'tap'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage } from '../../lib/contracts.ts'
import { createHashQueue } from '../../lib/core/hash-queue.ts'
import { createPasswords } from '../../lib/core/passwords.ts'
import { cheapHashes } from '../../lib/options/rules.ts'
import { type Pepper, peppers } from '../../lib/options/secrets.ts'
import { sampleUser } from '../../lib/testing/samples.ts'
import { accountsOf, memoryApp, openDatabase, secret } from '../helpers/app.ts'
import { calls } from '../helpers/counted-argon2.ts'
import { noPostgres } from '../helpers/helper.ts'

const owasp = { memoryCost: 19_456, timeCost: 2, parallelism: 1 }
const work = { memoryCost: 19_456, timeCost: 2 }
const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse battery' }
const refused = { status: 401, body: { code: 'ACCOUNTS_CREDENTIALS_INVALID' } }
const [first, second] = ['2025', '2026_b-z'].map((id) => ({ id, secret: randomBytes(32).toString('base64url') })) as [
  Pepper,
  Pepper,
]

type Given = Pepper | readonly (Pepper | null)[] | undefined

/** The hashing by itself, with the alarms it gave. */
function rules(given: Given, cost = owasp) {
  const alarms: string[] = []
  const log = { error: (text: string) => alarms.push(text) } as never
  const pepper = peppers('passwords.pepper', given)
  return { alarms, ...createPasswords({ argon2: cost, pepper }, createHashQueue(2), log) }
}

/** An app with these peppers whose hashes cost next to nothing. */
function peppered(t: Test, storage: Storage, pepper: Given, more: object = {}) {
  return memoryApp(t, { storage, passwords: { argon2: cheapHashes, ...(pepper && { pepper }) }, ...more })
}

async function storedHash(storage: Storage, { email } = ada): Promise<string> {
  return (await storage.findUserByEmail(email))?.passwordHash as string
}

async function addUser(storage: Storage, name: string, passwordHash: string): Promise<string> {
  const email = `${name}@example.org`
  const user = { username: name, usernameCanonical: name, email, emailCanonical: email, passwordHash }
  const stored = await storage.insertUser(sampleUser(user))
  if (typeof stored === 'string') throw new Error(`A new user was refused: ${stored}`)
  return email
}

function keyIdIn(hash: string): string | null {
  const [, keyId] = /^\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+(?:,keyid=([A-Za-z0-9+/]+))?\$[^$]+\$[^$]+$/.exec(hash)!
  return keyId === undefined ? null : Buffer.from(keyId, 'base64').toString()
}

t.test('[R-HASH-5] a hash names its pepper, and is keyed argon2 over the bytes of its secret', async (t) => {
  for (const pepper of [
    first,
    second,
    { id: 'x', secret: `${first.secret} ä` },
    { ...first, id: 'sixteen_letters-' },
  ]) {
    const { hash, verify, usable, outdated } = rules(pepper)

    const stored = await hash(ada.password)

    t.equal(keyIdIn(stored), pepper.id)
    t.ok(stored.length < 160)
    t.strictSame([usable(stored), outdated(stored, '')], [true, false])
    t.equal(await verify(stored, ada.password), true)
    t.equal(await verify(stored, 'wrong horse battery'), false)
    const plain = stored.replace(/,keyid=[^$]+/, '')
    t.equal(await argon2.verify(plain, ada.password, { secret: Buffer.from(pepper.secret) }), true)
    t.equal(await argon2.verify(plain, ada.password), false)
    t.equal(await verify(plain, ada.password), false, 'a hash that lost its id does not verify')
    // What other programs read.
    t.match(argon2.parseOptions(stored), { memoryCost: 19_456, timeCost: 2, saltLen: 16, outputLen: 32 })
  }
})

t.test('[R-HASH-5] [R-HASH-4] a hash of no pepper, or of another than the first, is outdated', async (t) => {
  const hashes = {
    none: await rules(undefined).hash('x'),
    first: await rules(first).hash('x'),
    second: await rules(second).hash('x'),
    strong: await rules(first, { ...owasp, timeCost: 4 }).hash('x'),
  }
  const judged = (given: Given) => {
    const { outdated } = rules(given)
    return Object.entries(hashes).flatMap(([name, stored]) => (outdated(stored, '') ? name : []))
  }

  t.strictSame(judged(undefined), ['first', 'second', 'strong'])
  t.strictSame(judged([first, second]), ['none', 'second'])
  t.strictSame(judged([second, first]), ['none', 'first', 'strong'])
  t.strictSame(judged([null, first, second]), ['first', 'second', 'strong'])
})

const stores: Record<string, (t: Test) => Promise<Storage>> = {
  memory: async () => memoryStorage(),
  PostgreSQL: async (t) => kyselyStorage((await openDatabase(t)).db),
}

/** From no pepper over two of them back to none, so that two configurations that meet in a deploy go together. */
const rotation: Given[] = [
  undefined,
  [null, first],
  first,
  [first, second],
  [second, first],
  second,
  [null, second],
  undefined,
]

for (const [store, open] of Object.entries(stores)) {
  t.test(`peppers over the ${store}`, { skip: store === 'PostgreSQL' && noPostgres }, async (t) => {
    await t.test('[R-HASH-5] peppers are introduced, rotated and given up, and everybody logs in', async (t) => {
      const storage = await open(t)
      const seen: (string | null)[] = []
      for (const [step, pepper] of rotation.entries()) {
        const { post } = await peppered(t, storage, pepper)
        const newcomer = { ...ada, username: `ada${step}`, email: `ada${step}@example.org` }
        t.match(await post('/api/register/', newcomer), { status: 201 })
        for (let user = 0; user <= step; user++) {
          const { email } = { email: `ada${user}@example.org` }
          t.match(await post('/api/login/', { email, password: 'wrong horse battery' }), refused)
          t.match(await post('/api/login/', { ...ada, email }), { status: 200 }, `step ${step}, user ${user}`)
          seen[user] = keyIdIn(await storedHash(storage, { ...ada, email }))
        }
        t.strictSame(new Set(seen), new Set([[pepper].flat()[0]?.id ?? null]), `step ${step}`)
      }
    })

    await t.test('[R-HASH-5] while a step of a rotation is deployed, no instance refuses a password', async (t) => {
      for (const [step, before] of rotation.slice(0, -1).entries()) {
        const storage = await open(t)
        const instances = [await peppered(t, storage, before), await peppered(t, storage, rotation[step + 1])]
        for (const [at, { post }] of instances.entries()) {
          const user = { ...ada, username: `ada${at}`, email: `ada${at}@example.org` }
          t.match(await post('/api/register/', user), { status: 201 })
          for (const { post } of [...instances, ...instances]) {
            t.match(await post('/api/login/', user), { status: 200 }, `step ${step}, registered at ${at}`)
          }
        }
      }
    })

    await t.test('[R-HASH-5] another secret, or another name of the realm, changes no hash', async (t) => {
      const storage = await open(t)
      const before = await peppered(t, storage, first)
      await before.post('/api/register/', ada)
      const stored = await storedHash(storage)

      for (const more of [
        { secret: [`${secret}-new`, secret] },
        { secret: `${secret}-new` },
        { name: 'members' },
        { secret: `${secret}-newer`, name: 'staff' },
      ]) {
        const { post } = await peppered(t, storage, first, more)
        t.match(await post('/api/login/', ada), { status: 200 })
        t.equal(await storedHash(storage), stored)
      }
    })

    await t.test('[R-HASH-4] [R-HASH-5] of many logins at once one moves the hash to the new pepper', async (t) => {
      const storage = await open(t)
      await (await peppered(t, storage, first)).post('/api/register/', ada)
      const replaced: Promise<boolean>[] = []
      let go = () => {}
      const everybody = new Promise<void>((resolve) => {
        go = resolve
      })
      // All have verified the old hash before one is replaced.
      const gathered: Storage = {
        ...storage,
        replacePasswordHash(...change) {
          const done = everybody.then(() => storage.replacePasswordHash(...change))
          if (replaced.push(done) === 8) go()
          return done
        },
      }
      const { post } = await peppered(t, gathered, [second, first])

      const logins = await Promise.all(Array.from({ length: 8 }, () => post('/api/login/', ada)))

      t.strictSame([...new Set(logins.map(({ status }) => status))], [200])
      t.equal((await Promise.all(replaced)).filter(Boolean).length, 1)
      t.equal(keyIdIn(await storedHash(storage)), second.id)
    })

    await t.test('[R-HASH-4] [R-HASH-5] a change of the password wins over the move to a new pepper', async (t) => {
      const storage = await open(t)
      await (await peppered(t, storage, first)).post('/api/register/', ada)
      const changed = await rules([second], cheapHashes).hash('another horse battery')
      // Right before the login that has verified the old password stores its hash.
      const raced: Storage = {
        ...storage,
        async replacePasswordHash(id, oldHash, newHash) {
          const { credentialVersion: fence } = (await storage.findUserById(id))!
          await storage.changeCredentials({
            ...{ userId: id, fence, credentialVersion: fence + 1, now: Date.now() },
            ...{ set: { passwordHash: changed }, sessions: 'end', start: null, mails: [] },
          })
          return storage.replacePasswordHash(id, oldHash, newHash)
        },
      }
      const { post } = await peppered(t, raced, [second, first])

      t.match(await post('/api/login/', ada), { status: 200 })

      t.equal(await storedHash(storage), changed)
      t.match(await post('/api/login/', ada), refused)
      t.match(await post('/api/login/', { ...ada, password: 'another horse battery' }), { status: 200 })
    })
  })
}

/** An app at the default cost, whose logins tell what argon2 did and what the log was told. */
async function countedApp(t: Test, storage: Storage, pepper: Given) {
  const lines: string[] = []
  const stream = { write: (line: string) => void lines.push(line) }
  const passwords = pepper ? { pepper } : {}
  const { app } = await memoryApp(t, { storage, passwords }, { logger: { level: 'info', stream } })
  return async (email: string, password: string) => {
    calls.length = 0
    lines.length = 0
    const { statusCode, body } = await app.inject({ method: 'POST', url: '/api/login/', payload: { email, password } })
    const logged = lines.map((line) => JSON.parse(line))
    return {
      answer: { statusCode, body },
      calls: [...calls],
      alarms: logged.filter(({ level }) => level >= 50).map(({ msg }) => msg as string),
      reasons: logged.flatMap(({ event, reason }) => (event === 'accounts.loginFail' ? reason : [])),
    }
  }
}

t.test('[R-HASH-5] [R-ENUM-2] a hash of whatever pepper costs one argon2, as an unknown account does', async (t) => {
  const storage = memoryStorage()
  const users = {
    none: await addUser(storage, 'none', await rules(undefined).hash(ada.password)),
    first: await addUser(storage, 'first', await rules(first).hash(ada.password)),
    second: await addUser(storage, 'second', await rules(second).hash(ada.password)),
  }

  for (const pepper of [first, [first, second], [null, first, second], undefined] as Given[]) {
    const login = await countedApp(t, storage, pepper)
    const unknown = await login('nobody@example.org', 'wrong horse battery')
    t.match(unknown, { answer: { statusCode: 401 }, calls: [work], alarms: [] })
    for (const email of Object.values(users)) {
      const { answer, calls } = await login(email, 'wrong horse battery')
      t.strictSame(answer, unknown.answer, email)
      t.strictSame(calls, [work], email)
    }
  }
})

t.test('[R-HASH-5] without the pepper of a hash the password is wrong, and an alarm names the id', async (t) => {
  const storage = memoryStorage()
  const rows = {
    dropped: await rules(first).hash(ada.password),
    costly: await rules(first, { ...owasp, timeCost: 3 }).hash(ada.password),
    foreign: (await rules(first).hash(ada.password)).replace(/keyid=\w+/, 'keyid=CgobWzJK'),
  }
  const emails = await Promise.all(Object.entries(rows).map(([name, hash]) => addUser(storage, name, hash)))
  const names = ['"2025"', '"2025"', JSON.stringify('\n\n\u001b[2J')]

  for (const pepper of [second, undefined] as Given[]) {
    const login = await countedApp(t, storage, pepper)
    const unknown = await login('nobody@example.org', ada.password)
    for (const [index, email] of emails.entries()) {
      const { answer, calls, alarms, reasons } = await login(email, ada.password)
      t.strictSame(answer, unknown.answer)
      t.strictSame(calls, [work])
      const lacks = `a stored password hash has the pepper ${names[index]}, which passwords.pepper lacks`
      t.strictSame(alarms, [`fastify-accounts: ${lacks}`])
      t.strictSame(reasons, ['password'])
    }
    for (const [name, stored] of Object.entries(rows)) t.equal(rules(pepper).usable(stored), false, name)
  }
})

t.test('[R-HASH-5] another secret under the same id is a wrong password', async (t) => {
  const storage = memoryStorage()
  const email = await addUser(storage, 'ada', await rules(first).hash(ada.password))

  for (const wrong of [second.secret, `${first.secret}x`, `x${first.secret}`, first.secret.slice(0, -1)]) {
    const login = await countedApp(t, storage, { ...first, secret: wrong })
    const { answer, calls, alarms, reasons } = await login(email, ada.password)
    t.equal(answer.statusCode, 401)
    t.strictSame([calls, alarms, reasons], [[work], [], ['password']])
  }
})

t.test('[R-HASH-5] hashes are imported with the pepper that they name, if it is there', async (t) => {
  const storage = memoryStorage()
  const { post, app } = await peppered(t, storage, [second, first])
  const hashes = {
    none: await rules(undefined).hash(ada.password),
    first: await rules(first).hash(ada.password),
    second: await rules(second).hash(ada.password),
    third: await rules({ id: '2024', secret: `${first.secret}-third` }).hash(ada.password),
  }
  const users = Object.entries(hashes).map(([name, passwordHash]) => ({ email: `${name}@example.org`, passwordHash }))

  const outcomes = await accountsOf({ app }).users.import(users)

  t.match(outcomes, [{ id: Number }, { id: Number }, { id: Number }, { refused: 'hash_unusable' }])
  for (const name of ['none', 'first', 'second'] as const) {
    const email = `${name}@example.org`
    t.equal(await storedHash(storage, { ...ada, email }), hashes[name])
    t.match(await post('/api/login/', { ...ada, email }), { status: 200 })
    t.equal(keyIdIn(await storedHash(storage, { ...ada, email })), second.id)
  }
})

t.test('[R-HASH-5] every way to set a password hashes with the first pepper', async (t) => {
  const storage = memoryStorage()
  const { post, app, mailer } = await peppered(t, storage, [second, first])
  const { users } = accountsOf({ app })
  const named = async () => keyIdIn(await storedHash(storage))
  const user = await users.create(ada)
  const ways = {
    create: await named(),
    setPassword: await users.setPassword(user.id, 'another horse battery').then(named),
    change: await (async () => {
      const { access } = (await post('/api/login/', { ...ada, password: 'another horse battery' })).body
      const body = { current_password: 'another horse battery', new_password: ada.password }
      t.match(await post('/auth/change_password/', body, { authorization: `Bearer ${access}` }), { status: 200 })
      return named()
    })(),
    reset: await (async () => {
      const { token } = (await post('/auth/email_request/', { email: ada.email })).body
      const { code: otp } = mailer.sent.at(-1) as { code: string }
      t.match(await post('/auth/check_otp/', { token, otp }), { status: 200 })
      const reset = { token, new_password: 'another horse battery' }
      t.match(await post('/auth/reset_password/', reset), { status: 200 })
      return named()
    })(),
  }

  t.strictSame(new Set(Object.values(ways)), new Set([second.id]))
})
