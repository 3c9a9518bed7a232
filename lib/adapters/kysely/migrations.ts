import { type ColumnDefinitionBuilder, type RawBuilder, sql } from 'kysely'
import type { IdKind } from '../../contracts.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { dialectOf } from './dialects.ts'
import type { IdOptions } from './tables.ts'

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
    accounts_0002_account_life: {
      async up(db) {
        await extendUsers(db)
        await createOutbox(db)
        await createEvents(db, ids)
        await createIndex(db, 'accounts_sessions', ['expires_at'])
        // Those of a user, also of one who logs in all day, and for `endAnySessions`, which ends them batch by batch.
        await createIndex(db, 'accounts_sessions', ['user_id', 'id'], {
          name: 'accounts_sessions_open',
          where: sql`ended_at is null`,
        })
      },
      async down(db) {
        await dropIndex(db, 'accounts_sessions', 'accounts_sessions_open')
        await dropIndex(db, 'accounts_sessions', 'accounts_sessions_expires_at')
        await db.schema.dropTable('accounts_events').execute()
        await db.schema.dropTable('accounts_outbox').execute()
        await dropIndex(db, 'accounts_users', 'accounts_users_expires_at')
        for (const column of ['expires_at', 'role']) {
          await db.schema.alterTable('accounts_users').dropColumn(column).execute()
        }
      },
    },
  }
}

/** The migrations for integer ids; `migrationsFor({ ids })` for the others. */
export const migrations: Record<string, AccountsMigration> = migrationsFor()

// Canonical columns and ids are compared bytewise, whatever the database's own collation.
async function createUsers(db: AnyKysely, ids: IdKind) {
  const { types, newUuid } = dialectOf(db)
  await createTable(db, 'accounts_users')
    .addColumn('id', types.ids[ids], (column) =>
      ids === 'integer' ? numbered(db, column) : column.primaryKey().defaultTo(newUuid),
    )
    .addColumn('username', types.text)
    .addColumn('username_canonical', types.key, (column) => column.unique())
    .addColumn('email', types.text, (column) => column.notNull())
    .addColumn('email_canonical', types.key, (column) => column.notNull().unique())
    .addColumn('email_verified_at', 'bigint')
    .addColumn('password_hash', types.text)
    .addColumn('credential_version', 'bigint', (column) => column.notNull())
    .addColumn('active', 'boolean', (column) => column.notNull().defaultTo(sql`true`))
    .addColumn('profile', types.json, (column) => column.notNull().defaultTo(types.emptyJson))
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .execute()
}

async function createSessions(db: AnyKysely, ids: IdKind) {
  const { types } = dialectOf(db)
  // No foreign key: a deleted user's sessions stay, ended, so that other instances learn of their end.
  await createTable(db, 'accounts_sessions')
    .addColumn('id', types.key, (column) => column.primaryKey())
    .addColumn('user_id', types.ids[ids], (column) => column.notNull())
    .addColumn('credential_version', 'bigint', (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addColumn('auth_time', 'bigint', (column) => column.notNull())
    .addColumn('last_used_at', 'bigint', (column) => column.notNull())
    .addColumn('idle_ms', 'bigint', (column) => column.notNull())
    .addColumn('expires_at', 'bigint', (column) => column.notNull())
    .addColumn('ip', types.text, (column) => column.notNull())
    .addColumn('user_agent', types.text, (column) => column.notNull())
    .addColumn('counter', 'bigint', (column) => column.notNull().defaultTo(-1))
    .addColumn('advanced_at', 'bigint')
    .addColumn('late_replays', 'integer', (column) => column.notNull().defaultTo(0))
    .addColumn('last_late_at', 'bigint')
    .addColumn('ended_at', 'bigint')
    .execute()
  // Nothing that a rotation changes is indexed: its updates stay heap-only.
  await createIndex(db, 'accounts_sessions', ['user_id'])
  await createIndex(db, 'accounts_sessions', ['ended_at'], { where: sql`ended_at is not null` })
}

async function extendUsers(db: AnyKysely) {
  await db.schema.alterTable('accounts_users').addColumn('role', dialectOf(db).types.text).execute()
  await db.schema.alterTable('accounts_users').addColumn('expires_at', 'bigint').execute()
  await createIndex(db, 'accounts_users', ['expires_at'], { where: sql`expires_at is not null` })
}

async function createOutbox(db: AnyKysely) {
  const { types } = dialectOf(db)
  await createTable(db, 'accounts_outbox')
    .addColumn('id', types.key, (column) => column.primaryKey())
    .addColumn('sealed', types.text, (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addColumn('due_at', 'bigint', (column) => column.notNull())
    .addColumn('expires_at', 'bigint', (column) => column.notNull())
    .addColumn('settled', 'boolean', (column) => column.notNull().defaultTo(sql`false`))
    .execute()
  await createIndex(db, 'accounts_outbox', ['due_at'], { where: sql`not settled` })
  await createIndex(db, 'accounts_outbox', ['expires_at'])
}

async function createEvents(db: AnyKysely, ids: IdKind) {
  const { types } = dialectOf(db)
  // No foreign key: the events stay when the user is deleted.
  await createTable(db, 'accounts_events')
    .addColumn('id', types.ids.integer, (column) => numbered(db, column))
    .addColumn('name', types.text, (column) => column.notNull())
    .addColumn('at', 'bigint', (column) => column.notNull())
    .addColumn('user_id', types.ids[ids])
    .addColumn('identifier', types.text)
    .addColumn('session_id', types.text)
    .addColumn('request_id', types.text)
    .addColumn('ip', types.text, (column) => column.notNull())
    .addColumn('network', types.text, (column) => column.notNull())
    .addColumn('user_agent', types.text, (column) => column.notNull())
    .addColumn('details', types.json, (column) => column.notNull())
    .execute()
  await createIndex(db, 'accounts_events', ['user_id', 'id'], { name: 'accounts_events_user_id' })
  await createIndex(db, 'accounts_events', ['at'])
}

/** Begins a table. */
export function createTable(db: AnyKysely, name: string) {
  const { tableEnd } = dialectOf(db)
  const table = db.schema.createTable(name)
  return tableEnd ? table.modifyEnd(tableEnd) : table
}

function numbered(db: AnyKysely, column: ColumnDefinitionBuilder): ColumnDefinitionBuilder {
  const key = column.primaryKey()
  return dialectOf(db).name === 'postgres' ? key.generatedByDefaultAsIdentity() : key.autoIncrement()
}

/** MySQL has no index of some rows: there it has all of them. */
async function createIndex(
  db: AnyKysely,
  table: string,
  columns: string[],
  { name = `${table}_${columns[0]}`, where }: { name?: string; where?: RawBuilder<unknown> } = {},
): Promise<void> {
  const index = db.schema.createIndex(name).on(table).columns(columns)
  const some = where && dialectOf(db).name !== 'mysql' ? index.where(where as RawBuilder<boolean>) : index
  await some.execute()
}

async function dropIndex(db: AnyKysely, table: string, name: string): Promise<void> {
  const index = db.schema.dropIndex(name)
  await (dialectOf(db).name === 'mysql' ? index.on(table) : index).execute()
}
