import { type Expression, type Kysely, type RawBuilder, sql } from 'kysely'
import type { Storage, UserId } from '../../contracts.ts'
import { type Judgement, judgeToken } from '../../core/refresh-rule.ts'
import { isValidId, storable } from '../../core/storable.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { dialectOf } from './dialects.ts'
import {
  bound,
  boundAll,
  isOneOf,
  mostDisplaced,
  parsed,
  sessionColumns,
  sessionOf,
  sessionRow,
  userColumns,
  userOf,
} from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { inTransaction, withinTransaction } from './transactions.ts'

// What PostgreSQL does in one statement. Elsewhere rows are locked, judged here and changed, in one transaction: an
// update of MySQL answers no rows, and makes its assignments one after the other.

type Db = Kysely<AccountsTables>

/** A query, on the database or transaction that it is given, for the ids of rows that it locks. */
export type Rows = (db: Db) => Expression<unknown> & { execute(): Promise<{ id: unknown }[]> }

/** Changes the rows of a query and answers their ids. */
export async function changeSome(
  db: Db,
  table: 'accounts_sessions' | 'accounts_outbox',
  rows: Rows,
  set: object,
): Promise<string[]> {
  const update = (given: AnyKysely) => given.updateTable(table).set(set)
  if (dialectOf(db).name === 'postgres') {
    const changed = await update(db)
      .where(isOneOf(rows(db)))
      .returning('id')
      .execute()
    return changed.map(({ id }) => id)
  }
  return withinTransaction(db, async (transaction) => {
    const ids = (await rows(transaction).execute()).map(({ id }) => id as string)
    if (ids.length > 0) await update(transaction).where('id', 'in', ids).execute()
    return ids
  })
}

/** Whose rows `purge` deletes. */
export type PurgedTable = 'accounts_sessions' | 'accounts_outbox' | 'accounts_events'

/** Deletes the rows of a query and answers how many they were. */
export async function deleteSome(db: Db, table: PurgedTable, rows: Rows): Promise<number> {
  const remove = async (given: AnyKysely, which: RawBuilder<boolean>) => {
    const { numDeletedRows } = await given.deleteFrom(table).where(which).executeTakeFirstOrThrow()
    return Number(numDeletedRows)
  }
  if (dialectOf(db).name === 'postgres') return remove(db, isOneOf(rows(db)))
  return withinTransaction(db, async (transaction) => {
    const ids = (await rows(transaction).execute()).map(({ id }) => id)
    return ids.length === 0 ? 0 : remove(transaction, sql<boolean>`id in (${sql.join(ids)})`)
  })
}

/** `updateUser` but for what its values lead to. */
export function updateUserStepwise(db: Db, change: Parameters<Storage['updateUser']>[0]) {
  const { id, username, usernameCanonical, profile, fence } = change
  boundAll({ username, usernameCanonical })
  return inTransaction(db, async (transaction) => {
    const active = transaction.selectFrom('accounts_users').where('id', '=', id).where('active', '=', true)
    const user = await active
      .$if(fence?.emailCanonical !== undefined, (query) =>
        query.where('email_canonical', '=', bound(fence!.emailCanonical as string)),
      )
      .select(userColumns(transaction))
      .forUpdate()
      .executeTakeFirst()
    if (!user || (fence && !(await sessionAsks(transaction, user, fence.sessionId)))) return undefined
    const merged = JSON.stringify({ ...parsed<object>(user.profile), ...profile })
    const names = { username, username_canonical: usernameCanonical }
    await transaction
      .updateTable('accounts_users')
      .set({ ...names, profile: withMembers(transaction, profile) })
      .where('id', '=', id)
      .execute()
    return { ...user, profile: merged, username: username === undefined ? user.username : username }
  })
}

// The others stay as they are: an integer of 64 bits is no number of JavaScript's.
function withMembers(db: Db, profile: object) {
  const { inJson } = dialectOf(db)
  const given = Object.entries(profile).filter(([, value]) => value !== undefined)
  if (given.length === 0) return sql<string>`profile`
  const members = given.map(([name, value]) => sql`${`$.${JSON.stringify(name)}`}, ${inJson(JSON.stringify(value))}`)
  return sql<string>`json_set(profile, ${sql.join(members)})`
}

type Owner = { userId: string | number; credentialVersion: string | number }

async function sessionAsks(db: Db, { userId, credentialVersion }: Owner, sessionId: string): Promise<boolean> {
  const session = await db
    .selectFrom('accounts_sessions')
    .select('id')
    .where('id', '=', bound(sessionId))
    .where('user_id', '=', userId)
    .where('ended_at', 'is', null)
    .where('credential_version', '=', credentialVersion)
    .forUpdate()
    .executeTakeFirst()
  return session !== undefined
}

/** The verbs about sessions that PostgreSQL has as one statement. */
export function stepwiseSessionVerbs(db: Db, ids: Storage['ids']) {
  return {
    async insertSession(session, most) {
      if (!isValidId(ids, session.userId)) return null
      const row = sessionRow(session)
      return inTransaction(db, async (transaction) => {
        const user = await transaction
          .selectFrom('accounts_users')
          .select('id')
          .where('id', '=', session.userId)
          .where('credential_version', '=', session.credentialVersion)
          .where('active', '=', true)
          .forUpdate()
          .executeTakeFirst()
        if (!user) return null
        const ended = await changeSome(transaction, 'accounts_sessions', surplus(session.userId, bound(most) - 1), {
          ended_at: session.createdAt,
        })
        await transaction.insertInto('accounts_sessions').values(row).execute()
        return ended
      })
    },

    async refreshSession(id, token, rule, now) {
      if (!storable(id) || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
      boundAll({ id, now, ...rule })
      return inTransaction(db, async (transaction) => {
        const row = await liveSession(transaction, id, now)
        const user = row && (await activeUser(transaction, row))
        if (!user) return { result: 'dead' }
        const state = {
          counter: Number(row.counter),
          advancedAt: timeOf(row.advancedAt),
          lateReplays: row.lateReplays,
          lastLateAt: timeOf(row.lastLateAt),
        }
        const { result, set } = judgeToken(state, token, rule, now)
        await setSession(transaction, id, set)
        const session = sessionOf({ ...row, ...(set.lastUsedAt && { lastUsedAt: set.lastUsedAt }) }, ids)
        if (result !== 'accepted') return { result, session }
        return { result, counter: token, replayed: token === state.counter, session, user: userOf(user, ids) }
      })
    },
  } satisfies Partial<Storage>
}

// Sessions that another call has locked are left to it.
function surplus(userId: UserId, others: number): Rows {
  return (db) =>
    db
      .selectFrom('accounts_sessions')
      .select('id')
      .where('user_id', '=', userId)
      .where(dialectOf(db).open)
      .orderBy('last_used_at', 'desc')
      .orderBy('id')
      .limit(mostDisplaced)
      .offset(others)
      .forUpdate()
      .skipLocked()
}

function liveSession(db: Db, id: string, now: number) {
  return db
    .selectFrom('accounts_sessions')
    .select(sessionColumns)
    .select(['user_id as userId', 'credential_version as credentialVersion'])
    .select(['counter', 'advanced_at as advancedAt', 'late_replays as lateReplays', 'last_late_at as lastLateAt'])
    .where('id', '=', id)
    .where('ended_at', 'is', null)
    .where('expires_at', '>', now)
    .where(sql<boolean>`last_used_at + idle_ms > ${now}`)
    .forUpdate()
    .executeTakeFirst()
}

// Not locked, since users are locked before sessions. A change of credentials that is under way waits for the session.
function activeUser(db: Db, { userId, credentialVersion }: Owner) {
  return db
    .selectFrom('accounts_users')
    .select(userColumns(db))
    .where('id', '=', userId)
    .where('credential_version', '=', credentialVersion)
    .where('active', '=', true)
    .executeTakeFirst()
}

function timeOf(time: string | number | null): number {
  return time === null ? Number.NEGATIVE_INFINITY : Number(time)
}

async function setSession(db: Db, id: string, set: Judgement['set']): Promise<void> {
  if (Object.keys(set).length === 0) return
  await db
    .updateTable('accounts_sessions')
    .set({
      counter: set.counter,
      advanced_at: set.advancedAt,
      late_replays: set.lateReplays,
      last_late_at: set.lastLateAt,
      last_used_at: set.lastUsedAt,
      ended_at: set.endedAt,
    })
    .where('id', '=', id)
    .execute()
}
