import { type Expression, type Kysely, sql } from 'kysely'
import type { Storage, UserId } from '../../contracts.ts'
import { possibleId, storable } from '../../core/storable.ts'
import { bound, idOf, isOneOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { requireReadCommitted } from './transactions.ts'

type SessionEndVerbs = Pick<Storage, 'endSession' | 'endSessions' | 'endAnySessions' | 'endedSince'>

/**
 * The verbs that end sessions; each is one statement, `endSession` two when there is none to end, `endSessions` two
 * within a host's transaction.
 */
export function sessionEndVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']): SessionEndVerbs {
  return {
    async endSession(id, userId, now) {
      if (!storable(id) || (userId !== null && !possibleId(ids, userId))) return null
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
      if (!possibleId(ids, userId)) return []
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
  }
}

/** Sessions that have not ended, to be locked; always in this order, or two callers could wait for each other. */
export function liveSessions(db: Kysely<AccountsTables>) {
  return db.selectFrom('accounts_sessions').select('id').where('ended_at', 'is', null).orderBy('id').forUpdate()
}

/** Ends all sessions of a user and answers their ids. */
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
