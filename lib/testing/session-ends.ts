import assert from 'node:assert/strict'
import type { Session, Storage } from '../contracts.ts'
import {
  hostileTexts,
  idsOf,
  missingId,
  race,
  rule,
  sampleSession,
  start,
  storedSession,
  storedUser,
  uniqueName,
} from './samples.ts'

/** The part of `storageContract` about sessions that are ended, and about `endedSince`. */
export const sessionEndContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: '[R-SES-3] a session is ended by exactly one of 50 callers, and all learn whose it was',
    async run(subject) {
      for (const asUser of [true, false]) {
        const { id, userId } = await storedSession(subject)

        const results = await race(() => subject.endSession(id, asUser ? userId : null, start))

        assert.equal(results.filter((result) => result?.ended).length, 1)
        assert.ok(results.every((result) => result?.userId === userId))
        assert.equal(await subject.sessionActive(id, userId, start), false)
        assert.deepEqual(await subject.refreshSession(id, 0, rule, start), { result: 'dead' })
      }
    },
  },
  {
    name: '[R-SES-4] a session of another user and a missing one are null alike, and nothing ends',
    async run(subject) {
      const { id, userId } = await storedSession(subject)
      const other = await storedUser(subject)

      assert.equal(await subject.endSession(id, other.id, start), null)
      assert.equal(await subject.endSession(id, missingId(subject), start), null)
      assert.equal(await subject.endSession(uniqueName(), userId, start), null)
      assert.equal(await subject.endSession(uniqueName(), null, start), null)

      assert.equal(await subject.sessionActive(id, userId, start), true)
    },
  },
  {
    name: '[R-SQL-1] ids that cannot be a session’s or a user’s end nothing',
    async run(subject) {
      const { id, userId } = await storedSession(subject)

      for (const text of [...hostileTexts, `${id} `]) {
        assert.equal(await subject.endSession(text, null, start), null)
        assert.equal(await subject.endSession(text, userId, start), null)
        assert.equal(await subject.endSession(id, text as Session['userId'], start), null)
      }
      for (const other of [Number.NaN, 1.5, 2 ** 63, [1], {}, undefined]) {
        assert.equal(await subject.endSession(id, other as Session['userId'], start), null)
      }

      assert.equal(await subject.sessionActive(id, userId, start), true)
    },
  },
  {
    name: 'no refresh revives a session that ends meanwhile',
    async run(subject) {
      const { id, userId } = await storedSession(subject)

      const outcomes = await race(async (index) => {
        if (index === 10) assert.equal((await subject.endSession(id, userId, start))?.ended, true)
        return subject.refreshSession(id, 0, rule, start)
      })

      assert.equal(outcomes[10]?.result, 'dead')
      assert.equal(await subject.sessionActive(id, userId, start), false)
    },
  },
  {
    name: '[R-SES-3] all sessions of a user end, no other’s does, and each is returned to exactly one of 50 callers',
    async run(subject) {
      const user = await storedUser(subject)
      const sessions = await Promise.all(Array.from({ length: 5 }, () => storedSession(subject, {}, user)))
      const foreign = await storedSession(subject)

      const ended = await race(() => subject.endSessions(user.id, start))

      assert.deepEqual(ended.flat().sort(), idsOf(sessions))
      assert.deepEqual(await subject.listSessions(user.id, 1000, start), [])
      assert.equal(await subject.sessionActive(foreign.id, foreign.userId, start), true)
      assert.deepEqual(await subject.endSessions(missingId(subject), start), [])
      // The credentials are the same, so the next login works.
      assert.deepEqual(await subject.insertSession(sampleSession(user), 1000), [])
    },
  },
  {
    name: 'a session that callers end in three ways is returned to exactly one of 50',
    async run(subject) {
      const user = await storedUser(subject)
      const { id } = await storedSession(subject, {}, user)

      const ended = await race(async (index) => {
        if (index % 3 === 0) return (await subject.endSession(id, null, start))?.ended
        if (index % 3 === 1) return (await subject.endSessions(user.id, start)).includes(id)
        return (await subject.endAnySessions(10_000, start)).includes(id)
      })

      assert.equal(ended.filter(Boolean).length, 1)
    },
  },
  {
    name: 'everybody’s sessions end in batches, each returned once, until none is left',
    async run(subject) {
      const sessions = await Promise.all(Array.from({ length: 5 }, () => storedSession(subject)))

      const ended = await subject.endAnySessions(2, start)
      assert.equal(ended.length, 2)
      const batches = await race(() => subject.endAnySessions(3, start))
      assert.ok(batches.every(({ length }) => length <= 3))
      ended.push(...batches.flat(), ...(await endEverything(subject)))

      assert.equal(new Set(ended).size, ended.length)
      for (const { id, userId } of sessions) {
        assert.ok(ended.includes(id))
        assert.equal(await subject.sessionActive(id, userId, start), false)
      }
    },
  },
  {
    name: '`endedSince` lists the sessions ended since a time and used since a time, both included',
    async run(subject) {
      const used = { early: start - 1, late: start }
      const [early, late, later] = [
        await storedSession(subject, { lastUsedAt: used.early }),
        await storedSession(subject, { lastUsedAt: used.late }),
        await storedSession(subject, { lastUsedAt: used.late }),
      ]
      await storedSession(subject, { lastUsedAt: used.late })
      for (const { id } of [early, late]) await subject.endSession(id, null, start + 5)
      await subject.endSessions(later.userId, start + 6)
      const endedSince = async (time: number, usedSince: number) => {
        const ends = await subject.endedSince(time, usedSince)
        const own = ends.filter(({ id }) => [early, late, later].some((session) => session.id === id))
        return own.sort((one, other) => one.endedAt - other.endedAt || (one.id === early.id ? -1 : 1))
      }

      const [one, two, three] = [
        { id: early.id, endedAt: start + 5 },
        { id: late.id, endedAt: start + 5 },
        { id: later.id, endedAt: start + 6 },
      ]
      assert.deepEqual(await endedSince(start + 5, used.early), [one, two, three])
      assert.deepEqual(await endedSince(start + 5, used.late), [two, three])
      assert.deepEqual(await endedSince(start + 6, used.early), [three])
      assert.deepEqual(await endedSince(start + 7, used.early), [])
      assert.deepEqual(await endedSince(start + 5, used.late + 1), [])
    },
  },
  {
    name: '`endedSince` lists reused sessions and those of changed credentials, and the first end stays',
    async run(subject) {
      const { id, userId } = await storedSession(subject)
      const strict = { ...rule, lateReplays: 0 }
      await subject.refreshSession(id, 0, strict, start)

      const late = start + rule.graceMs + 1
      assert.equal((await subject.refreshSession(id, 0, strict, late)).result, 'reused')
      assert.deepEqual(await subject.endSession(id, userId, late + 9), { userId, ended: false })

      const ends = (await subject.endedSince(late, start)).filter((end) => end.id === id)
      assert.deepEqual(ends, [{ id, endedAt: late }])
    },
  },
]

async function endEverything(subject: Storage): Promise<string[]> {
  const ended: string[] = []
  for (;;) {
    const batch = await subject.endAnySessions(1000, start)
    if (batch.length === 0) return ended
    ended.push(...batch)
  }
}
