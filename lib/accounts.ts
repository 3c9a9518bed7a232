import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Cache, Claims, Mailer, Storage, UserId } from './contracts.ts'
import type { Hooks } from './core/events.ts'
import type { Health } from './core/health.ts'
import type { Passwords } from './core/passwords.ts'
import type { Revocation } from './core/revocation.ts'
import type { Ring } from './core/secrets.ts'
import type { TokenPair } from './core/sessions.ts'
import type { Tokens } from './core/tokens.ts'
import type { Users } from './features/users.ts'
import type { Guards } from './http/guards.ts'
import type { ResolvedOptions } from './options/options.ts'

/** What `app.accounts` is: the guards, the use cases without HTTP and the ports of one realm. */
export interface Accounts extends Guards, UseCases {
  readonly options: ResolvedOptions
  readonly storage: Storage
  /** Undefined when nothing needs it. */
  readonly cache: Cache | undefined
  /** Undefined when nothing needs it. */
  readonly mailer: Mailer | undefined
  readonly ring: Ring
  readonly tokens: Tokens
  readonly passwords: Passwords
  readonly revocation: Revocation
  readonly hooks: Hooks
  readonly log: FastifyBaseLogger
  /** Events on their way into the database; closing waits for them. */
  readonly pending: Set<Promise<void>>
  /** Whether the storage is within a transaction of the host's, which may still roll back. */
  readonly joined: boolean
  /** The time in milliseconds. */
  clock(): number
  /**
   * Adds a hook. `before…` hooks are awaited and may refuse by throwing an error with a `statusCode`; `after…` hooks
   * are told of security events and never change an answer.
   */
  readonly addHook: Hooks['add']
  /**
   * The use cases within a transaction of the host's: `using(kyselyStorage(trx))`. Everything rolls back with it; mails
   * leave and ended sessions become known within seconds after it has committed.
   */
  using(storage: Storage): UseCases
  /** Verifies an access token as a guard does, for WebSockets and the like. */
  verifyToken(token: string): Promise<Account>
  /** Asks every dependency how it is; never throws. */
  health(): Promise<Health>
}

/** What a host does without HTTP. */
export interface UseCases {
  readonly users: Users
  /**
   * Starts a session, for log-ins of the host's own kind: whoever calls it has proved who the user is.
   *
   * @throws {AccountsError} ACCOUNTS_NOT_FOUND when there is no such active user
   */
  startSession(userId: UserId, request?: FastifyRequest): Promise<TokenPair>
}

/** Who a request is made for. */
export interface Account {
  readonly id: UserId
  readonly sessionId: string
  /** What the option `tokens.claims` put into the token. */
  readonly claims: Claims
}
