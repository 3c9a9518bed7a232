// A host on HTTP/2, and one with a logger of its own.
import Fastify, { type FastifyBaseLogger } from 'fastify'
import accounts from 'fastify-accounts'

const app = Fastify({ http2: true })
await app.register(accounts, { secret: 'x', redis: 'redis://localhost' })
app.get('/mine', { onRequest: app.accounts.authenticate }, async (request) => request.account.id)
app.get(
  '/news',
  { preHandler: [app.accounts.authenticate({ optional: true })] },
  async (request) => request.accountOrNull,
)

interface Log extends FastifyBaseLogger {
  audit(text: string): void
}
declare const loggerInstance: Log
const logged = Fastify({ loggerInstance })
await logged.register(accounts, { secret: 'x', redis: 'redis://localhost' })
logged.get('/mine', { onRequest: logged.accounts.authenticate }, async (request) => request.account.id)
