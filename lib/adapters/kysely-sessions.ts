import { type Kysely, sql } from 'kysely'
import type { RefreshOutcome, RefreshRule, Session, Storage } from '../contracts.ts'
import { possibleId, storable } from '../storable.ts'
import type { AccountsTables } from './kysely-migrations.ts'
import { bound, boundAll, idOf, type UserRow, userColumns, userOf } from './kysely-rows.ts'

type SessionVerbs = Pick<Storage, 'insertSession' | 'sessionActive' | 'refreshSession'>

/** The verbs about sessions; each is one statement. */
export function sessionVerbs(db: Kysely<AccountsTables>, ids: 'integer' | 'uuid'): SessionVerbs {
  return {
    async insertSession(session) {
      if (!possibleId(ids, session.userId)) return false
      const row = boundAll(rowOf(session))
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

    async refreshSession(id, token, rule, now) {
      if (!storable(id) || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
      const row = await takeStep(db, id, token, rule, now)
      return row ? outcomeOf(row, ids, token, rule) : { result: 'dead' }
    },
  }
}

function rowOf(session: Session) {
  return {
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
  }
}

// One UPDATE: a racer that waited for the row judges what the winner left, so all get one answer.
function takeStep(db: Kysely<AccountsTables>, id: string, token: number, rule: RefreshRule, now: number) {
  const { fresh, counted, reused, accepted } = judge(token, rule, now)
  const advances = rule.rotate ? fresh : sql`false`
  return db
    .updateTable('accounts_sessions')
    .from('accounts_users')
    .set({
      counter: sql`case when ${advances} then ${token} else counter end`,
      advanced_at: sql`case when ${advances} then ${now} else advanced_at end`,
      late_replays: sql`case when ${counted} then late_replays + 1 else late_replays end`,
      last_late_at: sql`case when ${counted} then ${now} else last_late_at end`,
      ended_at: sql`case when ${reused} then ${now} else ended_at end`,
      last_used_at: sql`case when ${accepted} then ${now} else last_used_at end`,
    })
    .where('accounts_sessions.id', '=', bound(id))
    .where('ended_at', 'is', null)
    .where('expires_at', '>', bound(now))
    .where(sql<boolean>`last_used_at + idle_ms > ${now}`)
    .whereRef('accounts_users.id', '=', 'accounts_sessions.user_id')
    .whereRef('accounts_users.credential_version', '=', 'accounts_sessions.credential_version')
    .where('active', '=', true)
    .returning(sessionColumns)
    .returning(userColumns)
    .executeTakeFirst()
}

// The rule of `Storage.refreshSession`, as conditions on the row before the step.
function judge(token: number, rule: RefreshRule, now: number) {
  boundAll({ token, now, ...rule })
  // RFC 9700 4.14.2 would end the session; a client that keeps its first token is served unless the host is strict.
  const exempt = !rule.rotate || (token === 0 && rule.lateReplays > 0)
  const fresh = sql`counter + 1 = ${token}`
  const older = sql`counter > ${token}`
  const newest = sql`counter = ${token}`
  const late = sql`greatest(advanced_at, last_late_at) < ${now - rule.graceMs}`
  const overdue = exempt ? sql`false` : sql`(${newest} and ${late})`
  const counted = sql`(${overdue} and late_replays < ${rule.lateReplays})`
  const reused = sql`(${overdue} and late_replays >= ${rule.lateReplays} or ${older} and ${late})`
  const accepted = sql`(${fresh} or ${newest} and not ${reused})`
  return { fresh, counted, reused, accepted }
}

const sessionColumns = [
  'accounts_sessions.id as sessionId',
  'accounts_sessions.created_at as createdAt',
  'auth_time as authTime',
  'last_used_at as lastUsedAt',
  'idle_ms as idleMs',
  'expires_at as expiresAt',
  'ip',
  'user_agent as userAgent',
  'counter',
  'ended_at as endedAt',
] as const

interface SessionRow extends UserRow {
  sessionId: string
  createdAt: string | number
  authTime: string | number
  lastUsedAt: string | number
  idleMs: string | number
  expiresAt: string | number
  ip: string
  userAgent: string
  counter: string | number
  endedAt: string | number | null
}

// Reads the row after the step: whoever finds it ended has ended it.
function outcomeOf(row: SessionRow, ids: Storage['ids'], token: number, rule: RefreshRule): RefreshOutcome {
  const session = sessionOf(row, ids)
  const counter = Number(row.counter)
  if (row.endedAt !== null) return { result: 'reused', session }
  if (token < counter) return { result: 'stale', session }
  if (token === counter || (!rule.rotate && token === counter + 1)) {
    return { result: 'accepted', counter: token, session, user: userOf(row, ids) }
  }
  return { result: 'ahead', session }
}

function sessionOf(row: SessionRow, ids: Storage['ids']): Session {
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
