import fastifyJwt, { type FastifyJWTOptions, type JWT } from '@fastify/jwt'
import type { FastifyInstance } from 'fastify'
import type { Claims, Register, Session, Storage, User, UserId } from '../contracts.ts'
import { AccountsError, callHost } from '../errors.ts'
import type { AccessKey } from '../options/keys.ts'
import type { ResolvedOptions } from '../options/options.ts'
import { createMemory } from './memory.ts'
import { randomBytes } from './random.ts'
import type { Ring } from './secrets.ts'

/** Who a request is made for. */
export interface Account<Types extends object = Register> {
  readonly id: UserId<Types>
  readonly sessionId: string
  /** What the option `tokens.claims` put into the token; empty without it. */
  readonly claims: Claims<Types>
}

/** What a valid access token contains. */
export interface AccessToken {
  readonly account: Account
  /** When the user last proved a credential, in seconds. */
  readonly authTime: number
  /** Whether it was signed within a host's transaction, which may have been rolled back. */
  readonly uncommitted: boolean
}

/** Signs and verifies access and refresh tokens. */
export interface Tokens {
  /** @param uncommitted whether the session was started within a host's transaction */
  signAccess(session: Session, user: User, uncommitted?: boolean): Promise<string>
  /** Signs a session's refresh token number `counter`: the same bytes at every call under one secret. */
  signRefresh(session: Session, counter: number): string
  /**
   * Verifies an access token without any query.
   *
   * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID, ACCOUNTS_TOKEN_EXPIRED
   */
  verifyAccess(token: string): AccessToken
  /**
   * Verifies a refresh token: whose it is and when its session ends at the latest, in seconds; not whether it lives.
   *
   * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID
   */
  verifyRefresh(token: string): { sessionId: string; counter: number; expiresAt: number }
  /**
   * The session of a refresh token, be it past its end: enough to end that session.
   *
   * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID
   */
  sessionOf(refreshToken: string): string
}

type Kind = 'access' | 'refresh'
type Payload = Record<string, unknown>

/** RFC 9068 2.1 for the first; the second follows its pattern. */
const typ = { access: 'at+jwt', refresh: 'rt+jwt' } as const
const futureTolerance = 60
const rememberedTokens = 5000
const longestToken = 8192

/**
 * Registers @fastify/jwt in a scope that has no routes, so that no request leads to it: one instance for each kind of
 * token and key of the ring. Builds the token functions over them. A key serves one kind and one algorithm.
 */
export async function createTokens(
  scope: FastifyInstance,
  ring: Ring,
  options: ResolvedOptions,
  ids: Storage['ids'],
): Promise<Tokens> {
  const kinds: Kinds = {
    access: { audience: options.tokens.audience ?? options.name, instances: new Map() },
    refresh: { audience: `${options.name}:refresh`, instances: new Map() },
  }
  await scope.register(async (own) => {
    // @fastify/jwt writes to `app.jwt`. Scopes inherit from the app: an own property keeps our keys off the host's.
    Object.defineProperty(own, 'jwt', { value: Object.create(null), configurable: true })
    for (const kind of ['access', 'refresh'] as const)
      kinds[kind].instances = await openInstances(own, ring, options, kind)
    Reflect.deleteProperty(own, 'jwt')
  })
  const issuer = options.tokens.issuer ?? options.name
  const seconds = () => Math.floor(options.clock() / 1000)
  return { ...signers(kinds, issuer, seconds, options), ...verifiers(kinds, issuer, seconds, options, ids) }
}

/** For each kind its audience, and the @fastify/jwt instances by the one header that they sign and accept. */
type Kinds = Record<Kind, { audience: string; instances: Map<string, JWT> }>

async function openInstances(scope: FastifyInstance, ring: Ring, options: ResolvedOptions, kind: Kind) {
  const instances = new Map<string, JWT>()
  for (const [index, { alg, kid, secret }] of keysOf(kind, ring, options).entries()) {
    const header: Header = { alg, typ: typ[kind], kid }
    instances.set(headerText(header), await registerJwt(scope, `${options.name}${index}${kind}`, secret, header))
  }
  return instances
}

interface Key extends Pick<Header, 'alg' | 'kid'> {
  secret: Buffer | Pick<AccessKey, 'public' | 'private'>
}

/** The keys of a kind of token; the first one signs. */
function keysOf(kind: Kind, ring: Ring, { tokens }: ResolvedOptions): Key[] {
  const symmetric = ring.map(({ kid, key }): Key => ({ alg: 'HS256', kid, secret: key(`jwt ${kind}`) }))
  if (kind === 'refresh') return symmetric
  return tokens.keys.reveal().flatMap((key) => (key === 'secret' ? symmetric : { ...key, secret: key }))
}

function signers(
  kinds: Kinds,
  iss: string,
  seconds: () => number,
  { name, tokens: { claims, accessTtl, keys } }: ResolvedOptions,
): Pick<Tokens, 'signAccess' | 'signRefresh'> {
  // RFC 9068 2.2 asks for one in what other servers read. The client is the app itself.
  const client_id = keys.reveal()[0] === 'secret' ? undefined : name
  const sign = (kind: Kind, payload: object) => {
    const [newest] = kinds[kind].instances.values()
    const token = (newest as JWT).sign(payload)
    if (token.length > longestToken) throw new Error('fastify-accounts: "tokens.claims" are too large for a token')
    return token
  }
  return {
    async signAccess(session, user, uncommitted = false) {
      const iat = seconds()
      const extra = claims ? await callHost(() => claims(user)) : {}
      return sign('access', {
        ...(extra as object),
        iss,
        aud: kinds.access.audience,
        sub: String(session.userId),
        sid: session.id,
        jti: randomBytes(16).toString('base64url'),
        iat,
        // Not past the session's end, be it for its age or for idleness.
        exp: Math.min(
          iat + accessTtl,
          Math.floor(Math.min(session.expiresAt, session.lastUsedAt + session.idleMs) / 1000),
        ),
        auth_time: Math.floor(session.authTime / 1000),
        client_id,
        uncommitted: uncommitted || undefined,
      })
    },
    signRefresh: (session, counter) =>
      sign('refresh', {
        iss,
        aud: kinds.refresh.audience,
        sid: session.id,
        counter,
        jti: `${session.id}.${counter}`,
        iat: Math.floor(session.createdAt / 1000),
        exp: Math.floor(session.expiresAt / 1000),
      }),
  }
}

function verifiers(
  kinds: Kinds,
  issuer: string,
  seconds: () => number,
  { name, tokens: { claims, accessTtl } }: ResolvedOptions,
  ids: Storage['ids'],
): Pick<Tokens, 'verifyAccess' | 'verifyRefresh' | 'sessionOf'> {
  // Forged tokens never enter, so they push no good one out.
  const remembered = createMemory<Checked>(rememberedTokens)

  function checkAccess(text: string): Checked {
    const known = remembered.get(text)
    if (known) return known
    const payload = check(kinds, issuer, 'access', text)
    const [iat, exp] = [payload.iat as number, payload.exp as number]
    // Realms may have a key, issuer and audience in common.
    const foreign = payload.client_id !== undefined && payload.client_id !== name
    if (foreign || exp - iat > accessTtl) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
    // Frozen in depth: requests share it, and what one does to it must not reach another's.
    const checked = { iat, exp, token: frozen(accessToken(payload, ids, claims !== undefined)) }
    remembered.set(text, checked)
    return checked
  }

  return {
    verifyAccess(text) {
      const checked = checkAccess(text)
      checkTime(checked, seconds(), 'ACCOUNTS_TOKEN_EXPIRED')
      return checked.token
    },
    verifyRefresh(token) {
      const payload = check(kinds, issuer, 'refresh', token)
      checkTime(payload, seconds(), 'ACCOUNTS_TOKEN_INVALID')
      const { sid, counter, exp } = payload as { sid: string; counter: number; exp: number }
      return { sessionId: sid, counter, expiresAt: exp }
    },
    sessionOf: (token) => check(kinds, issuer, 'refresh', token).sid as string,
  }
}

/** An access token whose signature and claims are right. */
interface Checked {
  iat: number
  exp: number
  token: AccessToken
}

// fast-jwt leaves open what follows the signature: an absent claim is not validated there, and a token without `exp`
// never expires. The header is compared as a whole, which pins alg, typ and kid and refuses every other member.
function check(kinds: Kinds, issuer: string, kind: Kind, token: string): Payload {
  const { audience, instances } = kinds[kind]
  if (typeof token !== 'string') throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  const jwt = token.length <= longestToken && instances.get(token.slice(0, token.indexOf('.')))
  if (!jwt || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  const payload = verified(jwt, token)
  const sound = payload.iss === issuer && payload.aud === audience && wellTyped[kind](payload)
  if (!sound) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return payload
}

function checkTime(
  { iat, exp }: { iat?: unknown; exp?: unknown },
  now: number,
  late: 'ACCOUNTS_TOKEN_EXPIRED' | 'ACCOUNTS_TOKEN_INVALID',
) {
  if (now >= (exp as number)) throw new AccountsError(late)
  if ((iat as number) > now + futureTolerance) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
}

/** RFC 8725 3.8-3.12, RFC 9068 4: every claim that we rely on is there and of its type. */
const wellTyped: Record<Kind, (payload: Payload) => boolean> = {
  access: ({ sub, sid, jti, iat, exp, auth_time }) => texts(sub, sid, jti) && times(iat, exp, auth_time),
  refresh: ({ sid, counter, jti, iat, exp }) => texts(sid) && times(iat, exp, counter) && jti === `${sid}.${counter}`,
}

function texts(...claims: unknown[]): boolean {
  return claims.every((claim) => typeof claim === 'string' && claim.length > 0)
}

function times(...claims: unknown[]): boolean {
  return claims.every((claim) => Number.isSafeInteger(claim) && (claim as number) >= 0)
}

const registered = ['iss', 'aud', 'sub', 'sid', 'jti', 'iat', 'exp', 'auth_time', 'client_id', 'uncommitted']

function accessToken(payload: Payload, ids: Storage['ids'], withClaims: boolean): AccessToken {
  const { sub, sid, auth_time: authTime } = payload as { sub: string; sid: string; auth_time: number }
  const uncommitted = payload.uncommitted === true
  const extra = withClaims ? Object.entries(payload).filter(([name]) => !registered.includes(name)) : []
  const id = (ids === 'integer' ? Number(sub) : sub) as UserId
  return { account: { id, sessionId: sid, claims: Object.fromEntries(extra) as Claims }, authTime, uncommitted }
}

interface Header {
  alg: 'HS256' | AccessKey['alg']
  typ: string
  kid: string
}

function headerText(header: Header): string {
  return Buffer.from(JSON.stringify(header)).toString('base64url')
}

async function registerJwt(
  scope: FastifyInstance,
  namespace: string,
  secret: Key['secret'],
  header: Header,
): Promise<JWT> {
  const settings = {
    secret,
    namespace,
    decoratorName: `${namespace}User`,
    sign: { algorithm: header.alg, header },
    // Expiry is judged by us against `clock`; the library's cache gives failed tokens a slot.
    verify: { algorithms: [header.alg], ignoreExpiration: true, cache: false },
  }
  await scope.register(fastifyJwt, settings as FastifyJWTOptions)
  return (scope as unknown as { jwt: Record<string, JWT> }).jwt[namespace] as JWT
}

function verified(jwt: JWT, token: string): Payload {
  try {
    return jwt.verify<Payload>(token)
  } catch (cause) {
    throw new AccountsError('ACCOUNTS_TOKEN_INVALID', { cause })
  }
}

function frozen<Value>(value: Value): Value {
  if (typeof value === 'object' && value !== null) Object.values(value).forEach(frozen)
  return Object.freeze(value)
}
