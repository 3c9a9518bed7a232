import assert from 'node:assert/strict'
import type { NewUser, Storage, UserId } from './contracts.ts'
import { refreshContract } from './testing-refresh.ts'
import {
  day,
  race,
  rule,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
  uniqueName,
} from './testing-samples.ts'

interface StorageCase {
  name: string
  run(subject: Storage): Promise<void>
}

const hostileTexts = [
  '',
  "' or '1'='1",
  "'); drop table accounts_users; --",
  '%',
  '_',
  '\\',
  '$1',
  '\0',
  '\ud800',
  '__proto__',
  'constructor',
]
const hostileIds = [...hostileTexts, '1', 'null', '00000000-0000-0000-0000-000000000000', 'x'.repeat(10_000)]
const impossibleIds = [...hostileIds, Number.NaN, 1.5, -1, 0, 2 ** 63, 1e300, Number.POSITIVE_INFINITY, [1], {}, null]

const userCases: StorageCase[] = [
  {
    name: 'a stored user is found by id and by e-mail with every field',
    async run(subject) {
      const { id, ...user } = await storedUser(subject)

      const { username, email, credentialVersion, profile, createdAt, passwordHash } = user
      const found = { id, username, email, emailVerifiedAt: null, credentialVersion, active: true, profile, createdAt }
      assert.deepEqual(await subject.findUserById(id), found)
      assert.deepEqual(await subject.findUserByEmail(user.emailCanonical), { ...found, passwordHash })
      assert.equal(typeof id, subject.ids === 'uuid' ? 'string' : 'number')
    },
  },
  {
    name: '[R-SQL-3] a user found by id never carries a password hash',
    async run(subject) {
      const { id, passwordHash } = await storedUser(subject)

      assert.ok(!JSON.stringify(await subject.findUserById(id)).includes(passwordHash))
    },
  },
  {
    name: 'users without a username never stand in each other’s way',
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
    name: 'an e-mail that is taken is told before a username that is',
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
        ...JSON.parse('{ "__proto__": { "own": true } }'),
      }

      const { id } = await storedUser(subject, { profile })

      assert.deepEqual((await subject.findUserById(id))?.profile, profile)
    },
  },
  {
    name: 'what the caller holds is not what is stored',
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
      for (const text of hostileTexts.filter((candidate) => !/[\0\ud800]/.test(candidate))) {
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
      for (const impossible of impossibleIds) {
        const id = impossible as UserId
        const change = { userId: id, fence: 1, passwordHash: 'x', credentialVersion: 2, now: start }
        assert.equal(await subject.findUserById(id), null)
        assert.equal(await subject.replacePasswordHash(id, '$argon2id$old', 'x'), false)
        assert.equal(await subject.changePassword(change), false)
        assert.equal(await subject.insertSession(sampleSession({ id, credentialVersion: 1 })), false)
        assert.equal(await subject.sessionActive(uniqueName(), id, start), false)
      }
    },
  },
  {
    name: '[R-HASH-4] exactly one of 50 callers replaces a password hash, and the sessions go on',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)

      const results = await race((index) => subject.replacePasswordHash(user.id, user.passwordHash, `new${index}`))

      const winner = results.indexOf(true)
      assert.equal(results.filter(Boolean).length, 1)
      assert.equal((await subject.findUserByEmail(user.emailCanonical))?.passwordHash, `new${winner}`)
      assert.equal(await subject.sessionActive(session.id, user.id, start), true)
      assert.equal((await subject.refreshSession(session.id, 0, rule, start)).result, 'accepted')
    },
  },
  {
    name: 'exactly one of 50 callers with the same fence changes the password',
    async run(subject) {
      const { id, credentialVersion: fence, emailCanonical } = await storedUser(subject)

      const results = await race((index) =>
        subject.changePassword({
          userId: id,
          fence,
          passwordHash: `new${index}`,
          credentialVersion: index,
          now: start,
        }),
      )

      const winner = results.indexOf(true)
      const user = await subject.findUserByEmail(emailCanonical)
      assert.equal(results.filter(Boolean).length, 1)
      assert.deepEqual([user?.passwordHash, user?.credentialVersion], [`new${winner}`, winner])
    },
  },
]

const sessionCases: StorageCase[] = [
  {
    name: '[R-SES-1] a password change ends all sessions of the user and no other’s',
    async run(subject) {
      const user = await storedUser(subject)
      const own = [await storedSession(subject, {}, user), await storedSession(subject, {}, user)]
      const foreign = await storedSession(subject)

      assert.equal(await subject.changePassword(changeOf(user, start)), true)

      for (const session of own) {
        assert.equal(await subject.sessionActive(session.id, user.id, start), false)
        assert.deepEqual(await subject.refreshSession(session.id, 0, rule, start), { result: 'dead' })
      }
      assert.equal(await subject.sessionActive(foreign.id, foreign.userId, start), true)
    },
  },
  {
    name: 'a password change behind another changes nothing',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)

      assert.equal(await subject.changePassword({ ...changeOf(user, start), fence: user.credentialVersion - 1 }), false)

      assert.equal((await subject.findUserByEmail(user.emailCanonical))?.passwordHash, user.passwordHash)
      assert.equal(await subject.sessionActive(session.id, user.id, start), true)
    },
  },
  {
    name: 'a session of other credentials or of nobody is not stored',
    async run(subject) {
      const user = await storedUser(subject)
      const old = sampleSession(user, { credentialVersion: user.credentialVersion - 1 })
      const nobody = (subject.ids === 'uuid' ? '12345678-1234-1234-1234-123456789012' : 2 ** 50) as UserId
      const orphan = sampleSession({ id: nobody, credentialVersion: user.credentialVersion })

      assert.equal(await subject.insertSession(old), false)
      assert.equal(await subject.insertSession(orphan), false)

      assert.equal(await subject.sessionActive(old.id, user.id, start), false)
      assert.equal(await subject.sessionActive(orphan.id, nobody, start), false)
    },
  },
  {
    name: '[R-SES-1] no session of the old password outlives a change that races 50 log-ins',
    async run(subject) {
      const user = await storedUser(subject)
      const sessions = Array.from({ length: 50 }, () => sampleSession(user))

      await race(async (index) => {
        if (index === 10) assert.equal(await subject.changePassword(changeOf(user, start)), true)
        await subject.insertSession(sessions[index]!)
      })

      for (const { id } of sessions) assert.equal(await subject.sessionActive(id, user.id, start), false)
    },
  },
  {
    name: '[R-SES-1] a refresh that races a password change leaves no session behind',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)

      await race(async (index) => {
        if (index === 10) assert.equal(await subject.changePassword(changeOf(user, start)), true)
        await subject.refreshSession(session.id, 0, rule, start)
      })

      assert.equal(await subject.sessionActive(session.id, user.id, start), false)
      assert.deepEqual(await subject.refreshSession(session.id, 0, rule, start), { result: 'dead' })
    },
  },
  {
    name: '[R-SES-4] a session is active for its own user only',
    async run(subject) {
      const session = await storedSession(subject)
      const other = await storedUser(subject)

      assert.equal(await subject.sessionActive(session.id, session.userId, start), true)
      assert.equal(await subject.sessionActive(session.id, other.id, start), false)
      for (const id of hostileIds) assert.equal(await subject.sessionActive(id, session.userId, start), false)
    },
  },
  {
    name: '[R-REF-4] a session is active up to its absolute end',
    async run(subject) {
      const session = await storedSession(subject)
      const end = start + 30 * day

      assert.equal(await subject.sessionActive(session.id, session.userId, end - 1), true)
      assert.equal(await subject.sessionActive(session.id, session.userId, end), false)
    },
  },
  {
    name: 'ping answers',
    async run(subject) {
      await subject.ping()
    },
  },
]

function changeOf(user: { id: UserId; credentialVersion: number }, now: number) {
  const { id: userId, credentialVersion: fence } = user
  return { userId, fence, passwordHash: '$argon2id$new', credentialVersion: fence + 1, now }
}

/**
 * What every `Storage` must do, for any test runner: each case rejects when the subject breaks it. Cases use names of
 * their own, so the suite may run again and again on one store. A database needs at least 10 connections, or no race is
 * a race.
 */
export const storageContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  ...userCases,
  ...sessionCases,
  ...refreshContract,
]
