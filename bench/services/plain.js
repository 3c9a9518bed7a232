// A Fastify app that imports what this library imports and opens the same connections, but has no accounts.
import '@node-rs/argon2'
import 'bullmq'
import 'typebox'
import 'typebox/schema'
import 'typebox/system'
import fastifyJwt from '@fastify/jwt'
import fastifyRedis from '@fastify/redis'
import Fastify from 'fastify'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { serve } from './serve.js'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET } = process.env

const app = Fastify()
const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 })
pool.on('error', () => {})
app.decorate('db', new Kysely({ dialect: new PostgresDialect({ pool }) }))
await app.register(fastifyRedis, { url: REDIS_URL })
await app.register(fastifyJwt, { secret: ACCOUNTS_SECRET })
app.get('/open', async () => ({ ok: true }))

await serve(app)
