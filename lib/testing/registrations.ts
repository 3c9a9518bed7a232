import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import type { Storage, UserId } from '../contracts.ts'
import { claimedOf, idsOf, race, sampleMail, sampleUser, start, storedUser, uniqueName } from './samples.ts'

/** The part of `storageContract` about users who come with mails, and about users who come in batches. */
export const registrationContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'the mails of a new user are stored with it',
    async run(subject) {
      const mails = [sampleMail(), sampleMail()]

      assert.equal(typeof (await subject.insertUser(sampleUser(), mails)), 'object')

      assert.deepEqual(idsOf(await claimedOf(subject, mails)), idsOf(mails))
    },
  },
  {
    name: 'the mails of a user who is refused are not stored',
    async run(subject) {
      const { email, emailCanonical, username, usernameCanonical } = await storedUser(subject)
      const mails = [sampleMail()]

      assert.equal(await subject.insertUser(sampleUser({ email, emailCanonical }), mails), 'email_taken')
      assert.equal(await subject.insertUser(sampleUser({ username, usernameCanonical }), mails), 'username_taken')
      assert.equal(await subject.insertUser(sampleUser({ email: 'a\0b' }), mails), 'invalid')

      assert.deepEqual(await claimedOf(subject, mails), [])
    },
  },
  {
    name: '[R-REG-1] of 50 callers with mails and the same e-mail or username one is stored, with its mail alone',
    async run(subject) {
      const { email, emailCanonical, username, usernameCanonical } = sampleUser()
      const taken = { email_taken: { email, emailCanonical }, username_taken: { username, usernameCanonical } }
      for (const [word, same] of Object.entries(taken)) {
        const mails = Array.from({ length: 50 }, () => sampleMail())

        const results = await race((index) => subject.insertUser(sampleUser(same), [mails[index]!]))

        assert.equal(results.filter((result) => result === word).length, 49)
        const winner = results.findIndex((result) => typeof result === 'object')
        assert.deepEqual(idsOf(await claimedOf(subject, mails)), [mails[winner]?.id])
      }
    },
  },
  {
    name: 'who has an address or a name is found, without a password hash, and nobody else',
    async run(subject) {
      const [one, other] = [await storedUser(subject), await storedUser(subject)]
      const found = async (email: string, name: string | null) =>
        (await subject.findHolders(email, name)).map(({ id }) => id).toSorted()
      const free = sampleUser()

      assert.deepEqual(await subject.findHolders(one.emailCanonical, null), [await subject.findUserById(one.id)])
      assert.deepEqual(await found(free.emailCanonical, other.usernameCanonical), [other.id])
      assert.deepEqual(await found(one.emailCanonical, other.usernameCanonical), [one.id, other.id].toSorted())
      assert.deepEqual(await found(one.emailCanonical, one.usernameCanonical), [one.id])
      assert.deepEqual(await found(free.emailCanonical, free.usernameCanonical), [])
      assert.deepEqual(await found(free.emailCanonical, null), [])
      assert.deepEqual(await found('a\0b', '\ud800'), [])
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
    name: 'an imported user keeps its id and stays disabled, and later ids are other ones, of numbers greater ones',
    async run(subject) {
      const base = await storedUser(subject)
      const [first, second, third] = freeIds(base.id)
      const disabled = { ...sampleUser(), id: second, active: false }
      const results = await subject.importUsers([{ ...sampleUser(), id: third }, disabled, sampleUser()])
      const again = await subject.importUsers([
        { ...sampleUser(), id: second },
        { ...sampleUser({ emailCanonical: disabled.emailCanonical }), id: first },
        { ...sampleUser(), id: '' as UserId },
        { ...sampleUser(), id: first },
      ])

      const [one, two, other] = results as { id: UserId }[]
      assert.deepEqual([one, two], [{ id: third }, { id: second }])
      assert.equal((await subject.findUserById(second))?.active, false)
      assert.equal((await subject.findUserById(third))?.active, true)
      assert.deepEqual(again, ['id_taken', 'email_taken', 'invalid', { id: first }])
      const later = await race(async () => (await storedUser(subject)).id)
      if (subject.ids === 'integer')
        assert.ok(
          later.every((id) => id > third),
          'later ids are greater',
        )
      const all = [base.id, first, second, third, other!.id, ...later]
      assert.equal(new Set(all).size, all.length)
    },
  },
  {
    name: 'who registers while the ids that come next are imported gets another one, as who is imported without one',
    async run(subject) {
      const { id: base } = await storedUser(subject)
      const ids = Array.from({ length: 20 }, (_, index) =>
        typeof base === 'number' ? base + 1 + index : base.slice(0, -12) + randomBytes(6).toString('hex'),
      )

      const [imported, ...registered] = await Promise.all([
        subject.importUsers([...ids.map((id) => ({ ...sampleUser(), id })), sampleUser()]),
        ...Array.from({ length: 10 }, () => subject.insertUser(sampleUser())),
      ])

      const outcomes = [...imported, ...registered].filter((outcome) => outcome !== 'id_taken')
      assert.deepEqual(
        outcomes.filter((outcome) => typeof outcome === 'string'),
        [],
      )
      assert.equal(new Set(outcomes.map((outcome) => (outcome as { id: UserId }).id)).size, outcomes.length)
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

/** Three ids that nobody has, in ascending order. */
function freeIds(taken: UserId): [UserId, UserId, UserId] {
  const ids =
    typeof taken === 'number'
      ? [10, 20, 30].map((more) => taken + more)
      : Array.from({ length: 3 }, () => taken.slice(0, -12) + randomBytes(6).toString('hex')).sort()
  return ids as [UserId, UserId, UserId]
}
