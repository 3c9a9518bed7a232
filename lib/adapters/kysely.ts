import { type Kysely, sql } from 'kysely'
import type { Storage } from '../contracts.ts'
import type { AccountsTables, AnyKysely, IdOptions } from './kysely-migrations.ts'
import { sessionVerbs } from './kysely-sessions.ts'
import { userVerbs } from './kysely-users.ts'

export type { AccountsMigration, AnyKysely, IdOptions } from './kysely-migrations.ts'
export { migrateToLatest, migrations, migrationsFor } from './kysely-migrations.ts'

/**
 * Stores users and sessions in PostgreSQL (or PGlite) through the host's Kysely; `migrateToLatest` makes the tables.
 *
 * A transaction as `db` joins it: everything rolls back with the host. There a value that the database refuses aborts
 * the transaction, and the isolation must be READ COMMITTED, the default of PostgreSQL, or a racing session can outlive
 * a password change.
 */
export function kyselyStorage(db: AnyKysely, { ids = 'integer' }: IdOptions = {}): Storage {
  if (ids !== 'integer' && ids !== 'uuid') throw new TypeError(`"ids" is ${ids}: pass 'integer' or 'uuid'.`)
  const tables: Kysely<AccountsTables> = db
  return {
    ids,
    ...userVerbs(tables, ids),
    ...sessionVerbs(tables, ids),
    async ping() {
      await sql`select 1`.execute(tables)
    },
  }
}
