import { randomBytes } from 'node:crypto'
import { type Kysely, sql } from 'kysely'
import { withEachMethod } from '../../core/methods.ts'
import { dialectOf } from './dialects.ts'
import { stateOf } from './states.ts'
import type { AccountsTables } from './tables.ts'

type Step<T> = (db: Kysely<AccountsTables>) => Promise<T>

/**
 * Runs statements in one transaction, all or nothing. Within a host's transaction they join it, behind a savepoint, so
 * that it survives when they fail.
 */
export async function inTransaction<T>(db: Kysely<AccountsTables>, step: Step<T>): Promise<T> {
  if (db.isTransaction) return saved(db, step)
  return dialectOf(db).transaction(db, step)
}

/** Runs statements in one transaction; within another they are part of it and fail with it. */
export async function withinTransaction<T>(db: Kysely<AccountsTables>, step: Step<T>): Promise<T> {
  return db.isTransaction ? step(db) : dialectOf(db).transaction(db, step)
}

/** Runs a statement that may fail; within a host's transaction behind a savepoint, so that the transaction survives. */
export async function withSavepoint<T>(db: Kysely<AccountsTables>, step: Step<T>): Promise<T> {
  return db.isTransaction ? saved(db, step) : step(db)
}

/**
 * Refuses a host's transaction whose snapshot would hide a session that was stored meanwhile: what ends all sessions of
 * a user would leave that one alive.
 *
 * @throws {TypeError} when its isolation is stricter than READ COMMITTED
 */
export async function requireReadCommitted(db: Kysely<AccountsTables>): Promise<void> {
  // Elsewhere they are found by a query that locks them, which sees what was committed last whatever the isolation.
  if (!db.isTransaction || dialectOf(db).name !== 'postgres') return
  const level = sql<string>`current_setting('transaction_isolation')`
  const { isolation } = await db.selectNoFrom(level.as('isolation')).executeTakeFirstOrThrow()
  // PostgreSQL treats READ UNCOMMITTED the same.
  if (isolation.startsWith('read ')) return
  throw new TypeError('fastify-accounts: using() needs a transaction of isolation level "read committed"')
}

async function saved<T>(db: Kysely<AccountsTables>, step: Step<T>): Promise<T> {
  const name = sql.id(`accounts_${randomBytes(6).toString('hex')}`)
  await sql`savepoint ${name}`.execute(db)
  try {
    const result = await step(db)
    await sql`release savepoint ${name}`.execute(db)
    return result
  } catch (error) {
    // MySQL ends a deadlock by undoing the whole transaction, and the savepoint with it.
    if (!deadlocked(error) || dialectOf(db).name !== 'mysql') await sql`rollback to savepoint ${name}`.execute(db)
    throw error
  }
}

const lastCalls = new WeakMap<object, Promise<unknown>>()

/**
 * The verbs, called one after the other within a host's transaction: savepoints nest, and what one caller rolls back or
 * releases takes along what another did meanwhile.
 */
export function serialized<Verbs extends object>(db: object, verbs: Verbs): Verbs {
  return withEachMethod(verbs, (_name, verb) => (...args) => {
    const done = (lastCalls.get(db) ?? Promise.resolve()).then(() => verb(...args))
    lastCalls.set(
      db,
      done.catch(() => {}),
    )
    return done
  })
}

/** Whether the database refused a value: SQLSTATE classes 22 data and 54 limits, 23514 check, 23502 not null. */
export function refusesValue(error: unknown): boolean {
  return hasState(error, /^(?:22|54|23514|23502)/)
}

/** Whether a unique index refused a row. */
export function violatesUnique(error: unknown): boolean {
  return hasState(error, /^23505/)
}

/** Whether a row could not go because others refer to it: 23503, or 23001 where a host says `restrict`. */
export function violatesReference(error: unknown): boolean {
  return hasState(error, /^(?:23503|23001)/)
}

/** Whether the database ended a deadlock by refusing this statement. */
export function deadlocked(error: unknown): boolean {
  return hasState(error, /^40P01/)
}

/** Whether the database rolled it back for another caller: 40001 past READ COMMITTED, 40P01 for a deadlock. */
export function isRetryable(error: unknown): boolean {
  return hasState(error, /^(?:40001|40P01)/)
}

// SQLSTATE classes 08 connection, 28 login, 3D database, 40 rolled back, 53 resources, 57 operator, 58 system, XX
// internal; 25006 a standby, 25P03 and 55P03 timeouts; 42501, 42P01 and 42703 rights, table and column that are missing
// until the operator grants or migrates. CONNECT… are codes of postgres.js.
const outageStates = /^(?:08|28|3D|40|53|57|58|XX|25006|25P03|55P03|42501|42P01|42703|CONNECT(?:ION)?_)/

// What pg, its pool, Kysely and PGlite say without a code.
const outageMessages =
  /^Connection terminated|time(?:d )?out|not queryable|not support SSL|calling end|been destroyed|PGlite is clos/

/** Whether a database could not serve, or not us, so that trying again later may help. */
export function isDatabaseOutage(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return hasState(error, outageStates) || (!('code' in error) && outageMessages.test(error.message))
}

/** Whether an error has an SQLSTATE of this pattern, as PostgreSQL names them. */
export function hasState(error: unknown, states: RegExp): boolean {
  return states.test(stateOf(error))
}
