import assert from 'node:assert/strict'
import type { Storage } from '../contracts.ts'
import {
  day,
  hostileTexts,
  hour,
  idsOf,
  missingId,
  passwordChange,
  race,
  rule,
  sampleSession,
  start,
  storableTexts,
  storedSession,
  storedUser,
} from './samples.ts'

/** The part of `storageContract` about sessions, except the rule of their refresh. */
export const sessionContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'a session of other credentials or of nobody is not stored',
    async run(subject) {
      const user = await storedUser(subject)
      const old = sampleSession(user, { credentialVersion: user.credentialVersion - 1 })
      const nobody = missingId(subject)
      const orphan = sampleSession({ id: nobody, credentialVersion: user.credentialVersion })

      assert.equal(await subject.insertSession(old, 1000), null)
      assert.equal(await subject.insertSession(orphan, 1000), null)

      assert.equal(await subject.sessionActive(old.id, user.id, start), false)
      assert.equal(await subject.sessionActive(orphan.id, nobody, start), false)
    },
  },
  {
    name: '[R-SES-4] a session is active for its own user only',
    async run(subject) {
      const session = await storedSession(subject)
      const other = await storedUser(subject)

      assert.equal(await subject.sessionActive(session.id, session.userId, start), true)
      assert.equal(await subject.sessionActive(session.id, other.id, start), false)
      assert.equal(await subject.sessionActive(session.id, null, start), true)
      for (const id of hostileTexts) assert.equal(await subject.sessionActive(id, null, start), false)
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
      assert.equal(await subject.sessionActive(session.id, null, end), false)
    },
  },
  {
    name: '[R-REF-4] a session that is not used ends, and each use puts the end off',
    async run(subject) {
      const { id } = await storedSession(subject, { idleMs: hour })

      assert.equal(await resultOf(subject, id, 0, start + hour - 1), 'accepted')
      assert.equal(await resultOf(subject, id, 1, start + 2 * hour - 2), 'accepted')
      assert.equal(await resultOf(subject, id, 2, start + 3 * hour - 2), 'dead')
    },
  },
  {
    name: '[R-REF-4] no use moves the absolute end',
    async run(subject) {
      const { id } = await storedSession(subject, { expiresAt: start + 2 * hour })

      assert.equal(await resultOf(subject, id, 0, start + hour), 'accepted')
      assert.equal(await resultOf(subject, id, 1, start + 2 * hour - 1), 'accepted')
      assert.equal(await resultOf(subject, id, 2, start + 2 * hour), 'dead')
    },
  },
  {
    name: '[R-REF-5] a session of changed credentials is dead',
    async run(subject) {
      const user = await storedUser(subject)
      const { id } = await storedSession(subject, {}, user)

      await subject.changeCredentials(passwordChange(user))

      assert.equal(await resultOf(subject, id, 0, start), 'dead')
    },
  },
  {
    name: '[R-SES-3] the sessions of a user are listed with every field, the last used first',
    async run(subject) {
      const user = await storedUser(subject)
      await storedSession(subject)
      const first = await storedSession(subject, { lastUsedAt: start + 1, ip: '', userAgent: '' }, user)
      const second = await storedSession(subject, { lastUsedAt: start + 3 }, user)
      const third = await storedSession(subject, { lastUsedAt: start + 2 }, user)

      assert.deepEqual(await subject.listSessions(user.id, 1000, start + 3), [second, third, first])

      await subject.refreshSession(first.id, 0, rule, start + 9)
      const used = { ...first, lastUsedAt: start + 9 }
      assert.deepEqual(await subject.listSessions(user.id, 1000, start + 9), [used, second, third])
    },
  },
  {
    name: '[R-SES-3] a session that ended, is past its end or idle is not listed',
    async run(subject) {
      const user = await storedUser(subject)
      const ended = await storedSession(subject, {}, user)
      const short = await storedSession(subject, { expiresAt: start + hour }, user)
      const idle = await storedSession(subject, { idleMs: 2 * hour }, user)
      const long = await storedSession(subject, {}, user)
      await subject.endSession(ended.id, user.id, start)
      const listed = async (now: number) => idsOf(await subject.listSessions(user.id, 1000, now))

      assert.deepEqual(await listed(start + hour - 1), idsOf([short, idle, long]))
      assert.deepEqual(await listed(start + hour), idsOf([idle, long]))
      assert.deepEqual(await listed(start + 2 * hour - 1), idsOf([idle, long]))
      assert.deepEqual(await listed(start + 2 * hour), [long.id])
      assert.deepEqual(await subject.listSessions(missingId(subject), 1000, start), [])
    },
  },
  {
    name: '[R-SES-3] no more sessions of a user are listed than are asked for',
    async run(subject) {
      const user = await storedUser(subject)
      await storedSession(subject, { lastUsedAt: start + 1 }, user)
      const last = await storedSession(subject, { lastUsedAt: start + 3 }, user)
      const second = await storedSession(subject, { lastUsedAt: start + 2 }, user)

      assert.deepEqual(await subject.listSessions(user.id, 2, start + 3), [last, second])
    },
  },
  {
    name: '[R-SES-3] a login past the most sessions ends those of the user that were used least recently',
    async run(subject) {
      const user = await storedUser(subject)
      const foreign = await storedSession(subject)
      const [first, second, third, ended] = await Promise.all([
        storedSession(subject, { lastUsedAt: start + 1 }, user),
        storedSession(subject, { lastUsedAt: start + 9 }, user),
        storedSession(subject, { lastUsedAt: start + 3 }, user),
        storedSession(subject, { lastUsedAt: start }, user),
      ])
      await subject.endSession(ended.id, user.id, start)
      const login = (createdAt: number) => sampleSession(user, { createdAt, lastUsedAt: createdAt })
      const [fourth, last] = [login(start + 20), login(start + 30)]

      assert.deepEqual(await subject.insertSession(fourth, 4), [])
      assert.deepEqual((await subject.insertSession(last, 3))?.sort(), idsOf([first, third]))

      assert.deepEqual(idsOf(await subject.listSessions(user.id, 9, start + 30)), idsOf([second, fourth, last]))
      assert.equal(await subject.sessionActive(foreign.id, foreign.userId, start), true)
      const told = (await subject.endedSince(start + 30, start)).filter(({ id }) => [first.id, third.id].includes(id))
      assert.deepEqual(new Set(told.map(({ endedAt }) => endedAt)), new Set([start + 30]))
    },
  },
  {
    name: 'a login that is refused ends no session',
    async run(subject) {
      const user = await storedUser(subject)
      const kept = await storedSession(subject, {}, user)

      const stale = sampleSession(user, { credentialVersion: user.credentialVersion - 1 })
      assert.equal(await subject.insertSession(stale, 1), null)

      assert.equal(await subject.sessionActive(kept.id, user.id, start), true)
    },
  },
  {
    name: 'of logins at the same time each session ends once at most, and the next login ends what they left',
    async run(subject) {
      const user = await storedUser(subject)
      const outcomes = await race(() => subject.insertSession(sampleSession(user), 5))
      assert.ok(outcomes.every((ended) => ended !== null))

      const last = await subject.insertSession(sampleSession(user), 5)

      const ended = [...outcomes.flat(), ...last!]
      assert.equal(new Set(ended).size, ended.length)
      assert.equal(ended.length, 46)
      assert.equal((await subject.listSessions(user.id, 99, start)).length, 5)
    },
  },
  {
    name: '[R-SQL-1] hostile texts of a client are texts',
    async run(subject) {
      const user = await storedUser(subject)
      const change = (text: string) => ({ ip: text, userAgent: text })
      const sessions = await Promise.all(storableTexts.map((text) => storedSession(subject, change(text), user)))

      const listed = await subject.listSessions(user.id, 1000, start)

      assert.deepEqual(new Map(listed.map((one) => [one.id, one])), new Map(sessions.map((one) => [one.id, one])))
    },
  },
]

async function resultOf(subject: Storage, id: string, token: number, now: number) {
  return (await subject.refreshSession(id, token, rule, now)).result
}
