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
// Kept, the codes can be typed without a worker.
const codes = new Map()
const done = async () => {}
const kept = {
  send: async ({ to, code }) => codes.set(to, code),
  progress: async (ids) => ids.map(() => 'done'),
  ping: done,
  close: done,
}
const mailer = process.env.MAILS === 'kept' ? kept : undefined
await app.register(accounts, { secret: ACCOUNTS_SECRET, db, redis: REDIS_URL, throttle, tokens, mailer })

app.get('/open', async () => ({ ok: true }))
app.get('/guarded', { onRequest: app.accounts.authenticate }, async () => ({ ok: true }))
app.post('/empty', async () => ({ ok: true }))

await serve(app, {
  sessions: (ids) => inTurn(ids, (id) => app.accounts.startSession(id)),
  grants: (emails) => inTurn(emails, grantOf),
})

/** A token that may set a new password. */
async function grantOf(email) {
  const { token } = await post('/auth/email_request/', { email })
  await post('/auth/check_otp/', { token, otp: codes.get(email) })
  return token
}

async function post(url, payload) {
  const response = await app.inject({ method: 'POST', url, payload })
  if (response.statusCode >= 400) throw new Error(`${url} is ${response.statusCode}: ${response.body}`)
  return response.json()
}

/** Does it for all, twenty at a time. */
async function inTurn(all, run) {
  const results = []
  for (let at = 0; at < all.length; at += 20) results.push(...(await Promise.all(all.slice(at, at + 20).map(run))))
  return results
}
