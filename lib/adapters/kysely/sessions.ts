import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { RefreshOutcome, RefreshRule, Storage, UserId } from '../../contracts.ts'
import { isExempt } from '../../core/refresh-rule.ts'
import { isValidId, storable } from '../../core/storable.ts'
import { dialectOf } from './dialects.ts'
import { prepared, type Slot } from './prepared.ts'
import {
  bound,
  idOf,
  isOneOf,
  mostDisplaced,
  type SessionColumns,
  type SessionRow,
  sessionColumns,
  sessionOf,
  sessionRow,
  type UserRow,
  userColumns,
  userOf,
} from './rows.ts'
import { changeSome, type Rows, stepwiseSessionVerbs } from './stepwise.ts'
import type { AccountsTables } from './tables.ts'
import { requireReadCommitted } from './transactions.ts'

/** The verbs about sessions. */
export function sessionVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return {
    ...lifeVerbs(db, ids),
    ...endVerbs(db, ids),
    ...(dialectOf(db).name === 'postgres' ? stepVerbs(db, ids) : stepwiseSessionVerbs(db, ids)),
  } satisfies Partial<Storage>
}

// Each is one statement.
function lifeVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  const activeOf = prepared(db, (slot: Slot<{ id: string; userId: UserId; now: number }>) =>
    activeSession(db, slot).where('user_id', '=', slot('userId')),
  )
  const active = prepared(db, (slot: Slot<{ id: string; now: number }>) => activeSession(db, slot))
  return {
    async sessionActive(id, userId, now) {
      if (!storable(id) || (userId !== null && !isValidId(ids, userId))) return false
      const found = await (userId === null ? active({ id, now }) : activeOf({ id, userId, now }))
      return found.length > 0
    },

    async listSessions(userId, limit, now) {
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
        .limit(bound(limit))
        .execute()
      return rows.map((row) => sessionOf(row, ids))
    },
  } satisfies Partial<Storage>
}

function activeSession(db: Kysely<AccountsTables>, slot: Slot<{ id: string; now: number }>) {
  return db
    .selectFrom('accounts_sessions')
    .select('id')
    .where('id', '=', slot('id'))
    .where('ended_at', 'is', null)
    .where('expires_at', '>', slot('now'))
}

// Each is one statement, a refresh two for a token that is refused as dead.
function stepVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  const insert = prepared(db, (slot: Slot<SessionColumns & { others: number }>) => insertion(db, slot))
  return {
    async insertSession(session, most) {
      if (!isValidId(ids, session.userId)) return null
      const rows = await insert({ ...sessionRow(session), others: bound(most) - 1 })
      return rows.length > 0 ? rows.flatMap(({ ended }) => ended ?? []) : null
    },

    refreshSession: refreshVerb(db, ids),
  } satisfies Partial<Storage>
}

// The one snapshot does not have the row that is inserted. The user's row is locked first, as everywhere; sessions that
// another call has locked are left to it.
function insertion(db: Kysely<AccountsTables>, slot: Slot<SessionColumns & { others: number }>) {
  return db
    .with('inserted', () => insertionAlone(db, slot))
    .with('surplus', (cte) =>
      cte
        .selectFrom('accounts_sessions')
        .select('id')
        // Not by Kysely, which would look for it in the schema of a `withSchema`.
        .where('user_id', '=', sql<UserId>`(select owner from inserted)`)
        .where('ended_at', 'is', null)
        .orderBy('last_used_at', 'desc')
        .orderBy('id')
        .offset(slot('others'))
        .limit(mostDisplaced),
    )
    .with('displaced', (cte) => {
      // Without it a plan from the table's first days reads the whole of it, twice, to find none.
      const any = sql<boolean>`exists (select from surplus)`
      const found = isOneOf(sql`select id from surplus`)
      const locked = db.selectFrom('accounts_sessions').select('id').where(any).where(found).forUpdate().skipLocked()
      const ended = { ended_at: slot('created_at') }
      const update = cte.updateTable('accounts_sessions').set(ended).where(any).where(isOneOf(locked))
      return update.where('ended_at', 'is', null).returning('id')
    })
    .selectFrom('inserted')
    .leftJoin('displaced', (join) => join.onTrue())
    .select('displaced.id as ended')
}

function insertionAlone(db: Kysely<AccountsTables>, slot: Slot<SessionColumns>) {
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
    .returning('user_id as owner')
}

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

function refreshVerb(db: Kysely<AccountsTables>, ids: Storage['ids']): Storage['refreshSession'] {
  const step = prepared(db, (slot: Slot<Step>) => takeStep(db, slot))
  return async (id, token, rule, now) => {
    if (!storable(id) || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
    const { rotate, graceMs, lateReplays } = rule
    const values = {
      id,
      token,
      rotate,
      exempt: isExempt(token, rule),
      lateReplays,
      now,
      graceEnd: bound(now) - bound(graceMs),
    }
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
    .returning(userColumns(db))
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

// Each is one statement on PostgreSQL; `endSession` two when the session or its user is not known, `endSessions` two
// within a host's transaction.
function endVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return {
    async endSession(id, userId, now) {
      if (!storable(id) || (userId !== null && !isValidId(ids, userId))) return null
      const own = userId === null ? sql<boolean>`true` : sql<boolean>`user_id = ${userId}`
      const { numUpdatedRows } = await db
        .updateTable('accounts_sessions')
        .set({ ended_at: bound(now) })
        .where('id', '=', bound(id))
        .where(own)
        .where('ended_at', 'is', null)
        .executeTakeFirstOrThrow()
      if (numUpdatedRows > 0 && userId !== null) return { userId, ended: true }
      const found = await db
        .selectFrom('accounts_sessions')
        .select('user_id as userId')
        .where('id', '=', id)
        .where(own)
        .executeTakeFirst()
      return found ? { userId: idOf(found.userId, ids), ended: numUpdatedRows > 0 } : null
    },

    async endSessions(userId, now) {
      if (!isValidId(ids, userId)) return []
      await requireReadCommitted(db)
      return endSessionsOf(db, userId, now)
    },

    endAnySessions: (limit, now) => endAll(db, now, (given) => liveSessions(given).limit(bound(limit))),

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
  const live = db.selectFrom('accounts_sessions').select('id').where(dialectOf(db).open)
  return live.orderBy('user_id').orderBy('id').forUpdate()
}

/** Ends all sessions of a user and returns their ids. */
export function endSessionsOf(db: Kysely<AccountsTables>, userId: UserId, now: number): Promise<string[]> {
  return endAll(db, now, (given) => liveSessions(given).where('user_id', '=', userId))
}

function endAll(db: Kysely<AccountsTables>, now: number, sessions: Rows): Promise<string[]> {
  return changeSome(db, 'accounts_sessions', sessions, { ended_at: bound(now) })
}
