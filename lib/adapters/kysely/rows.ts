import { type Expression, type RawBuilder, sql } from 'kysely'
import type { IdKind, Session, Storage, User, UserId } from '../../contracts.ts'
import { isValidId } from '../../core/storable.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { dialectOf } from './dialects.ts'

/** A user's columns, without the password hash; aliased so that a host's CamelCasePlugin changes nothing. */
export const userColumns = (db: AnyKysely) =>
  [
    'accounts_users.id as userId',
    'username',
    'email',
    'email_verified_at as emailVerifiedAt',
    'accounts_users.credential_version as credentialVersion',
    'active',
    'role',
    'accounts_users.created_at as userCreatedAt',
    'accounts_users.expires_at as userExpiresAt',
    dialectOf(db).asText('profile').as('profile'),
  ] as const

/** A row of `userColumns`. */
export interface UserRow {
  userId: string | number
  username: string | null
  email: string
  emailVerifiedAt: string | number | null
  credentialVersion: string | number
  /** A number where the database has no booleans. */
  active: boolean | number
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
    active: Boolean(row.active),
    role: row.role,
    profile: parsed(row.profile),
    createdAt: Number(row.userCreatedAt),
    expiresAt: row.userExpiresAt === null ? null : Number(row.userExpiresAt),
  }
}

/** The row of a new session. */
export function sessionRow(session: Session) {
  return boundAll({
    id: session.id,
    user_id: session.userId,
    credential_version: session.credentialVersion,
    created_at: session.createdAt,
    auth_time: session.authTime,
    last_used_at: session.lastUsedAt,
    idle_ms: session.idleMs,
    expires_at: session.expiresAt,
    ip: session.ip,
    user_agent: session.userAgent,
  })
}

/** How many of a user's sessions one login ends at most; a later one ends the others. */
export const mostDisplaced = 500

/** The columns of a new session. */
export type SessionColumns = ReturnType<typeof sessionRow>

/** A session's columns, without those that it has in common with its user. */
export const sessionColumns = [
  'accounts_sessions.id as sessionId',
  'accounts_sessions.created_at as createdAt',
  'auth_time as authTime',
  'last_used_at as lastUsedAt',
  'idle_ms as idleMs',
  'accounts_sessions.expires_at as expiresAt',
  'ip',
  'user_agent as userAgent',
] as const

/** A row of `sessionColumns`, with its user and credential version. */
export interface SessionRow {
  userId: string | number
  credentialVersion: string | number
  sessionId: string
  createdAt: string | number
  authTime: string | number
  lastUsedAt: string | number
  idleMs: string | number
  expiresAt: string | number
  ip: string
  userAgent: string
}

/** The session in a row of `sessionColumns`. */
export function sessionOf(row: SessionRow, ids: Storage['ids']): Session {
  return {
    id: row.sessionId,
    userId: idOf(row.userId, ids),
    credentialVersion: Number(row.credentialVersion),
    createdAt: Number(row.createdAt),
    authTime: Number(row.authTime),
    lastUsedAt: Number(row.lastUsedAt),
    idleMs: Number(row.idleMs),
    expiresAt: Number(row.expiresAt),
    ip: row.ip,
    userAgent: row.userAgent,
  }
}

/** A JSON column that was read as text; a host's ParseJSONResultsPlugin has parsed it already. */
export function parsed<T>(value: unknown): T {
  return typeof value === 'string' ? JSON.parse(value) : (value as T)
}

/**
 * The id in a row; an int8 arrives as a string from pg.
 *
 * @throws {Error} when the tables were made for other ids than the adapter
 */
export function idOf(id: string | number, ids: Storage['ids']): UserId {
  const given = (ids === 'integer' ? Number(id) : String(id)) as UserId
  if (isValidId(ids, given)) return given
  const existing = kindOf(String(id))
  throw new Error(`The tables have ${existing} ids: use kyselyStorage(db, { ids: '${existing}' }).`)
}

function kindOf(id: string): IdKind {
  if (/^\d+$/.test(id)) return 'integer'
  return isValidId('uuid', id) ? 'uuid' : 'text'
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
