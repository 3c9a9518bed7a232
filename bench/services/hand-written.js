// What a careful developer writes without a library: no rotation rule, no sessions that end, no decoys and no sealed
// mails. It hashes as many passwords at a time as there are cores; with GATE=off, as many as come.

import { randomInt, randomUUID } from 'node:crypto'
import { availableParallelism } from 'node:os'
import fastifyJwt from '@fastify/jwt'
import fastifyRedis from '@fastify/redis'
import { hash, verify } from '@node-rs/argon2'
import { Queue } from 'bullmq'
import Fastify from 'fastify'
import pg from 'pg'
import { serve } from './serve.js'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, GATE } = process.env
const cost = { memoryCost: 19456, timeCost: 2, parallelism: 1 }
const idleMs = 864_000_000

const app = Fastify()
const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 })
pool.on('error', () => {})
await app.register(fastifyRedis, { url: REDIS_URL })
await app.register(fastifyJwt, { secret: ACCOUNTS_SECRET })
const mails = new Queue('mails', {
  connection: { url: REDIS_URL },
  defaultJobOptions: { removeOnComplete: true, attempts: 10 },
})
const gate = createGate(GATE === 'off' ? Number.POSITIVE_INFINITY : availableParallelism())

const text = { type: 'string', maxLength: 1024 }
const body = (...names) => ({
  body: { type: 'object', required: names, properties: Object.fromEntries(names.map((name) => [name, text])) },
})
const pair = { type: 'object', properties: { access: text, refresh: text } }

app.get('/open', async () => ({ ok: true }))
app.get('/guarded', { onRequest: (request) => request.jwtVerify() }, async () => ({ ok: true }))
app.post('/empty', async () => ({ ok: true }))

app.post('/register', { schema: body('username', 'email', 'password') }, async ({ body }, reply) => {
  const passwordHash = await gate(() => hash(body.password, cost))
  const insert = 'insert into users (username, email, password_hash) values ($1, $2, $3) returning id'
  const { rows } = await query('register', insert, [body.username, body.email.toLowerCase(), passwordHash])
  return reply.code(201).send({ id: rows[0].id, username: body.username, email: body.email })
})

app.post('/login', { schema: { ...body('email', 'password'), response: { 200: pair } } }, async ({ body }, reply) => {
  const user = await findUser(body.email)
  if (!user || !(await gate(() => verify(user.password_hash, body.password)))) return reply.code(401).send()
  const id = randomUUID()
  const insert = 'insert into sessions (id, user_id, last_used_at, expires_at) values ($1, $2, $3, $4)'
  await query('start', insert, [id, user.id, Date.now(), Date.now() + idleMs])
  return tokens(user.id, id)
})

app.post('/refresh', { schema: { ...body('refresh'), response: { 200: pair } } }, async ({ body }, reply) => {
  const { jti } = app.jwt.verify(body.refresh)
  const update =
    'update sessions set last_used_at = $2, expires_at = $3 where id = $1 and expires_at > $2 returning user_id'
  const { rows } = await query('refresh', update, [jti, Date.now(), Date.now() + idleMs])
  return rows[0] ? tokens(rows[0].user_id, jti) : reply.code(401).send()
})

app.post('/email_request', { schema: body('email') }, async ({ body }) => {
  const user = await findUser(body.email)
  const token = randomUUID()
  const code = String(randomInt(1e8)).padStart(8, '0')
  await app.redis.set(`reset:${token}`, JSON.stringify({ id: user?.id, code }), 'EX', 600)
  if (user) await mails.add('reset', { to: user.email, code })
  return { message: 'Password reset link sent to email.', token }
})

await serve(app)

// Prepared by name, as pg does it for whoever asks.
function query(name, text, values) {
  return pool.query({ name, text, values })
}

async function findUser(email) {
  const select = 'select id, email, password_hash from users where email = $1'
  return (await query('find', select, [email.toLowerCase()])).rows[0]
}

function tokens(sub, jti) {
  return {
    access: app.jwt.sign({ sub: String(sub) }, { expiresIn: '5m' }),
    refresh: app.jwt.sign({ sub: String(sub), jti }, { expiresIn: '10d' }),
  }
}

function createGate(slots) {
  const waiting = []
  let free = slots
  return async (task) => {
    if (free > 0) free--
    else await new Promise((resolve) => waiting.push(resolve))
    try {
      return await task()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else free++
    }
  }
}
