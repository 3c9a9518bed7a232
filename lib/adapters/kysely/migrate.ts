import { type CompiledQuery, DummyDriver, Kysely } from 'kysely'
import type { IdKind } from '../../contracts.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { type DatabaseName, dialectOf, dialectsByName } from './dialects.ts'
import { type AccountsMigration, createTable, migrationsFor } from './migrations.ts'
import type { AccountsTables, IdOptions } from './tables.ts'

/**
 * Brings the tables up to date and returns the names of the migrations that ran. All or nothing; any number of
 * processes may call it at once, and inside a host's transaction it joins that.
 *
 * @throws {Error} when the tables have other ids, or are newer than this version of the package
 */
export async function migrateToLatest(db: AnyKysely, { ids = 'integer' }: IdOptions = {}): Promise<string[]> {
  return dialectOf(db).migrating(db, (locked) => runPending(locked, ids))
}

async function runPending(db: Kysely<AccountsTables>, ids: IdKind): Promise<string[]> {
  await createMigrations(db)
  const known = migrationsFor({ ids })
  const applied = await appliedMigrations(db)
  refuseNewer(applied, known)
  if (applied.length > 0) await refuseOtherIds(db, ids)
  const pending = Object.keys(known).filter((name) => !applied.includes(name))
  for (const name of pending) {
    await known[name]?.up(db)
    await markApplied(db, name)
  }
  return pending
}

/** The names of the migrations that ran. */
export async function appliedMigrations(db: Kysely<AccountsTables>): Promise<string[]> {
  return (await db.selectFrom('accounts_migrations').select('name').execute()).map(({ name }) => name)
}

/** Creates the table of the migrations that ran. */
export async function createMigrations(db: AnyKysely): Promise<void> {
  await createTable(db, 'accounts_migrations')
    .ifNotExists()
    .addColumn('name', dialectOf(db).types.key, (column) => column.primaryKey())
    .addColumn('applied_at', 'bigint', (column) => column.notNull())
    .execute()
}

/** Records that a migration ran, at the database's own time. */
export async function markApplied(db: AnyKysely, name: string): Promise<void> {
  await db
    .insertInto('accounts_migrations')
    .values({ name, applied_at: dialectOf(db).now })
    .execute()
}

function refuseNewer(applied: string[], known: Record<string, AccountsMigration>) {
  const newer = applied.find((name) => !Object.hasOwn(known, name))
  if (newer === undefined) return
  throw new Error(`The database has the migration "${newer}", which this fastify-accounts does not know: update it.`)
}

async function refuseOtherIds(db: Kysely<AccountsTables>, ids: IdKind) {
  const { existingIds, types } = dialectOf(db)
  const type = await existingIds(db)
  const alike = (kind: IdKind) => types.ids[kind].compile(db).sql.startsWith(type ?? '')
  if (type === undefined || alike(ids)) return
  const existing = (Object.keys(types.ids) as IdKind[]).find(alike) ?? type
  throw new Error(`"ids" is '${ids}', but the existing tables have '${existing}' ids: pass { ids: '${existing}' }.`)
}

/**
 * Returns the SQL of all migrations, for hosts that migrate with Flyway, Prisma and the like: one statement after the
 * other, each migration under a comment with its name. It records what ran, so that `migrateToLatest` can continue.
 *
 * @param options `database`: for which it is; `schema`: where the tables are to be, as for `db.withSchema(schema)`; it
 * must exist; `applied`: the names of migrations that ran and are left out
 */
export async function migrationSql({
  ids = 'integer',
  schema,
  database = 'postgres',
  applied = [],
}: IdOptions & { schema?: string; database?: DatabaseName; applied?: readonly string[] } = {}): Promise<string> {
  const textOf = (run: (db: AnyKysely) => Promise<void>) => recorded(database, run, schema)
  const parts = [`-- accounts_migrations\n${await textOf(createMigrations)}`]
  for (const [name, { up }] of Object.entries(migrationsFor({ ids }))) {
    if (applied.includes(name)) continue
    const text = await textOf(async (db) => {
      await up(db)
      await markApplied(db, name)
    })
    parts.push(`-- ${name}\n${text}`)
  }
  return parts.join('\n')
}

async function recorded(database: DatabaseName, run: (db: AnyKysely) => Promise<void>, schema?: string) {
  const statements: string[] = []
  const dialect = { ...dialectsByName[database].parts, createDriver: () => new DummyDriver() }
  const db = new Kysely({ dialect, log: ({ query }) => void statements.push(`${inlined(query)};\n`) })
  await run(schema === undefined ? db : db.withSchema(schema))
  return statements.join('')
}

// The only parameters are the names of our migrations.
function inlined({ sql, parameters }: CompiledQuery): string {
  const names = parameters.values()
  return sql.replace(/\$\d+|\?/g, () => `'${names.next().value}'`)
}
