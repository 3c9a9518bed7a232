// A host with two realms, each with types of its own.
import Fastify from 'fastify'
import accounts, { type Accounts, defineAccounts, type UserToImport } from 'fastify-accounts'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import Type from 'typebox'

interface Staff {
  id: string
  profile: { desk: number }
  claims: { level: 1 | 2 }
}

declare module 'fastify-accounts' {
  interface Register {
    id: number
    profile: { company: string }
    claims: { plan: 'free' | 'pro' }
  }
}

declare module 'fastify' {
  interface FastifyInstance {
    staff: Accounts<Staff>
  }
}

const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) })
const app = Fastify()
await app.register(accounts, {
  secret: 'one',
  db,
  registration: { profile: Type.Object({ company: Type.String() }) },
  tokens: { claims: (user) => ({ plan: user.profile.company === 'x' ? 'pro' : 'free' }) },
})
await app.register(
  accounts,
  defineAccounts<Staff>({
    name: 'staff',
    prefix: '/staff',
    secret: 'two',
    db: db.withSchema('staff'),
    registration: { profile: Type.Object({ desk: Type.Integer() }) },
    tokens: { claims: ({ id, profile }) => ({ level: profile.desk > 100 && id.startsWith('a') ? 2 : 1 }) },
  }),
)
// @ts-expect-error there is no such level
defineAccounts<Staff>({ secret: 'two', tokens: { claims: () => ({ level: 3 }) } })

app.get('/staff/orders', { onRequest: app.staff.authenticate }, async (request) => {
  const { id, claims } = app.staff.accountOf(request)
  const text: string = id
  const level: 1 | 2 = claims.level
  // @ts-expect-error that is a claim of the others
  const plan = claims.plan
  // @ts-expect-error ids of staff are texts
  await app.accounts.users.find({ id })
  return { text, level, plan }
})
const created = await app.staff.users.create({ email: 'a@example.org', profile: { desk: 1 } })
const desk: number = created.profile.desk
// @ts-expect-error a profile of the others
await app.staff.users.create({ email: 'a@example.org', profile: { company: 'x' } })
// @ts-expect-error ids of customers are numbers
await app.accounts.users.disable(created.id)
const imported: UserToImport<Staff> = { email: 'b@example.org', id: 'b', profile: {} }
const [outcome] = await app.staff.users.import([imported])
const importedId: string | undefined = outcome && 'id' in outcome ? outcome.id : undefined
app.staff.addHook('beforeLogin', ({ user }) => user.id.trim())
app.staff.addHook('afterLogin', ({ userId }) => userId?.trim())
app.accounts.addHook('beforeLogin', ({ user }) => user.id.toFixed())
const { user } = await app.staff.login({ email: 'a@example.org', password: 'x' }, {} as never)
const { claims } = await app.staff.verifyToken('x')
const [event] = await app.staff.users.history(user.id)
console.log(desk, importedId, claims.level, event?.userId?.trim())
