import { type Adopter, type Queries, unequalIds } from './adopt-check.ts'
import { columnOf, nameOfTable, readHostTable, type SqliteTable, unquoted } from './adopt-sqlite-mapping.ts'
import {
  adoptionStatements,
  canonicalOf,
  difference,
  lostOf,
  nowMs,
  removalStatements,
  repairStatements,
  takeStatements,
  usernameFormOf,
} from './adopt-sqlite-statements.ts'
import { literal, runText } from './adopt-table.ts'
import { migrationSql } from './migrate.ts'

/** Adoption in SQLite, with our tables beside the host's. */
export const sqliteAdopter: Adopter = {
  async read(db, adoption) {
    const table = await readHostTable(db, adoption)
    const queries = queriesOf(table)
    return {
      table,
      queries,
      async tables(applied) {
        const text = await migrationSql({ ids: adoption.ids, database: 'sqlite', applied })
        return [text.replace(/;\s*$/, '')]
      },
      statements: () => adoptionStatements(table),
      async repair(transaction) {
        for (const statement of repairStatements(table)) await runText(transaction, statement)
        for (const id of await unequalIds(transaction, table, queries)) {
          const key = adoption.ids === 'integer' ? id : literal(id)
          for (const statement of takeStatements(table, key)) await runText(transaction, statement)
        }
      },
    }
  },
  removal: async (db, adoption) => removalStatements(await nameOfTable(db, adoption)),
  script: (statements) => statements.map((statement) => `${statement};`).join('\n\n'),
}

function queriesOf(table: SqliteTable): Queries {
  const { host } = table.mapped.find(({ ours }) => ours === 'email')!
  const name = unquoted(table.name)
  return {
    users: 'accounts_users',
    isThere: `select count(*) as found from sqlite_master where type = 'table' and name = 'accounts_users'`,
    triggers: `select name from sqlite_master where type = 'trigger' and tbl_name = ${literal(name)}`,
    async uniqueEmail(db) {
      const rows = await runText<{ definition: string | null; nocase: number }>(
        db,
        `select (select sql from sqlite_master where name = i.name) as definition,
          (select group_concat(x.name || ' ' || lower(x.coll)) from pragma_index_xinfo(i.name) x where x.key)
            = ${literal(`${host.name} nocase`)} as nocase
         from pragma_index_list(${literal(name)}) i where i."unique"`,
      )
      const unique = new RegExp(`\\(\\s*lower\\(\\s*["\`[]?${host.name.replace(/[^\w]/g, '\\$&')}\\b`, 'i')
      return rows.some(({ definition, nocase }) => nocase || unique.test(definition ?? ''))
    },
    id: columnOf(table.id),
    literal,
    canonical: canonicalOf,
    notAscii: (email) => `length(${email}) <> length(cast(${email} as blob))`,
    usernameForm: usernameFormOf,
    joined: (id, order) => `group_concat(${id}, '+' order by ${order})`,
    difference: difference(table),
    lost: lostOf(table, 'a'),
    nowMs,
  }
}
