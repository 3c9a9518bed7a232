import t from 'tap'
import { memoryStorage } from '../../../lib/adapters/memory/index.ts'
import { sampleEvent } from '../../../lib/testing/events.ts'
import {
  day,
  passwordChange,
  rule,
  sampleDeletion,
  sampleMail,
  sampleSession,
  sampleUser,
  start,
} from '../../../lib/testing/samples.ts'
import { storageContract } from '../../../lib/testing/storage.ts'
import { everything, inProduction } from '../../helpers/helper.ts'

for (const ids of everything ? (['integer', 'uuid', 'text'] as const) : (['integer'] as const)) {
  // One store for all cases, twice over: the suite may run again on the same store.
  const storage = memoryStorage({ ids })
  for (const round of ['', ', again']) {
    for (const { name, run } of storageContract) t.test(`memory, ${ids}${round}: ${name}`, () => run(storage))
  }
}

t.test('every verb of the memory storage is done within the tick of its call', async (t) => {
  const storage = memoryStorage()
  const user = { ...sampleUser(), id: 1 }
  const session = sampleSession(user)
  const mail = sampleMail()
  const change = passwordChange(user, { sessions: 'keep' })

  const answers = [
    storage.insertUser(user),
    storage.insertSession(session, 1000),
    storage.refreshSession(session.id, 0, rule, start),
    storage.updateUser({ id: 1, profile: { city: 'Oslo' } }),
    storage.setRole(1, 'admin'),
    storage.changeCredentials(change),
    storage.replacePasswordHash(1, '$argon2id$new', 'better'),
    storage.findUserWithPassword(1),
    storage.sessionActive(session.id, 1, start),
    storage.endSession(session.id, 1, start),
    storage.listSessions(1, 1000, start),
    storage.addMails([mail]),
    storage.claimMails(start, start + 1, 9),
    storage.settleMails([mail.id]),
    storage.claimMails(start + 1, start + 2, 9),
    storage.addEvent(sampleEvent(1, start)),
    storage.listEvents(1, { limit: 9 }),
    storage.deleteUser({ ...sampleDeletion(user), fence: change.credentialVersion }),
    storage.importUsers([user]),
    storage.listUsers({ limit: 9 }),
    storage.endedSince(start, start),
    storage.purge({ now: start + 99 * day, eventsBefore: start + 1, limit: 9 }),
  ]

  const found = { profile: { city: 'Oslo' }, role: 'admin', passwordHash: 'better' }
  const claimed = [{ ...mail, dueAt: start + 1 }]
  t.match(await Promise.all(answers), [
    { id: 1 },
    ...[[], { result: 'accepted' }, { profile: { city: 'Oslo' } }, true, { ended: [] }, true, found],
    ...[true, { ended: true }, [], undefined, claimed, undefined, [], undefined, [{ at: start }]],
    ...[{ ended: [] }, [{ id: 1 }], [{ id: 1 }], [{ id: session.id }], 3],
  ])
})

t.test('callers never reach what the memory storage holds', async (t) => {
  const storage = memoryStorage()
  const user = { ...sampleUser({ profile: { tags: ['a'] } as never }), id: 1 }
  const session = sampleSession(user)
  const mail = sampleMail()
  await storage.insertUser(user, [mail])
  await storage.insertSession(session, 1000)
  function spoil(things: unknown[]) {
    for (const thing of things) Object.assign(thing as object, { userAgent: 'x', email: 'x', sealed: 'x' })
  }

  spoil([user, session, mail])
  const refreshed = await storage.refreshSession(session.id, 0, rule, start)
  spoil('user' in refreshed ? [refreshed.session, refreshed.user] : [])
  spoil([...(await storage.listUsers({ limit: 9 })), await storage.findUserWithPassword(1)])
  spoil([...(await storage.listSessions(1, 1000, start)), ...(await storage.claimMails(start, start, 9))])
  const profile = { city: { name: 'Oslo' } }
  const updated = await storage.updateUser({ id: 1, profile })
  profile.city.name = 'x'
  Object.assign((updated as { profile: object }).profile, { tags: 'x' })
  spoil(await storage.findHolders(user.emailCanonical, null))

  const found = await storage.findUserById(1)
  t.match(found?.email, /@Example\.org$/)
  t.strictSame(found?.profile, { tags: ['a'], city: { name: 'Oslo' } })
  t.match(await storage.listSessions(1, 1000, start), [{ userAgent: /contract/ }])
  t.match(await storage.claimMails(start, start, 9), [{ sealed: sampleMail().sealed }])
})

t.test('an id of the memory storage is never given out again', async (t) => {
  const storage = memoryStorage()
  await storage.importUsers([sampleUser(), sampleUser({ expiresAt: start })])
  await storage.purge({ now: start, eventsBefore: 0, limit: 9 })

  t.strictSame(await storage.insertUser(sampleUser()), { id: 3 })
})

t.test('in production the memory storage asks for its option by name', async (t) => {
  t.teardown(inProduction())

  t.throws(() => memoryStorage(), { name: 'TypeError', message: /"singleProcess"/ })
  t.throws(() => memoryStorage({ singleProcess: false }), { name: 'TypeError', message: /"singleProcess"/ })
  t.doesNotThrow(() => memoryStorage({ singleProcess: true }))
})
