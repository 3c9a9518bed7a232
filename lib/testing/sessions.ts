import assert from 'node:assert/strict'
import type { Storage, UserId } from '../contracts.ts'
import {
  day,
  hostileTexts,
  passwordChange,
  race,
  rule,
  sampleSession,
  start,
  storedSession,
  storedUser,
} from './samples.ts'

/** The part of `storageContract` about sessions, but for their refresh. */
export const sessionContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: '[R-SES-1] a password change ends all sessions of the user and no other’s',
    async run(subject) {
      const user = await storedUser(subject)
      const own = [await storedSession(subject, {}, user), await storedSession(subject, {}, user)]
      const foreign = await storedSession(subject)

      assert.equal(await subject.changePassword(passwordChange(user)), true)

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

      assert.equal(await subject.changePassword({ ...passwordChange(user), fence: user.credentialVersion - 1 }), false)

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
        if (index === 10) assert.equal(await subject.changePassword(passwordChange(user)), true)
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
        if (index === 10) assert.equal(await subject.changePassword(passwordChange(user)), true)
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
      for (const id of hostileTexts) assert.equal(await subject.sessionActive(id, session.userId, start), false)
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
