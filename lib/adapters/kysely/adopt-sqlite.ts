import { type Adopter, hasTables, type Queries } from './adopt-check.ts'
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
import { hostRow, literal, runText } from './adopt-table.ts'
import { schemaOf } from './host-table.ts'
import { migrationSql } from './migrate.ts'

/** Adoption in SQLite, with our tables beside the host's. */
export const sqliteAdopter: Adopter = {
  async adoptionSql(db, adoption) {
    schemaOf(db, adoption)
    const table = await readHostTable(db, adoption)
    const made = await hasTables(db, queriesOf(table))
    const tables = made ? '' : `${await migrationSql({ ids: adoption.ids, database: 'sqlite' })}\n\n`
    return `${tables}${script(adoptionStatements(table))}`
  },

  async removalSql(db, adoption) {
    schemaOf(db, adoption)
    return `-- ${await nameOfTable(db, adoption)}\n${script(removalStatements)}`
  },

  async inspect(db, adoption) {
    schemaOf(db, adoption)
    const table = await readHostTable(db, adoption)
    return { table, queries: queriesOf(table) }
  },

  async repair(db, adoption) {
    const table = await readHostTable(db, adoption)
    for (const statement of repairStatements(table)) await runText(db, statement)
    const id = columnOf(table.id)
    const rows = await runText<{ id: string | number }>(
      db,
      `select ${id} as id from ${table.name} ${hostRow} cross join (select ${nowMs} as now_ms) n
       left join accounts_users a on a.id = ${id} where a.id is null or ${difference(table)} order by ${id}`,
    )
    for (const { id } of rows) {
      for (const statement of takeStatements(table, typeof id === 'number' ? String(id) : literal(id)))
        await runText(db, statement)
    }
  },
}

function script(statements: readonly string[]): string {
  return statements.map((statement) => `${statement};`).join('\n\n')
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
