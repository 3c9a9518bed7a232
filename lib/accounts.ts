import type { FastifyRequest } from 'fastify'
import type { Storage, UserId } from './contracts.ts'
import { clientOf, noClient } from './core/client.ts'
import { type Health, healthOf } from './core/health.ts'
import type { Hooks } from './core/hooks.ts'
import { joinRealm, type Realm } from './core/realm.ts'
import { startSessionOf, type TokenPair } from './core/sessions.ts'
import type { Account } from './core/tokens.ts'
import { createUsers, type Users } from './features/users.ts'
import { createGuards, type Guards } from './http/guards.ts'

/** What a host does without HTTP. */
export interface UseCases {
  readonly users: Users
  /**
   * Starts a session, for logins of the host's own kind: whoever calls it has proved who the user is.
   *
   * @throws {AccountsError} ACCOUNTS_NOT_FOUND when there is no such active user, ACCOUNTS_EMAIL_UNVERIFIED where an
   * address has to be proved first
   */
  startSession(userId: UserId, request?: FastifyRequest): Promise<TokenPair>
}

/** What `app.accounts` is: the guards and the use cases of one realm. */
export interface Accounts extends Guards, UseCases {
  /**
   * Adds a hook. `before…` hooks are awaited and may refuse by throwing an error with a `statusCode`; `after…` hooks
   * are called after security events and never change the response.
   */
  readonly addHook: Hooks['add']
  /**
   * The use cases within a transaction of the host's: `using(kyselyStorage(trx))`. Everything rolls back with it; mails
   * leave and ended sessions become known within seconds after it has committed.
   */
  using(storage: Storage): UseCases
  /** Verifies an access token as a guard does, for WebSockets and the like. */
  verifyToken(token: string): Promise<Account>
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
    addHook: realm.hooks.add,
    using: (storage: Storage) => Object.freeze(useCases(joinRealm(realm, storage))),
    health: () => healthOf(realm),
    ...more,
  })
  realms.set(accounts, realm)
  return accounts
}

function useCases(realm: Realm): UseCases {
  return {
    users: Object.freeze(createUsers(realm)),
    startSession: (userId, request) => startSessionOf(realm, userId, request ? clientOf(realm, request) : noClient),
  }
}
