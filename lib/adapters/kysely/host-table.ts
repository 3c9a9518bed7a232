import type { FastifyRequest } from 'fastify'
import { type Kysely, sql } from 'kysely'
import type { NewUser, OutboxMail, Storage, UserId } from '../../contracts.ts'
import { isValidId } from '../../core/storable.ts'
import type { InsertColumns } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { orInUse } from './credentials.ts'
import { dialectOf } from './dialects.ts'
import { bound } from './rows.ts'
import { type AccountsTables, insertedColumns, taking } from './tables.ts'
import { hasState, inTransaction } from './transactions.ts'

/** A users table of the host's. */
export interface AdoptedTable {
  table: string
  /** @default 'id' */
  id?: string
  /** `'exact'` where the host searches an address in lower case, as which new ones are stored then. @default 'lower' */
  emailMatch?: 'lower' | 'exact'
  /** Null for those who may log in; whoever is not, has given the address up. @default none */
  disabledAt?: string | undefined
  /** What a new row has in columns that are not null and have no default. @default none */
  insert?: InsertColumns | undefined
}

/**
 * The schema of our tables beside an adopted one; undefined where they stand in the database of the host's.
 *
 * @throws {TypeError} when one is named there
 */
export function schemaOf(db: AnyKysely, { schema }: { schema?: string | undefined }): string | undefined {
  if (dialectOf(db).name === 'postgres') return schema ?? 'accounts'
  if (schema === undefined) return undefined
  throw new TypeError('fastify-accounts: adopt.schema: leave it out; without schemas our tables stand beside yours')
}

/** The host's Kysely for our tables beside an adopted one. */
export function besideAdopted(db: AnyKysely, adoption: { schema?: string | undefined }): AnyKysely {
  const schema = schemaOf(db, adoption)
  return schema === undefined ? db : db.withSchema(schema)
}

type Asking = FastifyRequest | null

interface Adopted extends AdoptedTable {
  ids: Storage['ids']
  verbsOf(db: Kysely<AccountsTables>, ids: Storage['ids']): Storage
}

/**
 * The verbs that change users, for an adopted table. The host's statements lock its row first, and their triggers ours:
 * in the other order two callers could wait for each other. As strongly as it will be needed: one that is deleted, or
 * gets another key, is locked against references too.
 */
export function hostRowFirst(db: Kysely<AccountsTables>, adopted: Adopted) {
  const { table, id: column, ids, verbsOf } = adopted
  const { name } = dialectOf(db)
  const verbs = verbsOf(db, ids)
  const [host, key] = [sql.id(...table.split('.')), sql.id(column ?? 'id')]
  const weaker = name === 'postgres' ? sql`for no key update` : sql`for update`
  async function locked<T>(
    id: UserId,
    how: 'update' | 'no key update',
    run: (within: Storage) => Promise<T>,
  ): Promise<T> {
    // Whoever writes has the whole of SQLite.
    if (name === 'sqlite' || !isValidId(ids, id)) return run(verbs)
    try {
      return await inTransaction(db, async (transaction) => {
        const lock = how === 'update' ? sql`for update` : weaker
        await sql`select 1 from ${host} where ${key} = ${id} ${lock}`.execute(transaction)
        return run(verbsOf(transaction, ids))
      })
    } catch (error) {
      // A number that no id of the host's can be.
      if (hasState(error, /^22003/)) return run(verbs)
      throw error
    }
  }
  return {
    insertUser: insertVerb(db, verbs, adopted),
    importUsers: (users) => verbs.importUsers(users.map((user) => asSearched(adopted, user))),
    updateUser: (change) => locked(change.id, 'update', (within) => within.updateUser(change)),
    setRole: (id, role) => locked(id, 'no key update', (within) => within.setRole(id, role)),
    replacePasswordHash: (id, ...hashes) =>
      locked(id, 'no key update', (within) => within.replacePasswordHash(id, ...hashes)),
    changeCredentials: ({ set, ...change }) =>
      locked(change.userId, 'update', (within) =>
        within.changeCredentials({ ...change, set: asSearched(adopted, set) }),
      ),
    deleteUser: (deletion) => orInUse(locked(deletion.userId, 'update', (within) => within.deleteUser(deletion))),
  } satisfies Partial<Storage>
}

// As JavaScript of the host's does it, which databases do to some letters only.
function asSearched<Owner extends { email?: string }>({ emailMatch }: Adopted, owner: Owner): Owner {
  return emailMatch === 'exact' && owner.email !== undefined ? { ...owner, email: owner.email.toLowerCase() } : owner
}

function insertVerb(db: Kysely<AccountsTables>, verbs: Storage, adopted: Adopted): Storage['insertUser'] {
  const { insert, disabledAt, ids, verbsOf } = adopted
  async function inserted(
    transaction: Kysely<AccountsTables>,
    user: NewUser,
    mails: OutboxMail[] = [],
    request: Asking,
  ) {
    const store = () => verbsOf(transaction, ids).insertUser(user, mails)
    if (!insert) return store()
    const { username, email, role, profile } = user
    const columns = await insert(transaction, { username, email, role, profile }, { request })
    return dialectOf(transaction).withSetting(transaction, insertedColumns, JSON.stringify(columns), store)
  }
  return async (user, mails, request = null) => {
    // A row of the host's is never removed because its address was not proved in time.
    const kept = { ...asSearched(adopted, user), expiresAt: null }
    const outcome = insert
      ? await allOrNothing(db, (transaction) => inserted(transaction, kept, mails, request))
      : await verbs.insertUser(kept, mails)
    if (outcome !== 'email_taken' || !disabledAt) return outcome
    const again = await allOrNothing(db, async (transaction) => {
      if (!(await freed(transaction, user.emailCanonical))) return outcome
      return inserted(transaction, kept, mails, request)
    })
    // The host's own index has the last word.
    return again === 'invalid' ? outcome : again
  }
}

/** Takes the account away from who was deleted, whose row stays, and tells whether there was one. */
async function freed(db: Kysely<AccountsTables>, emailCanonical: string): Promise<boolean> {
  const deletion = db
    .deleteFrom('accounts_users')
    .where('email_canonical', '=', bound(emailCanonical))
    .where('active', '=', false)
  const { numDeletedRows } = await dialectOf(db).withSetting(db, taking, '1', () => deletion.executeTakeFirstOrThrow())
  return numDeletedRows > 0
}

/** What was done on the way to a refusal is undone with it. */
async function allOrNothing<T>(db: Kysely<AccountsTables>, step: (db: Kysely<AccountsTables>) => Promise<T>) {
  const refusal: { outcome?: T } = {}
  try {
    return await inTransaction(db, async (transaction) => {
      const outcome = await step(transaction)
      if (typeof outcome !== 'string') return outcome
      refusal.outcome = outcome
      throw new Error(outcome)
    })
  } catch (error) {
    if (refusal.outcome !== undefined) return refusal.outcome
    throw error
  }
}
