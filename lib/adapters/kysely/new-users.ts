import type { Kysely } from 'kysely'
import type { Insertion, NewUser, Storage } from '../../contracts.ts'
import { storableUser } from '../../core/storable.ts'
import { storeMails } from './outbox.ts'
import { bound, boundAll, idOf, userColumns, userOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { deadlocked, inTransaction, refusesValue, withSavepoint } from './transactions.ts'

type NewUserVerbs = Pick<Storage, 'insertUser' | 'importUsers'>
type Registrant = Parameters<Storage['insertUser']>[0]
type Mails = NonNullable<Parameters<Storage['insertUser']>[1]>
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

async function insertUser(db: Kysely<AccountsTables>, ids: Storage['ids'], user: Registrant, mails?: Mails) {
  if (!storableUser(user)) return 'invalid'
  try {
    if (mails) return await inTransaction(db, (transaction) => insertWithMails(transaction, ids, user, mails))
    return await withSavepoint(db, (joined) => insertOrName(joined, ids, user))
  } catch (error) {
    if (refusesValue(error)) return 'invalid'
    throw error
  }
}

async function insertOrName(db: Kysely<AccountsTables>, ids: Storage['ids'], user: Registrant): Promise<Outcome> {
  // Once more, should the row that was in the way be gone by the time we look for it.
  for (let tries = 0; tries < 2; tries++) {
    const row = await insertRow(db, user)
    if (row) return { id: idOf(row.id, ids) }
    const taken = conflictOf(user, await canonicalForms(db, [user]))
    if (taken) return taken
  }
  return 'invalid'
}

async function insertWithMails(
  db: Kysely<AccountsTables>,
  ids: Storage['ids'],
  user: Registrant,
  mails: Mails,
): Promise<Outcome> {
  for (let tries = 0; tries < 2; tries++) {
    const insertion = await insertAndLook(db, ids, user)
    if (!insertion) continue
    await storeMails(db, mails(insertion))
    return insertion.result === 'stored' ? { id: insertion.id } : insertion.result
  }
  return 'invalid'
}

// Looks whatever became of the row: the number of statements must not tell.
async function insertAndLook(
  db: Kysely<AccountsTables>,
  ids: Storage['ids'],
  user: Registrant,
): Promise<Insertion | null> {
  const row = await insertRow(db, user)
  const found = await whoHas(db, [user])
    .select(userColumns)
    .select(['email_canonical as emailCanonical', 'username_canonical as usernameCanonical'])
    .execute()
  if (row) return { result: 'stored', id: idOf(row.id, ids) }
  const holder = found.find(({ emailCanonical }) => emailCanonical === user.emailCanonical)
  if (holder) return { result: 'email_taken', user: userOf(holder, ids) }
  return found.length > 0 ? { result: 'username_taken' } : null
}

// A name that is wanted by nobody equals nothing, so the statement is the same for all.
function insertRow(db: Kysely<AccountsTables>, user: Registrant) {
  const row = rowOf(user)
  const columns = Object.keys(row) as (keyof typeof row)[]
  const other = db
    .selectFrom('accounts_users as other')
    .select('other.id')
    .where('other.username_canonical', '=', bound(user.wantedUsername ?? null))
  const unlessTaken = db
    .selectNoFrom(({ val }) => columns.map((column) => val(row[column]).as(column)))
    .where(({ not, exists }) => not(exists(other)))
  return db
    .insertInto('accounts_users')
    .columns(columns)
    .expression(unlessTaken)
    .onConflict((conflict) => conflict.doNothing())
    .returning('id')
    .executeTakeFirst()
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

function whoHas(db: Kysely<AccountsTables>, users: Registrant[]) {
  const emails = users.map(({ emailCanonical }) => emailCanonical)
  // Null equals nothing, so an absent username finds nobody.
  const usernames = users.flatMap(namesOf)
  return db
    .selectFrom('accounts_users')
    .where((eb) => eb.or([eb('email_canonical', 'in', emails), eb('username_canonical', 'in', usernames)]))
}

function namesOf({ usernameCanonical, wantedUsername = null }: Registrant) {
  return [usernameCanonical, wantedUsername]
}

interface CanonicalForms {
  emails: Set<string>
  usernames: Set<string | null>
}

const noForms: CanonicalForms = { emails: new Set(), usernames: new Set() }

async function canonicalForms(db: Kysely<AccountsTables>, users: Registrant[]): Promise<CanonicalForms> {
  const found = await whoHas(db, users)
    .select(['email_canonical as emailCanonical', 'username_canonical as usernameCanonical'])
    .execute()
  return {
    emails: new Set(found.map(({ emailCanonical }) => emailCanonical)),
    usernames: new Set(found.map(({ usernameCanonical }) => usernameCanonical)),
  }
}

function conflictOf(user: Registrant, { emails, usernames }: CanonicalForms) {
  if (emails.has(user.emailCanonical)) return 'email_taken'
  return namesOf(user).some((name) => name !== null && usernames.has(name)) ? 'username_taken' : null
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
