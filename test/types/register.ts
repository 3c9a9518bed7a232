// A host that declares its types once.
import Fastify from 'fastify'
import accounts, { type Accounts, type AccountsOptions, type Storage, type User } from 'fastify-accounts'
import { kyselyStorage } from 'fastify-accounts/kysely'
import { type MemoryMailer, memoryCache, memoryMailer } from 'fastify-accounts/memory'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import Type, { type Static } from 'typebox'

const Profile = Type.Object({ company: Type.String({ maxLength: 80 }), age: Type.Optional(Type.Integer()) })

declare module 'fastify-accounts' {
  interface Register {
    id: string
    profile: Static<typeof Profile>
    claims: { plan: 'free' | 'pro' }
  }
}

declare module 'fastify' {
  interface FastifyInstance {
    staff: Accounts
  }
}

const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) })
const storage: Storage = kyselyStorage(db, { ids: 'uuid' })
const mailer: MemoryMailer = memoryMailer()
const options: AccountsOptions = {
  name: 'staff',
  secret: ['new', 'old'],
  storage,
  cache: memoryCache(),
  mailer,
  registration: { profile: Profile, username: 'optional' },
  tokens: { claims: (user: User) => ({ plan: user.profile.company === 'x' ? 'pro' : 'free' }) },
  routes: {
    login: '/v2/login',
    register: false,
    refresh: { url: '/r', config: {}, onRequest: async (request) => void request.ip, logLevel: 'warn' },
    user: { onRequest: [(_request, _reply, done) => done()] },
  },
  network: (request) => request.ip,
}
const app = Fastify()
await app.register(accounts, options)
app.get('/mine', { onRequest: app.staff.authenticate }, async ({ account }) => {
  const id: string = account.id
  const plan: 'free' | 'pro' = account.claims.plan
  // @ts-expect-error the id is a text here
  const wrong: number = account.id
  // @ts-expect-error there is no such claim
  const missing = account.claims.role
  // @ts-expect-error an account cannot be written to
  account.id = 'x'
  return { id, plan, wrong, missing }
})
const user = await storage.findUserById('7')
const company: string | undefined = user?.profile.company
// @ts-expect-error the age may be missing
const age: number = user?.profile.age
// @ts-expect-error ids are texts here
storage.findUserById(7)
// @ts-expect-error claims must be of the declared type
const claims: AccountsOptions['tokens'] = { claims: () => ({ plan: 'gold' }) }
const to: string | undefined = mailer.sent[0]?.to
console.log(company, age, claims, to)
