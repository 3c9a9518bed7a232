import { type Expression, type Kysely, type RawBuilder, sql } from 'kysely'
import type { RefreshOutcome, RefreshRule, Session, Storage, UserId } from '../../contracts.ts'
import { isValidId, storable } from '../../core/storable.ts'
import { prepared, type Slot } from './prepared.ts'
import { bound, boundAll, idOf, isOneOf, type UserRow, userColumns, userOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { requireReadCommitted } from './transactions.ts'

/** The verbs about sessions. */
export function sessionVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return {
    ...lifeVerbs(db, ids),
    ...endVerbs(db, ids),
    refreshSession: refreshVerb(db, ids),
  } satisfies Partial<Storage>
}

// Each is one statement.
function lifeVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  const insert = prepared(db, (slot: Slot<SessionColumns>) => insertion(db, slot))
  const active = prepared(db, (slot: Slot<{ id: string; userId: UserId; now: number }>) =>
    db
      .selectFrom('accounts_sessions')
      .select('id')
      .where('id', '=', slot('id'))
      .where('user_id', '=', slot('userId'))
      .where('ended_at', 'is', null)
      .where('expires_at', '>', slot('now')),
  )
  return {
    async insertSession(session) {
      if (!isValidId(ids, session.userId)) return false
      const inserted = await insert(sessionRow(session))
      return inserted.length > 0
    },

    async sessionActive(id, userId, now) {
      if (!storable(id) || !isValidId(ids, userId)) return false
      const found = await active({ id, userId, now })
      return found.length > 0
    },

    async listSessions(userId, now) {
      if (!isValidId(ids, userId)) return []
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
  } satisfies Partial<Storage>
}

function insertion(db: Kysely<AccountsTables>, slot: Slot<SessionColumns>) {
  return db
    .insertInto('accounts_sessions')
    .columns(insertedColumns)
    .expression((eb) =>
      eb
        .selectFrom('accounts_users')
        .select(insertedColumns.map((column) => eb.val(slot(column)).as(column)))
        .where('id', '=', slot('user_id'))
        .where('credential_version', '=', slot('credential_version'))
        .where('active', '=', true)
        // Waits for a change of credentials in progress and reads the row that it leaves; without it 117 of 300 racing
        // sessions outlived a password change.
        .forShare(),
    )
    .returning('id')
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

type SessionColumns = ReturnType<typeof sessionRow>

// An object, so that the compiler misses a column that is left out.
const insertedColumns = Object.keys({
  id: true,
  user_id: true,
  credential_version: true,
  created_at: true,
  auth_time: true,
  last_used_at: true,
  idle_ms: true,
  expires_at: true,
  ip: true,
  user_agent: true,
} satisfies Record<keyof SessionColumns, true>) as (keyof SessionColumns)[]

/** A session's columns, without those that it has in common with its user. */
const sessionColumns = [
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

// One statement, two for a token that is refused as dead.
function refreshVerb(db: Kysely<AccountsTables>, ids: Storage['ids']): Storage['refreshSession'] {
  const step = prepared(db, (slot: Slot<Step>) => takeStep(db, slot))
  return async (id, token, rule, now) => {
    if (!storable(id) || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
    const { rotate, graceMs, lateReplays } = rule
    // RFC 9700 4.14.2 would end the session; a client that keeps its first token is served unless the host is strict.
    const exempt = !rotate || (token === 0 && lateReplays > 0)
    const values = { id, token, rotate, exempt, lateReplays, now, graceEnd: bound(now) - bound(graceMs) }
    // Once more: a change that re-stamps the sessions it keeps may have committed while the first try waited for the
    // session's row, and that try then joined the user's row as it was before.
    const row = (await step(values))[0] ?? (await step(values))[0]
    return row ? outcomeOf(row, ids, token, rule, now) : { result: 'dead' }
  }
}

interface Step {
  id: string
  token: number
  rotate: boolean
  /** Whether the newest token may come back at any time. */
  exempt: boolean
  lateReplays: number
  now: number
  /** A token that was replaced before this time is late. */
  graceEnd: number
}

// One UPDATE: a racer that waited for the row judges what the winner left, so all get the same token.
function takeStep(db: Kysely<AccountsTables>, slot: Slot<Step>) {
  const [token, now] = [sql`${slot('token')}::bigint`, sql`${slot('now')}::bigint`]
  const { fresh, counted, reused, accepted } = judge(slot, token)
  const advances = sql`(${slot('rotate')}::boolean and ${fresh})`
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
    .where('accounts_sessions.id', '=', slot('id'))
    .where('ended_at', 'is', null)
    .where('accounts_sessions.expires_at', '>', slot('now'))
    .where(sql<boolean>`last_used_at + idle_ms > ${now}`)
    .whereRef('accounts_users.id', '=', 'accounts_sessions.user_id')
    .whereRef('accounts_users.credential_version', '=', 'accounts_sessions.credential_version')
    .where('active', '=', true)
    .returning(sessionColumns)
    .returning(['counter', 'advanced_at as advancedAt', 'ended_at as endedAt'])
    .returning(userColumns)
}

// The rule of `Storage.refreshSession`, as conditions on the row before the step.
function judge(slot: Slot<Step>, token: RawBuilder<unknown>) {
  const fresh = sql`counter + 1 = ${token}`
  const older = sql`counter > ${token}`
  const newest = sql`counter = ${token}`
  const late = sql`greatest(advanced_at, last_late_at) < ${slot('graceEnd')}`
  const overdue = sql`(not ${slot('exempt')}::boolean and ${newest} and ${late})`
  const counted = sql`(${overdue} and late_replays < ${slot('lateReplays')})`
  const reused = sql`(${overdue} and late_replays >= ${slot('lateReplays')} or ${older} and ${late})`
  const accepted = sql`(${fresh} or ${newest} and not ${reused})`
  return { fresh, counted, reused, accepted }
}

interface RefreshRow extends UserRow, SessionRow {
  counter: string | number
  advancedAt: string | number | null
  endedAt: string | number | null
}

// Reads the row after the step: the call that sees it ended is the one that ended it.
function outcomeOf(
  row: RefreshRow,
  ids: Storage['ids'],
  token: number,
  rule: RefreshRule,
  now: number,
): RefreshOutcome {
  const session = sessionOf(row, ids)
  const counter = Number(row.counter)
  if (row.endedAt !== null) return { result: 'reused', session }
  if (token < counter) return { result: 'stale', session }
  if (token === counter || (!rule.rotate && token === counter + 1)) {
    const replayed = rule.rotate ? Number(row.advancedAt) !== now : token === counter
    return { result: 'accepted', counter: token, replayed, session, user: userOf(row, ids) }
  }
  return { result: 'ahead', session }
}

// Each is one statement; `endSession` two when there is none to end, `endSessions` two within a host's transaction.
function endVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return {
    async endSession(id, userId, now) {
      if (!storable(id) || (userId !== null && !isValidId(ids, userId))) return null
      const own = userId === null ? sql<boolean>`true` : sql<boolean>`user_id = ${userId}`
      const ended = await db
        .updateTable('accounts_sessions')
        .set({ ended_at: bound(now) })
        .where('id', '=', bound(id))
        .where(own)
        .where('ended_at', 'is', null)
        .returning('user_id as userId')
        .executeTakeFirst()
      if (ended) return { userId: idOf(ended.userId, ids), ended: true }
      const found = await db
        .selectFrom('accounts_sessions')
        .select('user_id as userId')
        .where('id', '=', id)
        .where(own)
        .executeTakeFirst()
      return found ? { userId: idOf(found.userId, ids), ended: false } : null
    },

    async endSessions(userId, now) {
      if (!isValidId(ids, userId)) return []
      await requireReadCommitted(db)
      return endSessionsOf(db, userId, now)
    },

    endAnySessions: (limit, now) => endAll(db, liveSessions(db).limit(bound(limit)), now),

    async endedSince(time, usedSince) {
      const rows = await db
        .selectFrom('accounts_sessions')
        .select(['id', 'ended_at as endedAt'])
        .where('ended_at', '>=', bound(time))
        .where('last_used_at', '>=', bound(usedSince))
        .execute()
      return rows.map(({ id, endedAt }) => ({ id, endedAt: Number(endedAt) }))
    },
  } satisfies Partial<Storage>
}

/** Sessions that have not ended, to be locked; always in this order, or two callers could wait for each other. */
export function liveSessions(db: Kysely<AccountsTables>) {
  return db.selectFrom('accounts_sessions').select('id').where('ended_at', 'is', null).orderBy('id').forUpdate()
}

/** Ends all sessions of a user and returns their ids. */
export function endSessionsOf(db: Kysely<AccountsTables>, userId: UserId, now: number): Promise<string[]> {
  return endAll(db, liveSessions(db).where('user_id', '=', userId), now)
}

async function endAll(db: Kysely<AccountsTables>, sessions: Expression<unknown>, now: number): Promise<string[]> {
  const rows = await db
    .updateTable('accounts_sessions')
    .set({ ended_at: bound(now) })
    .where(isOneOf(sessions))
    .returning('id')
    .execute()
  return rows.map(({ id }) => id)
}
