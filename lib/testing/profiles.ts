import assert from 'node:assert/strict'
import type { NewUser, Storage, User, UserId } from '../contracts.ts'
import {
  hostileTexts,
  memberNamed,
  missingId,
  passwordChange,
  race,
  sampleUser,
  start,
  storableTexts,
  storedSession,
  storedUser,
  uniqueName,
} from './samples.ts'

/** The part of `storageContract` about profiles, roles and lists of users. */
export const profileContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'an update changes what it names, leaves the rest alone and returns the user as it is afterwards',
    async run(subject) {
      const user = await storedUser(subject, { profile: profileOf({ city: 'Oslo', plan: { name: 'x', size: 1 } }) })
      const before = await subject.findUserById(user.id)
      const other = await storedUser(subject)
      const name = uniqueName()

      const profile = { plan: { name: 'y' } }
      const updated = await subject.updateUser({ id: user.id, profile })
      assert.deepEqual(updated, { ...before, profile: { city: 'Oslo', ...profile } })
      assert.deepEqual(await subject.findUserById(user.id), updated)

      const renamed = await subject.updateUser({ id: user.id, username: 'É', usernameCanonical: name, profile: {} })
      assert.deepEqual(renamed, { ...(updated as User), username: 'É' })
      assert.deepEqual(await subject.findUserById(user.id), renamed)
      assert.equal((await subject.findUserById(other.id))?.username, other.username)
    },
  },
  {
    name: '50 parallel updates of different members of a profile all survive',
    async run(subject) {
      const { id } = await storedUser(subject, { profile: profileOf({ kept: true }) })

      const results = await race((index) => subject.updateUser({ id, profile: { [`member${index}`]: index } }))

      const members = Object.fromEntries(results.map((_, index) => [`member${index}`, index]))
      assert.ok(results.every((result) => typeof result === 'object' && result !== null))
      assert.deepEqual((await subject.findUserById(id))?.profile, { kept: true, ...members })
    },
  },
  {
    name: 'a username that somebody else has is taken, and nothing is changed',
    async run(subject) {
      const user = await storedUser(subject)
      const { username, usernameCanonical } = await storedUser(subject)

      const update = { id: user.id, username, usernameCanonical, profile: { city: 'Oslo' } }
      assert.equal(await subject.updateUser(update), 'username_taken')

      const found = await subject.findUserById(user.id)
      assert.deepEqual([found?.username, found?.profile], [user.username, {}])
    },
  },
  {
    name: 'a user may spell the own name differently, give it away and drop it',
    async run(subject) {
      const { id, username, usernameCanonical } = await storedUser(subject)
      const other = await storedUser(subject)

      const spelt = await subject.updateUser({ id, username: 'other spelling', usernameCanonical, profile: {} })
      assert.equal((spelt as User).username, 'other spelling')
      const dropped = await subject.updateUser({ id, username: null, usernameCanonical: null, profile: {} })
      assert.equal((dropped as User).username, null)
      const taken = await subject.updateUser({ id: other.id, username, usernameCanonical, profile: {} })
      assert.equal((taken as User).username, username)
      const back = { id, username: other.username, usernameCanonical: other.usernameCanonical, profile: {} }
      assert.equal(((await subject.updateUser(back)) as User).username, other.username)
    },
  },
  {
    name: 'exactly one of 50 users who take the same username gets it',
    async run(subject) {
      const users = await race(() => storedUser(subject))
      const name = uniqueName()

      const results = await race((index) =>
        subject.updateUser({ id: users[index]!.id, username: name, usernameCanonical: name, profile: {} }),
      )

      assert.equal(results.filter((result) => result === 'username_taken').length, 49)
      assert.equal(results.filter((result) => (result as User).username === name).length, 1)
      assert.equal(await subject.insertUser(sampleUser({ usernameCanonical: name })), 'username_taken')
    },
  },
  {
    name: 'a disabled and a missing user are not updated',
    async run(subject) {
      const user = await storedUser(subject)
      await subject.changeCredentials(passwordChange(user, { set: { active: false } }))

      assert.equal(await subject.updateUser({ id: user.id, profile: { city: 'Oslo' } }), null)
      assert.equal(await subject.updateUser({ id: missingId(subject), profile: {} }), null)

      assert.deepEqual((await subject.findUserById(user.id))?.profile, {})
    },
  },
  {
    name: 'an update that a session asks for needs that session, as it is now, and the address that was seen',
    async run(subject) {
      const user = await storedUser(subject)
      const { id, emailCanonical } = user
      const [live, ended, theirs] = [
        await storedSession(subject, {}, user),
        await storedSession(subject, {}, user),
        await storedSession(subject),
      ]
      await subject.endSession(ended.id, id, start)
      const asked = (fence: { sessionId: string; emailCanonical?: string }) =>
        subject.updateUser({ id, profile: { city: 'Oslo' }, fence })

      for (const sessionId of [ended.id, theirs.id, uniqueName()]) assert.equal(await asked({ sessionId }), null)
      assert.equal(await asked({ sessionId: live.id, emailCanonical: uniqueName() }), null)
      assert.deepEqual((await subject.findUserById(id))?.profile, {})
      assert.deepEqual(((await asked({ sessionId: live.id, emailCanonical })) as User).profile, { city: 'Oslo' })

      await subject.changeCredentials(passwordChange(user, { sessions: { keep: live.id } }))
      assert.deepEqual(((await asked({ sessionId: live.id })) as User).profile, { city: 'Oslo' })
    },
  },
  {
    name: 'no update lands after a change of credentials that ended its session, or of the address that it depends on',
    async run(subject) {
      for (const sessions of ['end', 'keep'] as const) {
        const user = await storedUser(subject)
        const { id, emailCanonical } = user
        const session = await storedSession(subject, {}, user)
        const set = { profile: profileOf({ city: 'Oslo' }), emailCanonical: uniqueName() }
        const change = passwordChange(user, { set, sessions })
        const fence = { sessionId: session.id, ...(sessions === 'keep' && { emailCanonical }) }

        await race(async (index) => {
          if (index === 25) return subject.changeCredentials(change)
          return subject.updateUser({ id, profile: { [`member${index}`]: index }, fence })
        })

        assert.deepEqual((await subject.findUserById(id))?.profile, set.profile)
      }
    },
  },
  {
    name: '[R-SQL-2] an update with a value that the store cannot hold is invalid and changes nothing',
    async run(subject) {
      const { id } = await storedUser(subject)
      const before = await subject.findUserById(id)

      for (const update of [
        { username: 'a\0b', usernameCanonical: 'x', profile: {} },
        { username: 'x', usernameCanonical: '\ud800', profile: {} },
        { profile: { good: 1, text: 'a\0b' } },
        { profile: { 'key\0': 1 } },
        { profile: { deep: [{ text: '\udc00' }] } },
      ]) {
        assert.equal(await subject.updateUser({ id, ...update }), 'invalid', JSON.stringify(update))
      }

      assert.deepEqual(await subject.findUserById(id), before)
    },
  },
  {
    name: '[R-SQL-1] hostile texts in an update are texts',
    async run(subject) {
      const { id } = await storedUser(subject)
      for (const text of storableTexts) {
        const name = { username: text, usernameCanonical: uniqueName() + text }
        const updated = await subject.updateUser({ id, ...name, profile: memberNamed(text) })

        assert.equal((updated as User).username, text)
        assert.ok(await subject.setRole(id, text))
        assert.equal((await subject.findUserById(id))?.role, text)
      }

      const all = Object.assign({}, ...storableTexts.map(memberNamed))
      assert.deepEqual((await subject.findUserById(id))?.profile, all)
    },
  },
  {
    name: 'a role is set and taken away, for a disabled user too; a missing user has none',
    async run(subject) {
      const user = await storedUser(subject)
      await subject.changeCredentials(passwordChange(user, { set: { active: false } }))

      assert.equal(await subject.setRole(user.id, 'admin'), true)
      assert.equal((await subject.findUserById(user.id))?.role, 'admin')
      assert.equal(await subject.setRole(user.id, null), true)
      assert.equal((await subject.findUserById(user.id))?.role, null)
      assert.equal(await subject.setRole(missingId(subject), 'admin'), false)
    },
  },
  {
    name: 'pages of users hold everyone once, by ascending id, and no password hash',
    async run(subject) {
      const users = await Promise.all(Array.from({ length: 5 }, () => storedUser(subject)))

      const listed = await everyone(subject)

      const ids = listed.map(({ id }) => id)
      assert.ok(ids.every((id, index) => index === 0 || ids[index - 1]! < id))
      for (const { id } of users) {
        assert.deepEqual(
          listed.find((user) => user.id === id),
          await subject.findUserById(id),
        )
      }
    },
  },
  {
    name: 'a page is those after an id, which need not be a user’s any more, and no more than its limit',
    async run(subject) {
      await Promise.all(Array.from({ length: 5 }, () => storedUser(subject)))
      const [first, ...others] = (await everyone(subject)).slice(-5)

      assert.deepEqual(await subject.listUsers({ after: first!.id, limit: 2 }), others.slice(0, 2))
      assert.equal((await subject.listUsers({ limit: 3 })).length, 3)
      await subject.deleteUser({ userId: first!.id, fence: first!.credentialVersion, now: start, mails: [] })
      assert.deepEqual(await subject.listUsers({ after: first!.id, limit: 9 }), others)
      // Any text may be a place among ids that are texts.
      for (const after of subject.ids === 'text' ? [] : hostileTexts) {
        assert.deepEqual(await subject.listUsers({ after: after as UserId, limit: 9 }), [])
      }
    },
  },
]

function profileOf(profile: object): NewUser['profile'] {
  return profile as NewUser['profile']
}

async function everyone(subject: Storage): Promise<User[]> {
  const listed: User[] = []
  for (;;) {
    const after = listed.at(-1)?.id
    const page = await subject.listUsers({ limit: 1000, ...(after !== undefined && { after }) })
    if (page.length === 0) return listed
    listed.push(...page)
  }
}
