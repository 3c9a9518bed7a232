// The app of accounts.config.js; run its `migrate` first:
//   DATABASE_URL=postgres://localhost/app REDIS_URL=redis://localhost:6379 ACCOUNTS_SECRET=… node app.js
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import config from './accounts.config.js'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, PORT = '3000' } = process.env
if (!DATABASE_URL || !REDIS_URL || !ACCOUNTS_SECRET) throw new Error('Set DATABASE_URL, REDIS_URL and ACCOUNTS_SECRET')

const app = Fastify({ logger: true })
await app.register(accounts, config)

app.get('/hello', { onRequest: app.accounts.authenticate }, (request) => ({ hello: request.account.id }))
await app.listen({ port: Number(PORT) })

async function stop() {
  await app.close()
  await config.db?.destroy()
}
process.once('SIGTERM', stop).once('SIGINT', stop)
