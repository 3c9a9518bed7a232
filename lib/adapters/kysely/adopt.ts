import type { Adoption } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { type Adopter, findingsOf } from './adopt-check.ts'
import { mysqlAdopter } from './adopt-mysql.ts'
import { postgresAdopter } from './adopt-postgres.ts'
import { dialectOf } from './dialects.ts'
import { refuseToAdopt } from './host-table.ts'

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
  await adopterOf(db).repair(db, adoption, canonicalEmail)
}

function adopterOf(db: AnyKysely): Adopter {
  const { name } = dialectOf(db)
  if (name === 'sqlite') throw refuseToAdopt(name)
  return name === 'postgres' ? postgresAdopter : mysqlAdopter
}
