import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Migrator, sql } from 'kysely'
import pg from 'pg'
import t from 'tap'
import {
  kyselyStorage,
  migrateToLatest,
  migrationSql,
  migrations,
  migrationsFor,
} from '../../../lib/adapters/kysely/index.ts'
import { createMigrations, markApplied } from '../../../lib/adapters/kysely/migrate.ts'
import { sessionRow } from '../../../lib/adapters/kysely/rows.ts'
import type { IdKind } from '../../../lib/contracts.ts'
import type { AnyKysely } from '../../../lib/options/ports.ts'
import { day, rule, sampleSession, sampleUser, start } from '../../../lib/testing/samples.ts'
import { openFresh, openPostgres } from '../../helpers/databases.ts'
import { freshDatabase, noPostgres, rounds } from '../../helpers/helper.ts'

const skip = noPostgres
const names = ['accounts_0001_users_and_sessions', 'accounts_0002_account_life']

t.test('processes that migrate at once all succeed, and one of them migrates', { skip }, async (t) => {
  // It runs what is built into dist/.
  const program = fileURLToPath(new URL('../../helpers/migrate-process.js', import.meta.url))
  const children = Array.from({ length: rounds(8, 4) }, () => fork(program, { execArgv: [] }))
  t.teardown(() => children.forEach((child) => void child.kill()))
  await Promise.all(children.map((child) => once(child, 'message')))

  for (let round = 0; round < rounds(4, 2); round++) {
    const { url, drop } = await freshDatabase()
    const answers = await Promise.all(
      children.map(async (child) => {
        child.send(url)
        return (await once(child, 'message'))[0]
      }),
    )
    await drop()

    t.strictSame(answers.toSorted(), [...children.slice(1).map(() => []), names])
  }
})

t.test('a stricter default isolation lets callers at once succeed as well', { skip }, async (t) => {
  const { url } = await openFresh(t)
  const { db, close } = openPostgres(url, { options: '-c default_transaction_isolation=serializable' })
  t.teardown(close)

  const answers = await Promise.all(Array.from({ length: 8 }, () => migrateToLatest(db)))

  t.strictSame(answers.toSorted(), [[], [], [], [], [], [], [], names])
})

t.test('migrations join a transaction of the host and roll back with it', { skip }, async (t) => {
  const { db } = await openFresh(t)

  const rolledBack = db.transaction().execute(async (transaction) => {
    t.strictSame(await migrateToLatest(transaction), names)
    t.strictSame(await migrateToLatest(transaction), [])
    t.match(await kyselyStorage(transaction).insertUser(sampleUser()), { id: 1 })
    throw new Error('the host has changed its mind')
  })
  await t.rejects(rolledBack, { message: 'the host has changed its mind' })

  t.strictSame(await tablesOf(db), [])
})

t.test('a migration that fails leaves nothing behind', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await db.schema.createTable('accounts_sessions').addColumn('id', 'text').execute()

  await t.rejects(migrateToLatest(db), { message: /accounts_sessions/ })

  t.strictSame(await tablesOf(db), ['accounts_sessions'])
})

t.test('other ids than those of the existing tables are told', { skip }, async (t) => {
  const { db: integers } = await openFresh(t)
  const { db: uuids } = await openFresh(t)
  await migrateToLatest(integers)
  await migrateToLatest(uuids, { ids: 'uuid' })

  await t.rejects(migrateToLatest(integers, { ids: 'uuid' }), { message: /"ids" is 'uuid'.*ids: 'integer'/ })
  await t.rejects(migrateToLatest(uuids), { message: /"ids" is 'integer'.*ids: 'uuid'/ })
  t.strictSame(await migrateToLatest(uuids, { ids: 'uuid' }), [])
})

t.test('tables of a newer version are told by the name of the migration', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  await db.insertInto('accounts_migrations').values({ name: 'accounts_9999_future', applied_at: 1 }).execute()

  await t.rejects(migrateToLatest(db), { message: /"accounts_9999_future".*update/ })
})

t.test('the migrations run in a host’s own Migrator, up and down', { skip }, async (t) => {
  for (const own of [migrations, migrationsFor({ ids: 'uuid' })]) {
    const { db } = await openFresh(t)
    const migrator = new Migrator({ db, provider: { getMigrations: async () => own } })

    t.equal((await migrator.migrateUp()).error, undefined)
    const before = await schemaOf(db)
    t.strictSame(await tablesOf(db), ['accounts_sessions', 'accounts_users'])
    t.equal((await migrator.migrateToLatest()).error, undefined)
    t.strictSame(await tablesOf(db), ['accounts_events', 'accounts_outbox', 'accounts_sessions', 'accounts_users'])
    t.equal((await migrator.migrateDown()).error, undefined)
    t.strictSame(await schemaOf(db), before)
    t.equal((await migrator.migrateDown()).error, undefined)
    t.strictSame(await tablesOf(db), [])
  }
})

t.test('tables of the first release are extended, and their rows go on', { skip }, async (t) => {
  for (const ids of ['integer', 'uuid', 'text'] as const) {
    const { db } = await openFresh(t)
    await firstRelease(db, ids)
    const { id } = await db
      .insertInto('accounts_users')
      .values({ email: 'A@b.co', email_canonical: 'a@b.co', credential_version: 5, created_at: start })
      .returning('id')
      .executeTakeFirstOrThrow()
    const { user_id, ...session } = sessionRow(sampleSession({ id, credentialVersion: 5 }))
    await db
      .insertInto('accounts_sessions')
      .values({ ...session, user_id: id })
      .execute()

    t.strictSame(await migrateToLatest(db, { ids }), names.slice(1))

    const storage = kyselyStorage(db, { ids })
    const outcome = await storage.refreshSession(session.id, 0, rule, start)
    t.match(outcome, { result: 'accepted', user: { email: 'A@b.co', role: null, emailVerifiedAt: null } })
    t.equal(await storage.purge({ now: start + day, eventsBefore: start, limit: 10 }), 0, 'nobody expires')
    t.strictSame(await schemaOf(db), await migratedSchema(t, ids))
  }
})

t.test('migrationSql makes the same tables, and migrateToLatest has nothing left to do', { skip }, async (t) => {
  for (const ids of ['integer', 'uuid', 'text'] as const) {
    const { db, url } = await openFresh(t)

    await runScript(url, await migrationSql({ ids }))

    const schema = await schemaOf(db)
    t.ok(schema.length > 50, 'columns, indexes and constraints were found')
    t.strictSame(schema, await migratedSchema(t, ids))
    t.strictSame(await migrateToLatest(db, { ids }), [])
    t.type(await kyselyStorage(db, { ids }).insertUser(sampleUser()), 'object')
  }
})

t.test('migrationSql names each migration above its statements, one after the other', async (t) => {
  const text = await migrationSql()

  t.strictSame(text.match(/(?<=^-- ).*/gm), ['accounts_migrations', ...names])
  t.notMatch(text, /\$\d/, 'no parameter is left')
  t.ok(text.split('\n').every((line) => line === '' || line.startsWith('-- ') || line.endsWith(';')))
})

/** What the first release did. */
async function firstRelease(db: AnyKysely, ids: IdKind) {
  const name = names[0]!
  await createMigrations(db)
  await migrationsFor({ ids })[name]!.up(db)
  await markApplied(db, name)
}

async function runScript(url: string, text: string) {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  await client.query(text)
  await client.end()
}

async function migratedSchema(t: Parameters<typeof openFresh>[0], ids: IdKind) {
  const { db } = await openFresh(t)
  await migrateToLatest(db, { ids })
  return schemaOf(db)
}

/** Every column, index and constraint of our tables. */
async function schemaOf(db: AnyKysely) {
  const query = sql<{ part: string }>`
    select concat_ws(' ', table_name, column_name, data_type, collation_name, is_nullable, column_default,
      is_identity, identity_generation) as part
    from information_schema.columns where table_name like 'accounts%'
    union all select indexdef from pg_indexes where tablename like 'accounts%'
    union all select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
    from pg_constraint where conrelid::regclass::text like 'accounts%'
    order by part`
  return (await query.execute(db)).rows.map(({ part }) => part)
}

async function tablesOf(db: AnyKysely) {
  const query = sql<{ name: string }>`
    select tablename as name from pg_tables where tablename like 'accounts%' order by tablename`
  return (await query.execute(db)).rows.map(({ name }) => name)
}
