import { sql } from 'kysely'
import type { AnyKysely } from '../../options/ports.ts'
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
        await db.schema
          .createIndex('accounts_sessions_expires_at')
          .on('accounts_sessions')
          .column('expires_at')
          .execute()
        // For `endAnySessions`, which ends them batch by batch.
        await db.schema
          .createIndex('accounts_sessions_open')
          .on('accounts_sessions')
          .column('id')
          .where(sql<boolean>`ended_at is null`)
          .execute()
      },
      async down(db) {
        await db.schema.dropIndex('accounts_sessions_open').execute()
        await db.schema.dropIndex('accounts_sessions_expires_at').execute()
        await db.schema.dropTable('accounts_events').execute()
        await db.schema.dropTable('accounts_outbox').execute()
        await db.schema.alterTable('accounts_users').dropColumn('expires_at').dropColumn('role').execute()
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

async function extendUsers(db: AnyKysely) {
  await db.schema.alterTable('accounts_users').addColumn('role', 'text').addColumn('expires_at', 'bigint').execute()
  await db.schema
    .createIndex('accounts_users_expires_at')
    .on('accounts_users')
    .column('expires_at')
    .where('expires_at', 'is not', null)
    .execute()
}

async function createOutbox(db: AnyKysely) {
  await db.schema
    .createTable('accounts_outbox')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('sealed', 'text', (column) => column.notNull())
    .addColumn('created_at', 'bigint', (column) => column.notNull())
    .addColumn('due_at', 'bigint', (column) => column.notNull())
    .addColumn('expires_at', 'bigint', (column) => column.notNull())
    .addColumn('settled', 'boolean', (column) => column.notNull().defaultTo(false))
    .execute()
  await db.schema
    .createIndex('accounts_outbox_due_at')
    .on('accounts_outbox')
    .column('due_at')
    .where(sql<boolean>`not settled`)
    .execute()
  await db.schema.createIndex('accounts_outbox_expires_at').on('accounts_outbox').column('expires_at').execute()
}

async function createEvents(db: AnyKysely, ids: 'integer' | 'uuid') {
  // No foreign key: the events stay when the user is deleted.
  await db.schema
    .createTable('accounts_events')
    .addColumn('id', 'bigint', (column) => column.primaryKey().generatedByDefaultAsIdentity())
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('at', 'bigint', (column) => column.notNull())
    .addColumn('user_id', idType(ids))
    .addColumn('identifier', 'text')
    .addColumn('session_id', 'text')
    .addColumn('request_id', 'text')
    .addColumn('ip', 'text', (column) => column.notNull())
    .addColumn('network', 'text', (column) => column.notNull())
    .addColumn('user_agent', 'text', (column) => column.notNull())
    .addColumn('details', 'jsonb', (column) => column.notNull())
    .execute()
  await db.schema.createIndex('accounts_events_user_id').on('accounts_events').columns(['user_id', 'id']).execute()
  await db.schema.createIndex('accounts_events_at').on('accounts_events').column('at').execute()
}

/** The type of a user's id. */
export function idType(ids: 'integer' | 'uuid') {
  return ids === 'uuid' ? 'uuid' : 'bigint'
}
