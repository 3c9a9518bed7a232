import { type ExpressionBuilder, type Kysely, sql } from 'kysely'
import type { NewUser, OutboxMail, Storage, UserId } from '../../contracts.ts'
import { isValidId, storable, storableUser } from '../../core/storable.ts'
import { storeMails } from './outbox.ts'
import { prepared, type Slot } from './prepared.ts'
import { bound, boundAll, idOf, userColumns, userOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { deadlocked, inTransaction, refusesValue, violatesUnique, withSavepoint } from './transactions.ts'

type Outcome = Awaited<ReturnType<Storage['insertUser']>>
type UserUpdate = Parameters<Storage['updateUser']>[0]

/** The verbs about users, except changes of credentials. */
export function userVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return { ...findVerbs(db, ids), ...insertVerbs(db, ids), ...changeVerbs(db, ids) } satisfies Partial<Storage>
}

// Each is one statement.
function findVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  const users = db.selectFrom('accounts_users').select(userColumns)
  const usersWithPassword = users.select('password_hash as passwordHash')
  const byId = prepared(db, (slot: Slot<{ id: UserId }>) => users.where('id', '=', slot('id')))
  const byEmail = prepared(db, (slot: Slot<{ email: string }>) =>
    usersWithPassword.where('email_canonical', '=', slot('email')),
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

// Each is one statement, `updateUser` two when a unique index refuses it.
function changeVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return {
    async updateUser(change) {
      if (!isValidId(ids, change.id)) return null
      if (!storable(change)) return 'invalid'
      try {
        const row = await withSavepoint(db, (joined) => update(joined, change))
        return row ? userOf(row, ids) : null
      } catch (error) {
        if (refusesValue(error)) return 'invalid'
        if (!violatesUnique(error)) throw error
        return (await usernameTaken(db, change)) ? 'username_taken' : 'invalid'
      }
    },

    async setRole(id, role) {
      if (!isValidId(ids, id) || !storable(role)) return false
      const row = await db
        .updateTable('accounts_users')
        .set({ role: bound(role) })
        .where('id', '=', id)
        .returning('id')
        .executeTakeFirst()
      return row !== undefined
    },

    async replacePasswordHash(id, oldHash, newHash) {
      if (!isValidId(ids, id)) return false
      const row = await db
        .updateTable('accounts_users')
        .set({ password_hash: bound(newHash) })
        .where('id', '=', id)
        .where('password_hash', '=', bound(oldHash))
        .returning('id')
        .executeTakeFirst()
      return row !== undefined
    },
  } satisfies Partial<Storage>
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

// "Insert, catch the violation, look" would abort a host's transaction.
function insertVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return {
    insertUser: (user, mails) => insertUser(db, ids, user, mails),

    async importUsers(users) {
      const outcomes: Outcome[] = []
      for (let from = 0; from < users.length; from += batchSize) {
        outcomes.push(...(await importBatch(db, ids, users.slice(from, from + batchSize))))
      }
      return outcomes
    },
  } satisfies Partial<Storage>
}

// A statement has at most 65,535 parameters; a larger batch is no faster.
const batchSize = 500

async function insertUser(db: Kysely<AccountsTables>, ids: Storage['ids'], user: NewUser, mails: OutboxMail[] = []) {
  if (!storableUser(user)) return 'invalid'
  const within = mails.length > 0 ? inTransaction : withSavepoint
  try {
    return await within(db, async (joined) => {
      const outcome = await insertOrName(joined, ids, user)
      if (typeof outcome === 'object') await storeMails(joined, mails)
      return outcome
    })
  } catch (error) {
    if (refusesValue(error)) return 'invalid'
    throw error
  }
}

async function insertOrName(db: Kysely<AccountsTables>, ids: Storage['ids'], user: NewUser): Promise<Outcome> {
  // A second time, if the row in the way is gone before it is looked for.
  for (let tries = 0; tries < 2; tries++) {
    const [row] = await insertRows(db, [user])
    if (row) return { id: idOf(row.id, ids) }
    const taken = conflictOf(user, await canonicalForms(db, [user]))
    if (taken) return taken
  }
  return 'invalid'
}

function insertRows(db: Kysely<AccountsTables>, users: NewUser[]) {
  return db
    .insertInto('accounts_users')
    .values(users.map(rowOf))
    .onConflict((conflict) => conflict.doNothing())
    .returning(['id', 'email_canonical as emailCanonical', 'username_canonical as usernameCanonical'])
    .execute()
}

function rowOf(user: NewUser) {
  return boundAll({
    username: user.username,
    username_canonical: user.usernameCanonical,
    email: user.email,
    email_canonical: user.emailCanonical,
    email_verified_at: user.emailVerifiedAt,
    password_hash: user.passwordHash,
    credential_version: user.credentialVersion,
    role: user.role,
    profile: JSON.stringify(user.profile),
    created_at: user.createdAt,
    expires_at: user.expiresAt,
  })
}

interface CanonicalForms {
  emails: Set<string>
  usernames: Set<string | null>
}

const noForms: CanonicalForms = { emails: new Set(), usernames: new Set() }

async function canonicalForms(db: Kysely<AccountsTables>, users: NewUser[]): Promise<CanonicalForms> {
  const emails = users.map(({ emailCanonical }) => emailCanonical)
  // Null equals nothing, so no username finds nobody.
  const usernames = users.map(({ usernameCanonical }) => usernameCanonical)
  const found = await db
    .selectFrom('accounts_users')
    .select(['email_canonical as emailCanonical', 'username_canonical as usernameCanonical'])
    .where((eb) => eb.or([eb('email_canonical', 'in', emails), eb('username_canonical', 'in', usernames)]))
    .execute()
  return {
    emails: new Set(found.map(({ emailCanonical }) => emailCanonical)),
    usernames: new Set(found.map(({ usernameCanonical }) => usernameCanonical)),
  }
}

function conflictOf({ emailCanonical, usernameCanonical }: NewUser, { emails, usernames }: CanonicalForms) {
  if (emails.has(emailCanonical)) return 'email_taken'
  return usernameCanonical !== null && usernames.has(usernameCanonical) ? 'username_taken' : null
}

async function importBatch(db: Kysely<AccountsTables>, ids: Storage['ids'], users: NewUser[]): Promise<Outcome[]> {
  const fit = users.filter(storableUser)
  if (fit.length === 0) return users.map(() => 'invalid')
  const inserted = await insertUnlessRefused(db, fit)
  if (!inserted) return importHalves(db, ids, users)
  const stored = new Map(inserted.map((row) => [keyOf(row), idOf(row.id, ids)]))
  const taken = inserted.length < fit.length ? await canonicalForms(db, fit) : noForms
  const outcomes: Outcome[] = []
  for (const user of users) {
    const id = stored.get(keyOf(user))
    // Of two alike in one batch the first was stored.
    stored.delete(keyOf(user))
    outcomes.push(id === undefined ? (conflictOf(user, taken) ?? (await insertUser(db, ids, user))) : { id })
  }
  return outcomes
}

// Null when a value was refused, or when another import stores the same users in another order.
async function insertUnlessRefused(db: Kysely<AccountsTables>, users: NewUser[]) {
  try {
    return await withSavepoint(db, (joined) => insertRows(joined, users))
  } catch (error) {
    if (refusesValue(error) || deadlocked(error)) return null
    throw error
  }
}

async function importHalves(db: Kysely<AccountsTables>, ids: Storage['ids'], users: NewUser[]): Promise<Outcome[]> {
  if (users.length === 1) return [await insertUser(db, ids, users[0]!)]
  const middle = Math.ceil(users.length / 2)
  const first = await importBatch(db, ids, users.slice(0, middle))
  return [...first, ...(await importBatch(db, ids, users.slice(middle)))]
}

function keyOf({ emailCanonical, usernameCanonical }: Pick<NewUser, 'emailCanonical' | 'usernameCanonical'>): string {
  return JSON.stringify([emailCanonical, usernameCanonical])
}
