import type { Generated, Kysely } from 'kysely'
import type { IdKind } from '../../contracts.ts'

/** The type of user ids in the database; the core reads `integer` as a number, the others as a string. */
export interface IdOptions {
  /** @default 'integer' */
  ids?: IdKind
}

/** The name of our table as it is compiled, with the schema of a `withSchema`: Kysely does not look into raw SQL. */
export function usersTable(db: Kysely<AccountsTables>): string {
  return / from (.+)$/.exec(db.selectFrom('accounts_users').compile().sql)![1]!
}

/** The setting that is 1 while our table is written because the host's was, so that the triggers on it do nothing. */
export const taking = 'fastify_accounts.taking'

/** The setting in which triggers find what `adopt.insert` has answered, as JSON. */
export const insertedColumns = 'fastify_accounts.columns'

/** int8 arrives as a string from pg and as a number from PGlite. */
export type Int8 = string | number

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
    role: string | null
    profile: Generated<string>
    created_at: Int8
    expires_at: Int8 | null
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
  accounts_outbox: {
    id: string
    sealed: string
    created_at: Int8
    due_at: Int8
    expires_at: Int8
    settled: Generated<boolean>
  }
  accounts_events: {
    id: Generated<Int8>
    name: string
    at: Int8
    user_id: Int8 | null
    identifier: string | null
    session_id: string | null
    request_id: string | null
    ip: string
    network: string
    user_agent: string
    details: string
  }
  accounts_migrations: { name: string; applied_at: Int8 }
}
