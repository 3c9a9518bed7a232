import assert from 'node:assert/strict'
import type { NewUser, Storage } from '../contracts.ts'
import {
  day,
  hostileTexts,
  impossibleIds,
  passwordChange,
  race,
  rule,
  sampleDeletion,
  sampleSession,
  sampleUser,
  start,
  storableTexts,
  storedSession,
  storedUser,
  uniqueName,
} from './samples.ts'

/** The part of `storageContract` about users who are stored and found. */
export const userContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'a stored user is found by id and by e-mail with every field',
    async run(subject) {
      for (const change of [{}, { emailVerifiedAt: start + 1, role: 'admin', expiresAt: start + day }]) {
        const { id, ...user } = await storedUser(subject, change)

        const { usernameCanonical, passwordHash, emailCanonical, ...shown } = user
        const found = { ...shown, id, active: true }
        assert.deepEqual(await subject.findUserById(id), found)
        assert.deepEqual(await subject.findUserByEmail(emailCanonical), { ...found, passwordHash })
        assert.deepEqual(await subject.findUserWithPassword(id), { ...found, passwordHash })
        assert.equal(typeof id, subject.ids === 'integer' ? 'number' : 'string')
      }
    },
  },
  {
    name: '[R-SQL-3] a user found by id never carries a password hash',
    async run(subject) {
      const { id, passwordHash } = await storedUser(subject)

      assert.ok(!JSON.stringify(await subject.findUserById(id)).includes(passwordHash as string))
    },
  },
  {
    name: 'users without a username never conflict',
    async run(subject) {
      const results = await race(() => subject.insertUser(sampleUser({ username: null, usernameCanonical: null })))

      assert.ok(results.every((result) => typeof result === 'object'))
    },
  },
  {
    name: '[R-REG-1] exactly one of 50 callers with the same e-mail is stored',
    async run(subject) {
      const { email, emailCanonical } = sampleUser()

      const results = await race(() => subject.insertUser(sampleUser({ email, emailCanonical })))

      assert.equal(results.filter((result) => typeof result === 'object').length, 1)
      assert.equal(results.filter((result) => result === 'email_taken').length, 49)
    },
  },
  {
    name: '[R-REG-1] exactly one of 50 callers with the same username is stored',
    async run(subject) {
      const { username, usernameCanonical } = sampleUser()

      const results = await race(() => subject.insertUser(sampleUser({ username, usernameCanonical })))

      assert.equal(results.filter((result) => typeof result === 'object').length, 1)
      assert.equal(results.filter((result) => result === 'username_taken').length, 49)
    },
  },
  {
    name: 'a taken e-mail address is reported before a taken username',
    async run(subject) {
      const one = await storedUser(subject)
      const other = await storedUser(subject)

      assert.equal(await subject.insertUser(sampleUser({ ...one, id: undefined } as object)), 'email_taken')
      const mixed = { usernameCanonical: one.usernameCanonical, emailCanonical: other.emailCanonical }
      assert.equal(await subject.insertUser(sampleUser(mixed)), 'email_taken')
    },
  },
  {
    name: '[R-SQL-2] canonical forms are unique bytewise: case, accents, spaces and 4-byte letters differ',
    async run(subject) {
      const name = uniqueName()
      const endings = [
        'e',
        'E',
        'é',
        'e\u0301',
        'ss',
        'ß',
        'e ',
        ' e',
        'e\t',
        'i',
        'ı',
        'İ',
        '😀',
        '😁',
        '\u200b',
        '\uffff',
      ]
      const forms = endings.map((ending) => name + ending)

      for (const form of forms) await storedUser(subject, { usernameCanonical: form, emailCanonical: form })

      for (const form of forms) {
        const again = sampleUser({ usernameCanonical: form })
        assert.equal(await subject.insertUser(again), 'username_taken', JSON.stringify(form))
        assert.equal((await subject.findUserByEmail(form))?.active, true, JSON.stringify(form))
      }
    },
  },
  {
    name: 'names of object members are names like any other',
    async run(subject) {
      for (const usernameCanonical of ['__proto__', 'constructor', 'toString']) {
        // Stored by an earlier run on the same store, perhaps.
        await subject.insertUser(sampleUser({ usernameCanonical }))

        assert.equal(await subject.insertUser(sampleUser({ usernameCanonical })), 'username_taken')
      }
    },
  },
  {
    name: 'a profile comes back as it was given',
    async run(subject) {
      const profile = {
        text: 'line\nbreak "quoted" \\u0000 \\ 😀 ¿',
        number: -0.1,
        large: Number.MAX_SAFE_INTEGER,
        yes: true,
        nothing: null,
        snake_case: { camelCase: [1, [2, { deep: ['x'] }], {}], '': 'empty key' },
      }

      const { id } = await storedUser(subject, { profile })

      assert.deepEqual((await subject.findUserById(id))?.profile, profile)
    },
  },
  {
    name: 'a member of a profile that is named `__proto__` comes back or is left out, and is no prototype',
    async run(subject) {
      const profile = JSON.parse('{ "plan": { "__proto__": { "own": true } }, "__proto__": { "own": true } }')

      const { id } = await storedUser(subject, { profile })
      await subject.updateUser({ id, profile })

      const found = (await subject.findUserById(id))?.profile as { plan: object }
      for (const object of [found, found.plan]) assert.equal(Object.getPrototypeOf(object), Object.prototype)
      assert.deepEqual(
        Object.keys(found).filter((name) => name !== '__proto__'),
        ['plan'],
      )
    },
  },
  {
    name: 'changing the object that was stored changes nothing in the store',
    async run(subject) {
      const profile = { tags: ['a'] }
      const { id } = await storedUser(subject, { profile: profile as NewUser['profile'] })

      profile.tags.push('b')
      const found = await subject.findUserById(id)
      Object.assign(found?.profile as object, { tags: 'c' })

      assert.deepEqual((await subject.findUserById(id))?.profile, { tags: ['a'] })
    },
  },
  {
    name: '[R-SQL-2] values that the store cannot hold are invalid, and nothing is stored',
    async run(subject) {
      const invalid: object[] = [
        { username: 'a\0b' },
        { email: 'a\ud800b' },
        { passwordHash: '\udc00' },
        { profile: { text: 'a\0b' } },
        { profile: { 'key\0': 1 } },
        { profile: { deep: [{ text: '\ud83d' }] } },
        { credentialVersion: 2 ** 70 },
        { createdAt: 1.5 },
        { createdAt: Number.NaN },
        { role: 'a\0b' },
        { emailVerifiedAt: Number.NaN },
        { expiresAt: Number.POSITIVE_INFINITY },
      ]
      for (const change of invalid) {
        const user = sampleUser(change)

        assert.equal(await subject.insertUser(user), 'invalid', JSON.stringify(change))
        assert.equal(await subject.findUserByEmail(user.emailCanonical), null)
      }
    },
  },
  {
    name: '[R-SQL-1] hostile texts are stored as they are and find nobody else',
    async run(subject) {
      for (const text of hostileTexts) assert.equal(await subject.findUserByEmail(text), null, JSON.stringify(text))
      for (const text of storableTexts) {
        const { id } = await storedUser(subject, { username: text, email: text })

        const found = await subject.findUserById(id)

        assert.deepEqual([found?.username, found?.email], [text, text])
      }
    },
  },
  {
    name: '[R-SQL-1] an id that cannot be a user’s finds nobody, in any verb',
    async run(subject) {
      await storedUser(subject)
      for (const id of impossibleIds) {
        assert.equal(await subject.findUserById(id), null)
        assert.equal(await subject.findUserWithPassword(id), null)
        assert.equal(await subject.updateUser({ id, profile: {} }), null)
        assert.equal(await subject.setRole(id, 'admin'), false)
        assert.equal(await subject.replacePasswordHash(id, '$argon2id$old', 'x'), false)
        assert.equal(await subject.changeCredentials(passwordChange({ id, credentialVersion: 1 })), 'stale')
        assert.equal(await subject.deleteUser(sampleDeletion({ id, credentialVersion: 1 })), 'stale')
        assert.equal(await subject.insertSession(sampleSession({ id, credentialVersion: 1 }), 1000), null)
        assert.equal(await subject.sessionActive(uniqueName(), id, start), false)
        assert.deepEqual(await subject.listSessions(id, 1000, start), [])
        assert.deepEqual(await subject.endSessions(id, start), [])
        assert.deepEqual(await subject.listEvents(id, { limit: 10 }), [])
      }
    },
  },
  {
    name: '[R-HASH-4] exactly one of 50 callers replaces a password hash, and the sessions go on',
    async run(subject) {
      const oldHash = '$argon2id$older'
      const user = await storedUser(subject, { passwordHash: oldHash })
      const session = await storedSession(subject, {}, user)

      const results = await race((index) => subject.replacePasswordHash(user.id, oldHash, `new${index}`))

      const winner = results.indexOf(true)
      assert.equal(results.filter(Boolean).length, 1)
      assert.equal((await subject.findUserByEmail(user.emailCanonical))?.passwordHash, `new${winner}`)
      assert.equal(await subject.sessionActive(session.id, user.id, start), true)
      assert.equal((await subject.refreshSession(session.id, 0, rule, start)).result, 'accepted')
    },
  },
  {
    name: '[R-HASH-5] password hashes are counted by their keyid',
    async run(subject) {
      const keyId = `${uniqueName()}+/0`
      const hashWith = (parameter: string) => `$argon2id$v=19$m=19456,t=2,p=1${parameter}$c2FsdA+/$a2V5aWQ+/`
      async function counted(): Promise<(number | undefined)[]> {
        const counts = new Map((await subject.countPasswordHashes()).map(({ keyId, count }) => [keyId, count]))
        return [counts.get(keyId), counts.get(null) ?? 0]
      }
      const [, without] = await counted()

      for (const parameter of ['', `,keyid=${keyId}`, `,keyid=${keyId}`]) {
        await storedUser(subject, { passwordHash: hashWith(parameter) })
      }
      const changed = await storedUser(subject, { passwordHash: hashWith(`,keyid=${keyId}`) })
      await subject.replacePasswordHash(changed.id, changed.passwordHash as string, hashWith(''))
      await storedUser(subject, { passwordHash: null })

      assert.deepEqual(await counted(), [2, without! + 2])
    },
  },
  {
    name: '[R-ENUM-2] a sample of the password hashes has those of different users, and no more than are asked for',
    async run(subject) {
      const hashes = Array.from({ length: 3 }, () => `$2b$12$${uniqueName()}`)
      for (const passwordHash of hashes) await storedUser(subject, { passwordHash })
      const all = (await subject.countPasswordHashes()).reduce((sum, { count }) => sum + count, 0)

      // Others may come in meanwhile.
      const sample = await subject.samplePasswordHashes(1_000_000)
      const others = await Promise.all(Array.from({ length: 20 }, () => subject.samplePasswordHashes(1_000_000)))

      assert.ok(sample.length >= all)
      for (const hash of hashes) assert.equal(sample.filter((one) => one === hash).length, 1)
      assert.equal((await subject.samplePasswordHashes(1)).length, 1)
      const orders = others.map((one) => hashes.map((hash) => one.indexOf(hash)).join())
      assert.ok(new Set(orders).size > 1, 'it is chosen at random')
      assert.deepEqual(await subject.samplePasswordHashes(0), [])
    },
  },
]
