import type { Kysely } from 'kysely'
import type { NewUser, Storage } from '../contracts.ts'
import { possibleId, storable, storableUser } from '../storable.ts'
import type { AccountsTables } from './kysely-migrations.ts'
import { bound, boundAll, idOf, userColumns, userOf } from './kysely-rows.ts'

type UserVerbs = Pick<
  Storage,
  'insertUser' | 'findUserById' | 'findUserByEmail' | 'replacePasswordHash' | 'changePassword'
>

/** The verbs about users; each is one statement, `changePassword` one transaction. */
export function userVerbs(db: Kysely<AccountsTables>, ids: 'integer' | 'uuid'): UserVerbs {
  return {
    async insertUser(user) {
      if (!storableUser(user)) return 'invalid'
      try {
        // Once more, should the row that was in the way be gone by the time we look for it.
        return (await insertOrName(db, ids, user)) ?? (await insertOrName(db, ids, user)) ?? 'invalid'
      } catch (error) {
        if (refusesValue(error)) return 'invalid'
        throw error
      }
    },

    async findUserById(id) {
      if (!possibleId(ids, id)) return null
      const row = await db.selectFrom('accounts_users').select(userColumns).where('id', '=', id).executeTakeFirst()
      return row ? userOf(row, ids) : null
    },

    async findUserByEmail(emailCanonical) {
      if (!storable(emailCanonical)) return null
      const row = await db
        .selectFrom('accounts_users')
        .select(userColumns)
        .select('password_hash as passwordHash')
        .where('email_canonical', '=', bound(emailCanonical))
        .executeTakeFirst()
      return row ? { ...userOf(row, ids), passwordHash: row.passwordHash } : null
    },

    async replacePasswordHash(id, oldHash, newHash) {
      if (!possibleId(ids, id)) return false
      const row = await db
        .updateTable('accounts_users')
        .set({ password_hash: bound(newHash) })
        .where('id', '=', id)
        .where('password_hash', '=', bound(oldHash))
        .returning('id')
        .executeTakeFirst()
      return row !== undefined
    },

    async changePassword(change) {
      if (!possibleId(ids, change.userId)) return false
      if (db.isTransaction) return changePassword(db, change)
      // Anything stricter would hide a session that was stored while this waited for the user's row.
      return db
        .transaction()
        .setIsolationLevel('read committed')
        .execute((transaction) => changePassword(transaction, change))
    },
  }
}

// "Insert, catch the violation, look" would abort a host's transaction.
async function insertOrName(db: Kysely<AccountsTables>, ids: Storage['ids'], user: NewUser) {
  const row = await db
    .insertInto('accounts_users')
    .values(
      boundAll({
        username: user.username,
        username_canonical: user.usernameCanonical,
        email: user.email,
        email_canonical: user.emailCanonical,
        password_hash: user.passwordHash,
        credential_version: user.credentialVersion,
        profile: JSON.stringify(user.profile),
        created_at: user.createdAt,
      }),
    )
    .onConflict((conflict) => conflict.doNothing())
    .returning('id')
    .executeTakeFirst()
  return row ? { id: idOf(row.id, ids) } : nameConflict(db, user)
}

async function nameConflict(db: Kysely<AccountsTables>, user: NewUser) {
  const rows = await db
    .selectFrom('accounts_users')
    .select('email_canonical as emailCanonical')
    .where((eb) =>
      eb.or([
        eb('email_canonical', '=', user.emailCanonical),
        // Null equals nothing, so an absent username finds nobody.
        eb('username_canonical', '=', user.usernameCanonical),
      ]),
    )
    .execute()
  if (rows.length === 0) return null
  return rows.some((row) => row.emailCanonical === user.emailCanonical) ? 'email_taken' : 'username_taken'
}

// SQLSTATE: class 22 data exceptions, class 54 limits, 23514 check, 23502 not null (a host may add its own).
function refusesValue(error: unknown): boolean {
  return error instanceof Error && 'code' in error && /^(?:22|54|23514|23502)/.test(String(error.code))
}

// Two statements, not one with a CTE: the second one's snapshot sees a session whose insert held the user's row before.
// Users before sessions, as everywhere, or two callers could wait for each other.
async function changePassword(db: Kysely<AccountsTables>, change: Parameters<Storage['changePassword']>[0]) {
  const user = await db
    .updateTable('accounts_users')
    .set(boundAll({ password_hash: change.passwordHash, credential_version: change.credentialVersion }))
    .where('id', '=', change.userId)
    .where('credential_version', '=', bound(change.fence))
    .where('active', '=', true)
    .returning('id')
    .executeTakeFirst()
  if (!user) return false
  await db
    .updateTable('accounts_sessions')
    .set({ ended_at: bound(change.now) })
    .where('user_id', '=', change.userId)
    .where('ended_at', 'is', null)
    .execute()
  return true
}
