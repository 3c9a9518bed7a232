import assert from 'node:assert/strict'
import type { NewUser, Session, Storage } from '../contracts.ts'
import {
  claimedOf,
  day,
  hostileTexts,
  idsOf,
  passwordChange,
  rule,
  sampleMail,
  sampleSession,
  sampleUser,
  start,
  storableTexts,
  storedSession,
  storedUser,
  uniqueName,
} from './samples.ts'

/** The part of `storageContract` about `changeCredentials`, one caller at a time. */
export const credentialContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: '[R-SES-1] a password change ends all sessions of the user and no other’s',
    async run(subject) {
      const user = await storedUser(subject)
      const own = [await storedSession(subject, {}, user), await storedSession(subject, {}, user)]
      const over = await storedSession(subject, {}, user)
      await subject.endSession(over.id, null, start)
      const foreign = await storedSession(subject)

      const change = await subject.changeCredentials(passwordChange(user, { now: start + 5 }))

      assert.deepEqual(endedBy(change), idsOf(own))
      for (const session of own) {
        assert.equal(await subject.sessionActive(session.id, user.id, start), false)
        assert.deepEqual(await subject.refreshSession(session.id, 0, rule, start), { result: 'dead' })
      }
      assert.equal(await subject.sessionActive(foreign.id, foreign.userId, start), true)
      const ends = (await subject.endedSince(start + 5, 0)).filter(({ id }) => own.some((session) => session.id === id))
      assert.deepEqual(
        ends.map(({ endedAt }) => endedAt),
        [start + 5, start + 5],
      )
    },
  },
  {
    name: 'a change after another, and one of a disabled user, changes nothing',
    async run(subject) {
      for (const active of [true, false]) {
        const user = await storedUser(subject)
        const moved = passwordChange(user, { set: { active }, sessions: 'keep' })
        assert.deepEqual(await subject.changeCredentials(moved), { ended: [] })
        const before = await subject.findUserWithPassword(user.id)
        const session = sampleSession(user, { credentialVersion: moved.credentialVersion })
        if (active) await subject.insertSession(session, 1000)
        const begun = sampleSession(user, { credentialVersion: 7 })
        const mails = [sampleMail()]

        const late = { fence: user.credentialVersion + (active ? 0 : 1), credentialVersion: 7, start: begun, mails }
        assert.equal(await subject.changeCredentials(passwordChange(user, late)), 'stale')

        assert.deepEqual(await subject.findUserWithPassword(user.id), before)
        assert.equal(await subject.sessionActive(session.id, user.id, start), active)
        assert.equal(await subject.sessionActive(begun.id, user.id, start), false)
        assert.deepEqual(await claimedOf(subject, mails), [])
      }
    },
  },
  {
    name: 'a change sets what it names and leaves the rest alone',
    async run(subject) {
      const user = await storedUser(subject, { profile: { city: 'Oslo' } as NewUser['profile'], role: 'admin' })
      const name = uniqueName()
      const before = await subject.findUserWithPassword(user.id)

      const nothing = await subject.changeCredentials(passwordChange(user, { set: {} }))
      assert.deepEqual(nothing, { ended: [] })
      const version = user.credentialVersion + 1
      assert.deepEqual(await subject.findUserWithPassword(user.id), { ...before, credentialVersion: version })

      const set = { email: `${name}@Example.org`, emailVerifiedAt: start + 1, username: 'É', passwordHash: null }
      const canonical = { emailCanonical: `${name}@example.org`, usernameCanonical: name }
      const profile = { plan: 'x' } as NewUser['profile']
      const change = { fence: version, credentialVersion: 3, set: { ...set, ...canonical, profile } }
      assert.deepEqual(await subject.changeCredentials(passwordChange(user, change)), { ended: [] })
      const after = { ...before, ...set, profile, credentialVersion: 3 }
      assert.deepEqual(await subject.findUserWithPassword(user.id), after)
      assert.deepEqual(await subject.findUserByEmail(canonical.emailCanonical), after)
      assert.equal(await subject.findUserByEmail(user.emailCanonical), null)
    },
  },
  {
    name: 'the old address and name of a changed user are free, and the new ones are taken',
    async run(subject) {
      const user = await storedUser(subject)
      const name = uniqueName()

      const set = { email: name, emailCanonical: name, username: name, usernameCanonical: name }
      await subject.changeCredentials(passwordChange(user, { set }))

      assert.equal(await subject.insertUser(sampleUser({ emailCanonical: name })), 'email_taken')
      assert.equal(await subject.insertUser(sampleUser({ usernameCanonical: name })), 'username_taken')
      const { emailCanonical, usernameCanonical } = user
      assert.equal(typeof (await subject.insertUser(sampleUser({ emailCanonical, usernameCanonical }))), 'object')
    },
  },
  {
    name: 'a disabled user opens and refreshes no session, and is the same again when enabled',
    async run(subject) {
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)
      const off = passwordChange(user, { set: { active: false }, sessions: 'keep' })
      const on = { ...off, fence: off.credentialVersion, credentialVersion: 9, set: { active: true } }

      assert.deepEqual(await subject.changeCredentials(off), { ended: [] })
      const log = { credentialVersion: off.credentialVersion }
      assert.equal(await subject.insertSession(sampleSession(user, log), 1000), null)
      assert.deepEqual(await subject.refreshSession(session.id, 0, rule, start), { result: 'dead' }, '[R-REF-5]')
      assert.equal((await subject.findUserById(user.id))?.active, false)

      assert.deepEqual(await subject.changeCredentials(on), { ended: [] })
      assert.equal((await subject.findUserWithPassword(user.id))?.passwordHash, user.passwordHash)
      assert.deepEqual(await subject.insertSession(sampleSession(user, { credentialVersion: 9 }), 1000), [])
      assert.equal((await subject.refreshSession(session.id, 0, rule, start)).result, 'accepted')
    },
  },
  {
    name: '[R-SES-7] kept sessions go on under the new version, and a session that ended stays so',
    async run(subject) {
      const user = await storedUser(subject)
      const [kept, other, over] = await threeSessions(subject, user)
      await subject.endSession(over.id, null, start)

      const all = passwordChange(user, { sessions: 'keep' })
      assert.deepEqual(await subject.changeCredentials(all), { ended: [] })
      for (const { id } of [kept, other]) await assertRefreshes(subject, id, 0, all.credentialVersion)

      const one = { fence: all.credentialVersion, credentialVersion: 5, sessions: { keep: kept.id } }
      assert.deepEqual(await subject.changeCredentials(passwordChange(user, one)), { ended: [other.id] })
      await assertRefreshes(subject, kept.id, 1, 5)
      assert.equal(await subject.sessionActive(other.id, user.id, start), false)
      assert.equal(await subject.sessionActive(over.id, user.id, start), false)
    },
  },
  {
    name: '[R-SQL-1] a session to keep that is no session of the user’s keeps none, and nobody else’s is touched',
    async run(subject) {
      const foreign = await storedSession(subject)
      for (const keep of [...hostileTexts, foreign.id]) {
        const user = await storedUser(subject)
        const session = await storedSession(subject, {}, user)

        const change = await subject.changeCredentials(passwordChange(user, { sessions: { keep } }))

        assert.deepEqual(change, { ended: [session.id] }, JSON.stringify(keep))
      }
      await assertRefreshes(subject, foreign.id, 0, foreign.credentialVersion)
    },
  },
  {
    name: 'a session that starts with a change is the user’s and of the new version, whatever the caller set',
    async run(subject) {
      for (const sessions of ['end', 'keep'] as const) {
        const user = await storedUser(subject)
        const old = await storedSession(subject, {}, user)
        const change = passwordChange(user, { sessions })
        const begun = sampleSession(await storedUser(subject), { credentialVersion: 7 })

        const { length } = endedBy(await subject.changeCredentials({ ...change, start: begun }))

        assert.equal(length, sessions === 'end' ? 1 : 0)
        assert.equal(await subject.sessionActive(old.id, user.id, start), sessions === 'keep')
        const outcome = await subject.refreshSession(begun.id, 0, rule, start)
        const { credentialVersion } = change
        assert.deepEqual('session' in outcome && outcome.session, { ...begun, userId: user.id, credentialVersion })
      }
    },
  },
  {
    name: '[R-REG-4] an address that another account has changes nothing: no hash, no mail, no session',
    async run(subject) {
      const { email, emailCanonical } = await storedUser(subject)
      const user = await storedUser(subject)
      const session = await storedSession(subject, {}, user)
      const before = await subject.findUserWithPassword(user.id)
      const begun = sampleSession(user)
      const mails = [sampleMail()]

      const set = { email, emailCanonical, emailVerifiedAt: start, passwordHash: 'x' }
      const change = passwordChange(user, { set, start: begun, mails })
      assert.equal(await subject.changeCredentials(change), 'email_taken')

      assert.deepEqual(await subject.findUserWithPassword(user.id), before)
      assert.equal(await subject.sessionActive(session.id, user.id, start), true)
      assert.equal(await subject.sessionActive(begun.id, user.id, start), false)
      assert.deepEqual(await claimedOf(subject, mails), [])
      await assertRefreshes(subject, session.id, 0, user.credentialVersion)
    },
  },
  {
    name: 'the own address and the own name are not taken',
    async run(subject) {
      const user = await storedUser(subject)
      const { emailCanonical, usernameCanonical } = user
      const set = { email: 'spelt differently', emailCanonical, username: 'too', usernameCanonical }

      assert.deepEqual(await subject.changeCredentials(passwordChange(user, { set })), { ended: [] })

      const found = await subject.findUserById(user.id)
      assert.deepEqual([found?.email, found?.username], ['spelt differently', 'too'])
    },
  },
  {
    name: 'a name that somebody else has is not set, and the rest of the change is',
    async run(subject) {
      const { username, usernameCanonical } = await storedUser(subject)
      const user = await storedUser(subject)
      const mails = [sampleMail()]

      const set = { username, usernameCanonical, passwordHash: 'x', emailVerifiedAt: start }
      assert.deepEqual(await subject.changeCredentials(passwordChange(user, { set, mails })), { ended: [] })

      const found = await subject.findUserWithPassword(user.id)
      const { passwordHash, emailVerifiedAt } = found ?? {}
      assert.deepEqual([found?.username, passwordHash, emailVerifiedAt], [user.username, 'x', start])
      const again = sampleUser({ usernameCanonical: user.usernameCanonical })
      assert.equal(await subject.insertUser(again), 'username_taken')
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), idsOf(mails))
    },
  },
  {
    name: '[R-REG-3] an account whose address is proved does not expire',
    async run(subject) {
      const user = await storedUser(subject, { expiresAt: start + day })

      await subject.changeCredentials(passwordChange(user, { set: { emailVerifiedAt: start } }))
      await subject.purge({ now: start + 2 * day, eventsBefore: start, limit: 1000 })

      assert.equal((await subject.findUserById(user.id))?.emailVerifiedAt, start)
    },
  },
  {
    name: '[R-SQL-1] hostile texts in a change are texts',
    async run(subject) {
      const user = await storedUser(subject)
      for (const [index, text] of storableTexts.entries()) {
        const name = uniqueName() + text
        const canonical = { emailCanonical: name, usernameCanonical: name }
        const set = { passwordHash: text, email: text, username: text, profile: { [`x${text}`]: text } as never }
        const change = { fence: user.credentialVersion + index, credentialVersion: user.credentialVersion + index + 1 }

        const result = await subject.changeCredentials(
          passwordChange(user, { ...change, set: { ...set, ...canonical } }),
        )

        assert.deepEqual(result, { ended: [] })
        const { passwordHash, email, username, profile } = (await subject.findUserWithPassword(user.id)) ?? {}
        assert.deepEqual({ passwordHash, email, username, profile }, set)
      }
    },
  },
]

async function threeSessions(subject: Storage, user: NewUser & { id: Session['userId'] }) {
  const session = () => storedSession(subject, {}, user)
  return [await session(), await session(), await session()] as const
}

async function assertRefreshes(subject: Storage, id: string, token: number, credentialVersion: number) {
  const outcome = await subject.refreshSession(id, token, rule, start)

  assert.equal(outcome.result === 'accepted' && outcome.session.credentialVersion, credentialVersion)
  assert.equal(outcome.result === 'accepted' && outcome.user.credentialVersion, credentialVersion)
}

/** The sessions that a change ended, sorted. */
function endedBy(change: Awaited<ReturnType<Storage['changeCredentials']>>): string[] {
  assert.ok(typeof change === 'object')
  return change.ended.toSorted()
}
