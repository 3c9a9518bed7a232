import type { Adoption } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'
import {
  type Adoptable,
  type Adopter,
  type Forms,
  findingsOf,
  hasTables,
  type Judge,
  type Queries,
} from './adopt-check.ts'
import { mysqlAdopter } from './adopt-mysql.ts'
import { postgresAdopter } from './adopt-postgres.ts'
import { sqliteAdopter } from './adopt-sqlite.ts'
import { runText } from './adopt-table.ts'
import { type DatabaseName, dialectOf } from './dialects.ts'
import { besideAdopted, schemaOf } from './host-table.ts'
import { appliedMigrations } from './migrate.ts'
import { migrations } from './migrations.ts'
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
  const { queries, tables, statements } = await read(db, adoption)
  const made = await hasTables(db, queries)
  const applied = made ? await appliedMigrations(besideAdopted(db, adoption)) : []
  if (made && applied.length === 0) {
    const fix = 'run what adopt --remove prints, and begin again'
    throw new TypeError(`fastify-accounts: ${queries.users} is there, but was not finished: ${fix}`)
  }
  const pending = Object.keys(migrations).some((name) => !applied.includes(name))
  return adopterOf(db).script([...(pending ? await tables(applied) : []), ...statements()])
}

/** The statements that undo it. */
export async function removalSql(db: AnyKysely, adoption: Adoption): Promise<string> {
  const { removal, script } = adopterOf(db)
  return script(await removal(db, adoption, schemaOf(db, adoption)))
}

/** What is to be known before and after, as lines for people. */
export async function checkAdoption(db: AnyKysely, adoption: Adoption, judge: Judge): Promise<string[]> {
  const { table, queries } = await read(db, adoption)
  return findingsOf(db, table, queries, adoption, judge)
}

/** Makes the two tables equal again, as the host's is, after a change that no trigger saw. */
export async function repairAdoption(db: AnyKysely, adoption: Adoption, forms: Forms): Promise<void> {
  const { queries, repair } = await read(db, adoption)
  const { transaction, withSetting } = dialectOf(db)
  await transaction(db, (within) =>
    withSetting(within, taking, '1', async () => {
      await repair(within)
      await repairForms(besideAdopted(within, adoption), queries, forms)
    }),
  )
}

async function repairForms(db: AnyKysely, { users, notAscii }: Queries, forms: Forms): Promise<void> {
  const rows = await runText<Record<'id' | 'email' | 'emailForm', string> & Record<'name' | 'nameForm', string | null>>(
    db,
    `select id, email, email_canonical as "emailForm", username as name, username_canonical as "nameForm"
     from ${users} where ${notAscii('email')} or ${notAscii('username')}`,
  )
  for (const { id, email, emailForm, name, nameForm } of rows) {
    const own = forms.email(email)
    if (own !== emailForm) await setUnlessTaken(db, id, { email_canonical: own })
    const ownName = name === null ? null : forms.username(name)
    if (ownName !== nameForm) await setUnlessTaken(db, id, { username_canonical: ownName })
  }
}

async function setUnlessTaken(db: AnyKysely, id: string, set: object): Promise<void> {
  try {
    await withSavepoint(db, (joined) => joined.updateTable('accounts_users').set(set).where('id', '=', id).execute())
  } catch (error) {
    // It is another account's.
    if (!violatesUnique(error)) throw error
  }
}

async function read(db: AnyKysely, adoption: Adoption): Promise<Adoptable> {
  const schema = schemaOf(db, adoption)
  return adopterOf(db).read(db, adoption, schema)
}

function adopterOf(db: AnyKysely): Adopter {
  return adopters[dialectOf(db).name]
}
