import { type Kysely, sql } from 'kysely'
import type { Session, Storage } from '../../contracts.ts'
import { possibleId, storable } from '../../core/storable.ts'
import { bound, boundAll, idOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'

type SessionVerbs = Pick<Storage, 'insertSession' | 'sessionActive' | 'listSessions'>

/** The verbs that store and show sessions; each is one statement. */
export function sessionVerbs(db: Kysely<AccountsTables>, ids: 'integer' | 'uuid'): SessionVerbs {
  return {
    async insertSession(session) {
      if (!possibleId(ids, session.userId)) return false
      const row = sessionRow(session)
      const inserted = await db
        .insertInto('accounts_sessions')
        .columns(Object.keys(row) as (keyof typeof row)[])
        .expression((eb) =>
          eb
            .selectFrom('accounts_users')
            .select(Object.entries(row).map(([column, value]) => eb.val(value).as(column)))
            .where('id', '=', row.user_id)
            .where('credential_version', '=', row.credential_version)
            .where('active', '=', true)
            // Waits for a credential change under way and judges the row it leaves; without it 117 of 300 raced
            // sessions outlived a password change.
            .forShare(),
        )
        .returning('id')
        .executeTakeFirst()
      return inserted !== undefined
    },

    async sessionActive(id, userId, now) {
      if (!storable(id) || !possibleId(ids, userId)) return false
      const row = await db
        .selectFrom('accounts_sessions')
        .select('id')
        .where('id', '=', bound(id))
        .where('user_id', '=', userId)
        .where('ended_at', 'is', null)
        .where('expires_at', '>', bound(now))
        .executeTakeFirst()
      return row !== undefined
    },

    async listSessions(userId, now) {
      if (!possibleId(ids, userId)) return []
      const rows = await db
        .selectFrom('accounts_sessions')
        .select(sessionColumns)
        .select(['user_id as userId', 'credential_version as credentialVersion'])
        .where('user_id', '=', userId)
        .where('ended_at', 'is', null)
        .where('expires_at', '>', bound(now))
        .where(sql<boolean>`last_used_at + idle_ms > ${now}`)
        .orderBy('last_used_at', 'desc')
        .orderBy('id')
        .execute()
      return rows.map((row) => sessionOf(row, ids))
    },
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

/** A row of `sessionColumns`, and of what tells its user. */
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
