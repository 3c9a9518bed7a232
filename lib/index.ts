import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import {
  type Account,
  type Accounts,
  accountKey,
  createGuards,
  requestAccount,
  requestAccountOrNull,
} from './accounts.ts'
import { accountRoutes } from './features/account.ts'
import { loginRoutes } from './features/login.ts'
import { passwordResetRoutes } from './features/password-reset.ts'
import { refreshRoutes } from './features/refresh.ts'
import { registerRoutes } from './features/register.ts'
import { cores, hashQueue, poolSize } from './hash-queue.ts'
import { wrongOption } from './option-checks.ts'
import { type AccountsOptions, type ResolvedOptions, resolveOptions } from './options.ts'
import { createPasswords } from './passwords.ts'
import { openPorts, type Ports } from './ports.ts'
import { isolate, mount } from './scope.ts'
import { createRing, type Ring } from './secrets.ts'
import { createTokens } from './tokens.ts'

export type { Account, Accounts, Authenticate, Guards } from './accounts.ts'
export type {
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
export { AccountsError, type AccountsErrorCode, type FieldError, type PasswordReason } from './errors.ts'
export type { AccountsOptions, RouteName } from './options.ts'

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
}

const features = [registerRoutes, loginRoutes, refreshRoutes, passwordResetRoutes, accountRoutes]

/** Registers the account routes and decorates `app.accounts` and `request.account`. */
const plugin: FastifyPluginAsync<AccountsOptions> = async (app, given) => {
  const options = resolveOptions(given)
  claimRealm(app, options)
  decorateRequests(app)
  warnOfSmallPool(app)
  const ring = createRing(options.name, options.secret.reveal())
  const ports = await openPorts(app, options, ring)
  app.addHook('onClose', ports.close)

  await app.register(
    async (scope) => {
      const accounts = await createAccounts(scope, options, ring, ports)
      for (const route of features.flatMap((routes) => routes(accounts))) mount(scope, accounts, route)
      app.decorate(options.name, accounts)
    },
    { prefix: options.prefix },
  )
}

export default fp(plugin, { fastify: '^5.8.5', name: 'fastify-accounts' })

async function createAccounts(
  scope: FastifyInstance,
  options: ResolvedOptions,
  ring: Ring,
  ports: Ports,
): Promise<Accounts> {
  isolate(scope, options)
  const { log } = scope
  const { clock } = options
  const tokens = await createTokens(scope, ring, options, ports.storage.ids)
  const passwords = createPasswords(options.passwords, hashQueue, log)
  const { storage, cache, mailer } = ports
  const guards = createGuards(storage, tokens, clock)
  return Object.freeze({ options, storage, cache, mailer, ring, tokens, passwords, log, clock, ...guards })
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
  if (app.hasRequestDecorator(accountKey)) return
  app.decorateRequest(accountKey, undefined)
  app.decorateRequest('account', { getter: requestAccount })
  app.decorateRequest('accountOrNull', { getter: requestAccountOrNull })
}

function warnOfSmallPool(app: FastifyInstance): void {
  if (poolSize - 2 >= cores) return
  app.log.warn(`fastify-accounts: UV_THREADPOOL_SIZE is ${poolSize}; set it to ${cores + 2} to hash on all cores`)
}
