// A host with profile fields and claims of its own, typed from end to end without a cast. With Node 22.18 or later:
//   DATABASE_URL=postgres://localhost/app REDIS_URL=redis://localhost:6379 ACCOUNTS_SECRET=… node server.ts
import fastifyRedis from '@fastify/redis'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { migrateToLatest } from 'fastify-accounts/kysely'
import { type Generated, Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { type Static, Type } from 'typebox'

/** Sent to register beside username, e-mail and password; stored, and returned with the account. */
const Profile = Type.Object({
  company: Type.String({ minLength: 1, maxLength: 100 }),
  employees: Type.Integer({ minimum: 1, maximum: 1_000_000 }),
})

// Once per project: what `request.account` and the users of the plugin look like.
declare module 'fastify-accounts' {
  interface Register {
    id: number
    profile: Static<typeof Profile>
    claims: { company: string }
  }
}

/** The host's own tables; the plugin adds its own beside them. */
interface Database {
  orders: { id: Generated<number>; user_id: number; article: string }
}

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, PORT = '3000' } = process.env
if (!DATABASE_URL || !REDIS_URL || !ACCOUNTS_SECRET) throw new Error('Set DATABASE_URL, REDIS_URL and ACCOUNTS_SECRET')

const app = Fastify({ logger: true })
const pool = new pg.Pool({ connectionString: DATABASE_URL })
pool.on('error', (error) => app.log.error(error))
pool.on('connect', (client) => client.on('error', (error) => app.log.error(error)))
const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) })

await app.register(fastifyRedis, { url: REDIS_URL })
await migrateToLatest(db)
await db.schema
  .createTable('orders')
  .ifNotExists()
  .addColumn('id', 'serial', (column) => column.primaryKey())
  .addColumn('user_id', 'integer', (column) => column.notNull())
  .addColumn('article', 'text', (column) => column.notNull())
  .execute()

await app.register(accounts, {
  secret: ACCOUNTS_SECRET,
  db,
  registration: { profile: Profile },
  tokens: { claims: (user) => ({ company: user.profile.company }) },
})

app.post<{ Body: { article: string } }>(
  '/orders',
  {
    onRequest: app.accounts.authenticate,
    schema: { body: Type.Object({ article: Type.String({ minLength: 1, maxLength: 100 }) }) },
  },
  async (request, reply) => {
    const { id, claims } = request.account
    const { article } = request.body
    await db.insertInto('orders').values({ user_id: id, article }).execute()
    return reply.code(201).send({ article, company: claims.company })
  },
)

app.get('/orders', { onRequest: app.accounts.authenticate }, (request) =>
  db.selectFrom('orders').select(['id', 'article']).where('user_id', '=', request.account.id).orderBy('id').execute(),
)

async function ownerOf(id: number) {
  const order = await db.selectFrom('orders').select('user_id').where('id', '=', id).executeTakeFirst()
  return order?.user_id
}

// The guard reads `params`: in `preHandler` the schema has checked them. Somebody else's order is a 404.
app.delete<{ Params: { id: number } }>(
  '/orders/:id',
  {
    schema: { params: Type.Object({ id: Type.Integer({ minimum: 1, maximum: 2_147_483_647 }) }) },
    preHandler: app.accounts.require({ owner: (request) => ownerOf(request.params.id) }),
  },
  async (request, reply) => {
    await db.deleteFrom('orders').where('id', '=', request.params.id).execute()
    return reply.code(204).send()
  },
)

await app.listen({ port: Number(PORT) })

async function stop() {
  await app.close()
  await db.destroy()
}
process.once('SIGTERM', stop).once('SIGINT', stop)
