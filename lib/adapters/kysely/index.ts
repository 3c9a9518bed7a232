import type { Kysely } from 'kysely'
import type { Storage } from '../../contracts.ts'
import { resilient } from '../../core/resilient.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { credentialVerbs } from './credentials.ts'
import { dialectOf } from './dialects.ts'
import { eventVerbs } from './events.ts'
import { type AdoptedTable, hostRowFirst } from './host-table.ts'
import { insertVerbs } from './new-users.ts'
import { outboxVerbs } from './outbox.ts'
import { passwordHashVerbs } from './password-hashes.ts'
import { prepareNothing } from './prepared.ts'
import { purgeVerb } from './purge.ts'
import { sessionVerbs } from './sessions.ts'
import { type AccountsTables, type IdOptions, usersTable } from './tables.ts'
import { isRetryable as retry, serialized, isDatabaseOutage as unavailable } from './transactions.ts'
import { userVerbs } from './users.ts'

export type { AnyKysely } from '../../options/ports.ts'
export type { AdoptedTable } from './host-table.ts'
export { migrateToLatest, migrationSql } from './migrate.ts'
export { type AccountsMigration, migrations, migrationsFor } from './migrations.ts'
export type { AccountsTables, IdOptions } from './tables.ts'

/** Options of `kyselyStorage`. */
export interface KyselyStorageOptions extends IdOptions {
  /**
   * Whether pg prepares what runs all the time by name. False for a pooler that then keeps a connection for one client,
   * such as Amazon's RDS Proxy; one that loses prepared statements is noticed without it. @default true
   */
  prepare?: boolean
  /** The host's users table, where `fastify-accounts adopt` made the database keep it equal to ours. @default none */
  adopt?: AdoptedTable
}

/**
 * Stores accounts in PostgreSQL (or PGlite), MySQL 8, MariaDB or SQLite through the host's Kysely; `migrateToLatest`
 * makes the tables.
 *
 * With a transaction as `db` the verbs join it: everything rolls back with the host, and a verb that refuses something
 * aborts nothing. On PostgreSQL its isolation must be READ COMMITTED, the default: the verbs that end all sessions of a
 * user refuse a stricter one, in which a racing session would outlive a password change.
 */
export function kyselyStorage(
  db: AnyKysely,
  { ids = 'integer', prepare = true, adopt }: KyselyStorageOptions = {},
): Storage {
  if (!['integer', 'uuid', 'text'].includes(ids))
    throw new TypeError(`"ids" is ${ids}: pass 'integer', 'uuid' or 'text'.`)
  const { plugins } = dialectOf(db)
  const tables: Kysely<AccountsTables> = plugins.reduce((given, plugin) => given.withPlugin(plugin), db)
  if (!prepare) prepareNothing(tables)
  const verbs = verbsOf(tables, ids)
  const storage = adopt ? { ...verbs, ...hostRowFirst(tables, { ...adopt, ids, verbsOf }) } : verbs
  // A transaction of the host's is rolled back as a whole.
  return db.isTransaction
    ? resilient(serialized(db, storage), { unavailable })
    : resilient(storage, { retry, unavailable })
}

function verbsOf(tables: Kysely<AccountsTables>, ids: Storage['ids']): Storage {
  return {
    ids,
    ...userVerbs(tables, ids),
    ...insertVerbs(tables, ids),
    ...passwordHashVerbs(tables, ids),
    ...credentialVerbs(tables, ids),
    ...sessionVerbs(tables, ids),
    ...outboxVerbs(tables),
    ...eventVerbs(tables, ids),
    ...purgeVerb(tables),
    async ping() {
      const { now } = await tables.selectNoFrom(dialectOf(tables).now.as('now')).executeTakeFirstOrThrow()
      return Number(now)
    },
    async place() {
      const { place } = dialectOf(tables)
      const found = await tables.selectNoFrom(place(usersTable(tables)).as('place')).executeTakeFirstOrThrow()
      return found.place
    },
  }
}
