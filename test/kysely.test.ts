import assert from 'node:assert/strict'
import { setImmediate } from 'node:timers/promises'
import fc from 'fast-check'
import { CamelCasePlugin, sql } from 'kysely'
import t from 'tap'
import { type AnyKysely, kyselyStorage, migrateToLatest } from '../lib/adapters/kysely.ts'
import { memoryStorage } from '../lib/adapters/memory.ts'
import type { NewUser, RefreshOutcome, Session, Storage, UserId } from '../lib/contracts.ts'
import {
  passwordChange,
  rule,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
} from '../lib/testing/samples.ts'
import { storageContract } from '../lib/testing/storage.ts'
import { openFresh, openPostgres } from './databases.ts'
import { noPostgres, uniqueName, until } from './helper.ts'

const skip = noPostgres

for (const ids of ['integer', 'uuid'] as const) {
  t.test(`PostgreSQL with ${ids} ids`, { skip }, async (t) => {
    const { db } = await openFresh(t)
    await migrateToLatest(db, { ids })
    await runContract(t, kyselyStorage(db, { ids }))
  })
}

t.test('[R-SQL-3] PostgreSQL as a role that may only read, insert and update', { skip }, async (t) => {
  const { db: owner, url } = await openFresh(t)
  const [schema, role] = [uniqueName(), uniqueName()]
  await owner.schema.createSchema(schema).execute()
  await migrateToLatest(owner.withSchema(schema))
  const tables = sql.join([sql.table(`${schema}.accounts_users`), sql.table(`${schema}.accounts_sessions`)])
  await sql`create role ${sql.id(role)}`.execute(owner)
  await sql`grant usage on schema ${sql.id(schema)} to ${sql.id(role)}`.execute(owner)
  await sql`grant select, insert, update on ${tables} to ${sql.id(role)}`.execute(owner)
  t.teardown(async () => {
    await sql`drop owned by ${sql.id(role)}`.execute(owner)
    await sql`drop role ${sql.id(role)}`.execute(owner)
  })

  const { db, close } = openPostgres(url, { plugins: [new CamelCasePlugin()], options: `-c role=${role}` })
  t.teardown(close)

  await runContract(t, kyselyStorage(db.withSchema(schema)))
})

async function runContract(t: { test: typeof import('tap')['test'] }, storage: Storage) {
  for (const { name, run } of storageContract) await t.test(name, () => run(storage))
}

t.test('one database', { skip }, async (t) => {
  const { db, statements } = await openFresh(t)
  await migrateToLatest(db)
  const storage = kyselyStorage(db)

  async function disable(id: UserId) {
    await db.updateTable('accounts_users').set({ active: false }).where('id', '=', id).execute()
  }

  /** Sessions that were opened under the user's old credentials and have not ended. */
  async function survivors(sessions: Session[]) {
    const ids = sessions.map(({ id }) => id)
    return db
      .selectFrom('accounts_sessions')
      .select('id')
      .where('id', 'in', ids)
      .where('ended_at', 'is', null)
      .execute()
  }

  t.test('the session fence: 300 log-ins racing a password change leave no session of the old password', async (t) => {
    const sessions: Session[] = []
    async function round() {
      const user = await storedUser(storage)
      const change = storage.changePassword(passwordChange(user))
      for (let login = 0; login < 4; login++) {
        const session = sampleSession(user)
        sessions.push(session)
        await Promise.race([storage.insertSession(session), setImmediate()])
      }
      t.equal(await change, true)
    }
    for (let rounds = 0; rounds < 300; rounds += 10) await Promise.all(Array.from({ length: 10 }, round))

    t.strictSame(await survivors(sessions), [])
  })

  t.test('the session fence: a log-in waits for a password change under way and is refused', async (t) => {
    const user = await storedUser(storage)
    const session = sampleSession(user)

    const stored = await db.transaction().execute(async (transaction) => {
      t.equal(await kyselyStorage(transaction).changePassword(passwordChange(user)), true)
      const login = { stored: storage.insertSession(session) }
      await untilSomebodyWaits(db)
      return login
    })

    t.equal(await stored.stored, false)
    t.strictSame(await survivors([session]), [])
  })

  t.test('a disabled user opens no session, refreshes none and changes no password', async (t) => {
    const user = await storedUser(storage)
    const { id } = await storedSession(storage, {}, user)

    await disable(user.id)

    t.equal(await storage.insertSession(sampleSession(user)), false)
    t.strictSame(await storage.refreshSession(id, 0, rule, start), { result: 'dead' }, '[R-REF-5]')
    t.equal(await storage.changePassword(passwordChange(user)), false)
    t.match(await storage.findUserById(user.id), { active: false })
  })

  t.test('[R-REF-5] a deleted user and one of other credentials refresh nothing', async (t) => {
    const deleted = await storedSession(storage)
    const changed = await storedSession(storage)

    await db.deleteFrom('accounts_users').where('id', '=', deleted.userId).execute()
    await db.updateTable('accounts_users').set({ credential_version: 1 }).where('id', '=', changed.userId).execute()

    t.strictSame(await storage.refreshSession(deleted.id, 0, rule, start), { result: 'dead' })
    t.strictSame(await storage.refreshSession(changed.id, 0, rule, start), { result: 'dead' })
  })

  t.test('a verb is as many statements as its budget has', async (t) => {
    const user = await storedUser(storage)
    const session = await storedSession(storage, {}, user)
    async function count(call: () => Promise<unknown>) {
      const before = statements.length
      await call()
      return statements.length - before
    }

    t.equal(await count(() => storage.insertUser(sampleUser())), 1)
    t.equal(await count(() => storage.findUserByEmail(user.emailCanonical)), 1)
    t.equal(await count(() => storage.findUserById(user.id)), 1)
    t.equal(await count(() => storage.insertSession(sampleSession(user))), 1)
    t.equal(await count(() => storage.sessionActive(session.id, user.id, start)), 1)
    for (const token of [0, 0, 1, 5]) {
      t.equal(await count(() => storage.refreshSession(session.id, token, rule, start)), 1)
    }
    t.equal(await count(() => storage.changePassword(passwordChange(user))), 2 + 2, 'two, and begin and commit')
  })

  t.test('[R-SQL-1] ids of a wrong shape and objects never reach the database', async (t) => {
    const before = statements.length

    t.equal(await storage.findUserById('1 or true'), null)
    t.equal(await storage.sessionActive('x', Number.NaN, start), false)
    t.equal(await storage.insertUser(sampleUser({ username: '\0' })), 'invalid')
    await t.rejects(storage.findUserByEmail({ toString: 'x' } as never), TypeError)
    await t.rejects(storage.insertUser(sampleUser({ username: ['x'] as never })), TypeError)
    await t.rejects(storage.replacePasswordHash(1, {} as never, 'x'), TypeError)
    await t.rejects(storage.refreshSession('x', 0, { ...rule, graceMs: [1] as never }, start), TypeError)

    t.equal(statements.length, before)
  })

  t.test('the updates of a rotation touch no index', async (t) => {
    const { id } = await storedSession(storage)

    const updates = await db.transaction().execute(async (transaction) => {
      const before = await heapOnlyUpdates(transaction)
      for (let token = 0; token < 5; token++) {
        await kyselyStorage(transaction).refreshSession(id, token, rule, start + token)
      }
      return (await heapOnlyUpdates(transaction)) - before
    })

    t.equal(updates, 5)
  })

  t.test('[R-REF-2] PostgreSQL and memory judge any sequence of refreshes alike', async () => {
    const memory = memoryStorage()
    const step = fc.record({
      // From the newest token on: mostly what honest clients send, or a session would be over at once.
      offset: fc.constantFrom(1, 1, 1, 0, 0, 0, 0, -1, 2),
      wait: fc.constantFrom(0, 1, rule.graceMs, rule.graceMs + 1),
      rotate: fc.constantFrom(true, true, true, false),
      lateReplays: fc.constantFrom(0, 2, 2, 3),
    })

    const alike = fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 30 }), async (steps) => {
      const pair = [await storedSession(storage), await storedSession(memory)] as const
      let now = start
      let newest = -1
      for (const { offset, wait, ...change } of steps) {
        now += wait
        const token = Math.max(0, newest + offset)
        const judge = { ...rule, ...change }
        const [one, other] = await Promise.all([
          storage.refreshSession(pair[0].id, token, judge, now),
          memory.refreshSession(pair[1].id, token, judge, now),
        ])
        assert.deepEqual(comparable(one), comparable(other))
        if (one.result === 'accepted' && judge.rotate) newest = token
      }
    })
    await fc.assert(alike, { numRuns: 100 })
  })

  t.test('a transaction of the host is joined and rolls back with it', async (t) => {
    const user = sampleUser()
    const known = await storedUser(storage)
    const session = await storedSession(storage, {}, known)

    const rolledBack = db.transaction().execute(async (transaction) => {
      const joined = kyselyStorage(transaction)
      t.equal(typeof (await joined.insertUser(user)), 'object')
      t.equal(await joined.insertUser({ ...user, usernameCanonical: null }), 'email_taken')
      t.match(await joined.findUserByEmail(user.emailCanonical), { email: user.email }, 'nothing is aborted')
      t.equal(await joined.changePassword(passwordChange(known)), true)
      t.equal(await joined.sessionActive(session.id, known.id, start), false)
      throw new Error('the host has changed its mind')
    })
    await t.rejects(rolledBack, { message: 'the host has changed its mind' })

    t.equal(await storage.findUserByEmail(user.emailCanonical), null)
    t.equal(await storage.sessionActive(session.id, known.id, start), true)
    t.match(await storage.findUserByEmail(known.emailCanonical), { passwordHash: known.passwordHash })
  })

  t.test('"ids" that do not exist are told at once', async (t) => {
    t.throws(() => kyselyStorage(db, { ids: 'int' as never }), { name: 'TypeError', message: /"ids"/ })
  })

  t.test('a database that is gone is an outage, not an outcome', async (t) => {
    const gone = openPostgres('postgres://nobody@127.0.0.1:1/none')
    t.teardown(gone.close)
    const storage = kyselyStorage(gone.db)

    await t.rejects(storage.ping())
    await t.rejects(storage.insertUser(sampleUser()))
    await t.rejects(storage.refreshSession('x', 0, rule, start))
  })
})

t.test('a stricter default isolation lets no session outlive a password change', { skip }, async (t) => {
  const { db: owner, url } = await openFresh(t)
  await migrateToLatest(owner)
  const { db, close } = openPostgres(url, { options: '-c default_transaction_isolation=serializable' })
  t.teardown(close)
  const storage = kyselyStorage(db)
  const user = await storedUser(storage)
  const session = sampleSession(user)

  const waiting = await owner.transaction().execute(async (transaction) => {
    t.equal(await kyselyStorage(transaction).insertSession(session), true)
    const change = { done: storage.changePassword(passwordChange(user)) }
    await untilSomebodyWaits(owner)
    return change
  })

  t.equal(await waiting.done, true)
  t.equal(await storage.sessionActive(session.id, user.id, start), false)
})

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
})

/** What two stores have in common: neither ids nor the sample user's names. */
function comparable(outcome: RefreshOutcome) {
  const lastUsedAt = 'session' in outcome ? outcome.session.lastUsedAt : null
  return { result: outcome.result, counter: 'counter' in outcome ? outcome.counter : null, lastUsedAt }
}

/** What this connection has counted and not reported yet; it reports between transactions only. */
async function heapOnlyUpdates(transaction: AnyKysely) {
  const query = sql<{ count: string }>`
    select pg_stat_get_xact_tuples_hot_updated('accounts_sessions'::regclass) as count`
  return Number((await query.execute(transaction)).rows[0]?.count)
}

async function untilSomebodyWaits(db: AnyKysely) {
  await until(async () => {
    const query = sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
    return (await query.execute(db)).rows.length > 0
  })
}
