// A host with a @fastify/jwt of its own: its types stay as it declared them.
import fastifyAuth from '@fastify/auth'
import fastifyJwt from '@fastify/jwt'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { memoryCache, memoryMailer, memoryStorage } from 'fastify-accounts/memory'

declare module '@fastify/jwt' {
  interface FastifyJWT {
    payload: { robot: string }
    user: { robot: string; since: number }
  }
}

const app = Fastify()
await app.register(fastifyJwt, { secret: 'of the host' })
await app.register(fastifyAuth)
await app.register(accounts, {
  secret: process.env.ACCOUNTS_SECRET ?? '',
  storage: memoryStorage(),
  cache: memoryCache(),
  mailer: memoryMailer(),
})
app.get('/robots', { onRequest: (request) => request.jwtVerify() }, async (request) => {
  const robot: string = request.user.robot
  const since: number = request.user.since
  // @ts-expect-error ours is not on it
  const session = request.user.sessionId
  return { robot, since, session }
})
app.jwt.sign({ robot: 'r' })
// @ts-expect-error the host's payload, not ours
app.jwt.sign({ sub: '1' })
app.get('/either', {
  preHandler: app.auth([app.accounts.authenticate, async (request) => void (await request.jwtVerify())]),
  handler: async (request) => request.account.id,
})
app.get('/both', {
  preHandler: app.auth([app.accounts.authenticate({ optional: true }), app.accounts.authenticate], { relation: 'and' }),
  handler: async (request) => request.account.id,
})
