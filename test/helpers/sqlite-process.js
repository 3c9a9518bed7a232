// Sets ten profile fields of a user in a file of SQLite, one after the other.
import { kyselyStorage } from '../../dist/adapters/kysely/index.js'
import { openDatabase } from '../../examples/sqlite/database.js'

const [file, id, prefix] = process.argv.slice(2)
const db = openDatabase(file)
const storage = kyselyStorage(db)
for (let field = 0; field < 10; field++) {
  await storage.updateUser({ id: Number(id), profile: { [`${prefix}${field}`]: field } })
}
await db.destroy()
