// A host on PostgreSQL and Redis that closes its app and then has nothing left to do.
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, ACCOUNTS_NAME } = process.env
const db = new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: DATABASE_URL }) }) })
const app = Fastify()
app.addHook('onClose', () => db.destroy())
await app.register(accounts, { name: ACCOUNTS_NAME, secret: ACCOUNTS_SECRET, db, redis: REDIS_URL })
const payload = { email: 'ada@example.org' }
const asked = await app.inject({ method: 'POST', url: '/auth/email_request/', payload })
await app.close()
console.log(JSON.stringify({ statuses: [asked.statusCode] }))
