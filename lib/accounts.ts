import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Cache, Claims, Mailer, Storage, UserId } from './contracts.ts'
import { AccountsError } from './errors.ts'
import type { ResolvedOptions } from './options.ts'
import type { Passwords } from './passwords.ts'
import type { Ring } from './secrets.ts'
import type { Tokens } from './tokens.ts'

/** What `app.accounts` is: the ports and the guards of one realm. Every use case takes it first. */
export interface Accounts extends Guards {
  readonly options: ResolvedOptions
  readonly storage: Storage
  /** Undefined when nothing needs it. */
  readonly cache: Cache | undefined
  /** Undefined when nothing needs it. */
  readonly mailer: Mailer | undefined
  readonly ring: Ring
  readonly tokens: Tokens
  readonly passwords: Passwords
  readonly log: FastifyBaseLogger
  /** The time in milliseconds. */
  clock(): number
}

/** Who a request is made for. */
export interface Account {
  readonly id: UserId
  readonly sessionId: string
  /** What the option `tokens.claims` put into the token. */
  readonly claims: Claims
}

/** What a guard reads of a request; so it fits every kind of Fastify server, HTTP/2 too. */
export interface GuardedRequest {
  readonly headers: { readonly authorization?: string }
}

type Guard = (request: GuardedRequest, reply: unknown) => Promise<void>

/** The guard that fills `request.account`. */
export interface Authenticate extends Guard {
  /** With `{ optional: true }` a request without a token passes too, and `request.accountOrNull` is null. */
  (options: { optional: boolean }): Guard
}

/** Hooks for protected routes; as `onRequest`, `preHandler` or in `app.auth([…])`. */
export interface Guards {
  /**
   * Lets a request with a good access token pass.
   *
   * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID, ACCOUNTS_TOKEN_EXPIRED
   */
  readonly authenticate: Authenticate
}

/** Builds the guards of a realm. */
export function createGuards(storage: Storage, tokens: Tokens, clock: () => number): Guards {
  async function guard(request: GuardedRequest, optional: boolean): Promise<void> {
    const { authorization } = request.headers
    if (optional && authorization === undefined) {
      remember(request, null)
      return
    }
    const token = bearerToken(authorization)
    const { userId, sessionId, claims } = tokens.verifyAccess(token)
    if (!(await storage.sessionActive(sessionId, userId, clock()))) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
    remember(request, Object.freeze({ id: userId, sessionId, claims }))
  }

  function authenticate(first: GuardedRequest | { optional: boolean }, reply?: unknown): Promise<void> | Guard {
    // Told by the request: one who leaves `reply` out means to be refused all the same.
    if (reply !== undefined || 'headers' in first) return guard(first as GuardedRequest, false)
    const { optional } = first
    if (typeof optional !== 'boolean') throw new TypeError('fastify-accounts: authenticate() takes { optional: true }')
    return (request) => guard(request, optional)
  }
  return { authenticate: authenticate as Authenticate }
}

function bearerToken(authorization: string | undefined): string {
  const [, token] = /^Bearer ([^\s]+)$/i.exec(authorization ?? '') ?? []
  if (!token) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return token
}

/** Where a guard leaves the account; undefined while no guard ran. */
export const accountKey = Symbol('fastify-accounts.account')

interface Guarded {
  [accountKey]?: Account | null
}

function remember(request: object, account: Account | null): void {
  ;(request as Guarded)[accountKey] = account
}

/** The getter behind `request.account`. */
export function requestAccount(this: FastifyRequest): Account {
  const account = (this as Guarded)[accountKey]
  if (account) return account
  const route = `${this.method} ${this.routeOptions.url ?? this.url}`
  const fix = account === null ? 'its guard is optional: read request.accountOrNull' : 'it has no guard that ran before'
  throw new Error(`fastify-accounts: request.account was read on ${route}, but ${fix}`)
}

/** The getter behind `request.accountOrNull`. */
export function requestAccountOrNull(this: FastifyRequest): Account | null {
  return (this as Guarded)[accountKey] === null ? null : requestAccount.call(this)
}
