// This library, as its quick start and docs/production.md set it up.
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { serve } from './serve.js'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET } = process.env

const app = Fastify()
const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 })
// Also while the servers are being stopped.
pool.on('error', () => {})
const db = new Kysely({ dialect: new PostgresDialect({ pool }) })
// Counted as in production, but never refused: the whole load comes from one network, and goes to few mailboxes.
const never = { tries: 1_000_000, seconds: 900 }
const limits = ['login', 'account', 'network', 'register', 'mail', 'mailbox', 'change']
const throttle = process.env.LIMITS === 'off' ? false : Object.fromEntries(limits.map((name) => [name, never]))
const tokens = { keys: process.env.SIGNING_KEY ?? 'secret', accessTtl: Number(process.env.ACCESS_TTL ?? 300) }
await app.register(accounts, { secret: ACCOUNTS_SECRET, db, redis: REDIS_URL, throttle, tokens })

app.get('/open', async () => ({ ok: true }))
app.get('/guarded', { onRequest: app.accounts.authenticate }, async () => ({ ok: true }))
app.post('/empty', async () => ({ ok: true }))

await serve(app, {
  sessions: (ids) => Promise.all(ids.map((id) => app.accounts.startSession(id))),
})
