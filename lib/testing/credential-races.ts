import assert from 'node:assert/strict'
import type { CredentialChange, Storage, User } from '../contracts.ts'
import {
  claimedOf,
  idsOf,
  passwordChange,
  race,
  rule,
  sampleMail,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
  uniqueName,
} from './samples.ts'

/** The part of `storageContract` about `changeCredentials` among 50 callers. */
export const credentialRaceContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'exactly one of 50 callers with the same fence changes the credentials, and only its mail is stored',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)
      const mails = Array.from({ length: 50 }, () => sampleMail())

      const results = await race((index) => {
        const set = { passwordHash: `new${index}` }
        return subject.changeCredentials(
          passwordChange(user, { credentialVersion: index, set, mails: [mails[index]!] }),
        )
      })

      const winner = results.findIndex((result) => typeof result === 'object')
      const found = await subject.findUserWithPassword(user.id)
      assert.equal(results.filter((result) => result === 'stale').length, 49)
      assert.deepEqual(results[winner], { ended: [session.id] })
      assert.deepEqual([found?.passwordHash, found?.credentialVersion], [`new${winner}`, winner])
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails[winner]?.id])
    },
  },
  {
    name: '[R-SES-1] no session of the old password outlives a change that races 50 logins',
    async run(subject) {
      const user = await storedUser(subject)
      const sessions = Array.from({ length: 50 }, () => sampleSession(user))

      const stored = await race(async (index) => {
        if (index === 10) await changes(subject, passwordChange(user))
        return subject.insertSession(sessions[index]!, 1000)
      })

      assert.equal(stored[10], null)
      for (const { id } of sessions) assert.equal(await subject.sessionActive(id, user.id, start), false)
    },
  },
  {
    name: 'a change that keeps sessions and races 50 logins keeps those that were stored, and no other is',
    async run(subject) {
      const user = await storedUser(subject)
      const sessions = Array.from({ length: 50 }, () => sampleSession(user))

      const stored = await race(async (index) => {
        if (index === 10) await changes(subject, passwordChange(user, { sessions: 'keep' }))
        return subject.insertSession(sessions[index]!, 1000)
      })

      assert.equal(stored[10], null)
      for (const [index, { id }] of sessions.entries()) {
        const { result } = await subject.refreshSession(id, 0, rule, start)
        assert.equal(result, stored[index] ? 'accepted' : 'dead')
      }
    },
  },
  {
    name: '[R-SES-1] a refresh that races a password change leaves no session behind',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)

      const outcomes = await race(async (index) => {
        if (index === 10) await changes(subject, passwordChange(user))
        return subject.refreshSession(session.id, 0, rule, start)
      })

      assert.equal(outcomes[10]?.result, 'dead')
      assert.equal(await subject.sessionActive(session.id, user.id, start), false)
      assert.deepEqual(await subject.refreshSession(session.id, 0, rule, start), { result: 'dead' })
    },
  },
  {
    name: 'no refresh of a kept session that races the change is refused',
    async run(subject) {
      for (const sessions of ['keep', 'one'] as const) {
        const user = await storedUser(subject)
        const session = await storedSession(subject, {}, user)
        const kept = sessions === 'keep' ? 'keep' : { keep: session.id }

        const outcomes = await race(async (index) => {
          if (index === 10) await changes(subject, passwordChange(user, { sessions: kept }))
          return subject.refreshSession(session.id, 0, rule, start)
        })

        const results = new Set(outcomes.map(({ result }) => result))
        assert.deepEqual([...results], ['accepted'])
        const last = await subject.refreshSession(session.id, 1, rule, start)
        assert.equal(last.result === 'accepted' && last.session.credentialVersion, user.credentialVersion + 1)
      }
    },
  },
  {
    name: 'a session that a change and 50 callers end is ended by exactly one',
    async run(subject) {
      const user = await storedUser(subject)
      const { id } = await storedSession(subject, {}, user)

      const ends = await race(async (index) => {
        if (index === 10) return (await changes(subject, passwordChange(user))).length === 1
        return (await subject.endSession(id, user.id, start))?.ended
      })

      assert.equal(ends.filter(Boolean).length, 1)
    },
  },
  {
    name: 'a session that ends while a change keeps it stays ended',
    async run(subject) {
      const user = await storedUser(subject)
      const sessions = await race(() => storedSession(subject, {}, user))

      await race(async (index) => {
        if (index === 10) await changes(subject, passwordChange(user, { sessions: 'keep' }))
        assert.equal((await subject.endSession(sessions[index]!.id, user.id, start))?.ended, true)
      })

      assert.deepEqual(await subject.listSessions(user.id, 1000, start), [])
    },
  },
  {
    name: '[R-REG-4] exactly one of 50 accounts that change to the same address gets it',
    async run(subject) {
      const email = `${uniqueName()}@example.org`
      const users = await race(() => storedUser(subject))
      const mails = users.map(() => sampleMail())

      const results = await race((index) => {
        const set = { email, emailCanonical: email, emailVerifiedAt: start }
        return subject.changeCredentials(passwordChange(users[index]!, { set, mails: [mails[index]!] }))
      })

      const winner = results.findIndex((result) => typeof result === 'object')
      assert.equal(results.filter((result) => result === 'email_taken').length, 49)
      assert.equal((await subject.findUserByEmail(email))?.id, users[winner]?.id)
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails[winner]?.id])
    },
  },
  {
    name: '[R-REG-1] of 25 registrations and 25 changes to the same address exactly one gets it',
    async run(subject) {
      const email = `${uniqueName()}@example.org`
      const users = await race(() => storedUser(subject))

      const results = await race<unknown>((index) => {
        const set = { email, emailCanonical: email }
        if (index % 2) return subject.insertUser(sampleUser(set), [])
        return subject.changeCredentials(passwordChange(users[index]!, { set }))
      })

      assert.equal(results.filter((result) => typeof result === 'object').length, 1)
      assert.equal(results.filter((result) => result === 'email_taken').length, 49)
    },
  },
  {
    name: 'exactly one of 50 changes that set the same name sets it, and all succeed',
    async run(subject) {
      const name = uniqueName()
      const users = await race(() => storedUser(subject))

      const set = { username: name, usernameCanonical: name, passwordHash: 'x' }
      await race((index) => changes(subject, passwordChange(users[index]!, { set })))

      const found = await race((index) => subject.findUserWithPassword(users[index]!.id))
      assert.equal(found.filter((user) => user?.username === name).length, 1)
      assert.ok(found.every((user) => user?.passwordHash === 'x'))
    },
  },
  {
    name: 'a change that depends on a username changes nothing when that is another one by now',
    async run(subject) {
      for (const username of ['ada', null]) {
        const user = await storedUser(subject, { username, usernameCanonical: username && uniqueName() })
        for (const seenUsername of ['Ada', username === null ? 'null' : null]) {
          assert.equal(await subject.changeCredentials(passwordChange(user, { seenUsername })), 'stale')
        }
        assert.equal((await subject.findUserById(user.id))?.credentialVersion, user.credentialVersion)
        assert.deepEqual(await subject.changeCredentials(passwordChange(user, { seenUsername: username })), {
          ended: [],
        })
      }
    },
  },
  {
    name: 'updates of a profile that race a change of credentials all survive it',
    async run(subject) {
      const user = await storedUser(subject)

      const updated = await race(async (index) => {
        if (index === 10) await changes(subject, passwordChange(user))
        return subject.updateUser({ id: user.id, profile: { [`member${index}`]: index } })
      })

      const found = await subject.findUserWithPassword(user.id)
      assert.equal(Object.keys(found?.profile as object).length, 50)
      assert.equal(found?.credentialVersion, user.credentialVersion + 1)
      assert.equal((updated[10] as User).credentialVersion, user.credentialVersion + 1)
    },
  },
]

/** Makes a change that must succeed, and returns the ended sessions. */
async function changes(subject: Storage, change: CredentialChange): Promise<string[]> {
  const result = await subject.changeCredentials(change)
  assert.ok(typeof result === 'object', `The change is ${result}.`)
  return result.ended
}
