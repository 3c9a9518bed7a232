// The host: an ordinary Fastify app that registers the plugin.
import fastifyRedis from '@fastify/redis'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { migrateToLatest } from 'fastify-accounts/kysely'
import mailbox from './mailbox.js'
import page from './page.js'

export async function buildApp({ db, redisUrl, secret, origin, mails }) {
  const app = Fastify({ logger: { level: 'warn', stream: process.stderr } })

  // Before the plugin: swagger documents only the routes that come after it.
  await app.register(swagger, {
    openapi: {
      info: { title: 'fastify-accounts demo', version: '1.0.0' },
      components: { securitySchemes: { bearerAuth: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } } },
    },
  })
  await app.register(swaggerUi, { routePrefix: '/docs' })

  await app.register(fastifyRedis, { url: redisUrl })
  await migrateToLatest(db)
  await app.register(accounts, { secret, db, passwordReset: { url: `${origin}/reset` } })

  app.get('/private', { onRequest: app.accounts.authenticate, schema: privateSchema }, (request) => ({
    message: 'Only a logged-in user reads this.',
    user_id: request.account.id,
    session_id: request.account.sessionId,
  }))

  await app.register(page)
  if (mails) await app.register(mailbox, { mails, hosts: [new URL(origin).host, `localhost:${new URL(origin).port}`] })
  return app
}

const privateSchema = {
  summary: 'A protected route of the host',
  tags: ['host'],
  security: [{ bearerAuth: [] }],
  response: {
    200: {
      type: 'object',
      properties: { message: { type: 'string' }, user_id: { type: 'integer' }, session_id: { type: 'string' } },
    },
  },
}
