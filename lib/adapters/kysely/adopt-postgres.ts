import type { AnyKysely } from '../../options/ports.ts'
import type { Adopter, Queries } from './adopt-check.ts'
import { columnOf, nameOfTable, type PostgresTable, quoted, readHostTable } from './adopt-mapping.ts'
import {
  adoptionStatements,
  canonicalOf,
  difference,
  nowMs,
  removalStatements,
  repairStatements,
  usernameFormOf,
} from './adopt-statements.ts'
import { hostRow, hostTriggerNames, literal, runText } from './adopt-table.ts'
import { migrationSql } from './migrate.ts'

/** Adoption in PostgreSQL, with our tables in a schema of their own. */
export const postgresAdopter: Adopter = {
  async read(db, adoption, schema = '') {
    const table = await readHostTable(db, adoption, schema)
    await refuseSecondAdoption(db, table, schema)
    await refuseHiddenRows(db, table)
    return {
      table,
      queries: queriesOf(table, schema),
      async tables(applied) {
        const ours = await migrationSql({ ids: adoption.ids, schema, applied })
        return [`create schema if not exists ${quoted(schema)};\n${ours}`]
      },
      statements: () => [`-- ${table.name}`, ...adoptionStatements(table, schema, adoption.ids)],
      async repair(transaction) {
        for (const statement of repairStatements(table, schema)) await runText(transaction, statement)
      },
    }
  },
  removal: async (db, adoption, schema = '') => removalStatements(await nameOfTable(db, adoption, schema), schema),
  script: (statements) => statements.join('\n\n'),
}

// Its triggers can keep one table of ours equal.
async function refuseSecondAdoption(db: AnyKysely, { name }: PostgresTable, schema: string): Promise<void> {
  const [other] = await runText<{ schema: string }>(
    db,
    `select s.nspname as schema from pg_trigger t join pg_proc p on p.oid = t.tgfoid
       join pg_namespace s on s.oid = p.pronamespace
     where t.tgrelid = ${literal(name)}::regclass and t.tgname = ${literal(hostTriggerNames[0]!)}
       and s.nspname <> ${literal(schema)}`,
  )
  if (!other) return
  throw new TypeError(`fastify-accounts: adopt.schema: the tables in "${other.schema}" have adopted ${name} already`)
}

// Rows that a policy hides would be taken for rows that are gone.
async function refuseHiddenRows(db: AnyKysely, { name }: PostgresTable): Promise<void> {
  const [row] = await runText<{ hidden: boolean }>(db, `select row_security_active(${literal(name)}) as hidden`)
  if (!row!.hidden) return
  const fix = 'use one that they do not bind, such as one with bypassrls'
  throw new TypeError(`fastify-accounts: adopt.table: policies of ${name} hide rows from the role of "db": ${fix}`)
}

function queriesOf(table: PostgresTable, schema: string): Queries {
  const users = `${quoted(schema)}.accounts_users`
  const relation = `${literal(table.name)}::regclass`
  const { host } = table.mapped.find(({ ours }) => ours === 'email')!
  return {
    users,
    isThere: `select to_regclass(${literal(users)}) is not null as found`,
    triggers: `select tgname as name from pg_trigger where tgrelid = ${relation} and tgenabled in ('O', 'A')`,
    async uniqueEmail(db) {
      const rows = await runText<{ definition: string }>(
        db,
        `select pg_get_indexdef(indexrelid) as definition from pg_index where indrelid = ${relation} and indisunique`,
      )
      const unique = new RegExp(`\\(lower\\(\\(*"?${host.name.replace(/[^\w]/g, '\\$&')}"?`)
      return host.type.endsWith('citext') || rows.some(({ definition }) => unique.test(definition))
    },
    id: columnOf(table.id),
    literal,
    canonical: canonicalOf,
    notAscii: (email) => `${email} !~ '^[\\x01-\\x7f]*$'`,
    usernameForm: usernameFormOf,
    joined: (id, order) => `string_agg(${id}::text, '+' order by ${order})`,
    difference: difference(table, schema),
    lost: `not exists (select 1 from ${table.name} ${hostRow} where ${columnOf(table.id)} = a.id)`,
    nowMs,
  }
}
