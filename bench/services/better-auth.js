// better-auth mounted as https://better-auth.com/docs/integrations/fastify says, with the plugin that issues JWTs.
import { betterAuth } from 'better-auth'
import { getMigrations } from 'better-auth/db/migration'
import { fromNodeHeaders } from 'better-auth/node'
import { jwt } from 'better-auth/plugins'
import Fastify from 'fastify'
import pg from 'pg'
import { serve } from './serve.js'

const { DATABASE_URL, ACCOUNTS_SECRET } = process.env

const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 })
pool.on('error', () => {})
const options = {
  database: pool,
  secret: ACCOUNTS_SECRET,
  baseURL: 'http://localhost',
  emailAndPassword: { enabled: true },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  plugins: [jwt()],
}
await (await getMigrations(options)).runMigrations()
const auth = betterAuth(options)

const app = Fastify()
app.route({
  method: ['GET', 'POST'],
  url: '/api/auth/*',
  async handler(request, reply) {
    const url = new URL(request.url, `http://${request.headers.host}`)
    const response = await auth.handler(
      new Request(url, {
        method: request.method,
        headers: fromNodeHeaders(request.headers),
        ...(request.body ? { body: JSON.stringify(request.body) } : {}),
      }),
    )
    reply.status(response.status)
    response.headers.forEach((value, name) => {
      reply.header(name, value)
    })
    return reply.send(response.body ? await response.text() : null)
  },
})
app.get('/guarded', async (request, reply) => {
  const session = await auth.api.getSession({ headers: fromNodeHeaders(request.headers) })
  return session ? { ok: true } : reply.code(401).send()
})

await serve(app)
