// Migrates the databases that its parent names, one after the other, and tells what became of each.
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { migrateToLatest } from '../../dist/adapters/kysely/index.js'

process.on('message', async (connectionString) => {
  const pool = new pg.Pool({ connectionString, max: 1 })
  // The parent drops the database by force, maybe before a connection has ended.
  pool.on('error', () => {})
  const db = new Kysely({ dialect: new PostgresDialect({ pool }) })
  const answer = await migrateToLatest(db).catch((error) => error.message)
  await db.destroy()
  process.send(answer)
})
process.send('ready')
