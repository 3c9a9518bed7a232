import type { onRequestHookHandler, RouteOptions } from 'fastify'
import Type, { IsObject, type TObject, type TSchema } from 'typebox'
import { Check as matches } from 'typebox/schema'
import { type Check, fn, integer, optionalText, section, shown, text, webAddress, wrongOption } from './checks.ts'

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

/** The name of a realm. */
export const realmName = text(
  /^[a-z][a-zA-Z0-9]{0,31}$/,
  'must be a short camelCase name such as "accounts"',
  'accounts',
)

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
  for (const [name, field] of Object.entries(given.properties)) checkDefault(`${path}.${name}`, field)
  return given
}

// A new user gets the defaults of its fields, and no others.
function checkDefault(path: string, field: TSchema): void {
  const { default: value, ...rest } = field as TSchema & { default?: unknown }
  if (Object.hasOwn(field, 'default') && !matches(field, value)) {
    throw wrongOption(`${path}.default`, 'must match its schema', shown(value))
  }
  if (hasDefault(rest)) throw wrongOption(path, 'must not have a default within: give one to the field as a whole')
}

const nesting = ['properties', 'patternProperties', '$defs']

function hasDefault(schema: object): boolean {
  return Object.entries(schema).some(([keyword, value]) => {
    if (keyword === 'default') return true
    if (typeof value !== 'object' || value === null || ['const', 'enum', 'examples'].includes(keyword)) return false
    // The members of these are names of fields, not keywords.
    return nesting.includes(keyword) ? Object.values<object>(value as object[]).some(hasDefault) : hasDefault(value)
  })
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

/** How long sessions live, in seconds, and how many a user has. */
export interface SessionLife {
  idle: number
  absolute: number
  /** The least recently used of more end at the next login. */
  perUser: number
}

/** The most sessions that a user may have. */
export const mostSessions = 1000

/** Checks the lives of a session. An idle life that is left out is no longer than the absolute one. */
const sessionLife: Check<Readonly<SessionLife>> = (path, given) => {
  const life = lives(path, given)
  if (life.idle <= life.absolute) return life
  if ((given as Partial<SessionLife>).idle === undefined) return Object.freeze({ ...life, idle: life.absolute })
  throw wrongOption(`${path}.idle`, `must not be longer than ${path}.absolute (${life.absolute})`)
}

const lives = section<SessionLife>(
  {
    idle: integer(1, 315_360_000, 864_000),
    absolute: integer(1, 315_360_000, 2_592_000),
    perUser: integer(1, mostSessions, 100),
  },
  'a function or an object',
)

/** The lives and number of sessions, or a function of the request that returns them. */
export function sessionLives<Request>(): Check<(request: Request | null) => Readonly<SessionLife>> {
  return (path, given) => {
    if (typeof given !== 'function') {
      const life = sessionLife(path, given)
      return () => life
    }
    probe(path, given as (request: null) => unknown)
    return (request) => returnedLife(path, given(request))
  }
}

// A function that throws for null reads the request, and is judged when there is one.
function probe(path: string, given: (request: null) => unknown): void {
  let life: unknown
  try {
    life = given(null)
  } catch {
    return
  }
  returnedLife(path, life)
}

function returnedLife(path: string, life: unknown): Readonly<SessionLife> {
  if (!(life instanceof Promise)) return sessionLife(path, life)
  // Its fault is beside the point, and must not end the process.
  life.catch(() => {})
  throw wrongOption(path, 'must return { idle, absolute, perUser } at once', 'a promise')
}

/** What each role may do. */
export const roles: Check<ReadonlyMap<string, readonly string[]> | undefined> = (path, given) => {
  if (given === undefined) return undefined
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw wrongOption(path, 'must be an object such as { admin: ["*"], support: ["orders:read"] }', shown(given))
  }
  return new Map(Object.entries(given).map(([role, may]) => [role, permissions(`${path}.${role}`, role, may)]))
}

function permissions(path: string, role: string, given: unknown): readonly string[] {
  if (!/^[\w.:-]{1,64}$/.test(role)) throw wrongOption(path, 'must have a name of letters, digits and . : _ -')
  if (!Array.isArray(given)) throw wrongOption(path, 'must be a list such as ["orders:read"]', shown(given))
  const wrong = given.findIndex((one) => !isPermission(one))
  if (wrong < 0) return Object.freeze([...given])
  const fix = 'must be words with ":" between them, such as "orders:read"; "*" stands alone or last, as in "orders:*"'
  throw wrongOption(`${path}[${wrong}]`, fix, shown(given[wrong]))
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

/** NIST SP 800-63B-4 3.1.1.2 asks for words of the context; a short one is part of many good passwords. */
export const shortestWord = 4

/** Words that a password must not consist of. */
export const contextWords: Check<readonly string[]> = (path, given = []) => {
  const words = names(path, given)!
  const short = words.findIndex((word) => word.normalize('NFC').length < shortestWord)
  if (short < 0) return words
  throw wrongOption(`${path}[${short}]`, `must have at least ${shortestWord} characters`, shown(words[short]))
}

/** For our own tests whose subject is not hashing; a host cannot reach this object, and gets no cost like it. */
export const cheapHashes: Argon2Cost = Object.freeze({ memoryCost: 16, timeCost: 1, parallelism: 1 })

/** The cost of a hash, within OWASP's table and our own ceiling for stored hashes. */
export const argon2: Check<Argon2Cost> = (path, given) => {
  if (given === cheapHashes) return cheapHashes
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

/** Password hashes of the host's own form. */
export interface LegacyHashes {
  /** Which stored hashes have it. */
  form: RegExp
  /** Whether the password belongs to the stored hash. It runs within the hash queue. */
  verify(stored: string, password: string): boolean | Promise<boolean>
}

/** How to verify hashes of the host's own form. */
export const legacyHashes: Check<LegacyHashes | undefined> = (path, given) => {
  if (given === undefined) return undefined
  const { form, verify } = section<LegacyHashes>({
    form: regExp,
    // There is none to fall back to.
    verify: (path, given = null) => fn('(stored, password) => boolean', undefined as never)(path, given),
  })(path, given)
  return {
    form,
    async verify(stored, password) {
      const right: unknown = await verify(stored, password)
      if (typeof right === 'boolean') return right
      throw new TypeError(`fastify-accounts: ${path}.verify() must return a boolean`)
    },
  }
}

const regExp: Check<RegExp> = (path, given) => {
  // A global one would remember where it stopped.
  if (given instanceof RegExp) return new RegExp(given.source, given.flags.replace(/[gy]/g, ''))
  throw wrongOption(path, 'must be a regular expression', shown(given))
}

/** The page that a mail links to. */
export const resetUrl: Check<string | undefined> = (path, given) => {
  if (given === undefined) return undefined
  const url = webAddress(given)
  if (url && !url.hash && !url.username && !url.password) return url.href
  throw wrongOption(path, 'must be an https address without a fragment (http on localhost)', shown(given))
}

/** The origins whose pages have the refresh token in a cookie. */
export const origins: Check<readonly string[]> = (path, given) => {
  if (Array.isArray(given) && given.length > 0) {
    return Object.freeze(given.map((one, index) => origin(`${path}[${index}]`, one)))
  }
  throw wrongOption(path, 'must be a list of origins such as ["https://app.example.com"]', shown(given))
}

// Compared with the header as it is, so it has to be as browsers write it.
function origin(path: string, given: unknown): string {
  const url = webAddress(given)
  if (!url) throw wrongOption(path, 'must be an https origin (http on localhost, for development)', shown(given))
  if (url.protocol === 'http:' && process.env.NODE_ENV === 'production') {
    throw wrongOption(path, 'must be https with NODE_ENV=production', shown(given))
  }
  if (url.hostname.includes('*')) throw wrongOption(path, 'must name one host, without "*"', shown(given))
  if (url.origin === given) return given
  throw wrongOption(path, `must be the origin alone, as browsers write it: "${url.origin}"`, shown(given))
}
