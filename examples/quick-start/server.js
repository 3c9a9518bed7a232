// DATABASE_URL=postgres://localhost/app REDIS_URL=redis://localhost:6379 ACCOUNTS_SECRET=… node server.mjs
import fastifyRedis from '@fastify/redis'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { migrateToLatest } from 'fastify-accounts/kysely'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, PORT = '3000' } = process.env
if (!DATABASE_URL || !REDIS_URL || !ACCOUNTS_SECRET) throw new Error('Set DATABASE_URL, REDIS_URL and ACCOUNTS_SECRET')

const app = Fastify({ logger: true })
const pool = new pg.Pool({ connectionString: DATABASE_URL })
pool.on('error', (error) => app.log.error(error)) // without these two, a restart of PostgreSQL ends the process
pool.on('connect', (client) => client.on('error', (error) => app.log.error(error)))
const db = new Kysely({ dialect: new PostgresDialect({ pool }) })

await app.register(fastifyRedis, { url: REDIS_URL })
await migrateToLatest(db)
await app.register(accounts, { secret: ACCOUNTS_SECRET, db })

app.get('/hello', { onRequest: app.accounts.authenticate }, (request) => ({ hello: request.account.id }))
await app.listen({ port: Number(PORT) })

async function stop() {
  await app.close() // first: what the app has begun still needs the database
  await db.destroy()
}
process.once('SIGTERM', stop).once('SIGINT', stop)
