// What a host must not get past the compiler.
import Fastify from 'fastify'
import accounts, { type AccountsErrorCode, type AccountsOptions, type RouteName } from 'fastify-accounts'

const app = Fastify()
const secret = 'x'
// @ts-expect-error the secret is required
const none: AccountsOptions = {}
// @ts-expect-error at most two secrets
const three: AccountsOptions = { secret: ['a', 'b', 'c'] }
// @ts-expect-error an unknown option
const unknown: AccountsOptions = { secret, limits: false }
// @ts-expect-error a limit has two members
const limit: AccountsOptions = { secret, throttle: { login: 5 } }
// @ts-expect-error durations are numbers
const duration: AccountsOptions = { secret, session: { idle: '10d' } }
// @ts-expect-error an unknown member
const member: AccountsOptions = { secret, session: { idel: 5 } }
// @ts-expect-error an unknown route
const route: AccountsOptions = { secret, routes: { logIn: false } }
// @ts-expect-error true is no decoration
const on: AccountsOptions = { secret, routes: { login: true } }
// @ts-expect-error not a log level
const level: AccountsOptions = { secret, routes: { login: { logLevel: 5 } } }
// @ts-expect-error username has three values
const username: AccountsOptions = { secret, registration: { username: 'never' } }
// @ts-expect-error a profile is a TypeBox object
const profile: AccountsOptions = { secret, registration: { profile: { company: 'string' } } }
// @ts-expect-error 'feed', 'storage' or 'none'
const revocation: AccountsOptions = { secret, revocation: 'redis' }
// @ts-expect-error not a database
const db: AccountsOptions = { secret, db: {} }
// @ts-expect-error not a storage
const storage: AccountsOptions = { secret, storage: { ids: 'integer' } }
// @ts-expect-error not a Redis
const redis: AccountsOptions = { secret, redis: 6379 }
// @ts-expect-error a code that does not exist
const code: AccountsErrorCode = 'ACCOUNTS_WRONG'
// @ts-expect-error a route that does not exist
const name: RouteName = 'logOut'
// @ts-expect-error options are checked where they are passed
app.register(accounts, { secret, prefx: '/v1' })
// @ts-expect-error guards take an object
app.accounts.authenticate('optional')
// @ts-expect-error the accounts cannot be exchanged
app.accounts.storage = undefined

app.get('/', async (request) => {
  // @ts-expect-error no such member
  const role = request.account.role
  // @ts-expect-error it may be null
  const id = request.accountOrNull.id
  // @ts-expect-error without @fastify/jwt there is no request.user
  const { user } = request
  // @ts-expect-error it is read only
  request.account = { id: 1, sessionId: 'x', claims: {} }
  return { role, id, user }
})
// @ts-expect-error without @fastify/jwt there is no app.jwt
app.jwt.sign({})

export {
  code,
  db,
  duration,
  level,
  limit,
  member,
  name,
  none,
  on,
  profile,
  redis,
  revocation,
  route,
  storage,
  three,
  unknown,
  username,
}
