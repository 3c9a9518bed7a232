// A single-page app and a phone on one server: the page has its refresh token in a cookie, phone.js in its own hands.
// DATABASE_URL=postgres://localhost/app REDIS_URL=redis://localhost:6379 ACCOUNTS_SECRET=… node server.js
import { readFile } from 'node:fs/promises'
import fastifyRedis from '@fastify/redis'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { migrateToLatest } from 'fastify-accounts/kysely'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, PORT = '3000' } = process.env
if (!DATABASE_URL || !REDIS_URL || !ACCOUNTS_SECRET) throw new Error('Set DATABASE_URL, REDIS_URL and ACCOUNTS_SECRET')
// Where browsers see the page: https but on your own machine.
const { ORIGIN = `http://localhost:${PORT}` } = process.env

const app = Fastify({ logger: true })
const pool = new pg.Pool({ connectionString: DATABASE_URL })
pool.on('error', (error) => app.log.error(error))
pool.on('connect', (client) => client.on('error', (error) => app.log.error(error)))
const db = new Kysely({ dialect: new PostgresDialect({ pool }) })

await app.register(fastifyRedis, { url: REDIS_URL })
await migrateToLatest(db)
await app.register(accounts, { secret: ACCOUNTS_SECRET, db, browser: { origins: [ORIGIN] } })

app.get('/hello', { onRequest: app.accounts.authenticate }, (request) => ({ hello: request.account.id }))

const files = { '/': 'index.html', '/app.js': 'app.js', '/session.js': 'session.js' }
for (const [path, name] of Object.entries(files)) {
  const content = await readFile(new URL(name, import.meta.url))
  const type = name.endsWith('.js') ? 'text/javascript; charset=utf-8' : 'text/html; charset=utf-8'
  // No script from elsewhere runs in the page, and no page of others shows it.
  const policy = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
  app.get(path, (_request, reply) => reply.header('content-security-policy', policy).type(type).send(content))
}
await app.listen({ port: Number(PORT) })

async function stop() {
  await app.close()
  await db.destroy()
}
process.once('SIGTERM', stop).once('SIGINT', stop)
