import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { createAccountsOf } from './accounts.ts'
import type { Storage } from './contracts.ts'
import { cores, poolSize } from './core/hash-queue.ts'
import { startHousekeeping } from './core/housekeeping.ts'
import { createRealm } from './core/realm.ts'
import { createRing } from './core/secrets.ts'
import { accountRoutes } from './features/account.ts'
import { changeEmailRoutes } from './features/change-email.ts'
import { changePasswordRoutes } from './features/change-password.ts'
import { emailVerificationRoutes } from './features/email-verification.ts'
import { jwksRoutes } from './features/jwks.ts'
import { loginRoutes } from './features/login.ts'
import { sessionRoutes } from './features/own-sessions.ts'
import { passwordResetRoutes } from './features/password-reset.ts'
import { refreshRoutes } from './features/refresh.ts'
import { registerRoutes } from './features/register.ts'
import { warnOfOpenCors } from './http/browser.ts'
import { drfErrors, sendGuardErrors } from './http/drf-errors.ts'
import { requestAccount, requestAccountOrNull } from './http/guards.ts'
import { isolate, mount } from './http/routes.ts'
import { wrongOption } from './options/checks.ts'
import { type AccountsOptions, type ResolvedOptions, resolveOptions } from './options/options.ts'
import { openPorts } from './ports.ts'

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
  jwksRoutes,
]

const plugin: FastifyPluginAsync<AccountsOptions> = async (app, given) => {
  const options = resolveOptions(given)
  const claim = claimRealm(app, options)
  decorateRequests(app)
  warnOfSmallPool(app)
  warnOfTrust(app)
  const ring = createRing(options.name, options.secret.reveal())
  const ports = await openPorts(app, options, ring)
  claim.storage = ports.storage

  await app.register(
    async (scope) => {
      let stop = async () => {}
      // Before anything that may fail: an app that does not boot is closed, too.
      app.addHook('onClose', async () => {
        await stop()
        await ports.close()
      })
      const sendError = options.errors === 'drf' ? drfErrors(options) : undefined
      isolate(scope, sendError)
      const realm = await createRealm(scope, options, ring, ports)
      if (sendError) sendGuardErrors(app, realm, sendError)
      const accounts = createAccountsOf(realm)
      const routes = features.flatMap((routesOf) => routesOf(realm))
      mount(scope, realm, accounts, routes)
      if (options.browser) warnOfOpenCors(scope)
      app.decorate(options.name, accounts)
      const stopHousekeeping = startHousekeeping(realm)
      stop = async () => {
        await Promise.all([stopHousekeeping(), realm.revocation.close(), ...realm.pending])
      }
    },
    { prefix: options.prefix },
  )
}

/** Registers the account routes and decorates `app.accounts` and `request.account`. */
export const accountsPlugin = fp(plugin, { fastify: '^5.8.5', name: 'fastify-accounts' })

interface Claim {
  options: ResolvedOptions
  /** Once it is open. */
  storage?: Storage
}

const claimed = new WeakMap<object, Claim[]>()

// Two registrations of one name would share keys and Redis entries under different options.
function claimRealm(app: FastifyInstance, options: ResolvedOptions): Claim {
  const { name } = options
  const others = claimed.get(app.server) ?? []
  if (others.some((other) => other.options.name === name)) {
    throw wrongOption('name', `must differ from that of another registration ("${name}")`)
  }
  if (app.hasDecorator(name)) throw wrongOption('name', `must not be a decorator of the app already ("${name}")`)
  const same = others.find((other) => usersOf(other.options) === usersOf(options))
  if (same) throw sharedUsers(options, same.options)
  const claim: Claim = { options }
  claimed.set(app.server, [...others, claim])
  if (others.length > 0) app.addHook('onReady', () => refuseSharedUsers(claim, others))
  return claim
}

function usersOf({ storage, db }: ResolvedOptions): unknown {
  return storage ?? db?.reveal()
}

// Two pools, or two adapters, may reach one table. A database that is down now can tell at the next start alone.
async function refuseSharedUsers(claim: Claim, others: Claim[]): Promise<void> {
  const placeOf = async ({ storage }: Claim) => (await storage?.place?.().catch(() => null)) ?? null
  const place = await placeOf(claim)
  for (const other of others) {
    if (place !== null && (await placeOf(other)) === place) throw sharedUsers(claim.options, other.options)
  }
}

function sharedUsers({ name, storage }: ResolvedOptions, other: ResolvedOptions): TypeError {
  const path = storage ? 'storage' : 'db'
  return wrongOption(
    path,
    `must not be that of "${other.name}", whose users "${name}" would share; try db.withSchema()`,
  )
}

// Realms of one app share the decorators.
const decorated = Symbol('fastify-accounts')

function decorateRequests(app: FastifyInstance): void {
  if (app.hasRequestDecorator(decorated)) return
  app.decorateRequest(decorated, null)
  app.decorateRequest('account', { getter: requestAccount })
  app.decorateRequest('accountOrNull', { getter: requestAccountOrNull })
}

// Fastify shows the option nowhere else.
function warnOfTrust(app: FastifyInstance): void {
  const symbol = Object.getOwnPropertySymbols(app).find(({ description }) => description === 'fastify.options')
  const { trustProxy } = ((symbol && app[symbol as never]) ?? {}) as { trustProxy?: unknown }
  if (trustProxy !== true) return
  const fix = 'name the address of your proxy instead, such as trustProxy: "10.0.0.1"'
  app.log.warn(`fastify-accounts: with trustProxy: true every client chooses its address, and no limit holds; ${fix}`)
}

function warnOfSmallPool(app: FastifyInstance): void {
  if (poolSize - 2 >= cores) return
  app.log.warn(`fastify-accounts: UV_THREADPOOL_SIZE is ${poolSize}; set it to ${cores + 2} to hash on all cores`)
}
