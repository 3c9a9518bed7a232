import type { FastifyRequest } from 'fastify'
import type { Register, Storage, User, UserId } from './contracts.ts'
import { clientOf, noClient } from './core/client.ts'
import { type Health, healthOf } from './core/health.ts'
import type { AddHook } from './core/hooks.ts'
import { joinRealm, type Realm } from './core/realm.ts'
import { startSessionOf, type TokenPair } from './core/sessions.ts'
import type { Account } from './core/tokens.ts'
import { type Credentials, LoginBody, login } from './features/login.ts'
import { createUsers, type Users } from './features/users.ts'
import { createGuards, type Guards } from './http/guards.ts'
import { validatorCompiler } from './http/validation.ts'

/** What a host does without HTTP. */
export interface UseCases<Types extends object = Register> {
  readonly users: Users<Types>
  /**
   * Starts a session, for logins of the host's own kind: whoever calls it has proved who the user is.
   *
   * @throws {AccountsError} ACCOUNTS_NOT_FOUND when there is no such active user, ACCOUNTS_EMAIL_UNVERIFIED where an
   * address has to be proved first
   */
  startSession(userId: UserId<Types>, request?: FastifyRequest): Promise<TokenPair>
}

/** What `app.accounts` is: the guards and the use cases of one realm. */
export interface Accounts<Types extends object = Register> extends Guards<Types>, UseCases<Types> {
  /**
   * Logs a user in, for a login route of your own: the same limits, the same line of hashes and the same work as
   * `POST /api/login/`, and the user beside the tokens of the new session.
   *
   * @param request the request that the guess comes with
   * @throws {AccountsError} ACCOUNTS_CREDENTIALS_INVALID, ACCOUNTS_EMAIL_UNVERIFIED, ACCOUNTS_TOO_MANY_REQUESTS,
   * ACCOUNTS_OVERLOADED, ACCOUNTS_VALIDATION, each with `statusCode` and `headers`
   */
  login(credentials: Credentials, request: FastifyRequest): Promise<TokenPair & { user: User<Types> }>
  /** Whether a session has neither ended nor come to its absolute end, wherever that happened. One query. */
  sessionActive(sessionId: string): Promise<boolean>
  /**
   * Adds a hook. `before…` hooks are awaited and may refuse by throwing an error with a `statusCode`; `after…` hooks
   * are called after security events and never change the response.
   */
  readonly addHook: AddHook<Types>
  /**
   * The use cases within a transaction of the host's: `using(kyselyStorage(trx))`. Everything rolls back with it; mails
   * leave and ended sessions become known within seconds after it has committed.
   */
  using(storage: Storage): UseCases<Types>
  /** Verifies an access token as a guard does, for WebSockets and the like. */
  verifyToken(token: string): Promise<Account<Types>>
  /** Checks every dependency; never throws. */
  health(): Promise<Health>
}

const realms = new WeakMap<object, Realm>()

/** The realm behind `app.accounts`, for the command line and the helpers of tests; no host can import this. */
export function realmOf(accounts: object): Realm {
  const realm = realms.get(accounts)
  if (!realm) throw new TypeError('fastify-accounts: these are not accounts of this copy of the package')
  return realm
}

/** Builds what a host sees of a realm: nothing that is reachable from it is a key, a secret, a port or the realm. */
export function createAccountsOf(realm: Realm, more: object = {}): Accounts {
  const accounts = Object.freeze({
    ...createGuards(realm),
    ...useCases(realm),
    login: (credentials: Credentials, request: FastifyRequest) => loginFrom(realm, credentials, request),
    sessionActive: async (sessionId: string) =>
      typeof sessionId === 'string' && realm.storage.sessionActive(sessionId, null, realm.clock()),
    addHook: realm.hooks.add,
    using: (storage: Storage) => Object.freeze(useCases(joinRealm(realm, storage))),
    health: () => healthOf(realm),
    ...more,
  })
  realms.set(accounts, realm)
  return accounts
}

// Compiled when the first host calls it.
let validate: ReturnType<typeof validatorCompiler> | undefined

async function loginFrom(realm: Realm, credentials: Credentials, request: FastifyRequest) {
  if (!request?.raw) throw new TypeError('fastify-accounts: login() takes { email, password } and the request')
  validate ??= validatorCompiler({ schema: LoginBody } as never)
  const { error } = validate(credentials) as { error?: Error }
  if (error) throw error
  return login(realm, credentials, clientOf(realm, request))
}

function useCases(realm: Realm): UseCases {
  return {
    users: Object.freeze(createUsers(realm)),
    startSession: (userId, request) => startSessionOf(realm, userId, request ? clientOf(realm, request) : noClient),
  }
}
