import assert from 'node:assert/strict'
import type { Session, Storage } from '../contracts.ts'
import { sampleEvent } from './events.ts'
import {
  claimedOf,
  day,
  hour,
  passwordChange,
  race,
  rule,
  sampleMail,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
} from './samples.ts'

/** The part of `storageContract` about rows that nobody needs any more. */
export const purgeContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'a session stays for a day past its end, whether it ended before or not',
    async run(subject) {
      const user = await storedUser(subject)
      const [open, ended] = [await storedSession(subject, {}, user), await storedSession(subject, {}, user)]
      await subject.endSession(ended.id, null, start + hour)
      const stays = async ({ id }: Session) => (await subject.endSession(id, null, start + 31 * day)) !== null

      await purge(subject, start + 31 * day)
      assert.deepEqual([await stays(open), await stays(ended)], [true, true])
      assert.ok((await subject.endedSince(start + hour, start)).some(({ id }) => id === ended.id))

      await purge(subject, start + 31 * day + 1)
      assert.deepEqual([await stays(open), await stays(ended)], [false, false])
      assert.equal((await subject.findUserById(user.id))?.email, user.email)
    },
  },
  {
    name: '[R-REG-3] no account that had a session expires, however many expire and however long it was away',
    async run(subject) {
      const expiring = { expiresAt: start, emailVerifiedAt: null }
      const users = await Promise.all(Array.from({ length: 3 }, () => storedUser(subject, expiring)))
      for (const user of users) await storedSession(subject, {}, user)
      const never = await storedUser(subject, expiring)

      for (let round = 0; round < 10; round++) {
        await subject.purge({ now: start + 99 * day, eventsBefore: 0, limit: 2 })
      }

      const found = await Promise.all(users.map(({ id }) => subject.findUserById(id)))
      assert.ok(found.every((user) => user !== null))
      assert.equal(await subject.findUserById(never.id), null)
    },
  },
  {
    name: 'a mail stays up to its end, settled or not, and then its id is free',
    async run(subject) {
      const [open, settled] = [sampleMail(), sampleMail()]
      const again = [open, settled].map((mail) => ({ ...mail, sealed: 'again', expiresAt: start + day }))
      await subject.addMails([open, settled])
      await subject.settleMails([settled.id])
      const claims = async (now: number) => (await claimedOf(subject, again, now)).map(({ sealed }) => sealed)

      await purge(subject, start + hour - 1)
      await subject.addMails(again)
      assert.deepEqual(await claims(start + hour - 1), [open.sealed])

      await purge(subject, start + hour + 1)
      await subject.addMails(again)
      assert.deepEqual(await claims(start + hour + 1), ['again', 'again'])
    },
  },
  {
    name: 'events before the given time are removed, known users’ or nobody’s, and a page may end at one of them',
    async run(subject) {
      const { id } = await storedUser(subject)
      for (const at of [0, -1, 1]) await subject.addEvent(sampleEvent(id, start + at))
      await subject.addEvent(sampleEvent(null, start - 1))
      const [, old] = await subject.listEvents(id, { limit: 2 })

      assert.ok((await purge(subject, start, start)) >= 2)

      const left = await subject.listEvents(id, { limit: 10 })
      assert.deepEqual(
        left.map(({ at }) => at),
        [start + 1, start],
      )
      assert.deepEqual(await subject.listEvents(id, { before: old!.id, limit: 10 }), left.slice(1))
    },
  },
  {
    name: '[R-REG-3] an account that was never proved nor used is removed past its expiry, and its address is free',
    async run(subject) {
      const user = await storedUser(subject, { expiresAt: start + hour })
      const kept = [
        await storedUser(subject, { expiresAt: start + hour + 2 }),
        await storedUser(subject, { expiresAt: start + hour, emailVerifiedAt: start }),
        await storedUser(subject),
      ]

      await purge(subject, start + hour - 1)
      assert.equal((await subject.findUserById(user.id))?.email, user.email)
      await purge(subject, start + hour + 1)

      assert.equal(await subject.findUserById(user.id), null)
      assert.equal(await subject.findUserByEmail(user.emailCanonical), null)
      const { emailCanonical, usernameCanonical } = user
      assert.equal(typeof (await subject.insertUser(sampleUser({ emailCanonical, usernameCanonical }))), 'object')
      for (const { id, email } of kept) assert.equal((await subject.findUserById(id))?.email, email)
    },
  },
  {
    name: '[R-REG-3] an account with a session loses its expiry instead, even when the session has long ended',
    async run(subject) {
      const users = await Promise.all([0, 1, 2].map(() => storedUser(subject, { expiresAt: start + hour })))
      const [open, over, past] = users as [UserOf, UserOf, UserOf]
      await storedSession(subject, {}, open)
      await subject.endSession((await storedSession(subject, {}, over)).id, null, start)
      await storedSession(subject, { expiresAt: start + 1 }, past)

      await purge(subject, start + 2 * day)
      // By now all sessions are gone, and nothing shows any more that the accounts were used.
      await purge(subject, start + 99 * day)

      for (const { id, email } of users) assert.equal((await subject.findUserById(id))?.email, email)
    },
  },
  {
    name: 'a purge takes at most its limit of each kind and returns how many rows it took',
    async run(subject) {
      const now = start + 60 * day
      const limits = { now, eventsBefore: start, limit: 2 }
      await purge(subject, now, start)
      const users = await Promise.all([0, 1, 2].map(() => storedUser(subject, { expiresAt: start })))
      const used = await Promise.all([0, 1, 2].map(() => storedUser(subject)))
      for (const user of used) await storedSession(subject, {}, user)
      for (const user of used) await subject.addEvent(sampleEvent(user.id, start - 1))
      const mails = users.map(() => sampleMail())
      await subject.addMails(mails)

      assert.equal(await subject.purge(limits), 8)
      assert.equal(await subject.purge(limits), 4)
      assert.equal(await subject.purge(limits), 0)
    },
  },
  {
    name: 'a row is counted by exactly one of 50 callers',
    async run(subject) {
      const now = start + 60 * day
      await purge(subject, now, start)
      for (const used of [false, true]) {
        await race(async () => {
          const user = await storedUser(subject, { expiresAt: start })
          if (used) await storedSession(subject, { expiresAt: now + hour }, user)
        })

        const counts = await race(() => subject.purge({ now, eventsBefore: start, limit: 10 }))

        const total = counts.reduce((sum, count) => sum + count, await purge(subject, now, start))
        // Who has a session may have lost the expiry when it began.
        assert.ok(used ? total <= 50 : total === 50, `${total} rows`)
      }
    },
  },
  {
    name: 'an account that is used or proved while it expires is either removed or kept for good',
    async run(subject) {
      const users = await race(() => storedUser(subject, { expiresAt: start }))
      const sessions = users.map((user) => sampleSession(user))

      const results = await race(async (index) => {
        if (index % 10 === 0) await subject.purge({ now: start + 1, eventsBefore: 0, limit: 10 })
        if (index % 2) return (await subject.insertSession(sessions[index]!, 1000)) !== null
        const set = { emailVerifiedAt: start }
        return typeof (await subject.changeCredentials(passwordChange(users[index]!, { set }))) === 'object'
      })
      await purge(subject, start + 1)

      for (const [index, { id }] of users.entries()) {
        assert.equal((await subject.findUserById(id)) !== null, results[index])
        if (index % 2 === 0) continue
        const { result } = await subject.refreshSession(sessions[index]!.id, 0, rule, start)
        assert.equal(result, results[index] ? 'accepted' : 'dead')
      }
    },
  },
]

type UserOf = Awaited<ReturnType<typeof storedUser>>

/** Purges until nothing is left to remove, and returns how many rows it took. */
async function purge(subject: Storage, now: number, eventsBefore = 0): Promise<number> {
  const count = await subject.purge({ now, eventsBefore, limit: 1000 })
  return count === 0 ? 0 : count + (await purge(subject, now, eventsBefore))
}
