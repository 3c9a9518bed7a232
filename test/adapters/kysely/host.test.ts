import { ParseJSONResultsPlugin, sql } from 'kysely'
import t from 'tap'
import { kyselyStorage, migrateToLatest } from '../../../lib/adapters/kysely/index.ts'
import type { AccountEvent, NewUser, Profile } from '../../../lib/contracts.ts'
import { sampleEvent } from '../../../lib/testing/events.ts'
import {
  claimedOf,
  passwordChange,
  sampleDeletion,
  sampleMail,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
} from '../../../lib/testing/samples.ts'
import { databases, openFresh, openPostgres } from '../../helpers/databases.ts'
import { noPostgres } from '../../helpers/helper.ts'

const skip = noPostgres

for (const [title, { open, skip }] of Object.entries(databases)) {
  t.test(`a transaction of the host, ${title}`, { skip }, async (t) => {
    const db = await open(t)
    await migrateToLatest(db)
    const storage = kyselyStorage(db)

    t.test('a transaction of the host is joined and rolls back with it', async (t) => {
      const user = sampleUser()
      const mails = [sampleMail(), sampleMail(), sampleMail()] as const
      const known = await storedUser(storage)
      const gone = await storedUser(storage)
      const session = await storedSession(storage, {}, known)

      const rolledBack = db.transaction().execute(async (transaction) => {
        const joined = kyselyStorage(transaction)
        t.equal(typeof (await joined.insertUser(user, [mails[0]])), 'object')
        t.strictSame(await joined.changeCredentials(passwordChange(known, { mails: [mails[1]] })), {
          ended: [session.id],
        })
        t.strictSame(await joined.deleteUser(sampleDeletion(gone, [mails[2]])), { ended: [] })
        t.equal(await joined.sessionActive(session.id, known.id, start), false)
        throw new Error('the host has changed its mind')
      })
      await t.rejects(rolledBack, { message: 'the host has changed its mind' })

      t.equal(await storage.findUserByEmail(user.emailCanonical), null)
      t.equal(await storage.sessionActive(session.id, known.id, start), true)
      t.match(await storage.findUserByEmail(known.emailCanonical), { passwordHash: known.passwordHash })
      t.match(await storage.findUserById(gone.id), { id: gone.id })
      t.strictSame(await claimedOf(storage, [...mails]), [])
    })

    t.test('nothing that is refused aborts a transaction of the host', async (t) => {
      const user = sampleUser()
      const [known, other] = [await storedUser(storage), await storedUser(storage)]
      const tooLarge = { createdAt: 1, emailVerifiedAt: 2 ** 63 }
      const { usernameCanonical, email, emailCanonical } = other
      const imported = [sampleUser(), sampleUser(tooLarge), sampleUser({ emailCanonical }), sampleUser()]

      await db.transaction().execute(async (transaction) => {
        const joined = kyselyStorage(transaction)
        t.type(await joined.insertUser(user), 'object')
        t.equal(await joined.insertUser({ ...user, usernameCanonical: null }), 'email_taken')
        t.equal(await joined.insertUser(sampleUser(tooLarge)), 'invalid')
        t.equal(await joined.insertUser(sampleUser(tooLarge), [sampleMail()]), 'invalid')
        t.match(await joined.importUsers(imported), [{ id: Number }, 'invalid', 'email_taken', { id: Number }])
        const names = { username: 'x', usernameCanonical, profile: {} as Profile }
        t.equal(await joined.updateUser({ id: known.id, ...names }), 'username_taken')
        t.equal(
          await joined.changeCredentials(passwordChange(known, { set: { email, emailCanonical } })),
          'email_taken',
        )
      })

      t.type(await storage.findUserByEmail(user.emailCanonical), 'object')
      t.type(await storage.findUserByEmail(imported[3]!.emailCanonical), 'object')
      t.match(await storage.findUserById(known.id), { email: known.email, credentialVersion: known.credentialVersion })
    })
  })
}

t.test('values that a host’s own constraints refuse are invalid', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  const storage = kyselyStorage(db)
  await sql`alter table accounts_users
    alter column email type varchar(60),
    alter column username set not null,
    add check (profile->>'age' is null or (profile->>'age')::int > 17)`.execute(db)
  await sql`create unique index on accounts_users ((profile->>'phone'))`.execute(db)
  const profile = (value: object) => sampleUser({ profile: value as NewUser['profile'] })

  t.equal(await storage.insertUser(sampleUser({ email: 'x'.repeat(61) })), 'invalid')
  t.equal(await storage.insertUser(sampleUser({ username: null, usernameCanonical: null })), 'invalid')
  t.equal(await storage.insertUser(profile({ age: 17 })), 'invalid')
  t.equal(await storage.insertUser(profile({ age: 'old' })), 'invalid')
  t.match(await storage.insertUser(profile({ age: 18, phone: '1' })), { id: Number })
  t.equal(await storage.insertUser(profile({ phone: '1' })), 'invalid')
  const { id } = await storedUser(storage)
  t.equal(await storage.updateUser({ id, profile: { age: 17 } as Profile }), 'invalid')
  t.equal(await storage.updateUser({ id, profile: { phone: '1' } as Profile }), 'invalid')
  t.equal(await storage.updateUser({ id, username: null, usernameCanonical: null, profile: {} as Profile }), 'invalid')
  const imported = [{ age: 17 }, { age: 18 }, { phone: '1' }, { phone: '2' }, { age: 'old' }, { phone: '2' }, {}]
  t.match(await storage.importUsers(imported.map(profile)), [
    'invalid',
    { id: Number },
    'invalid',
    { id: Number },
    'invalid',
    'invalid',
    { id: Number },
  ])
})

for (const action of ['no action', 'restrict', 'no action deferrable initially deferred']) {
  t.test(`a user that rows of the host refer to is in use: on delete ${action}`, { skip }, async (t) => {
    const { db } = await openFresh(t)
    await migrateToLatest(db)
    const storage = kyselyStorage(db)
    await sql`create table orders (user_id bigint references accounts_users on delete ${sql.raw(action)})`.execute(db)
    const user = await storedUser(storage, { expiresAt: start })
    const session = await storedSession(storage, {}, user)
    const mail = sampleMail()
    await db.insertInto('orders').values({ user_id: user.id }).execute()

    t.equal(await storage.deleteUser(sampleDeletion(user, [mail])), 'in_use')
    if (!action.includes('deferred')) {
      await db.transaction().execute(async (transaction) => {
        t.equal(await kyselyStorage(transaction).deleteUser(sampleDeletion(user, [mail])), 'in_use')
        await transaction.insertInto('orders').values({ user_id: user.id }).execute()
      })
      t.equal((await db.selectFrom('orders').selectAll().execute()).length, 2, 'the transaction went on')
    }

    t.equal(await storage.sessionActive(session.id, user.id, start), true)
    t.strictSame(await claimedOf(storage, [mail]), [])
    await db.deleteFrom('orders').execute()
    t.strictSame(await storage.deleteUser(sampleDeletion(user, [mail])), { ended: [session.id] })
    t.equal((await claimedOf(storage, [mail])).length, 1)
  })
}

t.test('an expired account that rows of the host refer to stays, and keeps no other', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  const storage = kyselyStorage(db)
  await sql`create table orders (user_id bigint references accounts_users)`.execute(db)
  const users = await Promise.all(Array.from({ length: 5 }, () => storedUser(storage, { expiresAt: start })))
  await db.insertInto('orders').values({ user_id: users[2]!.id }).execute()
  const limits = { now: start, eventsBefore: start, limit: 100 }

  t.equal(await storage.purge(limits), 5)
  t.equal(await storage.purge(limits), 0)

  t.strictSame(
    (await storage.listUsers({ limit: 10 })).map(({ id }) => id),
    [users[2]!.id],
  )
})

t.test('verbs at once in one transaction of a host do not meet each other’s savepoints', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  const known = await storedUser(kyselyStorage(db))

  const outcomes = await db.transaction().execute(async (trx) => {
    const storage = kyselyStorage(trx)
    const { email, emailCanonical } = known
    return Promise.all([
      storage.insertUser(sampleUser()),
      storage.insertUser(sampleUser({ email, emailCanonical })),
      kyselyStorage(trx).changeCredentials(passwordChange(known)),
      storage.insertUser(sampleUser(), [sampleMail()]),
    ])
  })

  t.match(outcomes, [{ id: Number }, 'email_taken', { ended: [] }, { id: Number }])
})

t.test('what verbs at once in one transaction say they did is done', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  const storage = kyselyStorage(db)
  await sql`create table orders (user_id bigint references accounts_users)`.execute(db)
  const [used, user] = [await storedUser(storage), await storedUser(storage)]
  await db.insertInto('orders').values({ user_id: used.id }).execute()
  const session = sampleSession(user)

  const outcomes = await db.transaction().execute((trx) => {
    const joined = kyselyStorage(trx)
    return Promise.all([
      joined.deleteUser(sampleDeletion(used)),
      joined.setRole(user.id, 'admin'),
      joined.insertSession(session, 1000),
      joined.addEvent(sampleEvent(user.id, start)),
      joined.updateUser({ id: user.id, profile: { city: 'Oslo' } }),
    ])
  })

  t.match(outcomes, ['in_use', true, [], undefined, { profile: { city: 'Oslo' } }])
  t.match(await storage.findUserById(user.id), { role: 'admin', profile: { city: 'Oslo' } })
  t.equal(await storage.sessionActive(session.id, user.id, start), true)
  t.equal((await storage.listEvents(user.id, { limit: 9 })).length, 1)
})

t.test('an event that cannot be kept loses nothing else of the host’s transaction', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  await db.schema.dropTable('accounts_events').execute()

  const { id } = await db.transaction().execute(async (trx) => {
    const joined = kyselyStorage(trx)
    const user = await storedUser(joined)
    await t.rejects(joined.addEvent(sampleEvent(user.id, start)), { cause: { code: '42P01' } })
    return user
  })

  t.match(await kyselyStorage(db).findUserById(id), { id })
})

t.test('a plugin of the host that parses JSON changes nothing that comes back', { skip }, async (t) => {
  const { db: owner, url } = await openFresh(t)
  await migrateToLatest(owner)
  const { db, close } = openPostgres(url, { plugins: [new ParseJSONResultsPlugin()] })
  t.teardown(close)
  const storage = kyselyStorage(db)
  const user = await storedUser(storage, { profile: { snake_case: ['x'] } as Profile })
  const client = { requestId: null, ip: '::1', network: '::1', userAgent: 'Mozilla/5.0' }
  const event: AccountEvent = {
    name: 'tested',
    at: 1,
    userId: user.id,
    identifier: null,
    sessionId: null,
    ...client,
    details: { a_b: 1 },
  }

  await storage.addEvent(event)

  t.strictSame(await storage.listEvents(user.id, { limit: 10 }), [{ id: 1, ...event }])
  t.match(await storage.findUserById(user.id), { profile: { snake_case: ['x'] } })
})
