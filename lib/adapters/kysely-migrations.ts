import { type Generated, type Kysely, sql } from 'kysely'

/** A host's Kysely; `Kysely<unknown>` would refuse one that has tables. */
// biome-ignore lint/suspicious/noExplicitAny: the host's tables are its own
export type AnyKysely = Kysely<any>

/** What ids of users are in the database; the core reads `integer` as a number and `uuid` as a string. */
export interface IdOptions {
  /** @default 'integer' */
  ids?: 'integer' | 'uuid'
}

/** int8 arrives as a string from pg and as a number from PGlite. */
type Int8 = string | number

/** The tables of the adapter. Times are absolute milliseconds. */
export interface AccountsTables {
  accounts_users: {
    id: Generated<Int8>
    username: string | null
    username_canonical: string | null
    email: string
    email_canonical: string
    email_verified_at: Int8 | null
    password_hash: string | null
    credential_version: Int8
    active: Generated<boolean>
    profile: Generated<string>
    created_at: Int8
  }
  accounts_sessions: {
    id: string
    user_id: Int8
    credential_version: Int8
    created_at: Int8
    auth_time: Int8
    last_used_at: Int8
    idle_ms: Int8
    expires_at: Int8
    ip: string
    user_agent: string
    counter: Generated<Int8>
    advanced_at: Int8 | null
    late_replays: Generated<number>
    last_late_at: Int8 | null
    ended_at: Int8 | null
  }
  accounts_migrations: { name: string; applied_at: Int8 }
}

/** A step of the schema, in the shape of Kysely's own `Migration`. */
export interface AccountsMigration {
  up(db: AnyKysely): Promise<void>
  down(db: AnyKysely): Promise<void>
}

/** The migrations by name, for a host that runs them with its own `Migrator`. None is edited after its release. */
export function migrationsFor({ ids = 'integer' }: IdOptions = {}): Record<string, AccountsMigration> {
  return {
    accounts_0001_users_and_sessions: {
      async up(db) {
        await createUsers(db, ids)
        await createSessions(db, ids)
      },
      async down(db) {
        await db.schema.dropTable('accounts_sessions').execute()
        await db.schema.dropTable('accounts_users').execute()
      },
    },
  }
}

/** The migrations for integer ids; `migrationsFor({ ids: 'uuid' })` for the others. */
export const migrations: Record<string, AccountsMigration> = migrationsFor()

async function createUsers(db: AnyKysely, ids: 'integer' | 'uuid') {
  // Both canonical columns are compared bytewise, whatever the database's own collation.
  const bytewise = sql`text collate "C"`
  await db.schema
    .createTable('accounts_users')
    .addColumn('id', idType(ids), (column) =>
      ids === 'uuid'
        ? column.primaryKey().defaultTo(sql`gen_random_uuid()`)
        : column.primaryKey().generatedByDefaultAsIdentity(),
    )
    .addColumn('username', 'text')
    .addColumn('username_canonical', bytewise, (column) => column.unique())
    .addColumn('email', 'text', (column) => column.notNull())
    .addColumn('email_canonical', bytewise, (column) => column.notNull().unique())
    .addColumn('email_verified_at', 'bigint')
    .addColumn('password_hash', 'text')
    .addColumn('credential_version', 'bigint', (column) => column.notNull())
    .addColumn('active', 'boolean', (column) => column.notNull().defaultTo(true))
    .addColumn('profile', 'jsonb', (column) => column.notNull().defaultTo(sql`'{}'`))
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .execute()
}

async function createSessions(db: AnyKysely, ids: 'integer' | 'uuid') {
  // No foreign key: a deleted user's sessions stay, ended, so that other instances learn of their end.
  await db.schema
    .createTable('accounts_sessions')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('user_id', idType(ids), (column) => column.notNull())
    .addColumn('credential_version', 'bigint', (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addColumn('auth_time', 'bigint', (column) => column.notNull())
    .addColumn('last_used_at', 'bigint', (column) => column.notNull())
    .addColumn('idle_ms', 'bigint', (column) => column.notNull())
    .addColumn('expires_at', 'bigint', (column) => column.notNull())
    .addColumn('ip', 'text', (column) => column.notNull())
    .addColumn('user_agent', 'text', (column) => column.notNull())
    .addColumn('counter', 'bigint', (column) => column.notNull().defaultTo(-1))
    .addColumn('advanced_at', 'bigint')
    .addColumn('late_replays', 'integer', (column) => column.notNull().defaultTo(0))
    .addColumn('last_late_at', 'bigint')
    .addColumn('ended_at', 'bigint')
    .execute()
  // Nothing that a rotation changes is indexed: its updates stay heap-only.
  await db.schema.createIndex('accounts_sessions_user_id').on('accounts_sessions').column('user_id').execute()
  await db.schema
    .createIndex('accounts_sessions_ended_at')
    .on('accounts_sessions')
    .column('ended_at')
    .where('ended_at', 'is not', null)
    .execute()
}

function idType(ids: 'integer' | 'uuid') {
  return ids === 'uuid' ? 'uuid' : 'bigint'
}

// Our own id: Kysely's would deadlock inside a host's Migrator.
const LOCK_ID = 6_102_025_071_409

/**
 * Brings the tables up to date and answers the names of the migrations that ran. All or nothing; any number of
 * processes may call it at once, and inside a host's transaction it joins that.
 *
 * @throws {Error} when the tables have other ids, or are newer than this version of the package
 */
export async function migrateToLatest(db: AnyKysely, { ids = 'integer' }: IdOptions = {}): Promise<string[]> {
  if (db.isTransaction) return runPending(db, ids)
  // Under any other isolation the look at the table would not see what was committed while the lock was awaited.
  return db
    .transaction()
    .setIsolationLevel('read committed')
    .execute((transaction) => runPending(transaction, ids))
}

async function runPending(host: AnyKysely, ids: 'integer' | 'uuid'): Promise<string[]> {
  const db = host as Kysely<AccountsTables>
  // Before the table: eight racing "create table if not exists" fail now and then.
  await sql`select pg_advisory_xact_lock(${LOCK_ID})`.execute(db)
  await db.schema
    .createTable('accounts_migrations')
    .ifNotExists()
    .addColumn('name', 'text', (column) => column.primaryKey())
    .addColumn('applied_at', 'bigint', (column) => column.notNull())
    .execute()
  const known = migrationsFor({ ids })
  const applied = (await db.selectFrom('accounts_migrations').select('name').execute()).map(({ name }) => name)
  refuseNewer(applied, known)
  if (applied.length > 0) await refuseOtherIds(db, ids)
  const pending = Object.keys(known).filter((name) => !applied.includes(name))
  for (const name of pending) {
    await known[name]?.up(db)
    await db.insertInto('accounts_migrations').values({ name, applied_at: Date.now() }).execute()
  }
  return pending
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
