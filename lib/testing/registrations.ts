import assert from 'node:assert/strict'
import type { Insertion, OutboxMail, Storage } from '../contracts.ts'
import { claimedOf, idsOf, race, sampleMail, sampleUser, start, storedUser, uniqueName } from './samples.ts'

/** The part of `storageContract` about users who come with mails, and about users who come in batches. */
export const registrationContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'the mails of a new user hear its id and are stored with it',
    async run(subject) {
      const { mails, write, heard } = listener()

      const stored = await subject.insertUser(sampleUser(), write)

      assert.ok(typeof stored === 'object')
      assert.deepEqual(heard.at(-1), { result: 'stored', id: stored.id })
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails.at(-1)?.id])
    },
  },
  {
    name: 'the mails of a user whose address is taken hear who has it, without a password hash, and are stored',
    async run(subject) {
      const owner = await storedUser(subject)
      const { mails, write, heard } = listener()
      const { email, emailCanonical } = owner

      assert.equal(await subject.insertUser(sampleUser({ email, emailCanonical }), write), 'email_taken')

      assert.deepEqual(heard.at(-1), { result: 'email_taken', user: await subject.findUserById(owner.id) })
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails.at(-1)?.id])
    },
  },
  {
    name: 'the mails of a user whose name is taken hear so and are stored',
    async run(subject) {
      const { username, usernameCanonical } = await storedUser(subject)
      const { mails, write, heard } = listener()

      assert.equal(await subject.insertUser(sampleUser({ username, usernameCanonical }), write), 'username_taken')

      assert.deepEqual(heard.at(-1), { result: 'username_taken' })
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails.at(-1)?.id])
    },
  },
  {
    name: 'a user who wants a name that somebody has is not stored, with mails or without',
    async run(subject) {
      const { usernameCanonical } = await storedUser(subject)
      const user = nameless(usernameCanonical)
      const { mails, write, heard } = listener()

      assert.equal(await subject.insertUser(user), 'username_taken')
      assert.equal(await subject.insertUser(user, write), 'username_taken')

      assert.equal(await subject.findUserByEmail(user.emailCanonical), null)
      assert.deepEqual(heard.at(-1), { result: 'username_taken' })
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails.at(-1)?.id])
    },
  },
  {
    name: 'a name that is only wanted is not taken',
    async run(subject) {
      const name = uniqueName()
      const users = [nameless(name), nameless(name)] as const

      assert.equal(typeof (await subject.insertUser(users[0])), 'object')
      assert.equal(typeof (await subject.insertUser(users[1], () => [])), 'object')

      for (const { emailCanonical } of users)
        assert.equal((await subject.findUserByEmail(emailCanonical))?.username, null)
      assert.equal(typeof (await subject.insertUser(sampleUser({ usernameCanonical: name }))), 'object')
    },
  },
  {
    name: 'a taken address is told before a wanted name that somebody has, and who has the address',
    async run(subject) {
      const { email, emailCanonical, id } = await storedUser(subject)
      const { usernameCanonical } = await storedUser(subject)
      const user = { ...nameless(usernameCanonical), email, emailCanonical }
      const { write, heard } = listener()

      assert.equal(await subject.insertUser(user), 'email_taken')
      assert.equal(await subject.insertUser(user, write), 'email_taken')

      assert.deepEqual(heard.at(-1), { result: 'email_taken', user: await subject.findUserById(id) })
    },
  },
  {
    name: 'no mails are asked for when a value cannot be stored',
    async run(subject) {
      const { write, heard } = listener()

      assert.equal(await subject.insertUser(sampleUser({ email: 'a\0b' }), write), 'invalid')
      assert.equal(await subject.insertUser(nameless('a\0b'), write), 'invalid')

      assert.deepEqual(heard, [])
    },
  },
  {
    name: 'a user whose mails cannot be written is not stored',
    async run(subject) {
      const user = sampleUser()
      const write = () => {
        throw new RangeError('no mail')
      }

      await assert.rejects(subject.insertUser(user, write), RangeError)

      assert.equal(await subject.findUserByEmail(user.emailCanonical), null)
      assert.equal(typeof (await subject.insertUser(user)), 'object')
    },
  },
  {
    name: '[R-REG-1] of 50 callers with mails and the same e-mail one is stored, and the mails of all',
    async run(subject) {
      const { email, emailCanonical } = sampleUser()
      const mails = Array.from({ length: 50 }, () => sampleMail())
      const heard: Insertion[] = []

      const results = await race((index) =>
        subject.insertUser(sampleUser({ email, emailCanonical }), (insertion) => {
          heard[index] = insertion
          return [mails[index]!]
        }),
      )

      const winner = results.findIndex((result) => typeof result === 'object')
      const user = await subject.findUserByEmail(emailCanonical)
      assert.equal(results.filter((result) => result === 'email_taken').length, 49)
      assert.deepEqual(results[winner], { id: user?.id })
      for (const [index, insertion] of heard.entries()) {
        const result = index === winner ? 'stored' : 'email_taken'
        assert.equal(insertion.result, result)
        assert.equal('user' in insertion ? insertion.user.id : 'id' in insertion && insertion.id, user?.id)
      }
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), idsOf(mails))
    },
  },
  {
    name: '[R-REG-1] of 50 callers with mails and the same username one is stored, and the mails of all',
    async run(subject) {
      const { username, usernameCanonical } = sampleUser()
      const mails = Array.from({ length: 50 }, () => sampleMail())

      const results = await race((index) =>
        subject.insertUser(sampleUser({ username, usernameCanonical }), () => [mails[index]!]),
      )

      assert.equal(results.filter((result) => typeof result === 'object').length, 1)
      assert.equal(results.filter((result) => result === 'username_taken').length, 49)
      assert.deepEqual(idsOf(await claimedOf(subject, mails)), idsOf(mails))
    },
  },
  {
    name: 'imported users have their outcomes in order, and one who is refused loses no other',
    async run(subject) {
      const known = await storedUser(subject)
      const users = [
        sampleUser({ role: 'admin', emailVerifiedAt: start + 1 }),
        sampleUser({ email: known.email, emailCanonical: known.emailCanonical }),
        sampleUser({ username: 'a\0b' }),
        sampleUser({ username: known.username, usernameCanonical: known.usernameCanonical }),
        sampleUser({ createdAt: 1.5 }),
        sampleUser({ username: null, usernameCanonical: null }),
      ]

      const results = await subject.importUsers(users)

      const words = results.map((result) => (typeof result === 'object' ? 'stored' : result))
      assert.deepEqual(words, ['stored', 'email_taken', 'invalid', 'username_taken', 'invalid', 'stored'])
      for (const index of [0, 5]) {
        const found = await subject.findUserByEmail(users[index]!.emailCanonical)
        assert.deepEqual({ id: found?.id }, results[index])
        assert.equal(found?.email, users[index]!.email)
      }
    },
  },
  {
    name: 'of two imported users with the same e-mail or username the first is stored',
    async run(subject) {
      const one = sampleUser()
      const sameEmail = sampleUser({ emailCanonical: one.emailCanonical })
      const sameName = sampleUser({ usernameCanonical: one.usernameCanonical })
      // Refused itself, it stands in nobody's way.
      const after = sampleUser({ usernameCanonical: sameEmail.usernameCanonical })

      const [first, ...others] = await subject.importUsers([one, sameEmail, sameName, after, one])

      const found = await subject.findUserByEmail(one.emailCanonical)
      const afterwards = await subject.findUserByEmail(after.emailCanonical)
      assert.deepEqual(first, { id: found?.id })
      assert.deepEqual(others, ['email_taken', 'username_taken', { id: afterwards?.id }, 'email_taken'])
      assert.equal(found?.email, one.email)
    },
  },
  {
    name: 'of 50 parallel imports of the same users each user is stored by exactly one',
    async run(subject) {
      const users = Array.from({ length: 20 }, () => sampleUser())

      // In different orders, so that two imports may want what the other one holds.
      const results = await race(async (index) => {
        const turned = [...users.slice(index % 20), ...users.slice(0, index % 20)]
        const batch = index % 2 ? turned : turned.toReversed()
        const outcomes = await subject.importUsers(batch)
        return batch.filter((_, at) => typeof outcomes[at] === 'object').map(({ emailCanonical }) => emailCanonical)
      })

      assert.deepEqual(results.flat().sort(), users.map(({ emailCanonical }) => emailCanonical).sort())
    },
  },
  {
    name: 'an import may be large, or empty',
    async run(subject) {
      const name = uniqueName()
      const users = Array.from({ length: 6000 }, (_, index) =>
        sampleUser({ usernameCanonical: `${name}${index}`, emailCanonical: `${name}${index}@example.org` }),
      )

      const results = await subject.importUsers(users)

      assert.equal(results.filter((result) => typeof result === 'object').length, 6000)
      const last = await subject.findUserByEmail(`${name}5999@example.org`)
      assert.deepEqual(results[5999], { id: last?.id })
      assert.deepEqual(await subject.importUsers([]), [])
    },
  },
]

/** A user without a name who wants one. */
function nameless(wantedUsername: string | null) {
  return { ...sampleUser({ username: null, usernameCanonical: null }), wantedUsername }
}

/** Hears what became of a user, and writes one mail each time it is asked. */
function listener() {
  const heard: Insertion[] = []
  const mails: OutboxMail[] = []
  const write = (insertion: Insertion) => {
    heard.push(insertion)
    const mail = sampleMail()
    mails.push(mail)
    return [mail]
  }
  return { heard, mails, write }
}
