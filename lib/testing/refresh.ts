import assert from 'node:assert/strict'
import type { NewUser, RefreshOutcome, Storage } from '../contracts.ts'
import { day, hour, minute, race, rule, start, storedSession, storedUser } from './samples.ts'

const { graceMs } = rule
const strict = { ...rule, lateReplays: 0 }
const once = { ...rule, lateReplays: 1 }
const fixed = { ...rule, rotate: false }

/** The part of `storageContract` about `refreshSession`: a case for each row of its rule. */
export const refreshContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'each new token advances the session and returns it with its user',
    async run(subject) {
      const user = await storedUser(subject, { profile: { plan: 'x' } as NewUser['profile'] })
      const session = await storedSession(subject, {}, user)

      for (let token = 0; token < 5; token++) {
        const now = start + token * hour
        const outcome = await subject.refreshSession(session.id, token, rule, now)

        assert.deepEqual(outcome, {
          result: 'accepted',
          counter: token,
          replayed: false,
          session: { ...session, lastUsedAt: now },
          user: await subject.findUserById(user.id),
        })
      }
    },
  },
  {
    name: '[R-REF-1] of 50 callers with the same fresh token all are accepted alike and one advances',
    async run(subject) {
      const { id } = await storedSession(subject)
      await subject.refreshSession(id, 0, rule, start)

      const outcomes = await race(() => subject.refreshSession(id, 1, rule, start + hour))

      // Within one millisecond a replay may pass for fresh, but what is fresh is never called a replay.
      assert.ok(outcomes.some((outcome) => 'replayed' in outcome && !outcome.replayed))
      for (const outcome of outcomes)
        assert.deepEqual({ ...outcome, replayed: false }, { ...outcomes[0], replayed: false })
      assert.equal(accepted(outcomes[0]), 1)
      assert.equal(await resultOf(subject, id, 3, start + hour), 'ahead')
      assert.equal(await resultOf(subject, id, 2, start + hour), 'accepted')
    },
  },
  {
    name: 'a token that comes back counts as replayed, whether free, counted or exempt',
    async run(subject) {
      const { id } = await storedSession(subject)
      const replayed = async (token: number, now: number, by = rule) => {
        const outcome = await subject.refreshSession(id, token, by, now)
        return outcome.result === 'accepted' && outcome.replayed
      }

      assert.equal(await replayed(0, start, fixed), false)
      assert.equal(await replayed(0, start + 1), false)
      assert.equal(await replayed(0, start + 2), true)
      assert.equal(await replayed(0, start + hour), true)
      assert.equal(await replayed(1, start + hour), false)
      assert.equal(await replayed(1, start + hour + 1), true)
      assert.equal(await replayed(1, start + 2 * hour), true)
      assert.equal(await replayed(1, start + 2 * hour, fixed), true)
      assert.equal(await replayed(2, start + 2 * hour), false)
    },
  },
  {
    name: 'the newest token is free within the window, and a replay does not move the window',
    async run(subject) {
      const { id } = await sessionAt(subject, 1, start)

      for (let replay = 0; replay < 10; replay++)
        assert.equal(await resultOf(subject, id, 1, start + graceMs, once), 'accepted')

      const late = start + graceMs + 1
      assert.equal(await resultOf(subject, id, 1, late, once), 'accepted')
      assert.equal(await resultOf(subject, id, 1, late + graceMs, once), 'accepted')
      assert.equal(await resultOf(subject, id, 1, late + graceMs + 1, once), 'reused')
    },
  },
  {
    name: '[R-REF-2] the newest token comes back late three times a session, and the fourth time ends it',
    async run(subject) {
      const { id, userId } = await sessionAt(subject, 5, start)

      for (let late = 1; late <= 3; late++)
        assert.equal(await resultOf(subject, id, 5, start + late * hour), 'accepted')

      assert.equal(await resultOf(subject, id, 5, start + 4 * hour), 'reused')
      assert.equal(await subject.sessionActive(id, userId, start + 4 * hour), false)
    },
  },
  {
    name: 'a phone that lost a response goes on three hours later',
    async run(subject) {
      const { id } = await sessionAt(subject, 3, start)

      assert.equal(await resultOf(subject, id, 3, start + 3 * hour), 'accepted')
      assert.equal(await resultOf(subject, id, 4, start + 3 * hour), 'accepted')
    },
  },
  {
    name: 'a burst of late replays counts once',
    async run(subject) {
      const { id } = await sessionAt(subject, 1, start)

      const outcomes = await race(() => subject.refreshSession(id, 1, once, start + hour))

      for (const outcome of outcomes) assert.equal(accepted(outcome), 1)
      assert.equal(await resultOf(subject, id, 1, start + hour + graceMs, once), 'accepted')
      assert.equal(await resultOf(subject, id, 1, start + 2 * hour, once), 'reused')
    },
  },
  {
    name: 'an advance does not reset the count of late replays',
    async run(subject) {
      const { id } = await sessionAt(subject, 1, start)

      assert.equal(await resultOf(subject, id, 1, start + hour, once), 'accepted')
      assert.equal(await resultOf(subject, id, 2, start + 2 * hour, once), 'accepted')
      assert.equal(await resultOf(subject, id, 2, start + 3 * hour, once), 'reused')
    },
  },
  {
    name: 'a client that keeps its first token refreshes all day, uncounted',
    async run(subject) {
      const { id } = await storedSession(subject)

      for (let late = 0; late < 200; late++)
        assert.equal(await resultOf(subject, id, 0, start + late * 5 * minute, once), 'accepted')

      assert.equal(await resultOf(subject, id, 1, start + day, once), 'accepted')
      assert.equal(await resultOf(subject, id, 1, start + day + hour, once), 'accepted')
    },
  },
  {
    name: '[R-REF-2] with lateReplays 0 the first late replay ends the session, the first token’s too',
    async run(subject) {
      const first = await sessionAt(subject, 0, start)
      const later = await sessionAt(subject, 2, start)

      assert.equal(await resultOf(subject, first.id, 0, start + graceMs, strict), 'accepted')
      assert.equal(await resultOf(subject, first.id, 0, start + graceMs + 1, strict), 'reused')
      assert.equal(await resultOf(subject, later.id, 2, start + graceMs + 1, strict), 'reused')
    },
  },
  {
    name: 'an older token within the window is stale and ends nothing',
    async run(subject) {
      const { id, userId } = await sessionAt(subject, 2, start)

      assert.equal(await resultOf(subject, id, 1, start + graceMs), 'stale')
      assert.equal(await resultOf(subject, id, 0, start + graceMs), 'stale')

      assert.equal(await subject.sessionActive(id, userId, start), true)
      assert.equal(await resultOf(subject, id, 3, start + graceMs), 'accepted')
    },
  },
  {
    name: 'an older token within the window of a late replay is stale',
    async run(subject) {
      const { id } = await sessionAt(subject, 2, start)
      await subject.refreshSession(id, 2, rule, start + hour)

      assert.equal(await resultOf(subject, id, 1, start + hour + graceMs), 'stale')
      assert.equal(await resultOf(subject, id, 1, start + hour + graceMs + 1), 'reused')
    },
  },
  {
    name: '[R-REF-3] an older token after the window ends the session for every token',
    async run(subject) {
      for (const older of [0, 1]) {
        const { id, userId } = await sessionAt(subject, 2, start)
        const now = start + graceMs + 1

        assert.equal(await resultOf(subject, id, older, now), 'reused')

        assert.equal(await subject.sessionActive(id, userId, now), false)
        for (const token of [0, 1, 2, 3, 4]) assert.equal(await resultOf(subject, id, token, now), 'dead')
      }
    },
  },
  {
    name: 'exactly one of 50 callers that reuse a token gets `reused`',
    async run(subject) {
      const { id } = await sessionAt(subject, 3, start)

      const outcomes = await race(() => subject.refreshSession(id, 1, rule, start + hour))

      assert.equal(outcomes.filter(({ result }) => result === 'reused').length, 1)
      assert.equal(outcomes.filter(({ result }) => result === 'dead').length, 49)
    },
  },
  {
    name: 'a token newer than any that was given out is ahead and changes nothing',
    async run(subject) {
      const { id } = await sessionAt(subject, 2, start)

      for (const token of [4, 5, 1000, 2 ** 40]) assert.equal(await resultOf(subject, id, token, start + hour), 'ahead')

      assert.equal(await resultOf(subject, id, 3, start + hour), 'accepted')
    },
  },
  {
    name: 'without rotation the newest token and its successor are accepted always, and the counter stays',
    async run(subject) {
      const fresh = await storedSession(subject)
      const rotated = await sessionAt(subject, 3, start)

      for (let use = 0; use < 10; use++) {
        assert.equal(accepted(await subject.refreshSession(fresh.id, 0, fixed, start + use * hour)), 0)
        assert.equal(accepted(await subject.refreshSession(rotated.id, 3, fixed, start + use * hour)), 3)
        assert.equal(accepted(await subject.refreshSession(rotated.id, 4, fixed, start + use * hour)), 4)
      }
      assert.equal(await resultOf(subject, fresh.id, 1, start + 9 * hour, fixed), 'ahead')
      assert.equal(await resultOf(subject, rotated.id, 5, start + 9 * hour, fixed), 'ahead')
    },
  },
  {
    name: 'without rotation the window stays where the last advance put it',
    async run(subject) {
      const { id } = await sessionAt(subject, 3, start)
      await subject.refreshSession(id, 4, fixed, start + graceMs)

      assert.equal(await resultOf(subject, id, 2, start + graceMs, fixed), 'stale')
      assert.equal(await resultOf(subject, id, 2, start + graceMs + 1, fixed), 'reused')
    },
  },
  {
    name: 'only an accepted token counts as use',
    async run(subject) {
      const { id } = await sessionAt(subject, 2, start, { idleMs: graceMs })
      const now = start + graceMs - 1

      for (const token of [1, 9]) {
        const outcome = await subject.refreshSession(id, token, rule, now)
        assert.equal('session' in outcome && outcome.session.lastUsedAt, start)
      }
      assert.equal(await resultOf(subject, id, 3, start + graceMs), 'dead')
    },
  },
  {
    name: '[R-SQL-1] impossible sessions and tokens are dead',
    async run(subject) {
      const { id } = await storedSession(subject)

      for (const other of ['', 'x', "' or '1'='1", '\0', '\ud800', '__proto__', `${id} `]) {
        assert.equal(await resultOf(subject, other, 0, start), 'dead')
      }
      for (const token of [-1, -2, 0.5, 2 ** 70, Number.NaN])
        assert.equal(await resultOf(subject, id, token, start), 'dead')
    },
  },
]

/** A session whose newest presented token is `newest`, all presented at `now`. */
async function sessionAt(subject: Storage, newest: number, now: number, change = {}) {
  const session = await storedSession(subject, change)
  for (let token = 0; token <= newest; token++)
    assert.equal(await resultOf(subject, session.id, token, now), 'accepted')
  return session
}

async function resultOf(subject: Storage, id: string, token: number, now: number, by = rule) {
  return (await subject.refreshSession(id, token, by, now)).result
}

/** The counter that was accepted, or the refusal. */
function accepted(outcome: RefreshOutcome | undefined) {
  return outcome?.result === 'accepted' ? outcome.counter : outcome?.result
}
