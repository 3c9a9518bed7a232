import { type Expression, type RawBuilder, sql } from 'kysely'
import type { Storage, User, UserId } from '../../contracts.ts'
import { isValidId } from '../../core/storable.ts'

/** A user's columns, without the password hash; aliased so that a host's CamelCasePlugin changes nothing. */
export const userColumns = [
  'accounts_users.id as userId',
  'username',
  'email',
  'email_verified_at as emailVerifiedAt',
  'accounts_users.credential_version as credentialVersion',
  'active',
  'role',
  'accounts_users.created_at as userCreatedAt',
  'accounts_users.expires_at as userExpiresAt',
  // As text, so that no type parser or plugin of the host changes the profile.
  sql<string>`profile::text`.as('profile'),
] as const

/** A row of `userColumns`. */
export interface UserRow {
  userId: string | number
  username: string | null
  email: string
  emailVerifiedAt: string | number | null
  credentialVersion: string | number
  active: boolean
  role: string | null
  userCreatedAt: string | number
  userExpiresAt: string | number | null
  profile: unknown
}

/** The user in a row of `userColumns`. */
export function userOf(row: UserRow, ids: Storage['ids']): User {
  return {
    id: idOf(row.userId, ids),
    username: row.username,
    email: row.email,
    emailVerifiedAt: row.emailVerifiedAt === null ? null : Number(row.emailVerifiedAt),
    credentialVersion: Number(row.credentialVersion),
    active: row.active,
    role: row.role,
    profile: parsed(row.profile),
    createdAt: Number(row.userCreatedAt),
    expiresAt: row.userExpiresAt === null ? null : Number(row.userExpiresAt),
  }
}

/** A JSON column that was read as text; a host's ParseJSONResultsPlugin has parsed it already. */
export function parsed<T>(value: unknown): T {
  return typeof value === 'string' ? JSON.parse(value) : (value as T)
}

/** The database's clock, in milliseconds. */
export const databaseTime = sql<string | number>`(extract(epoch from clock_timestamp()) * 1000)::bigint`

/**
 * The id in a row; an int8 arrives as a string from pg.
 *
 * @throws {Error} when the tables were made for other ids than the adapter
 */
export function idOf(id: string | number, ids: Storage['ids']): UserId {
  const given = (ids === 'integer' ? Number(id) : String(id)) as UserId
  if (isValidId(ids, given)) return given
  const existing = ids === 'integer' ? 'uuid' : 'integer'
  throw new Error(`The tables have ${existing} ids: use kyselyStorage(db, { ids: '${existing}' }).`)
}

/**
 * Returns a value that may be bound to a statement; some drivers expand objects and arrays into SQL.
 *
 * @throws {TypeError} for anything but a string, number, boolean or null
 */
export function bound<T>(value: T): T {
  if (value === null || ['string', 'number', 'boolean'].includes(typeof value)) return value
  throw new TypeError('Only a string, number, boolean or null can be bound to a statement.')
}

/** `bound` for every member of a row that is there. */
export function boundAll<T extends object>(row: T): T {
  for (const value of Object.values(row)) if (value !== undefined) bound(value)
  return row
}

/**
 * Whether a row's `id` is among those that a query selects. The query runs once, beforehand: PostgreSQL may run that
 * of a plain `in` again and again, and lock more rows than its limit.
 */
export function isOneOf(query: Expression<unknown>): RawBuilder<boolean> {
  return sql<boolean>`id = any(array(${query}))`
}
