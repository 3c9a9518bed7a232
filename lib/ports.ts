import type { FastifyInstance } from 'fastify'
import type { Cache, Mailer, Storage } from './contracts.ts'
import { createConcurrencyLimit } from './core/concurrency-limit.ts'
import { bounded } from './core/deadline.ts'
import type { Ports } from './core/realm.ts'
import type { Ring } from './core/secrets.ts'
import { wrongOption } from './options/checks.ts'
import { mustVerify, type ResolvedOptions } from './options/options.ts'
import type { RedisPair, RedisSource } from './options/ports.ts'

const kysely = () => import('./adapters/kysely/index.ts')
const hostTable = () => import('./adapters/kysely/host-table.ts')
const redisAdapter = () => import('./adapters/redis/index.ts')
const bullmq = () => import('./adapters/bullmq.ts')

/**
 * Takes the ports from the options, or opens them: Kysely for `db`, Redis for the codes and the mail queue. Only what
 * is used is loaded.
 *
 * @throws {TypeError} when a part is missing; there is no silent default in memory
 */
export async function openPorts(
  app: FastifyInstance,
  options: ResolvedOptions,
  ring: Ring,
): Promise<Ports & { close(): Promise<void> }> {
  const { log } = app
  const storage = bounded(options.storage ?? (await storageOf(options)), log, createConcurrencyLimit(log))
  if (!mailing(app, options)) return { storage, cache: undefined, mailer: undefined, close: () => closeAll(options) }
  const { name, clock } = options
  const closing = new AbortController()
  const onError = (error: Error) => {
    // Closing cuts connections, also those that were just being made.
    if (!closing.signal.aborted) log.warn({ err: error }, 'fastify-accounts: Redis is not reachable')
  }
  const redis = options.cache && options.mailer ? undefined : redisOf(app, options)
  const cache = options.cache ?? (await redisAdapter()).redisCache({ name, redis: redis!.cache, onError })
  const mailer =
    options.mailer ?? (await bullmq()).queueMailer({ name, redis: redis!.queue, secret: ring, onError, clock })
  async function close(): Promise<void> {
    closing.abort()
    await closeAll({ cache, mailer })
  }
  return { storage, cache: bounded(cache, log), mailer: bounded(mailer, log), close }
}

async function storageOf({ db, adopt }: ResolvedOptions): Promise<Storage> {
  const { kyselyStorage } = await kysely()
  const own = db!.reveal()
  if (!adopt) return kyselyStorage(own)
  const { besideAdopted } = await hostTable()
  return kyselyStorage(besideAdopted(own, adopt), { ids: adopt.ids, adopt })
}

// Without a queue there are no codes, no notices and no feed: for hosts that have switched off all that needs one.
function mailing(app: FastifyInstance, options: ResolvedOptions): boolean {
  const { passwordReset, routes, revocation, cache, mailer, redis } = options
  const needed = passwordReset || mustVerify(options) || routes.changeEmail !== false || revocation === 'feed'
  return Boolean(needed || (cache && mailer) || redis || hostRedis(app))
}

async function closeAll({ cache, mailer }: { cache?: Cache; mailer?: Mailer }): Promise<void> {
  await Promise.allSettled([cache?.close(), mailer?.close()])
}

function redisOf(app: FastifyInstance, { redis }: ResolvedOptions): RedisPair {
  if (redis) return redis.reveal()
  const host = hostRedis(app)
  if (host) return { cache: host, queue: host }
  throw wrongOption(
    'redis',
    'is missing: pass a URL or an ioredis client, register @fastify/redis before, or pass "cache" and "mailer"; ' +
      "nothing needs it with passwordReset: false, routes: { changeEmail: false } and revocation: 'storage'",
  )
}

function hostRedis(app: FastifyInstance): RedisSource | undefined {
  const { redis } = app as unknown as { redis?: RedisSource & { duplicate?: unknown } }
  return typeof redis?.duplicate === 'function' ? redis : undefined
}
