import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { Storage } from '../../contracts.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { bound, boundAll } from './rows.ts'
import { deleteSome, type PurgedTable } from './stepwise.ts'
import type { AccountsTables, Int8 } from './tables.ts'
import { inTransaction, violatesReference } from './transactions.ts'

const DAY = 86_400_000

/** The verb that removes what nobody needs: four statements on PostgreSQL, and a transaction if users have expired. */
export function purgeVerb(db: Kysely<AccountsTables>): Pick<Storage, 'purge'> {
  return {
    async purge({ now, eventsBefore, limit }) {
      boundAll({ now, eventsBefore, limit })
      const expired = await expiredUsers(db, now).limit(limit).execute()
      const counts = [
        await purgeUsers(db, expired, now),
        await purgeRows(db, 'accounts_sessions', pastSession(db, now), limit),
        await purgeRows(db, 'accounts_outbox', sql<boolean>`expires_at <= ${now}`, limit),
        await purgeRows(db, 'accounts_events', sql<boolean>`at < ${eventsBefore}`, limit),
      ]
      return counts.reduce((sum, count) => sum + count, 0)
    },
  }
}

// The sessions of an account show whether it was ever used: they are kept until it can no longer expire.
function pastSession(db: Kysely<AccountsTables>, now: number) {
  const expiring = db
    .selectFrom('accounts_users')
    .select('accounts_users.id')
    .where(sql<boolean>`accounts_users.id = accounts_sessions.user_id`)
    .where('accounts_users.expires_at', 'is not', null)
    .where('email_verified_at', 'is', null)
  return sql<boolean>`expires_at < ${now - DAY} and not exists ${expiring}`
}

// Rows that another call has locked are left to the next call.
function purgeRows(db: AnyKysely, table: PurgedTable, unneeded: RawBuilder<boolean>, limit: number) {
  return deleteSome(db, table, (given: AnyKysely) =>
    given.selectFrom(table).select('id').where(unneeded).limit(limit).forUpdate().skipLocked(),
  )
}

function expiredUsers(db: Kysely<AccountsTables>, now: number) {
  return db
    .selectFrom('accounts_users')
    .select('id')
    .where('expires_at', '<=', bound(now))
    .where('email_verified_at', 'is', null)
    .forUpdate()
    .skipLocked()
}

async function purgeUsers(db: Kysely<AccountsTables>, users: { id: Int8 }[], now: number): Promise<number> {
  if (users.length === 0) return 0
  try {
    return await inTransaction(db, (transaction) => removeUsers(transaction, users, now))
  } catch (error) {
    if (!violatesReference(error)) throw error
    // Rows of the host refer to one of them: that one is kept, so that it does not block the others for ever.
    if (users.length === 1) return clearExpiry(db, users)
    const counts: number[] = []
    for (const user of users) counts.push(await purgeUsers(db, [user], now))
    return counts.reduce((sum, count) => sum + count, 0)
  }
}

// Locked first and judged by a second statement, whose snapshot sees the session of a login that had locked the row.
async function removeUsers(db: Kysely<AccountsTables>, users: { id: Int8 }[], now: number): Promise<number> {
  const locked = await expiredUsers(db, now).where('id', 'in', idsOf(users)).execute()
  if (locked.length === 0) return 0
  const { numDeletedRows } = await db
    .deleteFrom('accounts_users')
    .where('id', 'in', idsOf(locked))
    .where((eb) =>
      eb.not(
        eb.exists(
          eb
            .selectFrom('accounts_sessions')
            .select('accounts_sessions.id')
            .whereRef('accounts_sessions.user_id', '=', 'accounts_users.id'),
        ),
      ),
    )
    .executeTakeFirstOrThrow()
  return Number(numDeletedRows) + (await clearExpiry(db, locked))
}

async function clearExpiry(db: Kysely<AccountsTables>, users: { id: Int8 }[]): Promise<number> {
  const { numUpdatedRows } = await db
    .updateTable('accounts_users')
    .set({ expires_at: null })
    .where('id', 'in', idsOf(users))
    .executeTakeFirstOrThrow()
  return Number(numUpdatedRows)
}

function idsOf(users: { id: Int8 }[]): Int8[] {
  return users.map(({ id }) => id)
}
