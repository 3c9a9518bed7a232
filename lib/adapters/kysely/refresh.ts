import { type Kysely, sql } from 'kysely'
import type { RefreshOutcome, RefreshRule, Storage } from '../../contracts.ts'
import { storable } from '../../core/storable.ts'
import { bound, boundAll, type UserRow, userColumns, userOf } from './rows.ts'
import { type SessionRow, sessionColumns, sessionOf } from './sessions.ts'
import type { AccountsTables } from './tables.ts'

/** The verb that judges refresh tokens: one statement, two for a token that is refused as dead. */
export function refreshVerb(db: Kysely<AccountsTables>, ids: Storage['ids']): Pick<Storage, 'refreshSession'> {
  return {
    async refreshSession(id, token, rule, now) {
      if (!storable(id) || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
      const step = takeStep(db, id, token, rule, now)
      // Once more: a change that re-stamps the sessions it keeps may have committed while the first try waited for the
      // session's row, and that try then joined the user's row as it was before.
      const row = (await step.executeTakeFirst()) ?? (await step.executeTakeFirst())
      return row ? outcomeOf(row, ids, token, rule, now) : { result: 'dead' }
    },
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
    .where('accounts_sessions.expires_at', '>', bound(now))
    .where(sql<boolean>`last_used_at + idle_ms > ${now}`)
    .whereRef('accounts_users.id', '=', 'accounts_sessions.user_id')
    .whereRef('accounts_users.credential_version', '=', 'accounts_sessions.credential_version')
    .where('active', '=', true)
    .returning(sessionColumns)
    .returning(['counter', 'advanced_at as advancedAt', 'ended_at as endedAt'])
    .returning(userColumns)
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

interface RefreshRow extends UserRow, SessionRow {
  counter: string | number
  advancedAt: string | number | null
  endedAt: string | number | null
}

// Reads the row after the step: whoever finds it ended has ended it.
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
