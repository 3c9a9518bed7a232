import {
  type CompiledQuery,
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  sql,
} from 'kysely'
import type { AnyKysely } from '../../options/ports.ts'
import { type AccountsMigration, idType, migrationsFor } from './migrations.ts'
import { databaseTime } from './rows.ts'
import type { AccountsTables, IdOptions } from './tables.ts'

// Our own id: Kysely's would deadlock inside a host's Migrator.
const LOCK_ID = 6_102_025_071_409

/**
 * Brings the tables up to date and returns the names of the migrations that ran. All or nothing; any number of
 * processes may call it at once, and inside a host's transaction it joins that.
 *
 * @throws {Error} when the tables have other ids, or are newer than this version of the package
 */
export async function migrateToLatest(db: AnyKysely, { ids = 'integer' }: IdOptions = {}): Promise<string[]> {
  if (db.isTransaction) return runPending(db, ids)
  // Under any other isolation the query would not see what was committed while this waited for the lock.
  return db
    .transaction()
    .setIsolationLevel('read committed')
    .execute((transaction) => runPending(transaction, ids))
}

async function runPending(host: AnyKysely, ids: 'integer' | 'uuid'): Promise<string[]> {
  const db = host as Kysely<AccountsTables>
  // Before the table is made: eight racing "create table if not exists" fail now and then.
  await sql`select pg_advisory_xact_lock(${LOCK_ID})`.execute(db)
  await createMigrations(db)
  const known = migrationsFor({ ids })
  const applied = (await db.selectFrom('accounts_migrations').select('name').execute()).map(({ name }) => name)
  refuseNewer(applied, known)
  if (applied.length > 0) await refuseOtherIds(db, ids)
  const pending = Object.keys(known).filter((name) => !applied.includes(name))
  for (const name of pending) {
    await known[name]?.up(db)
    await markApplied(db, name)
  }
  return pending
}

/** Creates the table of the migrations that ran. */
export async function createMigrations(db: AnyKysely): Promise<void> {
  await db.schema
    .createTable('accounts_migrations')
    .ifNotExists()
    .addColumn('name', 'text', (column) => column.primaryKey())
    .addColumn('applied_at', 'bigint', (column) => column.notNull())
    .execute()
}

/** Records that a migration ran, at the database's own time. */
export async function markApplied(db: AnyKysely, name: string): Promise<void> {
  await db.insertInto('accounts_migrations').values({ name, applied_at: databaseTime }).execute()
}

function refuseNewer(applied: string[], known: Record<string, AccountsMigration>) {
  const newer = applied.find((name) => !Object.hasOwn(known, name))
  if (newer === undefined) return
  throw new Error(`The database has the migration "${newer}", which this fastify-accounts does not know: update it.`)
}

async function refuseOtherIds(db: Kysely<AccountsTables>, ids: 'integer' | 'uuid') {
  const { type } = await db
    .selectNoFrom((eb) =>
      sql<string>`pg_typeof((${eb.selectFrom('accounts_users').select('id').limit(1)}))::text`.as('type'),
    )
    .executeTakeFirstOrThrow()
  if (type === idType(ids)) return
  const existing = type === 'uuid' ? 'uuid' : 'integer'
  throw new Error(`"ids" is '${ids}', but the existing tables have '${existing}' ids: pass { ids: '${existing}' }.`)
}

/**
 * Returns the SQL of all migrations, for hosts that migrate with Flyway, Prisma and the like: one statement after the
 * other, each migration under a comment with its name. It records what ran, so that `migrateToLatest` can continue.
 */
export async function migrationSql({ ids = 'integer' }: IdOptions = {}): Promise<string> {
  const parts = [`-- accounts_migrations\n${await textOf(createMigrations)}`]
  for (const [name, { up }] of Object.entries(migrationsFor({ ids }))) {
    const text = await textOf(async (db) => {
      await up(db)
      await markApplied(db, name)
    })
    parts.push(`-- ${name}\n${text}`)
  }
  return parts.join('\n')
}

async function textOf(run: (db: AnyKysely) => Promise<void>): Promise<string> {
  const statements: string[] = []
  const dialect = {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (db: AnyKysely) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  }
  await run(new Kysely({ dialect, log: ({ query }) => void statements.push(`${inlined(query)};\n`) }))
  return statements.join('')
}

// The only parameters are the names of our migrations.
function inlined({ sql, parameters }: CompiledQuery): string {
  return sql.replace(/\$(\d+)/g, (_, number) => `'${parameters[number - 1]}'`)
}
