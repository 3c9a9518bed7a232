import { type Adopter, type Queries, unequalIds } from './adopt-check.ts'
import { idOf, literal, type MysqlTable, nameOfTable, readHostTable } from './adopt-mysql-mapping.ts'
import {
  adoptionStatements,
  difference,
  lostOf,
  removalStatements,
  repairStatements,
  takeStatement,
} from './adopt-mysql-statements.ts'
import { canonicalOf, nowMs, usernameFormOf } from './adopt-mysql-values.ts'
import { runText } from './adopt-table.ts'
import { migrationSql } from './migrate.ts'

/** Adoption in MySQL and MariaDB, with our tables beside the host's. */
export const mysqlAdopter: Adopter = {
  async read(db, adoption) {
    const table = await readHostTable(db, adoption)
    const queries = queriesOf(table)
    return {
      table,
      queries,
      async tables(applied) {
        const text = await migrationSql({ ids: adoption.ids, database: 'mysql', applied })
        return text.split(/;\n/).filter((statement) => statement.trim() !== '')
      },
      statements: () => adoptionStatements(table, adoption.ids),
      async repair(transaction) {
        for (const statement of repairStatements(table)) await runText(transaction, statement)
        for (const id of await unequalIds(transaction, table, queries)) await runText(transaction, takeStatement(id))
      },
    }
  },
  removal: async (db, adoption) => removalStatements(await nameOfTable(db, adoption)),
  // As its own client reads it, which else would end a body at its first semicolon.
  script: (statements) =>
    `DELIMITER $$\n\n${statements.map((statement) => `${statement}\n$$\n\n`).join('')}DELIMITER ;`,
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
