import { inspect } from 'node:util'
import type { onRequestHookHandler, RouteOptions } from 'fastify'
import Type, { IsObject, type TObject } from 'typebox'
import type { Brand, MessageKind } from '../contracts.ts'
import { type Check, fn, integer, section, shown, text, wrongOption } from './checks.ts'
import { knownSecret } from './known-secrets.ts'

/** A value that never shows in logs or errors. */
export interface Hidden<T> {
  reveal(): T
}

/** A route's decoration: another path, Fastify's route `config`, hooks that run before ours, a log level. */
export interface RouteDecoration {
  url?: string
  config?: RouteOptions['config']
  onRequest?: onRequestHookHandler | onRequestHookHandler[]
  logLevel?: RouteOptions['logLevel']
}

/** Cost of an argon2id hash. Weaker ones than OWASP's table allows are refused. */
export interface Argon2Cost {
  /** Memory in KiB. @default 19456 */
  memoryCost: number
  /** Passes. @default 2 */
  timeCost: number
  /** Lanes. @default 1 */
  parallelism: number
}

/** A host's Kysely. */
export type AnyKysely = import('../adapters/kysely/index.ts').AnyKysely

/** What ioredis connects with. */
export type RedisOption = import('../adapters/redis/index.ts').RedisSource

/** How the worker's mails leave. */
export type MailTransport = import('../mail/transport.ts').MailTransport

/** Mails of the host's own. */
export type MailTemplates = import('../mail/render.ts').MailTemplates

/** Redis for the codes and for the mail queue. */
export interface RedisPair {
  cache: RedisOption
  queue: RedisOption
}

/** The name of a realm. */
export const realmName = text(
  /^[a-z][a-zA-Z0-9]{0,31}$/,
  'must be a short camelCase name such as "accounts"',
  'accounts',
)

/** Refuses a secret that is short, repetitive, published or not a symmetric one. Never shows it. */
export const secret: Check<string> = (path, given) => {
  const make = 'must be a random text of at least 32 bytes; make one with "npx fastify-accounts generate-secret"'
  if (given === undefined) throw wrongOption(path, make, 'nothing')
  if (typeof given !== 'string') throw wrongOption(path, make, `a value of type ${typeof given}`)
  // Hexadecimal text carries half as many bytes as it is long.
  const bytes = /^([0-9a-f]{2})+$/i.test(given) ? given.length / 2 : Buffer.byteLength(given)
  if (bytes < 32) throw wrongOption(path, make, `a text of ${bytes} bytes`)
  if (given.includes('-----BEGIN')) throw wrongOption(path, make, 'an asymmetric key')
  if (/^(.+?)\1+$/s.test(given) || new Set(given).size < 10) throw wrongOption(path, make, 'a repetitive text')
  if (knownSecret(given)) throw wrongOption(path, make, 'a published one, which anybody can sign with')
  // The worker's environment parts two secrets by a comma.
  if (given.includes(',')) throw wrongOption(path, 'must not have a comma; pass two as [current, previous]')
  return given
}

/** A secret, or the current and the previous one; hidden. */
export const secrets: Check<Hidden<readonly string[]>> = (path, given) => {
  if (!Array.isArray(given)) return hidden([secret(path, given)])
  if (given.length < 1 || given.length > 2) {
    throw wrongOption(path, 'must be a text or [current, previous]', `a list of ${given.length}`)
  }
  return hidden(Object.freeze(given.map((one, index) => secret(`${path}[${index}]`, one))))
}

/** A route's path, `false`, or its decoration. */
export const route: Check<RouteDecoration | false> = (path, given = {}) => {
  if (given === false) return false
  if (typeof given === 'string') return Object.freeze({ url: routeUrl(path, given) })
  if (typeof given === 'object' && given !== null && !Array.isArray(given)) return decorationOf(path, given)
  throw wrongOption(path, 'must be a path, false or an object with url, config, onRequest, logLevel', shown(given))
}

const routeUrl = optionalText(/^\/[^\s?#:*]*$/, 'must be a path such as "/login/", without parameters')

const decorationOf = section<RouteDecoration>({
  url: routeUrl,
  config: (path, given) => {
    if (given === undefined || (typeof given === 'object' && given !== null)) return given as RouteDecoration['config']
    throw wrongOption(path, 'must be an object', shown(given))
  },
  onRequest: (path, given) => {
    if (given === undefined || [given].flat().every((hook) => typeof hook === 'function')) {
      return given as RouteDecoration['onRequest']
    }
    throw wrongOption(path, 'must be a hook or a list of hooks', shown(given))
  },
  logLevel: optionalText(/^\w+$/, 'must be a log level such as "warn"') as Check<RouteDecoration['logLevel']>,
})

/** The host's profile fields. */
export const profile: Check<TObject> = (path, given = Type.Object({})) => {
  if (!IsObject(given)) throw wrongOption(path, 'must be a Type.Object({ … }) of the package "typebox"', shown(given))
  const clash = reservedFields.find((name) => Object.hasOwn(given.properties, name))
  if (clash) throw wrongOption(`${path}.${clash}`, 'is a field of ours; give it another name')
  return given
}

const reservedFields = [
  'id',
  'username',
  'email',
  'password',
  'email_verified',
  'token',
  'otp',
  'access',
  'refresh',
  '__proto__',
]

/** How long sessions live, in seconds. */
export interface SessionLife {
  idle: number
  absolute: number
}

/** Checks a session's lives, those of the option or those that a function of the host answered. */
export const sessionLife: Check<Readonly<SessionLife>> = (path, given) => {
  const life = lives(path, given)
  if (life.idle <= life.absolute) return life
  throw wrongOption(`${path}.idle`, `must not be longer than ${path}.absolute (${life.absolute})`)
}

const lives = section<SessionLife>(
  {
    idle: integer(1, 315_360_000, 864_000),
    absolute: integer(1, 315_360_000, 2_592_000),
  },
  'a function or an object',
)

/** A session's lives, or a function of the request that answers them. */
export function sessionLives<Request>(): Check<(request: Request | null) => Readonly<SessionLife>> {
  return (path, given) => {
    if (typeof given === 'function') return (request) => sessionLife(path, given(request))
    const life = sessionLife(path, given)
    return () => life
  }
}

/** What each role may do. */
export const roles: Check<ReadonlyMap<string, readonly string[]> | undefined> = (path, given) => {
  if (given === undefined) return undefined
  const fix = 'must be an object such as { admin: ["orders:*"], support: ["orders:read"] }'
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw wrongOption(path, fix, shown(given))
  const entries = Object.entries(given).map(([role, permissions]) => {
    const valid = Array.isArray(permissions) && permissions.every(isPermission)
    if (!/^[\w.:-]{1,64}$/.test(role) || !valid) throw wrongOption(`${path}.${role}`, fix, shown(permissions))
    return [role, Object.freeze([...permissions])] as const
  })
  return new Map(entries)
}

function isPermission(given: unknown): given is string {
  return typeof given === 'string' && /^(\*|[\w.-]+(:[\w.-]+)*(:\*)?)$/.test(given)
}

/** A list of names, or undefined. */
export const names: Check<readonly string[] | undefined> = (path, given) => {
  if (given === undefined) return undefined
  if (Array.isArray(given) && given.every((name) => typeof name === 'string')) return Object.freeze([...given])
  throw wrongOption(path, 'must be a list of names', shown(given))
}

/** The cost of a hash, within OWASP's table and our own ceiling for stored hashes. */
export const argon2: Check<Argon2Cost> = (path, given) => {
  const cost = section<Argon2Cost>({
    memoryCost: integer(7168, 262_144, 19_456),
    timeCost: integer(1, 10, 2),
    parallelism: integer(1, 16, 1),
  })(path, given)
  // OWASP Password Storage Cheat Sheet: least memory (KiB) for 1 to 5 passes.
  const least = [47_104, 19_456, 12_288, 9216, 7168][Math.min(cost.timeCost, 5) - 1]!
  if (cost.memoryCost >= least) return cost
  throw wrongOption(
    `${path}.memoryCost`,
    `must be at least ${least} KiB at timeCost ${cost.timeCost} (OWASP)`,
    String(cost.memoryCost),
  )
}

/** The page that a mail links to. */
export const resetUrl: Check<string | undefined> = (path, given) => {
  if (given === undefined) return undefined
  const url = webAddress(given)
  if (url && !url.hash && !url.username && !url.password) return url.href
  throw wrongOption(path, 'must be an https address without a fragment (http on localhost)', shown(given))
}

/** How mails look. */
export const brand = section<{ [Name in keyof Brand]: Brand[Name] | undefined }>({
  name: optionalText(/^[^\p{Cc}]{1,64}$/u, 'must be a name of at most 64 characters'),
  logoUrl: (path, given) => {
    if (given === undefined || webAddress(given)) return given as string | undefined
    throw wrongOption(path, 'must be an https address (http on localhost)', shown(given))
  },
  color: optionalText(/^#([0-9a-f]{3}|[0-9a-f]{6})$/i, 'must be a colour such as "#0055aa"'),
  supportEmail: optionalText(/^[^\s@<>"?&]+@[^\s@<>"?&]+$/, 'must be an e-mail address'),
})

function webAddress(given: unknown): URL | null {
  const url = typeof given === 'string' && URL.canParse(given) ? new URL(given) : null
  const loopback = url && ['localhost', '127.0.0.1', '[::1]'].includes(url.hostname)
  return url?.protocol === 'https:' || (url?.protocol === 'http:' && loopback) ? url : null
}

const template = fn('(input) => ({ subject, text, html })', undefined as MailTemplates[MessageKind])

/** Mails of the host's own, by kind. */
export const templates = section<{ [Kind in MessageKind]: MailTemplates[Kind] }>({
  reset: template,
  verify: template,
  change: template,
  password_changed: template,
  email_changed: template,
  account_deleted: template,
  account_exists: template,
  username_taken: template,
})

// What the mail worker alone uses; it checks it.
const forWorker: Check<unknown> = (_path, given) => hidden(given)

/** How mails look, and what the worker of a config takes. */
export const mail = section({
  brand,
  transport: forWorker as Check<Hidden<MailTransport | undefined>>,
  from: forWorker as Check<Hidden<string | undefined>>,
  templates,
})

/** Redis, hidden since a URL may hold a password. */
export const redis: Check<Hidden<RedisPair> | undefined> = (path, given) => {
  if (given === undefined) return undefined
  if (isRedisOption(given)) return hidden({ cache: given as RedisOption, queue: given as RedisOption })
  const both = given as RedisPair
  if (isRedisOption(both?.cache) && isRedisOption(both?.queue)) return hidden({ cache: both.cache, queue: both.queue })
  throw wrongOption(
    path,
    'must be a URL, an ioredis client or { cache, queue } of these',
    `a value of type ${typeof given}`,
  )
}

function isRedisOption(given: unknown): boolean {
  return typeof given === 'string' || isRedisClient(given)
}

function isRedisClient(given: unknown): boolean {
  return typeof (given as { duplicate?: unknown } | null)?.duplicate === 'function'
}

/** The host's Kysely, hidden since its pool may hold a password. */
export const kysely: Check<Hidden<AnyKysely> | undefined> = (path, given) => {
  if (given === undefined) return undefined
  if (typeof (given as AnyKysely | null)?.selectFrom === 'function') return hidden(given as AnyKysely)
  throw wrongOption(path, 'must be a Kysely instance', `a value of type ${typeof given}`)
}

/** A text that matches a pattern, or undefined. */
export function optionalText(pattern: RegExp, fix: string): Check<string | undefined> {
  return (path, given) => (given === undefined ? undefined : text(pattern, fix, '')(path, given))
}

function hidden<T>(value: T): Hidden<T> {
  const shownAs = () => '[redacted]'
  return Object.freeze(
    Object.defineProperties({} as Hidden<T>, {
      reveal: { value: () => value },
      toJSON: { value: shownAs },
      [inspect.custom]: { value: shownAs },
    }),
  )
}
