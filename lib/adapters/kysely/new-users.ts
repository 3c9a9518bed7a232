import type { Kysely } from 'kysely'
import type { NewUser, OutboxMail, Storage } from '../../contracts.ts'
import { storableUser } from '../../core/storable.ts'
import { storeMails } from './outbox.ts'
import { boundAll, idOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { deadlocked, inTransaction, refusesValue, withSavepoint } from './transactions.ts'

type NewUserVerbs = Pick<Storage, 'insertUser' | 'importUsers'>
type Outcome = Awaited<ReturnType<Storage['insertUser']>>

/** The verbs that store new users. "Insert, catch the violation, look" would abort a host's transaction. */
export function newUserVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']): NewUserVerbs {
  return {
    insertUser: (user, mails) => insertUser(db, ids, user, mails),

    async importUsers(users) {
      const outcomes: Outcome[] = []
      for (let from = 0; from < users.length; from += BATCH) {
        outcomes.push(...(await importBatch(db, ids, users.slice(from, from + BATCH))))
      }
      return outcomes
    },
  }
}

// A statement has at most 65,535 parameters; a larger batch is no faster.
const BATCH = 500

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
  // Once more, should the row that was in the way be gone by the time we look for it.
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
  // Null equals nothing, so an absent username finds nobody.
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
    // Of two alike in one batch the database stored the first.
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
