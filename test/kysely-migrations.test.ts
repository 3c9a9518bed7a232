import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Migrator, sql } from 'kysely'
import t from 'tap'
import { type AnyKysely, kyselyStorage, migrateToLatest, migrations, migrationsFor } from '../lib/adapters/kysely.ts'
import { sampleUser } from '../lib/testing/samples.ts'
import { openFresh, openPostgres } from './databases.ts'
import { freshDatabase, noPostgres } from './helper.ts'

const skip = noPostgres
const names = ['accounts_0001_users_and_sessions']

t.test('eight processes that migrate at once all succeed, and one of them migrates', { skip }, async (t) => {
  // It runs what is built into dist/.
  const program = fileURLToPath(new URL('migrate-process.js', import.meta.url))
  const children = Array.from({ length: 8 }, () => fork(program, { execArgv: [] }))
  t.teardown(() => children.forEach((child) => void child.kill()))
  await Promise.all(children.map((child) => once(child, 'message')))

  for (let round = 0; round < 4; round++) {
    const { url, drop } = await freshDatabase()
    const answers = await Promise.all(
      children.map(async (child) => {
        child.send(url)
        return (await once(child, 'message'))[0]
      }),
    )
    await drop()

    t.strictSame(answers.toSorted(), [[], [], [], [], [], [], [], names])
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

    t.equal((await migrator.migrateToLatest()).error, undefined)
    t.strictSame(await tablesOf(db), ['accounts_sessions', 'accounts_users'])
    t.equal((await migrator.migrateDown()).error, undefined)
    t.strictSame(await tablesOf(db), [])
  }
})

async function tablesOf(db: AnyKysely) {
  const query = sql<{ name: string }>`
    select tablename as name from pg_tables where tablename like 'accounts%' order by tablename`
  return (await query.execute(db)).rows.map(({ name }) => name)
}
