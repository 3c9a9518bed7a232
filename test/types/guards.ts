// A host that guards its routes and uses what the accounts do without HTTP, beside plugins that type `config` too.
import '@fastify/swagger'
import fastifyAuth from '@fastify/auth'
import Fastify from 'fastify'
import accounts, {
  type Account,
  type Accounts,
  type AccountsOptions,
  createAccounts,
  defineAccounts,
  type EventOf,
  type Health,
  type HookContexts,
  type Imported,
  type Requirements,
  type SecurityEvent,
  type StandaloneAccounts,
  type TokenPair,
  type UseCases,
  type User,
} from 'fastify-accounts'
import { kyselyStorage } from 'fastify-accounts/kysely'
import { memoryCache, memoryMailer, memoryStorage } from 'fastify-accounts/memory'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import Type, { type Static } from 'typebox'

const Profile = Type.Object({ company: Type.String() })

declare module 'fastify-accounts' {
  interface Register {
    id: number
    profile: Static<typeof Profile>
    claims: { company: string }
  }
}

const db = new Kysely<{ orders: { user_id: number } }>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) })
const options: AccountsOptions = defineAccounts({
  secret: 'x',
  db,
  redis: 'redis://localhost',
  registration: { profile: Profile, verifyEmail: true, concealExisting: true },
  roles: { admin: ['orders:*'], support: ['orders:read'] },
  tokens: { claims: (user) => ({ company: user.profile.company }) },
  session: (request) => (request?.headers['remember-me'] ? { idle: 864_000, absolute: 7_776_000 } : {}),
  account: { fields: ['company'], delete: 'deactivate' },
  eventLog: { keep: 3600 },
  revocation: 'storage',
})
// @ts-expect-error lives are known without waiting
defineAccounts({ secret: 'x', session: async () => ({ idle: 60 }) })
// @ts-expect-error the function is given a request or null
defineAccounts({ secret: 'x', session: (request) => ({ idle: request.headers.host ? 60 : 120 }) })
// @ts-expect-error a role has a list of permissions
defineAccounts({ secret: 'x', roles: { admin: 'orders:*' } })
// @ts-expect-error an unknown option
defineAccounts({ secret: 'x', role: {} })

const app = Fastify()
await app.register(fastifyAuth)
await app.register(accounts, options)
const { authenticate, require, protect, verifyToken, users, addHook, health, using, startSession } = app.accounts

const ownerOf = async (orderId: string) => Number(orderId)
app.get('/orders', { onRequest: authenticate }, async ({ account }) => {
  const id: number = account.id
  const company: string = account.claims.company
  const { sessionId }: { sessionId: string } = account
  // @ts-expect-error there is no such claim
  const plan = account.claims.plan
  return { id, company, sessionId, plan }
})
app.get('/news', { onRequest: authenticate({ optional: true }) }, (request) => request.accountOrNull?.claims.company)
app.delete('/orders/:id', { onRequest: require({ permission: 'orders:delete', recent: true }) }, () => 'gone')
app.get<{ Params: { id: string } }>(
  '/orders/:id',
  { preHandler: [authenticate, require({ owner: (request) => ownerOf(request.params.id) })] },
  (request) => request.params.id,
)
app.get('/either', { onRequest: app.auth([authenticate, require({ role: ['admin', 'support'] })]) }, () => 'one of two')
const all: Requirements = { role: 'admin', permission: 'orders:read', verified: true, recent: 60, owner: () => 7 }
app.get('/all', { preValidation: require(all) }, () => 'all')
// @ts-expect-error an unknown requirement
require({ roles: 'admin' })
// @ts-expect-error one permission at a time
require({ permission: ['orders:read'] })
// @ts-expect-error nothing asks for an unverified address
require({ verified: false })
// @ts-expect-error true or seconds
require({ recent: '5m' })
// @ts-expect-error false is no number of seconds
require({ recent: false })
// @ts-expect-error a function of the request
require({ owner: 7 })
// @ts-expect-error something is asked for
require()
// @ts-expect-error guards take an object
require('admin')
// @ts-expect-error the option is true or false
authenticate({ optional: 'yes' })

app.register(async (scope) => {
  protect(scope)
  scope.get('/invoices', { onRequest: authenticate }, (request) => request.account.id)
  scope.get('/status', { config: { accounts: false } }, () => 'up')
  // @ts-expect-error only false says something
  scope.get('/other', { config: { accounts: true } }, () => 'up')
})
// @ts-expect-error a scope is protected, not a route
protect('/invoices')

const account: Account = await verifyToken('token')
const company: string = account.claims.company
// @ts-expect-error a text is verified, not a request
verifyToken({ headers: {} })

const user: User = await users.create({
  ...{ email: 'grace@example.org', username: 'grace', password: 'correct horse battery' },
  ...{ profile: { company: 'Navy' }, role: 'admin', verified: true },
})
const imported: Imported[] = await users.import([
  { email: 'ada@example.org', passwordHash: '$argon2id$', profile: { company: 'Engines' }, createdAt: 0 },
  { email: 'old@example.org', profile: {} },
])
for (const outcome of imported) {
  // @ts-expect-error it may have been refused
  const id: number = outcome.id
  const sure: number | string = 'id' in outcome ? outcome.id : outcome.refused
  console.log(id, sure)
}
const found: User | null = await users.find({ email: 'ada@example.org' })
const page: User[] = await users.list({ after: user.id, limit: 10 })
const pair: TokenPair = await startSession(user.id)
const refresh: string = pair.refresh
addHook('beforeRegister', ({ profile }) => console.log(profile.company.length))
await users.setPassword(user.id, 'another horse battery')
await users.setRole(user.id, null)
await users.disable(7)
await users.enable(7)
await users.endSessions(7)
await users.delete(7)
const [event] = await users.history(7, { before: 0, limit: 5 })
const at: number | undefined = event?.at
if (event?.name === 'loginFail') {
  const why: 'unknown' | 'disabled' | 'password' | 'unverified' | 'stale' = event.details.reason
  // @ts-expect-error the purpose is that of codes
  console.log(why, event.details.purpose)
}
// @ts-expect-error the name tells which details there are
console.log(event?.details.reason)
// @ts-expect-error there is no such event
console.log(event?.name === 'logout')
const told = (one: SecurityEvent): string => (one.name === 'sessionEnd' ? `${one.details.count}` : one.name)
// @ts-expect-error ids are numbers here
users.disable('7')
// @ts-expect-error ids are numbers here
startSession('7')
// @ts-expect-error a user is found by its id or its address
users.find({ username: 'ada' })
// @ts-expect-error an address is needed
users.create({ username: 'ada' })
// @ts-expect-error the profile is what was declared
users.create({ email: 'ada@example.org', profile: { company: 7 } })
// @ts-expect-error an import takes hashes
users.import([{ email: 'ada@example.org', password: 'correct horse battery' }])
// @ts-expect-error a password hash is never shown
console.log(found?.passwordHash)

addHook('beforeRegister', async ({ email, username, profile, client }) => {
  const texts: [string, string | null, string] = [email, username, client.network]
  if (email.endsWith('@example.net')) throw Object.assign(new Error('Not this domain.'), { statusCode: 422 })
  console.log(texts, profile)
})
addHook('beforeLogin', ({ user, client }) => console.log(user.profile.company, client.request?.headers))
addHook('beforePasswordChange', ({ by }) => {
  const way: 'reset' | 'user' = by
  // @ts-expect-error an administrator asks no hook
  return way === 'admin'
})
addHook('beforeEmailChange', ({ user, email }) => user.email !== email)
addHook('beforeDelete', ({ user }) => console.log(user.role))
addHook('afterLogin', ({ name, userId, ip, at, details }) => {
  const login: 'login' = name
  const when: number = at
  // @ts-expect-error a log-in has no details
  console.log(details.reason)
  // @ts-expect-error a visitor has no id
  const id: number = userId
  console.log(login, when, id, ip)
})
addHook('afterSessionEnd', (ended: EventOf<'sessionEnd'>) => {
  const reason: 'logout' | 'logout_all' | 'revoked' | 'admin' | 'displaced' = ended.details.reason
  const count: number = ended.details.count
  // @ts-expect-error the purpose is that of codes
  console.log(reason, count, ended.details.purpose)
})
addHook('afterCodeFail', ({ details }) => {
  const { purpose, reason }: { purpose: 'reset' | 'verify' | 'change'; reason: 'wrong' | 'dead' } = details
  console.log(purpose, reason)
})
addHook('afterAccountDelete', ({ details: { mode, by } }: HookContexts['afterAccountDelete']) => {
  const deletion: ['row' | 'deactivate', 'user' | 'admin'] = [mode, by]
  console.log(deletion)
})
// @ts-expect-error an unknown hook
addHook('beforeLogout', () => {})
// @ts-expect-error an unknown event
addHook('afterLogout', () => {})
// @ts-expect-error names are written as they are
addHook('afterlogin', () => {})
// @ts-expect-error no member of this hook
addHook('beforeLogin', ({ email }) => console.log(email))
// @ts-expect-error a hook is a function
addHook('afterLogin', 'hello')
// @ts-expect-error a hook for another event
addHook('afterLogin', (ended: EventOf<'sessionEnd'>) => console.log(ended))

const state: Health = await health()
const status: 'ok' | 'degraded' = state.status
const offset: number | null | undefined = state.cache?.offsetMs

await db.transaction().execute(async (trx) => {
  const joined: UseCases = using(kyselyStorage(trx))
  const user = { email: 'alan@example.org', username: 'alan', profile: { company: 'Navy' } }
  const created = await joined.users.create(user)
  await trx.insertInto('orders').values({ user_id: created.id }).execute()
  const tokens: TokenPair = await joined.startSession(created.id)
  // @ts-expect-error guards are not part of a transaction
  console.log(tokens, joined.authenticate)
})
// @ts-expect-error a storage, not the transaction itself
using(db)

const standalone: StandaloneAccounts = await createAccounts(options, { logger: false })
const same: Accounts = standalone
await standalone.users.disable(7)
await standalone.close()
await createAccounts({ secret: 'x', storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() })
// @ts-expect-error the secret is required
createAccounts({ db })
// @ts-expect-error an app is closed by itself
app.accounts.close()
// @ts-expect-error the users cannot be exchanged
app.accounts.users = users

console.log(at, company, offset, page, pair, refresh, same, status, told)
