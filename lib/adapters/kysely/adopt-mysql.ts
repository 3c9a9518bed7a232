import { type Adopter, hasTables, type Queries } from './adopt-check.ts'
import { columnOf, idOf, literal, type MysqlTable, nameOfTable, readHostTable } from './adopt-mysql-mapping.ts'
import {
  adoptionStatements,
  difference,
  lostOf,
  removalStatements,
  repairStatements,
  takeStatement,
} from './adopt-mysql-statements.ts'
import { canonicalOf, nowMs, usernameFormOf } from './adopt-mysql-values.ts'
import { hostRow, runText } from './adopt-table.ts'
import { schemaOf } from './host-table.ts'
import { migrationSql } from './migrate.ts'

/** Adoption in MySQL and MariaDB, with our tables beside the host's. */
export const mysqlAdopter: Adopter = {
  async adoptionSql(db, adoption) {
    schemaOf(db, adoption)
    const table = await readHostTable(db, adoption)
    const made = await hasTables(db, queriesOf(table))
    const tables = made ? [] : statementsOf(await migrationSql({ ids: adoption.ids, database: 'mysql' }))
    return script([...tables, ...adoptionStatements(table, adoption.ids)])
  },

  async removalSql(db, adoption) {
    schemaOf(db, adoption)
    return script(removalStatements(await nameOfTable(db, adoption)))
  },

  async inspect(db, adoption) {
    schemaOf(db, adoption)
    const table = await readHostTable(db, adoption)
    return { table, queries: queriesOf(table) }
  },

  async repair(db, adoption) {
    const table = await readHostTable(db, adoption)
    for (const statement of repairStatements(table)) await runText(db, statement)
    const rows = await runText<{ id: string }>(
      db,
      `select ${idOf(table)} as id from ${table.name} ${hostRow} cross join (select ${nowMs} as now_ms) n
       left join accounts_users a on a.id = ${idOf(table)}
       where a.id is null or ${difference(table)} order by ${columnOf(table.id)}`,
    )
    for (const { id } of rows) await runText(db, takeStatement(String(id)))
  },
}

// As its own client reads it, which else would end a body at its first semicolon.
function script(statements: string[]): string {
  return `DELIMITER $$\n\n${statements.map((statement) => `${statement}\n$$\n\n`).join('')}DELIMITER ;`
}

function statementsOf(text: string): string[] {
  return text.split(/;\n/).filter((statement) => statement.trim() !== '')
}

function queriesOf(table: MysqlTable): Queries {
  const { host } = table.mapped.find(({ ours }) => ours === 'email')!
  const ours = `from information_schema.tables where table_schema = database() and table_name = 'accounts_users'`
  return {
    users: 'accounts_users',
    isThere: `select count(*) as found ${ours}`,
    triggers: `select trigger_name as name from information_schema.triggers where trigger_schema = database()`,
    uniqueEmail: async () => host.unique && !/_(cs|bin)$/.test(host.collation ?? '_bin'),
    id: idOf(table),
    literal,
    canonical: canonicalOf,
    notAscii: (email) => `length(${email}) <> char_length(${email})`,
    usernameForm: usernameFormOf,
    joined: (id, order) => `group_concat(${id} order by ${order} separator '+')`,
    difference: difference(table),
    lost: lostOf(table, 'a'),
    nowMs,
  }
}
