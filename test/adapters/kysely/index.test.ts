import assert from 'node:assert/strict'
import fc from 'fast-check'
import { CamelCasePlugin, sql } from 'kysely'
import t from 'tap'
import { kyselyStorage, migrateToLatest, migrations } from '../../../lib/adapters/kysely/index.ts'
import { memoryStorage } from '../../../lib/adapters/memory/index.ts'
import type { Profile, RefreshOutcome, Storage } from '../../../lib/contracts.ts'
import type { AnyKysely } from '../../../lib/options/ports.ts'
import {
  day,
  passwordChange,
  rule,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
} from '../../../lib/testing/samples.ts'
import { storageContract } from '../../../lib/testing/storage.ts'
import { openFresh, openPglite, openPostgres } from '../../helpers/databases.ts'
import { everything, longRun, noPostgres, rounds, uniqueName } from '../../helpers/helper.ts'

const skip = noPostgres

for (const ids of everything ? (['integer', 'uuid', 'text'] as const) : (['integer'] as const)) {
  t.test(`[R-SQL-2] PostgreSQL with ${ids} ids`, { skip }, async (t) => {
    const { db } = await openFresh(t)
    await migrateToLatest(db, { ids })
    await runContract(t, kyselyStorage(db, { ids }))
  })
}

longRun('PGlite', async (t) => {
  const db = await openPglite(t)

  t.strictSame(await migrateToLatest(db), Object.keys(migrations))
  t.strictSame(await migrateToLatest(db), [])
  await runContract(t, kyselyStorage(db))
})

longRun('[R-SQL-3] PostgreSQL as a role that may do nothing but read and change rows', { skip }, async (t) => {
  const { db: owner, url } = await openFresh(t)
  const [schema, role] = [uniqueName(), uniqueName()]
  await owner.schema.createSchema(schema).execute()
  await migrateToLatest(owner.withSchema(schema))
  const names = ['users', 'sessions', 'outbox', 'events'].map((name) => `${schema}.accounts_${name}`)
  const tables = sql.join(names.map((name) => sql.table(name)))
  await sql`create role ${sql.id(role)}`.execute(owner)
  await sql`grant usage on schema ${sql.id(schema)} to ${sql.id(role)}`.execute(owner)
  await sql`grant select, insert, update, delete on ${tables} to ${sql.id(role)}`.execute(owner)
  // For imported ids.
  const sequence = sql.id(schema, 'accounts_users_id_seq')
  await sql`grant usage, update on sequence ${sequence} to ${sql.id(role)}`.execute(owner)
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

  t.test('a disabled user opens no session, refreshes none and changes no password', async (t) => {
    const user = await storedUser(storage)
    const { id } = await storedSession(storage, {}, user)

    await db.updateTable('accounts_users').set({ active: false }).where('id', '=', user.id).execute()

    t.equal(await storage.insertSession(sampleSession(user), 1000), null)
    t.strictSame(await storage.refreshSession(id, 0, rule, start), { result: 'dead' }, '[R-REF-5]')
    t.equal(await storage.changeCredentials(passwordChange(user)), 'stale')
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
    t.equal(await count(() => storage.insertSession(sampleSession(user), 1000)), 1)
    t.equal(await count(() => storage.sessionActive(session.id, user.id, start)), 1)
    for (const token of [0, 0, 1, 5]) {
      t.equal(await count(() => storage.refreshSession(session.id, token, rule, start)), 1)
    }
    t.equal(await count(() => storage.refreshSession('none', 0, rule, start)), 2, 'a dead token is tried again')
    t.equal(await count(() => storage.updateUser({ id: user.id, profile: { a: 1 } as Profile })), 1)
    t.equal(await count(() => storage.endSession(session.id, user.id, start)), 1)
    t.equal(await count(() => storage.importUsers([sampleUser(), sampleUser()])), 1)
    t.equal(await count(() => storage.changeCredentials(passwordChange(user))), 2 + 2, 'two, and begin and commit')
  })

  t.test('[R-ENUM-5] who has an address or a name is one statement, the same whoever has them', async (t) => {
    const known = await storedUser(storage)
    const free = sampleUser()
    const before = statements.length

    for (const email of [known.emailCanonical, free.emailCanonical]) {
      for (const name of [known.usernameCanonical, free.usernameCanonical, null]) await storage.findHolders(email, name)
    }

    const sent = statements.slice(before)
    t.strictSame(sent, Array(6).fill(sent[0]))
  })

  t.test('an idle sweeper and a poll send nothing that counting tests would see', async (t) => {
    await storage.purge({ now: start, eventsBefore: start, limit: 10_000 })
    const before = statements.length

    await storage.purge({ now: start, eventsBefore: start, limit: 100 })
    await storage.claimMails(start, start + 1, 100)
    await storage.endedSince(start, start)

    t.strictSame(statements.slice(before), [])
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
    await fc.assert(alike, { numRuns: rounds(100, 25) })
  })

  t.test('"ids" that do not exist are told at once', async (t) => {
    t.throws(() => kyselyStorage(db, { ids: 'int' as never }), { name: 'TypeError', message: /"ids"/ })
  })

  t.test('a database that is gone is an outage, not an outcome', async (t) => {
    const gone = openPostgres('postgres://nobody@127.0.0.1:1/none')
    t.teardown(gone.close)
    const storage = kyselyStorage(gone.db)

    const unavailable = { code: 'ACCOUNTS_UNAVAILABLE', cause: { code: 'ECONNREFUSED' } }
    await t.rejects(storage.ping(), unavailable)
    await t.rejects(storage.insertUser(sampleUser()), unavailable)
    await t.rejects(storage.refreshSession('x', 0, rule, start), unavailable)
  })
})

t.test('what the database or the way to it is to blame for is an outage', { skip }, async (t) => {
  const { db, url } = await openFresh(t)
  await migrateToLatest(db)
  function storageOf(given: string, options?: string) {
    const opened = openPostgres(given, options === undefined ? {} : { options })
    t.teardown(opened.close)
    return kyselyStorage(opened.db)
  }
  const nobody = new URL(url)
  nobody.username = 'nobody'
  const { id } = await storedUser(kyselyStorage(db))
  /** Meets a row that another transaction has locked. */
  async function wait(options: string) {
    return db.transaction().execute(async (trx) => {
      await kyselyStorage(trx).setRole(id, 'admin')
      return storageOf(url, options).setRole(id, 'user')
    })
  }
  const closed = openPostgres(url)
  await kyselyStorage(closed.db).ping()
  await closed.close()

  const outages: [string, () => Promise<unknown>][] = [
    ['3D000', () => storageOf(`${url}_missing`).ping()],
    ['28000', () => storageOf(String(nobody)).ping()],
    ['25006', () => storageOf(url, '-c default_transaction_read_only=on').insertUser(sampleUser())],
    ['42P01', () => storageOf(url, '-c search_path=elsewhere').findUserById(1)],
    ['55P03', () => wait('-c lock_timeout=50')],
    ['57014', () => wait('-c statement_timeout=50')],
  ]

  for (const [state, act] of outages) {
    await t.rejects(act(), { code: 'ACCOUNTS_UNAVAILABLE', cause: { code: state } }, state)
  }
  await t.rejects(kyselyStorage(closed.db).ping(), { code: 'ACCOUNTS_UNAVAILABLE', cause: /destroyed/ })
  await sql`alter table accounts_sessions drop column ip, add column ip inet not null`.execute(db)
  const session = sampleSession(await storedUser(kyselyStorage(db)), { ip: 'no address' })
  await t.rejects(
    kyselyStorage(db).insertSession(session, 1000),
    { code: '22P02' },
    'a value that does not fit is a bug',
  )
})

t.test('an account that waits for its purge keeps the session that speaks for it', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  const storage = kyselyStorage(db)
  const users = await Promise.all(Array.from({ length: 5 }, () => storedUser(storage, { expiresAt: start })))
  for (const user of users) await storedSession(storage, {}, user)

  for (let turn = 0; turn < 20; turn++) await storage.purge({ now: start + 60 * day, eventsBefore: start, limit: 1 })

  t.equal((await storage.listUsers({ limit: 10 })).length, 5)
  t.equal((await db.selectFrom('accounts_sessions').select('id').execute()).length, 0)
})

t.test('the updates of a rotation touch no index', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  const { id } = await storedSession(kyselyStorage(db))

  const updates = await db.transaction().execute(async (transaction) => {
    const before = await heapOnlyUpdates(transaction)
    for (let token = 0; token < 5; token++) {
      await kyselyStorage(transaction).refreshSession(id, token, rule, start + token)
    }
    return (await heapOnlyUpdates(transaction)) - before
  })

  t.equal(updates, 5)
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
