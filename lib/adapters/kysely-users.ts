import { type Kysely, sql } from 'kysely'
import type { NewUser, Storage, User, UserId } from '../contracts.ts'
import type { AccountsTables } from './kysely-migrations.ts'
import { possibleId, storableText, storableUser } from './storable.ts'

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
      if (!storableText(emailCanonical)) return null
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

/** A user's columns, without the password hash; aliased so that a host's CamelCasePlugin changes nothing. */
export const userColumns = [
  'accounts_users.id as userId',
  'username',
  'email',
  'email_verified_at as emailVerifiedAt',
  'accounts_users.credential_version as credentialVersion',
  'active',
  'accounts_users.created_at as userCreatedAt',
  // As text: type parsers and plugins of the host must not reach into the profile.
  sql<string>`profile::text`.as('profile'),
] as const

/** A row of `userColumns`. */
export interface UserRow {
  userId: string | number
  username: string | null
  email: string
  emailVerifiedAt: string | number | null
  credentialVersion: string | number
  active: boolean
  userCreatedAt: string | number
  profile: unknown
}

/** The user in a row of `userColumns`. */
export function userOf(row: UserRow, ids: Storage['ids']): User {
  return {
    id: idOf(row.userId, ids),
    username: row.username,
    email: row.email,
    emailVerifiedAt: row.emailVerifiedAt === null ? null : Number(row.emailVerifiedAt),
    credentialVersion: Number(row.credentialVersion),
    active: row.active,
    // A host's ParseJSONResultsPlugin has parsed it already.
    profile: typeof row.profile === 'string' ? JSON.parse(row.profile) : row.profile,
    createdAt: Number(row.userCreatedAt),
  }
}

/**
 * The id in a row; an int8 arrives as a string from pg.
 *
 * @throws {Error} when the tables were made for other ids than the adapter
 */
export function idOf(id: string | number, ids: Storage['ids']): UserId {
  const given = (ids === 'integer' ? Number(id) : String(id)) as UserId
  if (possibleId(ids, given)) return given
  const existing = ids === 'integer' ? 'uuid' : 'integer'
  throw new Error(`The tables have ${existing} ids: use kyselyStorage(db, { ids: '${existing}' }).`)
}

/**
 * Passes a value that may be bound to a statement; objects and arrays some drivers expand into SQL.
 *
 * @throws {TypeError} for anything but a string, number, boolean or null
 */
export function bound<T>(value: T): T {
  if (value === null || ['string', 'number', 'boolean'].includes(typeof value)) return value
  throw new TypeError('Only a string, number, boolean or null can be bound to a statement.')
}

/** `bound` for every member of a row. */
export function boundAll<T extends object>(row: T): T {
  for (const value of Object.values(row)) bound(value)
  return row
}
