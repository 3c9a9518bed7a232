import type { Adoption } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { type Adopter, findingsOf, type Queries } from './adopt-check.ts'
import { mysqlAdopter } from './adopt-mysql.ts'
import { postgresAdopter } from './adopt-postgres.ts'
import { sqliteAdopter } from './adopt-sqlite.ts'
import { runText } from './adopt-table.ts'
import { type DatabaseName, dialectOf } from './dialects.ts'
import { besideAdopted } from './host-table.ts'
import { taking } from './tables.ts'
import { violatesUnique, withSavepoint } from './transactions.ts'

const adopters: Record<DatabaseName, Adopter> = {
  postgres: postgresAdopter,
  mysql: mysqlAdopter,
  sqlite: sqliteAdopter,
}

/**
 * The statements that make our tables, unless they are there, and keep the host's equal to them, for a migration of the
 * host's. They may run again, after a change of the options or of the library.
 */
export async function adoptionSql(db: AnyKysely, adoption: Adoption): Promise<string> {
  return adopterOf(db).adoptionSql(db, adoption)
}

/** The statements that undo it. */
export async function removalSql(db: AnyKysely, adoption: Adoption): Promise<string> {
  return adopterOf(db).removalSql(db, adoption)
}

/** What is to be known before and after, as lines for people. */
export async function checkAdoption(
  db: AnyKysely,
  adoption: Adoption,
  formOf: (stored: string) => string | null,
): Promise<string[]> {
  const { table, queries } = await adopterOf(db).inspect(db, adoption)
  return findingsOf(db, table, queries, adoption, formOf)
}

/**
 * Makes the two tables equal again, as the host's is, after a change that no trigger saw.
 *
 * @param canonicalEmail the form in which addresses are unique, where SQL cannot make it; null for none
 */
export async function repairAdoption(
  db: AnyKysely,
  adoption: Adoption,
  canonicalEmail: (address: string) => string | null,
): Promise<void> {
  const { queries } = await adopterOf(db).inspect(db, adoption)
  const { transaction, withSetting } = dialectOf(db)
  await transaction(db, (within) =>
    withSetting(within, taking, '1', async () => {
      await adopterOf(db).repair(within, adoption)
      await repairAddresses(besideAdopted(within, adoption), queries, canonicalEmail)
    }),
  )
}

async function repairAddresses(
  db: AnyKysely,
  { users, notAscii }: Queries,
  canonicalEmail: (address: string) => string | null,
): Promise<void> {
  const rows = await runText<{ id: string; email: string; canonical: string }>(
    db,
    `select id, email, email_canonical as canonical from ${users} where ${notAscii('email')}`,
  )
  for (const { id, email, canonical } of rows) {
    const own = canonicalEmail(email) ?? email.replace(/[A-Z]+/g, (letters) => letters.toLowerCase())
    if (own === canonical) continue
    try {
      await withSavepoint(db, (joined) =>
        joined.updateTable('accounts_users').set({ email_canonical: own }).where('id', '=', id).execute(),
      )
    } catch (error) {
      // It is another account's.
      if (!violatesUnique(error)) throw error
    }
  }
}

function adopterOf(db: AnyKysely): Adopter {
  return adopters[dialectOf(db).name]
}
