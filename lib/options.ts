import type { FastifyRequest } from 'fastify'
import type { TObject } from 'typebox'
import type { Brand, Cache, Claims, Mailer, Storage, User } from './contracts.ts'
import { boolean, fn, integer, oneOf, port, section, sectionOrOff, shown, text, wrongOption } from './option-checks.ts'
import {
  type AnyKysely,
  type Argon2Cost,
  argon2,
  brand,
  kysely,
  optionalText,
  profile,
  type RedisOption,
  type RouteDecoration,
  realmName,
  redis,
  resetUrl,
  route,
  secrets,
} from './option-rules.ts'

/** The routes that can be renamed, switched off or decorated. */
export const routeNames = ['register', 'login', 'refresh', 'emailRequest', 'checkOtp', 'resetPassword', 'user'] as const
export type RouteName = (typeof routeNames)[number]

/** The options of the plugin. Durations are integers in seconds. */
export interface AccountsOptions {
  /**
   * The realm: it names the decorators and enters every key, token and Redis key, so two registrations in one process
   * (customers, staff) share nothing.
   * @default 'accounts'
   */
  name?: string
  /** Goes before every path. @default '' */
  prefix?: string
  /** Renames (`'/v2/login'`), switches off (`false`) or decorates (`{ url, config, onRequest, logLevel }`) a route. */
  routes?: Partial<Record<RouteName, string | false | RouteDecoration>>
  /** At least 32 bytes, from `fastify-accounts generate-secret`; `[current, previous]` while one is being replaced. */
  secret: string | readonly [string, string]
  /** Your Kysely, for the tables that `migrateToLatest` makes with integer ids. */
  db?: AnyKysely
  /** A storage adapter, instead of `db`. */
  storage?: Storage
  /**
   * Redis for the codes and the mail queue: a URL or an ioredis client, or one for each. We always open connections of
   * our own.
   * @default the host's `app.redis`
   */
  redis?: RedisOption | { cache: RedisOption; queue: RedisOption }
  /** A cache adapter, instead of Redis. */
  cache?: Cache
  /** A mailer, instead of the mail queue. */
  mailer?: Mailer
  tokens?: {
    /** @default the realm's name */
    issuer?: string
    /** @default the realm's name */
    audience?: string
    /** Life of an access token. @default 300 */
    accessTtl?: number
    /** Claims of the host in access tokens, read from the user at log-in and at each refresh. */
    claims?: (user: User) => Claims | Promise<Claims>
  }
  session?: {
    /** A session unused for so long is over. @default 864000 */
    idle?: number
    /** The end of every session, never extended. @default 2592000 */
    absolute?: number
  }
  refresh?: {
    /** False: refresh answers `access` alone and the refresh token stays. @default true */
    rotate?: boolean
    /** How long the newest token may come back freely (tabs, races). @default 30 */
    graceSeconds?: number
    /** How often it may come back later (lost answers); 0 is the strict reading of RFC 9700. @default 3 */
    lateReplays?: number
  }
  registration?:
    | false
    | {
        /** @default 'required' */
        username?: 'required' | 'optional' | false
        /** The host's own fields: validated, stored, answered and typed. @default Type.Object({}) */
        profile?: TObject
      }
  passwords?: {
    /** In code points; the floor is 8, 15 is NIST's single-factor profile. @default 8 */
    minLength?: number
    /** In code points; at least 64. @default 128 */
    maxLength?: number
    argon2?: Partial<Argon2Cost>
  }
  passwordReset?:
    | false
    | {
        /** Page of the host that the mail links to; without it the mail has the code alone. */
        url?: string
        /** 8 to 10. @default 8 */
        digits?: number
        /** Life of a code. @default 600 */
        ttl?: number
        /** Guesses per token. @default 5 */
        tries?: number
      }
  mail?: {
    /** How mails of a mailer inside the app look; the queue's worker has its own. */
    brand?: Partial<Brand>
  }
  /** How an ended session stops its access tokens: `'storage'` reads the session row per request. @default 'storage' */
  revocation?: 'storage'
  /** Names the network that a request comes from. @default request.ip */
  network?: (request: FastifyRequest) => string
  openapi?: {
    /** Name of the host's bearer scheme under `components.securitySchemes`. @default 'bearerAuth' */
    securityScheme?: string
  }
  /** The time in milliseconds. @default Date.now */
  clock?: () => number
}

const storageVerbs = [
  'insertUser',
  'findUserById',
  'findUserByEmail',
  'replacePasswordHash',
  'changePassword',
  'insertSession',
  'sessionActive',
  'refreshSession',
  'ping',
] as const satisfies (keyof Storage)[]
const cacheVerbs = ['put', 'guess', 'lease', 'giveBack', 'burn', 'ping', 'close'] as const satisfies (keyof Cache)[]
const mailerVerbs = ['send', 'ping', 'close'] as const satisfies (keyof Mailer)[]

/** The options, checked and completed; frozen. */
export type ResolvedOptions = ReturnType<typeof resolveOptions>

/**
 * Checks the options, fills the defaults and answers a frozen copy. Nothing given is changed or silently replaced.
 *
 * @throws {TypeError} naming the option, what was given and the fix
 */
export function resolveOptions(given: AccountsOptions) {
  const options = resolveAll('', given)
  if (options.session.idle > options.session.absolute) {
    throw wrongOption('session.idle', `must not be longer than session.absolute (${options.session.absolute})`)
  }
  if (options.storage && !['integer', 'uuid'].includes(options.storage.ids)) {
    throw wrongOption('storage.ids', "must be 'integer' or 'uuid'", shown(options.storage.ids))
  }
  if (options.storage && options.db) throw wrongOption('storage', 'must be left out when "db" is given')
  if (options.passwords.minLength > options.passwords.maxLength) {
    throw wrongOption(
      'passwords.minLength',
      `must not be more than passwords.maxLength (${options.passwords.maxLength})`,
    )
  }
  if (!options.storage && !options.db) {
    throw wrongOption('db', 'is required: pass your Kysely, or a storage adapter as "storage"')
  }
  if (options.cache && options.mailer && options.redis) {
    throw wrongOption('redis', 'must be left out when "cache" and "mailer" are given')
  }
  return options
}

const printable = /^[\x21-\x7e]{1,255}$/

const resolveAll = section({
  name: realmName,
  prefix: text(/^(\/[^\s?#:*]*)?$/, 'must be a path such as "/v1"', ''),
  routes: section<Record<RouteName, RouteDecoration | false>>({
    register: route,
    login: route,
    refresh: route,
    emailRequest: route,
    checkOtp: route,
    resetPassword: route,
    user: route,
  }),
  secret: secrets,
  db: kysely,
  storage: port<Storage>(storageVerbs, 'a storage adapter such as kyselyStorage(db)'),
  redis,
  cache: port<Cache>(cacheVerbs, 'a cache adapter such as redisCache({ redis })'),
  mailer: port<Mailer>(mailerVerbs, 'a mailer such as smtpMailer({ transport, from })'),
  tokens: section({
    issuer: optionalText(printable, 'must be printable ASCII'),
    audience: optionalText(printable, 'must be printable ASCII'),
    accessTtl: integer(1, 86_400, 300),
    claims: fn('(user) => claims', undefined as ((user: User) => Claims | Promise<Claims>) | undefined),
  }),
  session: section({
    idle: integer(1, 315_360_000, 864_000),
    absolute: integer(1, 315_360_000, 2_592_000),
  }),
  refresh: section({
    rotate: boolean(true),
    graceSeconds: integer(0, 3600, 30),
    lateReplays: integer(0, 1000, 3),
  }),
  registration: sectionOrOff({
    username: oneOf(['required', 'optional', false], 'required'),
    profile,
  }),
  passwords: section({
    minLength: integer(8, 128, 8),
    maxLength: integer(64, 1024, 128),
    argon2,
  }),
  passwordReset: sectionOrOff({
    url: resetUrl,
    digits: integer(8, 10, 8),
    ttl: integer(60, 86_400, 600),
    tries: integer(1, 10, 5),
  }),
  mail: section({
    brand,
  }),
  revocation: oneOf(['storage'], 'storage'),
  network: fn('(request) => string', (request: FastifyRequest) => request.ip),
  openapi: section({ securityScheme: text(/^[\w.-]+$/, 'must be the name of a security scheme', 'bearerAuth') }),
  clock: fn('() => milliseconds', () => Date.now()),
})
