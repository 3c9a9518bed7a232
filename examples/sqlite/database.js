import { DatabaseSync } from 'node:sqlite'
import { Kysely, SqliteDialect } from 'kysely'

/** Opens a file of SQLite without a package; Kysely expects the shape of better-sqlite3. */
export function openDatabase(path) {
  const file = new DatabaseSync(path)
  file.exec('pragma journal_mode = wal; pragma busy_timeout = 1000')
  const prepare = (text) => {
    const statement = file.prepare(text)
    return {
      reader: statement.columns().length > 0,
      all: (parameters) => statement.all(...parameters),
      run: (parameters) => statement.run(...parameters),
    }
  }
  return new Kysely({ dialect: new SqliteDialect({ database: { prepare, close: () => file.close() } }) })
}
