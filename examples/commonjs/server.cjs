// A CommonJS host: `require` of the package works on every Node that the package supports.
//   DATABASE_URL=postgres://localhost/app REDIS_URL=redis://localhost:6379 ACCOUNTS_SECRET=… node server.cjs
const fastifyRedis = require('@fastify/redis')
const Fastify = require('fastify')
const accounts = require('fastify-accounts')
const { migrateToLatest } = require('fastify-accounts/kysely')
const { Kysely, PostgresDialect } = require('kysely')
const { Pool } = require('pg')

async function start({ DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, PORT = '3000' }) {
  if (!DATABASE_URL || !REDIS_URL || !ACCOUNTS_SECRET)
    throw new Error('Set DATABASE_URL, REDIS_URL and ACCOUNTS_SECRET')

  const app = Fastify({ logger: true })
  const pool = new Pool({ connectionString: DATABASE_URL })
  pool.on('error', (error) => app.log.error(error))
  pool.on('connect', (client) => client.on('error', (error) => app.log.error(error)))
  const db = new Kysely({ dialect: new PostgresDialect({ pool }) })

  await app.register(fastifyRedis, { url: REDIS_URL })
  await migrateToLatest(db)
  await app.register(accounts, { secret: ACCOUNTS_SECRET, db })

  app.get('/hello', { onRequest: app.accounts.authenticate }, (request) => ({ hello: request.account.id }))

  await app.listen({ port: Number(PORT) })

  async function stop() {
    await app.close()
    await db.destroy()
  }
  process.once('SIGTERM', stop).once('SIGINT', stop)
}

start(process.env).catch((error) => {
  console.error(error)
  process.exit(1)
})
