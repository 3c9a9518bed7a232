import { type Kysely, sql } from 'kysely'
import type { ImportedUser, NewUser, OutboxMail, Storage, UserId } from '../../contracts.ts'
import { isValidId, storableUser } from '../../core/storable.ts'
import { dialectOf } from './dialects.ts'
import { storeMails } from './outbox.ts'
import { boundAll, idOf } from './rows.ts'
import { type AccountsTables, usersTable } from './tables.ts'
import { deadlocked, inTransaction, refusesValue, violatesUnique, withSavepoint } from './transactions.ts'

type Imported = Awaited<ReturnType<Storage['importUsers']>>[number]

// "Insert, catch the violation, look" would abort a host's transaction.
/** The verbs that store new users. */
export function insertVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  return {
    insertUser: async (user, mails) => withoutId(await insertUser(db, ids, user, mails)),

    async importUsers(users) {
      const outcomes: Imported[] = []
      for (let from = 0; from < users.length; from += batchSize) {
        outcomes.push(...(await importBatch(db, ids, users.slice(from, from + batchSize))))
      }
      return outcomes
    },
  } satisfies Partial<Storage>
}

// A statement has at most 65,535 parameters; a larger batch is no faster.
const batchSize = 500

// Only an import chooses ids.
function withoutId(outcome: Imported): Exclude<Imported, 'id_taken'> {
  return outcome === 'id_taken' ? 'invalid' : outcome
}

async function insertUser(
  db: Kysely<AccountsTables>,
  ids: Storage['ids'],
  user: ImportedUser,
  mails: OutboxMail[] = [],
): Promise<Imported> {
  if (!fits(ids, user)) return 'invalid'
  const within = mails.length > 0 ? inTransaction : withSavepoint
  try {
    return await within(db, async (joined) => {
      const outcome = await insertOrName(joined, ids, user)
      if (typeof outcome === 'object') await storeMails(joined, mails)
      return outcome
    })
  } catch (error) {
    // Where a table of the host's is adopted, it may have unique columns of its own.
    if (refusesValue(error) || violatesUnique(error)) return 'invalid'
    throw error
  }
}

function fits(ids: Storage['ids'], user: ImportedUser): boolean {
  return storableUser(user) && (user.id === undefined || isValidId(ids, user.id))
}

async function insertOrName(db: Kysely<AccountsTables>, ids: Storage['ids'], user: ImportedUser): Promise<Imported> {
  // Again, if the row in the way is gone before it is looked for, or was one that was imported with the next id.
  for (let tries = 0; tries < 10; tries++) {
    const [row] = await insertRows(db, [user])
    if (row) return { id: idOf(row.id, ids) }
    const taken = conflictOf(user, await holders(db, ids, [user]))
    if (taken) return taken
  }
  return 'invalid'
}

async function insertRows(db: Kysely<AccountsTables>, users: ImportedUser[]) {
  // Elsewhere the next id follows the greatest.
  const chosen = dialectOf(db).name === 'postgres' && users.some(({ id }) => typeof id === 'number')
  if (!chosen) return insertAll(db, users)
  return inTransaction(db, async (transaction) => {
    const rows = await insertAll(transaction, users)
    if (rows.length > 0) await skipIds(transaction, Math.max(...rows.map(({ id }) => Number(id))))
    return rows
  })
}

// Before others see the rows: who takes the number of one meanwhile waits, finds it taken, and takes the next. Only for
// rows that are there, or an id that an adopted column cannot hold would leave no number for anybody. Never back, so
// that ids of deleted users are not given out again.
async function skipIds(db: Kysely<AccountsTables>, newest: number): Promise<void> {
  const table = usersTable(db)
  const { rows } = await sql<{ sequence: string | null }>`
    select coalesce(pg_get_serial_sequence(a.attrelid::regclass::text, 'id'),
      substring(pg_get_expr(d.adbin, d.adrelid) from 'nextval\\(''(.+)''::regclass')) as sequence
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = ${table}::regclass and a.attname = 'id'`.execute(db)
  const sequence = rows[0]?.sequence
  if (!sequence) return
  await sql`
    select setval(${sequence}::regclass, ${newest})
    where ${newest} > coalesce(pg_sequence_last_value(${sequence}::regclass), 0)`.execute(db)
}

async function insertAll(db: Kysely<AccountsTables>, users: ImportedUser[]) {
  const insert = db.insertInto('accounts_users').values(users.map(rowOf))
  if (dialectOf(db).name === 'postgres') {
    return insert
      .onConflict((conflict) => conflict.doNothing())
      .returning(insertedColumns)
      .execute()
  }
  try {
    await insert.execute()
  } catch (error) {
    // Of many it is not known which was refused.
    if (users.length === 1 && violatesUnique(error)) return []
    throw error
  }
  const emails = users.map(({ emailCanonical }) => emailCanonical)
  return db.selectFrom('accounts_users').select(insertedColumns).where('email_canonical', 'in', emails).execute()
}

const insertedColumns = ['id', 'email_canonical as emailCanonical', 'username_canonical as usernameCanonical'] as const

function rowOf(user: ImportedUser) {
  return boundAll({
    ...(user.id !== undefined && { id: user.id }),
    ...(user.active !== undefined && { active: user.active }),
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

/** What is taken. */
interface Holders {
  ids: Set<UserId>
  emails: Set<string>
  usernames: Set<string | null>
}

const nobody: Holders = { ids: new Set(), emails: new Set(), usernames: new Set() }

async function holders(db: Kysely<AccountsTables>, ids: Storage['ids'], users: ImportedUser[]): Promise<Holders> {
  const given = users.flatMap(({ id }) => id ?? [])
  const emails = users.map(({ emailCanonical }) => emailCanonical)
  // Null equals nothing, so no username finds nobody.
  const usernames = users.map(({ usernameCanonical }) => usernameCanonical)
  const found = await db
    .selectFrom('accounts_users')
    .select(['id', 'email_canonical as emailCanonical', 'username_canonical as usernameCanonical'])
    .where((eb) =>
      eb.or([
        eb('email_canonical', 'in', emails),
        eb('username_canonical', 'in', usernames),
        ...(given.length > 0 ? [eb('id', 'in', given)] : []),
      ]),
    )
    .execute()
  return {
    ids: new Set(found.map(({ id }) => idOf(id, ids))),
    emails: new Set(found.map(({ emailCanonical }) => emailCanonical)),
    usernames: new Set(found.map(({ usernameCanonical }) => usernameCanonical)),
  }
}

function conflictOf({ id, emailCanonical, usernameCanonical }: ImportedUser, { ids, emails, usernames }: Holders) {
  if (emails.has(emailCanonical)) return 'email_taken'
  if (usernameCanonical !== null && usernames.has(usernameCanonical)) return 'username_taken'
  return id !== undefined && ids.has(id) ? 'id_taken' : null
}

async function importBatch(
  db: Kysely<AccountsTables>,
  ids: Storage['ids'],
  users: ImportedUser[],
): Promise<Imported[]> {
  const fit = users.filter((user) => fits(ids, user))
  if (fit.length === 0) return users.map(() => 'invalid')
  const inserted = await insertUnlessRefused(db, fit)
  if (!inserted) return importHalves(db, ids, users)
  const stored = new Map(inserted.map((row) => [keyOf(row), idOf(row.id, ids)]))
  const taken = inserted.length < fit.length ? await holders(db, ids, fit) : nobody
  const outcomes: Imported[] = []
  for (const user of users) {
    const id = stored.get(keyOf(user))
    // Of two alike in one batch the first was stored.
    stored.delete(keyOf(user))
    outcomes.push(id === undefined ? (conflictOf(user, taken) ?? (await insertUser(db, ids, user))) : { id })
  }
  return outcomes
}

// Null when a value was refused, or when another import stores the same users in another order.
async function insertUnlessRefused(db: Kysely<AccountsTables>, users: ImportedUser[]) {
  try {
    return await withSavepoint(db, (joined) => insertRows(joined, users))
  } catch (error) {
    if (refusesValue(error) || violatesUnique(error) || deadlocked(error)) return null
    throw error
  }
}

async function importHalves(
  db: Kysely<AccountsTables>,
  ids: Storage['ids'],
  users: ImportedUser[],
): Promise<Imported[]> {
  if (users.length === 1) return [await insertUser(db, ids, users[0]!)]
  const middle = Math.ceil(users.length / 2)
  const first = await importBatch(db, ids, users.slice(0, middle))
  return [...first, ...(await importBatch(db, ids, users.slice(middle)))]
}

function keyOf({ emailCanonical, usernameCanonical }: Pick<NewUser, 'emailCanonical' | 'usernameCanonical'>): string {
  return JSON.stringify([emailCanonical, usernameCanonical])
}
