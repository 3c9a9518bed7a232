import type { Kysely } from 'kysely'
import type { Storage } from '../../contracts.ts'
import { possibleId, storable } from '../../core/storable.ts'
import { bound, userColumns, userOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'

type UserVerbs = Pick<
  Storage,
  'findUserById' | 'findUserByEmail' | 'findHolders' | 'findUserWithPassword' | 'listUsers' | 'replacePasswordHash'
>

/** The verbs that find users, and keep their password hashes up to date; each is one statement. */
export function userVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']): UserVerbs {
  const users = db.selectFrom('accounts_users').select(userColumns)
  const usersWithPassword = users.select('password_hash as passwordHash')
  return {
    async findUserById(id) {
      if (!possibleId(ids, id)) return null
      const row = await users.where('id', '=', id).executeTakeFirst()
      return row ? userOf(row, ids) : null
    },

    async findUserByEmail(emailCanonical) {
      if (!storable(emailCanonical)) return null
      const row = await usersWithPassword.where('email_canonical', '=', bound(emailCanonical)).executeTakeFirst()
      return row ? { ...userOf(row, ids), passwordHash: row.passwordHash } : null
    },

    async findHolders(emailCanonical, usernameCanonical) {
      if (!storable([emailCanonical, usernameCanonical])) return []
      // Null equals nothing, so an absent username finds nobody, by the same statement.
      const rows = await users
        .where(({ eb, or }) =>
          or([
            eb('email_canonical', '=', bound(emailCanonical)),
            eb('username_canonical', '=', bound(usernameCanonical)),
          ]),
        )
        .execute()
      return rows.map((row) => userOf(row, ids))
    },

    async findUserWithPassword(id) {
      if (!possibleId(ids, id)) return null
      const row = await usersWithPassword.where('id', '=', id).executeTakeFirst()
      return row ? { ...userOf(row, ids), passwordHash: row.passwordHash } : null
    },

    async listUsers({ after, limit }) {
      if (after !== undefined && !possibleId(ids, after)) return []
      const page = users.orderBy('id').limit(bound(limit))
      const rows = await (after === undefined ? page : page.where('id', '>', after)).execute()
      return rows.map((row) => userOf(row, ids))
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
  }
}
