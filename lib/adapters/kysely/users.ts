import { type ExpressionBuilder, type Kysely, sql } from 'kysely'
import type { Storage, UserId } from '../../contracts.ts'
import { isValidId, storable } from '../../core/storable.ts'
import { AccountsError } from '../../errors.ts'
import { dialectOf } from './dialects.ts'
import { prepared, type Slot } from './prepared.ts'
import { bound, boundAll, type UserRow, userColumns, userOf } from './rows.ts'
import { updateUserStepwise } from './stepwise.ts'
import type { AccountsTables } from './tables.ts'
import { refusesValue, violatesUnique, withSavepoint } from './transactions.ts'

type UserUpdate = Parameters<Storage['updateUser']>[0]

/** The verbs about users, except changes of credentials. */
export function userVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return { ...findVerbs(db, ids), ...changeVerbs(db, ids) } satisfies Partial<Storage>
}

// Each is one statement.
function findVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  const users = db.selectFrom('accounts_users').select(userColumns(db))
  const usersWithPassword = users.select('password_hash as passwordHash')
  const byId = prepared(db, (slot: Slot<{ id: UserId }>) => users.where('id', '=', slot('id')))
  // Answers a row of nulls when nobody has the address: without one, the time would show who has an account.
  const byEmail = prepared(db, (slot: Slot<{ email: string }>) =>
    db
      .selectFrom(db.selectNoFrom(sql<number>`1`.as('one')).as('always'))
      .leftJoin('accounts_users', (join) => join.on('email_canonical', '=', slot('email')))
      .select([...userColumns(db), 'password_hash as passwordHash']),
  )
  return {
    async findUserById(id) {
      if (!isValidId(ids, id)) return null
      const [row] = await byId({ id })
      return row ? userOf(row, ids) : null
    },

    async findUserByEmail(emailCanonical) {
      if (!storable(emailCanonical)) return null
      const [row] = await byEmail({ email: emailCanonical })
      if (!row || row.userId === null) return null
      return { ...userOf(row as UserRow, ids), passwordHash: row.passwordHash }
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
      if (!isValidId(ids, id)) return null
      const row = await usersWithPassword.where('id', '=', id).executeTakeFirst()
      return row ? { ...userOf(row, ids), passwordHash: row.passwordHash } : null
    },

    async listUsers({ after, limit }) {
      if (after !== undefined && !isValidId(ids, after)) return []
      const page = users.orderBy('id').limit(bound(limit))
      const rows = await (after === undefined ? page : page.where('id', '>', after)).execute()
      return rows.map((row) => userOf(row, ids))
    },
  } satisfies Partial<Storage>
}

// Each is one statement on PostgreSQL, `updateUser` two when a unique index refuses it.
function changeVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  const updateOne = dialectOf(db).name === 'postgres' ? update : updateUserStepwise
  return {
    async updateUser(change) {
      if (!isValidId(ids, change.id)) return null
      if (!storable(change)) return 'invalid'
      try {
        const row = await withSavepoint(db, (joined) => updateOne(joined, change))
        return row ? userOf(row, ids) : null
      } catch (error) {
        if (refusesValue(error)) return 'invalid'
        if (!violatesUnique(error)) throw error
        return (await usernameTaken(db, change)) ? 'username_taken' : 'invalid'
      }
    },

    async setRole(id, role) {
      if (!isValidId(ids, id) || !storable(role)) return false
      const update = (own: typeof db) =>
        own
          .updateTable('accounts_users')
          .set({ role: bound(role) })
          .where('id', '=', id)
          .executeTakeFirstOrThrow()
      try {
        return (await withSavepoint(db, update)).numUpdatedRows > 0
      } catch (cause) {
        // A constraint of an adopted table.
        throw refusesValue(cause) ? new AccountsError('ACCOUNTS_VALIDATION', { cause }) : cause
      }
    },
  } satisfies Partial<Storage>
}

function update(db: Kysely<AccountsTables>, { id, username, usernameCanonical, profile, fence }: UserUpdate) {
  return db
    .updateTable('accounts_users')
    .set(boundAll({ username, username_canonical: usernameCanonical }))
    .set({ profile: sql`profile || ${dialectOf(db).inJson(JSON.stringify(profile))}` })
    .where('id', '=', id)
    .where('active', '=', true)
    .$if(fence !== undefined, (query) => query.where((eb) => eb.exists(askingSession(eb, id, fence!.sessionId))))
    .$if(fence?.emailCanonical !== undefined, (query) =>
      query.where('email_canonical', '=', bound(fence!.emailCanonical as string)),
    )
    .returning(userColumns(db))
    .executeTakeFirst()
}

// Once the user's row is locked its version is the newest, while that of the session is from the statement's start:
// they differ when a change of credentials ended or kept the session meanwhile.
function askingSession(eb: ExpressionBuilder<AccountsTables, 'accounts_users'>, userId: UserId, sessionId: string) {
  return eb
    .selectFrom('accounts_sessions')
    .select(sql`1`.as('one'))
    .where('accounts_sessions.id', '=', bound(sessionId))
    .where('accounts_sessions.user_id', '=', userId)
    .where('accounts_sessions.ended_at', 'is', null)
    .whereRef('accounts_sessions.credential_version', '=', 'accounts_users.credential_version')
}

// A host may have unique indexes of its own, so look which one refused.
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
