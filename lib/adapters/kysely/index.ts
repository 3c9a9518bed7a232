import type { Kysely } from 'kysely'
import type { Storage } from '../../contracts.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { credentialVerbs } from './credentials.ts'
import { eventVerbs } from './events.ts'
import { outboxVerbs } from './outbox.ts'
import { prepareNothing } from './prepared.ts'
import { purgeVerb } from './purge.ts'
import { databaseTime } from './rows.ts'
import { sessionVerbs } from './sessions.ts'
import type { AccountsTables, IdOptions } from './tables.ts'
import { serialized, withOutages, withRetries } from './transactions.ts'
import { userVerbs } from './users.ts'

export type { AnyKysely } from '../../options/ports.ts'
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
}

/**
 * Stores accounts in PostgreSQL (or PGlite) through the host's Kysely; `migrateToLatest` makes the tables.
 *
 * With a transaction as `db` the verbs join it: everything rolls back with the host, and a verb that refuses something
 * aborts nothing. Its isolation must be READ COMMITTED, the default of PostgreSQL: the verbs that end all sessions of a
 * user refuse a stricter one, in which a racing session would outlive a password change.
 */
export function kyselyStorage(db: AnyKysely, { ids = 'integer', prepare = true }: KyselyStorageOptions = {}): Storage {
  if (ids !== 'integer' && ids !== 'uuid') throw new TypeError(`"ids" is ${ids}: pass 'integer' or 'uuid'.`)
  const tables: Kysely<AccountsTables> = db
  if (!prepare) prepareNothing(tables)
  const storage: Storage = {
    ids,
    ...userVerbs(tables, ids),
    ...credentialVerbs(tables, ids),
    ...sessionVerbs(tables, ids),
    ...outboxVerbs(tables),
    ...eventVerbs(tables, ids),
    ...purgeVerb(tables),
    async ping() {
      const { now } = await tables.selectNoFrom(databaseTime.as('now')).executeTakeFirstOrThrow()
      return Number(now)
    },
  }
  if (db.isTransaction) return withOutages(serialized(db, storage))
  // An import is many steps: retried, it would find its own users taken.
  return withOutages({ ...withRetries(storage), importUsers: storage.importUsers })
}
