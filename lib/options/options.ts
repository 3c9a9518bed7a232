import { isIP } from 'node:net'
import type { FastifyRequest } from 'fastify'
import type { TObject } from 'typebox'
import type { Brand, Cache, Claims, Mailer, Register, Storage, User } from '../contracts.ts'
import { type Adoption, adoption } from './adoption.ts'
import { boolean, fn, integer, oneOf, optionalText, section, sectionOrOff, shown, text, wrongOption } from './checks.ts'
import { accessKeys, type TokenKey } from './keys.ts'
import { type MailTemplates, type MailTransport, mail } from './mail.ts'
import { type AnyKysely, cache, kysely, mailer, type RedisSource, redis, storage } from './ports.ts'
import {
  type Argon2Cost,
  argon2,
  contextWords,
  type LegacyHashes,
  legacyHashes,
  names,
  origins,
  profile,
  type RouteDecoration,
  realmName,
  resetUrl,
  roles,
  route,
  type SessionLife,
  sessionLives,
} from './rules.ts'
import { type Pepper, peppers, pepperTexts, secrets } from './secrets.ts'
import { type Limit, type Throttle, throttle } from './throttle.ts'

/** The routes that can be renamed, switched off or decorated. */
export const routeNames = [
  'register',
  'login',
  'refresh',
  'emailRequest',
  'checkOtp',
  'resetPassword',
  'user',
  'changePassword',
  'changeEmail',
  'confirmEmail',
  'verifyEmail',
  'resendVerification',
  'logout',
  'logoutAll',
  'sessions',
  'jwks',
] as const
export type RouteName = (typeof routeNames)[number]

/** The options of the plugin. Durations are integers in seconds. */
export interface AccountsOptions<Types extends object = Register> {
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
  redis?: RedisSource | { cache: RedisSource; queue: RedisSource }
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
    /**
     * Private keys (Ed25519, P-256 or RSA) that other servers verify access tokens by: the first signs, all of them
     * verify and have their public halves at `/.well-known/jwks.json`. Older ones may be public keys.
     * @default 'secret', HS256 under the option `secret`
     */
    keys?: TokenKey | readonly TokenKey[]
    /** Claims of the host in access tokens, made from the user at login and at each refresh. */
    claims?: (user: User<Types>) => Claims<Types> | Promise<Claims<Types>>
  }
  /**
   * How long sessions live and how many a user has, or a function of the request that starts one (null without a
   * request). It returns at once, without a promise.
   */
  session?: Partial<SessionLife> | ((request: FastifyRequest | null) => Partial<SessionLife>)
  refresh?: {
    /** False: a refresh returns `access` alone and the refresh token stays. @default true */
    rotate?: boolean
    /** How long the newest token may be sent again freely (tabs, races). @default 30 */
    graceSeconds?: number
    /** How often it may be sent again later (lost responses); 0 is the strict reading of RFC 9700. @default 3 */
    lateReplays?: number
  }
  registration?:
    | false
    | {
        /** @default 'required' */
        username?: 'required' | 'optional' | false
        /** The host's own fields: validated, stored, returned and typed. @default Type.Object({}) */
        profile?: TObject
        /**
         * Registration mails a code and returns a token; nobody logs in before `verify_email` proved the mailbox, and
         * an account that is not proved within 24 h expires. @default false
         */
        verifyEmail?: boolean
        /**
         * Registration never shows whether an address or a username is taken: it always returns 202 with a token, and
         * the rest goes by mail. Implies `verifyEmail`. @default false
         */
        concealExisting?: boolean
      }
  passwords?: {
    /** In code points; the floor is 8, 15 is NIST's single-factor profile. @default 8 */
    minLength?: number
    /** In code points; at least 64. @default 128 */
    maxLength?: number
    /** Words of 4 characters or more that a password must not consist of, such as your product's name. @default [] */
    context?: readonly string[]
    /**
     * Returns the range of leaked passwords whose SHA-1 begins with these 5 digits: lines of the rest and a count, as
     * Have I Been Pwned has them, and at least one. It has a second; what fails lets the password pass and is logged.
     */
    breached?: Breached
    argon2?: Partial<Argon2Cost>
    /**
     * A key of the hashes that is kept apart from the database, or a list of them: the first hashes, all verify. A null
     * in the list stands for no pepper. Hashes whose pepper is lost cannot be verified any more. @default none
     */
    pepper?: Pepper | readonly (Pepper | null)[]
    /** Verifies hashes of a form of your own, beside argon2, bcrypt, PBKDF2, scrypt and Django's. @default none */
    legacy?: LegacyHashes
    /** Whether a login replaces a weaker hash; false while older software reads the hashes too. @default true */
    upgrade?: boolean
    /**
     * What passwords are hashed with. The others are for the time in which older software reads the hashes too: bcrypt
     * with 12 rounds, of passwords of at most 72 bytes, or Django's PBKDF2 with 600,000 iterations. @default 'argon2id'
     */
    write?: 'argon2id' | 'bcrypt' | 'django'
  }
  /**
   * A users table of your own that the database keeps equal to ours; `fastify-accounts adopt` prints the statements.
   * Only with `db`. @default none
   */
  adopt?: Partial<Adoption> & Pick<Adoption, 'table'>
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
  /**
   * Pages of these origins have the refresh token in a cookie that no script reads, and no response shows it to them.
   * Everybody else has it in bodies, as ever.
   * @default false
   */
  browser?:
    | false
    | {
        /** Such as `https://app.example.com`; `http` on localhost outside production. */
        origins: readonly string[]
        /** @default 'strict' */
        sameSite?: 'strict' | 'lax'
      }
  account?: {
    /** What `PATCH /auth/user/` may change: `username` and profile fields. @default all of them */
    fields?: readonly string[]
    /**
     * What `DELETE /auth/user/` does: removes the row, or disables the account and keeps it; `false` for no such route.
     * @default 'row'
     */
    delete?: 'row' | 'deactivate' | false
  }
  /** What each role may do, for `require({ permission })`: `{ admin: ['orders:*'], support: ['orders:read'] }`. */
  roles?: Readonly<Record<string, readonly string[]>>
  /**
   * How often something may be tried: so often within so many seconds, then one at a time after a pause that doubles.
   * `false` switches one limit off, or all of them.
   */
  throttle?: false | { [Name in keyof Throttle]?: Limit | false }
  mail?: {
    /** How mails of a mailer inside the app look; the queue's worker has its own. */
    brand?: Partial<Brand>
    /** For `fastify-accounts worker --config` alone, as `startMailWorker` takes it. */
    transport?: MailTransport
    /** For `fastify-accounts worker --config` alone. */
    from?: string
    /** For `fastify-accounts worker --config` alone. */
    templates?: MailTemplates
  }
  /**
   * How an ended session stops its access tokens: `'feed'` keeps the set of ended sessions in every process,
   * `'storage'` reads the session row at each request, `'none'` lets them live to their end.
   * @default 'feed'
   */
  revocation?: 'feed' | 'storage' | 'none'
  /** Keeps security events in the database, for `users.history`. @default false */
  eventLog?:
    | boolean
    | {
        /** How long an event is kept. @default 7776000 */
        keep?: number
      }
  /** Names the network that a request comes from. @default request.ip */
  network?: (request: FastifyRequest) => string
  /**
   * The shape of the errors of our routes and guards: Fastify's, or that of Django REST framework with simplejwt, for
   * clients that were written to it.
   * @default 'fastify'
   */
  errors?: 'fastify' | 'drf'
  openapi?: {
    /** Name of the host's bearer scheme under `components.securitySchemes`. @default 'bearerAuth' */
    securityScheme?: string
  }
  /** The time in milliseconds. @default Date.now */
  clock?: () => number
}

/** The options, checked and completed; frozen. */
export type ResolvedOptions = ReturnType<typeof resolveOptions>

/**
 * Checks the options, fills in the defaults and returns a frozen copy. Nothing given is changed or silently replaced.
 *
 * @throws {TypeError} naming the option, what was given and the fix
 */
export function resolveOptions(given: AccountsOptions) {
  const options = resolveAll('', given)
  if (options.storage && options.db) throw wrongOption('storage', 'must be left out when "db" is given')
  if (options.passwords.minLength > options.passwords.maxLength) {
    throw wrongOption(
      'passwords.minLength',
      `must not be more than passwords.maxLength (${options.passwords.maxLength})`,
    )
  }
  if (options.secret.reveal().some((one) => pepperTexts(options.passwords.pepper).includes(one.trim()))) {
    throw wrongOption('passwords.pepper', 'must not have the secret of the option "secret": they are replaced apart')
  }
  if (options.passwords.write !== 'argon2id' && options.passwords.pepper.length > 0) {
    throw wrongOption('passwords.pepper', 'must be left out with passwords.write: only argon2id takes one')
  }
  if (!options.storage && !options.db) {
    throw wrongOption('db', 'is required: pass your Kysely, or a storage adapter as "storage"')
  }
  if (options.adopt && !options.db) throw wrongOption('adopt', 'needs "db"; pass it to kyselyStorage() instead')
  if (contradicts(given.registration)) {
    throw wrongOption('registration.verifyEmail', 'must not be false with concealExisting, which needs it')
  }
  for (const [index, field] of (options.account.fields ?? []).entries()) {
    if (!changeable(options.registration).includes(field)) {
      throw wrongOption(
        `account.fields[${index}]`,
        'must be "username" or a field of registration.profile',
        shown(field),
      )
    }
  }
  if (options.cache && options.mailer && options.redis) {
    throw wrongOption('redis', 'must be left out when "cache" and "mailer" are given')
  }
  return options
}

function contradicts(registration: AccountsOptions['registration']): boolean {
  if (!registration) return false
  return registration.concealExisting === true && registration.verifyEmail === false
}

/** The fields that users may change by themselves. */
export function changeableFields({ account, registration }: Pick<ResolvedOptions, 'account' | 'registration'>) {
  return account.fields ?? changeable(registration)
}

function changeable(registration: ResolvedOptions['registration']): string[] {
  if (!registration) return ['username']
  return [...(registration.username === false ? [] : ['username']), ...Object.keys(registration.profile.properties)]
}

/** Whether an address must be proved before its owner may log in. */
export function mustVerify({ registration }: Pick<ResolvedOptions, 'registration'>): boolean {
  return registration && (registration.verifyEmail || registration.concealExisting)
}

/** How many digits codes have. */
export function codeDigits({ passwordReset }: Pick<ResolvedOptions, 'passwordReset'>): number {
  return passwordReset ? passwordReset.digits : 8
}

/** Whether registration hides which addresses and usernames are taken. */
export function conceals({ registration }: Pick<ResolvedOptions, 'registration'>): boolean {
  return registration ? registration.concealExisting : false
}

type Breached = (prefix: string, signal: AbortSignal) => Promise<string>

const printable = /^[\x21-\x7e]{1,255}$/

const browser = sectionOrOff({ origins, sameSite: oneOf(['strict', 'lax'], 'strict') })

const eventLog = sectionOrOff({ keep: integer(3600, 315_360_000, 7_776_000) }, 'true, false or an object')

const resolveAll = section({
  name: realmName,
  prefix: text(/^(\/[^\s?#:*]*)?$/, 'must be a path such as "/v1"', ''),
  routes: section<Record<RouteName, RouteDecoration | false>>(
    Object.fromEntries(routeNames.map((name) => [name, route])) as Record<RouteName, typeof route>,
  ),
  secret: secrets,
  db: kysely,
  storage,
  redis,
  cache,
  mailer,
  tokens: section({
    issuer: optionalText(printable, 'must be printable ASCII'),
    audience: optionalText(printable, 'must be printable ASCII'),
    accessTtl: integer(1, 86_400, 300),
    keys: accessKeys,
    claims: fn('(user) => claims', undefined as ((user: User) => Claims | Promise<Claims>) | undefined),
  }),
  session: sessionLives<FastifyRequest>(),
  refresh: section({
    rotate: boolean(true),
    graceSeconds: integer(0, 3600, 30),
    lateReplays: integer(0, 1000, 3),
  }),
  registration: sectionOrOff({
    username: oneOf(['required', 'optional', false], 'required'),
    profile,
    verifyEmail: boolean(false),
    concealExisting: boolean(false),
  }),
  passwords: section({
    minLength: integer(8, 128, 8),
    maxLength: integer(64, 1024, 128),
    context: contextWords,
    breached: fn('(prefix, signal) => range', undefined as Breached | undefined),
    argon2,
    pepper: peppers,
    legacy: legacyHashes,
    upgrade: boolean(true),
    write: oneOf(['argon2id', 'bcrypt', 'django'], 'argon2id'),
  }),
  adopt: adoption,
  passwordReset: sectionOrOff({
    url: resetUrl,
    digits: integer(8, 10, 8),
    ttl: integer(60, 86_400, 600),
    tries: integer(1, 10, 5),
  }),
  browser: (path, given = false) => browser(path, given),
  account: section({
    fields: names,
    delete: oneOf(['row', 'deactivate', false], 'row'),
  }),
  roles,
  throttle,
  mail,
  revocation: oneOf(['feed', 'storage', 'none'], 'feed'),
  eventLog: (path, given = false) => eventLog(path, given === true ? {} : given),
  // Behind a trusted proxy `ip` is whatever text the proxy passes on.
  network: fn('(request) => string', ({ ip, socket }: FastifyRequest) =>
    isIP(ip) ? ip : String(socket.remoteAddress),
  ),
  errors: oneOf(['fastify', 'drf'], 'fastify'),
  openapi: section({ securityScheme: text(/^[\w.-]+$/, 'must be the name of a security scheme', 'bearerAuth') }),
  clock: fn('() => milliseconds', () => Date.now()),
})
