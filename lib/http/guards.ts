import type { FastifyBaseLogger, FastifyInstance, FastifyRequest, RouteOptions } from 'fastify'
import type { Register, Storage, User } from '../contracts.ts'
import type { Revocation } from '../core/revocation.ts'
import type { AccessToken, Account, Tokens } from '../core/tokens.ts'
import { AccountsError, callHost, errorForClient } from '../errors.ts'
import { shown, wrongOption } from '../options/checks.ts'
import type { ResolvedOptions } from '../options/options.ts'

/** What a guard reads of a request; any kind of Fastify server has it, HTTP/2 too. */
export interface GuardedRequest {
  readonly headers: { readonly authorization?: string | undefined }
}

type Guard = (request: GuardedRequest, reply: unknown) => Promise<void>

/** The guard that fills `request.account`. */
export interface Authenticate extends Guard {
  /** With `{ optional: true }` a request without a token passes too, and `request.accountOrNull` is null. */
  (options: { optional: boolean }): Guard
}

/** What `require` asks for; everything that is given must hold. */
export interface Requirements {
  /** The user's role is this one, or one of these. */
  role?: string | readonly string[]
  /** The user's role has this permission in the option `roles`. */
  permission?: string
  /** The e-mail address is verified. */
  verified?: true
  /** The user proved a credential within so many seconds; `true` for five minutes. */
  recent?: true | number
  /** Returns the id of the owner, who must be the user. Someone else's resource is a 404, as if it were missing. */
  // biome-ignore lint/suspicious/noExplicitAny: every route has parameters of its own
  owner?: (request: FastifyRequest & { params: any }) => unknown
}

/** Hooks for protected routes: `onRequest`, `preHandler` or in `app.auth([…])`. */
export interface Guards<Types extends object = Register> {
  /**
   * Lets a request with a good access token pass.
   *
   * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID, ACCOUNTS_TOKEN_EXPIRED
   */
  readonly authenticate: Authenticate
  /**
   * Makes a guard that authenticates and checks requirements. It reads the user from the database at most once per
   * request; `recent` and `owner` need no query.
   *
   * @throws {AccountsError} ACCOUNTS_FORBIDDEN, ACCOUNTS_EMAIL_UNVERIFIED, ACCOUNTS_REAUTH_REQUIRED, ACCOUNTS_NOT_FOUND
   */
  require(requirements: Requirements): Guard
  /**
   * Leaves no route of a scope open by mistake: one without a guard among its own hooks fails at boot. Mark a route
   * that is meant to be open with `config: { accounts: false }`. Call it before the routes are added.
   */
  protect(scope: FastifyInstance): void
  /**
   * The account of a request, which a guard of this realm let in: `request.account` where several realms have guards.
   *
   * @throws {Error} when no guard of this realm did
   */
  accountOf(request: FastifyRequest): Account<Types>
}

/** What the guards work with. */
export interface GuardParts {
  options: Pick<ResolvedOptions, 'roles'>
  storage: Pick<Storage, 'findUserById'>
  tokens: Pick<Tokens, 'verifyAccess'>
  revocation: Pick<Revocation, 'alive'>
  log: FastifyBaseLogger
  clock(): number
}

/** Builds the guards of a realm. */
export function createGuards(parts: GuardParts): Guards & { verifyToken(token: string): Promise<Account> } {
  const guards = new WeakSet<object>()
  const known = (run: (request: GuardedRequest) => Promise<void> | void) => {
    const guard = translating(parts, run)
    guards.add(guard)
    return guard
  }

  function authenticateRequest(request: GuardedRequest, optional: boolean): Promise<void> | void {
    const { authorization } = request.headers
    const visitor = optional && authorization === undefined
    const entrance = visitor ? null : enter(parts, bearerToken(authorization))
    if (!(entrance instanceof Promise)) return void EntranceOf.set(request, entrance)
    return entrance.then((entered) => void EntranceOf.set(request, entered))
  }

  function authenticate(first: GuardedRequest | { optional: boolean }, reply?: unknown): Promise<void> | Guard {
    // The request alone is enough: a caller who leaves `reply` out still means to authenticate.
    if (reply !== undefined || 'headers' in Object(first)) return plain(first as GuardedRequest, reply)
    const { optional } = Object(first) as { optional?: boolean }
    if (typeof optional !== 'boolean') throw new TypeError('fastify-accounts: authenticate() takes { optional: true }')
    return known((request) => authenticateRequest(request, optional))
  }
  const plain = known((request) => authenticateRequest(request, false))

  function require(given: Requirements): Guard {
    const checks = checksOf(parts, Object(given))
    return known(async (request) => {
      const before = EntranceOf.get(request)
      const fresh = await enter(parts, bearerToken(request.headers.authorization))
      // Guards of one request share what they read of the user.
      const entrance = before?.text === fresh.text && before.parts === parts ? before : fresh
      EntranceOf.set(request, entrance)
      try {
        for (const check of checks) await check(entrance, request)
      } catch (error) {
        // In `app.auth([…])` another guard may let the request in, but not as this account.
        EntranceOf.set(request, before)
        throw error
      }
    })
  }
  guards.add(authenticate)
  return {
    authenticate: authenticate as Authenticate,
    require,
    protect: (scope) => protect(scope, guards),
    accountOf(request) {
      const entrance = EntranceOf.get(request)
      if (entrance?.parts !== parts) throw unguarded(request, 'accountOf()')
      return entrance.token.account
    },
    verifyToken: (token) => verifyToken(parts, token),
  }
}

const refusers = new WeakMap<object, GuardParts>()

/** The realm with whose guard an error of ours refuses a request. */
export function refusedBy(error: unknown): GuardParts | undefined {
  return refusers.get(Object(error))
}

/** A guard that throws nothing but what is meant for the client. */
function translating(parts: GuardParts, run: (request: GuardedRequest) => Promise<void> | void): Guard {
  async function refuse(request: FastifyRequest, error: unknown): Promise<never> {
    if (error instanceof AccountsError) refusers.set(error, parts)
    throw errorForClient(error, request.log, `a guard of ${routeOf(request)}`)
  }
  // Not an async function, whose state costs a guarded GET a twentieth of its requests.
  return (request) => {
    try {
      return run(request)?.catch((error) => refuse(request as FastifyRequest, error)) ?? Promise.resolve()
    } catch (error) {
      return refuse(request as FastifyRequest, error)
    }
  }
}

async function verifyToken(parts: GuardParts, token: string): Promise<Account> {
  try {
    return (await enter(parts, token)).token.account
  } catch (error) {
    throw errorForClient(error, parts.log, 'verifyToken')
  }
}

/** A request that was let in. */
interface Entrance {
  /** The realm that let it in. */
  parts: GuardParts
  /** The token as it was sent. */
  text: string
  token: AccessToken
  /** Read at most once. */
  user?: Promise<User>
}

// At once when nothing has to be read, as for nearly every request.
function enter(parts: GuardParts, text: string): Entrance | Promise<Entrance> {
  const token = parts.tokens.verifyAccess(text)
  const alive = parts.revocation.alive(token.account.sessionId, token.account.id, token.uncommitted)
  if (typeof alive === 'boolean') return entranceOf(parts, text, token, alive)
  return alive.then((read) => entranceOf(parts, text, token, read))
}

function entranceOf(parts: GuardParts, text: string, token: AccessToken, alive: boolean): Entrance {
  if (!alive) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return { parts, text, token }
}

function userOf(entrance: Entrance): Promise<User> {
  entrance.user ??= findUser(entrance)
  return entrance.user
}

async function findUser({ parts: { storage }, token }: Entrance): Promise<User> {
  const user = await storage.findUserById(token.account.id)
  if (!user?.active) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return user
}

/**
 * The token of an `Authorization` header.
 *
 * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID when there is none
 */
export function bearerToken(authorization: string | undefined): string {
  if (!authorization || !/^Bearer /i.test(authorization)) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return authorization.slice('Bearer '.length)
}

type RequirementCheck = (entrance: Entrance, request: GuardedRequest) => Promise<void> | void

const recentSeconds = 300
const requirementNames = ['role', 'permission', 'verified', 'recent', 'owner']

// Cheap ones first, and `owner` before those whose refusals show that the resource exists.
function checksOf(parts: GuardParts, requirements: Requirements): RequirementCheck[] {
  const given = Object.entries(requirements)
  // A requirement that is undefined by mistake must not be dropped.
  const wrong = given.some(([name, value]) => !requirementNames.includes(name) || value === undefined)
  if (wrong || given.length === 0) {
    const names = requirementNames.join(', ')
    throw new TypeError(
      `fastify-accounts: require() takes one or more of ${names}; it was given ${shown(requirements)}`,
    )
  }
  const { role, permission, verified, recent, owner } = requirements
  return [
    owner !== undefined && ownerCheck(owner),
    recent !== undefined && recentCheck(parts, recent),
    verified !== undefined && verifiedCheck(verified),
    role !== undefined && roleCheck(parts, [role].flat()),
    permission !== undefined && permissionCheck(parts, permission),
  ].filter((check) => check !== false)
}

function ownerCheck(owner: NonNullable<Requirements['owner']>): RequirementCheck {
  if (typeof owner !== 'function') throw wrongRequirement('owner', 'a function (request) => id', owner)
  return async ({ token: { account } }, request) => {
    const id = await callHost(() => owner(request as FastifyRequest))
    const own = ['string', 'number', 'bigint'].includes(typeof id) && String(id) === String(account.id)
    if (!own) throw new AccountsError('ACCOUNTS_NOT_FOUND')
  }
}

// `auth_time` comes from the session's row: a refreshed token is as old as the login behind it.
function recentCheck({ clock }: GuardParts, recent: true | number): RequirementCheck {
  const seconds = recent === true ? recentSeconds : recent
  const valid = Number.isSafeInteger(seconds) && seconds >= 1
  if (!valid) throw wrongRequirement('recent', 'true or a whole number of seconds', recent)
  return ({ token }) => {
    if (token.authTime + seconds <= Math.floor(clock() / 1000)) throw new AccountsError('ACCOUNTS_REAUTH_REQUIRED')
  }
}

function verifiedCheck(verified: true): RequirementCheck {
  if (verified !== true) throw wrongRequirement('verified', 'true', verified)
  return async (entrance) => {
    if ((await userOf(entrance)).emailVerifiedAt === null) throw new AccountsError('ACCOUNTS_EMAIL_UNVERIFIED')
  }
}

function roleCheck({ options }: GuardParts, wanted: readonly string[]): RequirementCheck {
  const valid = wanted.length > 0 && wanted.every((role) => typeof role === 'string' && role !== '')
  if (!valid) throw wrongRequirement('role', 'a role or a list of roles', wanted)
  const unknown = options.roles && wanted.find((role) => !options.roles?.has(role))
  if (unknown) throw wrongRequirement('role', `one of the option "roles" (${listed(options.roles!.keys())})`, unknown)
  return async (entrance) => {
    const { role } = await userOf(entrance)
    if (role === null || !wanted.includes(role)) throw new AccountsError('ACCOUNTS_FORBIDDEN')
  }
}

function permissionCheck({ options: { roles } }: GuardParts, wanted: string): RequirementCheck {
  const valid = typeof wanted === 'string' && wanted !== ''
  if (!valid) throw wrongRequirement('permission', 'a text such as "orders:read"', wanted)
  if (!roles) throw wrongOption('roles', 'is missing: require({ permission }) reads what each role may do from it')
  const grants = [...roles.values()].flat()
  if (!grants.some((granted) => covers(granted, wanted))) {
    throw wrongRequirement('permission', `one that the option "roles" grants (${listed(grants)})`, wanted)
  }
  return async (entrance) => {
    const { role } = await userOf(entrance)
    const granted = (role !== null && roles.get(role)) || []
    if (!granted.some((permission) => covers(permission, wanted))) throw new AccountsError('ACCOUNTS_FORBIDDEN')
  }
}

function covers(granted: string, wanted: string): boolean {
  return granted.endsWith('*') ? wanted.startsWith(granted.slice(0, -1)) : granted === wanted
}

function listed(names: Iterable<string>): string {
  return [...new Set(names)].join(', ')
}

function wrongRequirement(name: string, shape: string, given: unknown): TypeError {
  return new TypeError(`fastify-accounts: "${name}" of require() must be ${shape}, not ${shown(given)}`)
}

function protect(scope: FastifyInstance, guards: WeakSet<object>): void {
  if (typeof scope?.addHook !== 'function') {
    throw new TypeError('fastify-accounts: protect() takes the scope whose routes need a guard')
  }
  scope.addHook('onRoute', (route) => {
    if ((route.config as { accounts?: unknown } | undefined)?.accounts === false || guarded(route, guards)) return
    throw new TypeError(
      `fastify-accounts: ${[route.method].flat().join(',')} ${route.url} is in a protected scope and has no guard; ` +
        'give it { onRequest: app.accounts.authenticate }, ' +
        'or { config: { accounts: false } } if it is meant to be open',
    )
  })
}

function guarded({ onRequest, preParsing, preValidation, preHandler }: RouteOptions, guards: WeakSet<object>): boolean {
  return [onRequest, preParsing, preValidation, preHandler].flat().some((hook) => hook && guards.has(hook))
}

class Returned {
  constructor(object: object) {
    // biome-ignore lint/correctness/noConstructorReturn: what is returned gets the private member below.
    return object
  }
}

/**
 * Whom a guard let in, as a private member of the request, which no code of the host can reach. A WeakMap of requests
 * takes 20 times as long, and the garbage collector more: a guarded GET takes 0.9 of the CPU that it took with one.
 */
class EntranceOf extends Returned {
  #entrance: Entrance | null = null
  static set(request: object, entrance: Entrance | null): void {
    const entered = (#entrance in request ? request : new EntranceOf(request)) as EntranceOf
    entered.#entrance = entrance
  }
  static get(request: object): Entrance | null {
    return #entrance in request ? request.#entrance : null
  }
}

/** The getter behind `request.account`. */
export function requestAccount(this: FastifyRequest): Account {
  const entrance = EntranceOf.get(this)
  if (entrance) return entrance.token.account
  throw unguarded(this, 'request.account')
}

function unguarded(request: FastifyRequest, read: string): Error {
  return new Error(
    `fastify-accounts: ${read} was read on ${routeOf(request)}, but no guard let anybody in; ` +
      'give the route { onRequest: app.accounts.authenticate }, or read request.accountOrNull',
  )
}

/** The getter behind `request.accountOrNull`. */
export function requestAccountOrNull(this: FastifyRequest): Account | null {
  return EntranceOf.get(this)?.token.account ?? null
}

function routeOf({ method, routeOptions, url }: FastifyRequest): string {
  return `${method} ${routeOptions?.url ?? url}`
}
