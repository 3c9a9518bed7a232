import assert from 'node:assert/strict'
import type { Storage } from '../contracts.ts'
import {
  claimedOf,
  idsOf,
  missingId,
  passwordChange,
  race,
  rule,
  sampleDeletion,
  sampleMail,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
} from './samples.ts'

/** The part of `storageContract` about `deleteUser`. */
export const deletionContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: '[R-SES-8] a deleted user is found by nothing, and its mails are stored',
    async run(subject) {
      const user = await storedUser(subject)
      const mails = [sampleMail(), sampleMail()]

      assert.deepEqual(await subject.deleteUser(sampleDeletion(user, mails)), { ended: [] })

      assert.equal(await subject.findUserById(user.id), null)
      assert.equal(await subject.findUserWithPassword(user.id), null)
      assert.equal(await subject.findUserByEmail(user.emailCanonical), null)
      assert.equal(await subject.updateUser({ id: user.id, profile: {} }), null)
      assert.equal(await subject.setRole(user.id, 'admin'), false)
      assert.equal(await subject.insertSession(sampleSession(user), 1000), null)
      assert.equal(await subject.changeCredentials(passwordChange(user)), 'stale')
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), idsOf(mails))
    },
  },
  {
    name: '[R-SES-8] a deletion ends the sessions of the user and no other’s, and `endedSince` still lists them',
    async run(subject) {
      const user = await storedUser(subject)
      const own = [await storedSession(subject, {}, user), await storedSession(subject, {}, user)]
      const over = await storedSession(subject, {}, user)
      await subject.endSession(over.id, null, start - 1)
      const foreign = await storedSession(subject)

      const deleted = await subject.deleteUser({ ...sampleDeletion(user), now: start + 1 })

      assert.deepEqual(typeof deleted === 'object' && deleted.ended.toSorted(), idsOf(own))
      const ends = await subject.endedSince(start + 1, 0)
      for (const { id } of own) {
        assert.deepEqual(await subject.refreshSession(id, 0, rule, start), { result: 'dead' })
        assert.equal(await subject.sessionActive(id, user.id, start), false)
        assert.deepEqual(
          ends.filter((end) => end.id === id),
          [{ id, endedAt: start + 1 }],
        )
      }
      assert.deepEqual(await subject.listSessions(user.id, 1000, start), [])
      assert.equal(await subject.sessionActive(foreign.id, foreign.userId, start), true)
    },
  },
  {
    name: 'the address and the name of a deleted user are free, and the next user is somebody else',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)
      await subject.deleteUser(sampleDeletion(user))

      const { id: _, ...again } = user
      const next = await storedUser(subject, again)

      assert.notEqual(next.id, user.id)
      assert.equal((await subject.findUserByEmail(user.emailCanonical))?.id, next.id)
      assert.deepEqual(await subject.refreshSession(session.id, 0, rule, start), { result: 'dead' })
    },
  },
  {
    name: 'a deletion after a change of credentials, or of a missing user, changes nothing',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)
      const mails = [sampleMail()]

      const behind = { ...sampleDeletion(user, mails), fence: user.credentialVersion - 1 }
      assert.equal(await subject.deleteUser(behind), 'stale')
      assert.equal(await subject.deleteUser({ ...behind, userId: missingId(subject) }), 'stale')

      assert.equal((await subject.findUserById(user.id))?.email, user.email)
      assert.equal(await subject.sessionActive(session.id, user.id, start), true)
      assert.deepEqual(await claimedOf(subject, mails), [])
    },
  },
  {
    name: 'a disabled user can be deleted',
    async run(subject) {
      const user = await storedUser(subject)
      const off = passwordChange(user, { set: { active: false } })
      await subject.changeCredentials(off)

      const deletion = { ...sampleDeletion(user), fence: off.credentialVersion }
      assert.deepEqual(await subject.deleteUser(deletion), { ended: [] })

      assert.equal(await subject.findUserById(user.id), null)
    },
  },
  {
    name: 'exactly one of 50 callers deletes a user, and only its mail is stored',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)
      const mails = Array.from({ length: 50 }, () => sampleMail())

      const results = await race((index) => subject.deleteUser(sampleDeletion(user, [mails[index]!])))

      const winner = results.findIndex((result) => typeof result === 'object')
      assert.equal(results.filter((result) => result === 'stale').length, 49)
      assert.deepEqual(results[winner], { ended: [session.id] })
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails[winner]?.id])
    },
  },
  {
    name: 'exactly one of 50 callers who delete a user or change its credentials succeeds',
    async run(subject) {
      const user = await storedUser(subject)

      const results = await race<unknown>((index) =>
        index % 2 ? subject.deleteUser(sampleDeletion(user)) : subject.changeCredentials(passwordChange(user)),
      )

      const winner = results.findIndex((result) => typeof result === 'object')
      assert.equal(results.filter((result) => result === 'stale').length, 49)
      assert.equal((await subject.findUserById(user.id)) === null, winner % 2 === 1)
    },
  },
  {
    name: '[R-SES-8] no session outlives a deletion that races 50 logins and refreshes',
    async run(subject) {
      const user = await storedUser(subject)
      const old = await storedSession(subject, {}, user)
      const sessions = Array.from({ length: 50 }, () => sampleSession(user))

      await race(async (index) => {
        if (index === 10) assert.ok(typeof (await subject.deleteUser(sampleDeletion(user))) === 'object')
        await Promise.all([
          subject.insertSession(sessions[index]!, 1000),
          subject.refreshSession(old.id, 0, rule, start),
        ])
      })

      for (const { id } of [old, ...sessions]) {
        assert.equal(await subject.sessionActive(id, user.id, start), false)
        assert.deepEqual(await subject.refreshSession(id, 0, rule, start), { result: 'dead' })
      }
    },
  },
  {
    name: '50 registrations that race the deletion of the owner of their address leave exactly one account of it',
    async run(subject) {
      const owner = await storedUser(subject)
      const { email, emailCanonical } = owner

      const results = await race(async (index) => {
        if (index === 10) await subject.deleteUser(sampleDeletion(owner))
        return subject.insertUser(sampleUser({ email, emailCanonical }), [])
      })

      const stored = results.filter((result) => typeof result === 'object')
      assert.equal(stored.length, 1)
      assert.equal(results.filter((result) => result === 'email_taken').length, 49)
      assert.deepEqual({ id: (await subject.findUserByEmail(emailCanonical))?.id }, stored[0])
    },
  },
]
