import type { FastifyInstance, FastifyPluginAsync, FastifyServerOptions } from 'fastify'
import fp from 'fastify-plugin'
import type { Account, Accounts } from './accounts.ts'
import { cores, poolSize } from './core/hash-queue.ts'
import { startHousekeeping } from './core/housekeeping.ts'
import { createRealm } from './core/realm.ts'
import { createRing } from './core/secrets.ts'
import { accountRoutes } from './features/account.ts'
import { changeEmailRoutes } from './features/change-email.ts'
import { changePasswordRoutes } from './features/change-password.ts'
import { emailVerificationRoutes } from './features/email-verification.ts'
import { loginRoutes } from './features/login.ts'
import { sessionRoutes } from './features/own-sessions.ts'
import { passwordResetRoutes } from './features/password-reset.ts'
import { refreshRoutes } from './features/refresh.ts'
import { registerRoutes } from './features/register.ts'
import { entranceKey, requestAccount, requestAccountOrNull } from './http/guards.ts'
import { isolate, mount } from './http/routes.ts'
import { wrongOption } from './options/checks.ts'
import { type AccountsOptions, type ResolvedOptions, resolveOptions } from './options/options.ts'
import { openPorts } from './ports.ts'

export type { Account, Accounts, UseCases } from './accounts.ts'
export type {
  AccountEvent,
  Brand,
  Cache,
  Claims,
  Mailer,
  Message,
  Profile,
  Register,
  Session,
  Storage,
  User,
  UserId,
} from './contracts.ts'
export type { Client } from './core/client.ts'
export type { EventDetails, EventName, EventOf, HookContexts, HookName, SecurityEvent } from './core/events.ts'
export type { Health, PartHealth } from './core/health.ts'
export type { TokenPair } from './core/sessions.ts'
export { AccountsError, type AccountsErrorCode, type FieldError, type PasswordReason } from './errors.ts'
export type { Imported, ImportRefusal, Users, UserToCreate, UserToImport } from './features/users.ts'
export type { Authenticate, Guards, Requirements } from './http/guards.ts'
export type { AccountsOptions, RouteName } from './options/options.ts'

declare module 'fastify' {
  interface FastifyInstance {
    accounts: Accounts
  }
  interface FastifyRequest {
    /** Who the request is made for; throws on a route without a guard. */
    readonly account: Account
    /** The same after `authenticate({ optional: true })`; null without a token. */
    readonly accountOrNull: Account | null
  }
  interface FastifyContextConfig {
    /** False: the route of a scope under `protect` is meant to be open. */
    accounts?: false
  }
}

const features = [
  registerRoutes,
  loginRoutes,
  refreshRoutes,
  passwordResetRoutes,
  emailVerificationRoutes,
  accountRoutes,
  changePasswordRoutes,
  changeEmailRoutes,
  sessionRoutes,
]

/** Registers the account routes and decorates `app.accounts` and `request.account`. */
const plugin: FastifyPluginAsync<AccountsOptions> = async (app, given) => {
  const options = resolveOptions(given)
  claimRealm(app, options)
  decorateRequests(app)
  warnOfSmallPool(app)
  const ring = createRing(options.name, options.secret.reveal())
  const ports = await openPorts(app, options, ring)

  await app.register(
    async (scope) => {
      const started = { stop: async () => {} }
      // Before anything that may fail: an app that does not boot is closed, too.
      app.addHook('onClose', async () => {
        await started.stop()
        await ports.close()
      })
      isolate(scope, options)
      const accounts = await createRealm(scope, options, ring, ports)
      for (const route of features.flatMap((routes) => routes(accounts))) mount(scope, accounts, route)
      app.decorate(options.name, accounts)
      const stopHousekeeping = startHousekeeping(accounts)
      started.stop = async () => {
        await Promise.all([stopHousekeeping(), accounts.revocation.close(), ...accounts.pending])
      }
    },
    { prefix: options.prefix },
  )
}

export default fp(plugin, { fastify: '^5.8.5', name: 'fastify-accounts' })

/** What `createAccounts` answers: `app.accounts` without an app. */
export type StandaloneAccounts = Accounts & {
  /** Finishes what was begun and closes what was opened. */
  close(): Promise<void>
}

/**
 * Makes accounts without a Fastify app of yours, for scripts and workers: the same options, and `redis` has to be
 * given.
 *
 * @throws {TypeError} naming the option, what was given and the fix
 */
export async function createAccounts(
  options: AccountsOptions,
  { logger = { level: 'warn' } }: Pick<FastifyServerOptions, 'logger'> = {},
): Promise<StandaloneAccounts> {
  const { default: createApp } = await import('fastify')
  const app = createApp({ logger })
  try {
    await app.register(plugin, options)
    await app.ready()
  } catch (error) {
    await app.close()
    throw error
  }
  const accounts = (app as unknown as Record<string, Accounts>)[options.name ?? 'accounts'] as Accounts
  return Object.freeze(Object.assign(Object.create(accounts), { close: () => app.close() }))
}

/** Types the options in a module of their own, one for app, worker and command line. */
export function defineAccounts(options: AccountsOptions): AccountsOptions {
  return options
}

const realms = new WeakMap<object, ResolvedOptions[]>()

// Two registrations of one name would share keys and Redis entries under different options.
function claimRealm(app: FastifyInstance, options: ResolvedOptions): void {
  const { name } = options
  const others = realms.get(app.server) ?? []
  if (others.some((other) => other.name === name)) {
    throw wrongOption('name', `must differ from that of another registration ("${name}")`)
  }
  if (app.hasDecorator(name)) throw wrongOption('name', `must not be a decorator of the app already ("${name}")`)
  const same = others.find((other) => usersOf(other) === usersOf(options))
  if (same) app.log.warn(`fastify-accounts: "${name}" and "${same.name}" share their users; try db.withSchema()`)
  realms.set(app.server, [...others, options])
}

function usersOf({ storage, db }: ResolvedOptions): unknown {
  return storage ?? db?.reveal()
}

function decorateRequests(app: FastifyInstance): void {
  if (app.hasRequestDecorator(entranceKey)) return
  app.decorateRequest(entranceKey, undefined)
  app.decorateRequest('account', { getter: requestAccount })
  app.decorateRequest('accountOrNull', { getter: requestAccountOrNull })
}

function warnOfSmallPool(app: FastifyInstance): void {
  if (poolSize - 2 >= cores) return
  app.log.warn(`fastify-accounts: UV_THREADPOOL_SIZE is ${poolSize}; set it to ${cores + 2} to hash on all cores`)
}
