// An instance of a host on the built package, in a process of its own: prints its address, ends on SIGTERM.

import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { cheapHashes } from '../../dist/options/rules.js'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, OPTIONS = '{}' } = process.env
const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 })
pool.on('error', () => {})
// One that breaks in the middle of a statement is nobody's but its own.
pool.on('connect', (client) => client.on('error', () => {}))
const db = new Kysely({ dialect: new PostgresDialect({ pool }) })
const app = Fastify()
app.addHook('onClose', () => db.destroy())
const usual = { throttle: false, passwords: { argon2: cheapHashes } }
const options = { secret: ACCOUNTS_SECRET, db, redis: REDIS_URL, ...usual, ...JSON.parse(OPTIONS) }
await app.register(accounts, options)
const { authenticate, users } = app[options.name ?? 'accounts']
app.get('/host/me', { onRequest: authenticate }, async () => ({}))
app.post('/host/disable/:id', ({ params: { id } }) => users.disable(Number(id)).then(() => ({})))
process.once('SIGTERM', () => app.close())
console.log(await app.listen({ port: 0, host: '127.0.0.1' }))
