import { type ExpressionBuilder, type Kysely, sql } from 'kysely'
import type { Storage, UserId } from '../../contracts.ts'
import { possibleId, storable } from '../../core/storable.ts'
import { bound, boundAll, userColumns, userOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { refusesValue, survivably, violatesUnique } from './transactions.ts'

type UserUpdate = Parameters<Storage['updateUser']>[0]

/** The verbs that change users and no credential; each is one statement. */
export function userChangeVerbs(
  db: Kysely<AccountsTables>,
  ids: Storage['ids'],
): Pick<Storage, 'updateUser' | 'setRole'> {
  return {
    async updateUser(change) {
      if (!possibleId(ids, change.id)) return null
      if (!storable(change)) return 'invalid'
      try {
        const row = await survivably(db, (joined) => update(joined, change))
        return row ? userOf(row, ids) : null
      } catch (error) {
        if (refusesValue(error)) return 'invalid'
        if (!violatesUnique(error)) throw error
        return (await usernameTaken(db, change)) ? 'username_taken' : 'invalid'
      }
    },

    async setRole(id, role) {
      if (!possibleId(ids, id) || !storable(role)) return false
      const row = await db
        .updateTable('accounts_users')
        .set({ role: bound(role) })
        .where('id', '=', id)
        .returning('id')
        .executeTakeFirst()
      return row !== undefined
    },
  }
}

function update(db: Kysely<AccountsTables>, { id, username, usernameCanonical, profile, fence }: UserUpdate) {
  return db
    .updateTable('accounts_users')
    .set(boundAll({ username, username_canonical: usernameCanonical }))
    .set({ profile: sql`profile || ${JSON.stringify(profile)}::text::jsonb` })
    .where('id', '=', id)
    .where('active', '=', true)
    .$if(fence !== undefined, (query) => query.where((eb) => eb.exists(askingSession(eb, id, fence!.sessionId))))
    .$if(fence?.emailCanonical !== undefined, (query) =>
      query.where('email_canonical', '=', bound(fence!.emailCanonical as string)),
    )
    .returning(userColumns)
    .executeTakeFirst()
}

// Behind the lock of the user's row its version is the newest, and the session's that of when the statement began: one
// that a change of credentials ended or kept meanwhile does not fit.
function askingSession(eb: ExpressionBuilder<AccountsTables, 'accounts_users'>, userId: UserId, sessionId: string) {
  return eb
    .selectFrom('accounts_sessions')
    .select(sql`1`.as('one'))
    .where('accounts_sessions.id', '=', bound(sessionId))
    .where('accounts_sessions.user_id', '=', userId)
    .where('accounts_sessions.ended_at', 'is', null)
    .whereRef('accounts_sessions.credential_version', '=', 'accounts_users.credential_version')
}

// A host may have unique indexes of its own: the look tells which one it was.
async function usernameTaken(db: Kysely<AccountsTables>, { id, usernameCanonical }: UserUpdate): Promise<boolean> {
  if (usernameCanonical === undefined) return false
  const row = await db
    .selectFrom('accounts_users')
    .select('id')
    .where('username_canonical', '=', usernameCanonical)
    .where('id', '!=', id)
    .executeTakeFirst()
  return row !== undefined
}
