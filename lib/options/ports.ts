import type { Cluster, Redis } from 'ioredis'
import type { Kysely } from 'kysely'
import type { Cache, Mailer, Storage } from '../contracts.ts'
import { type Check, type Hidden, hidden, port, shown, wrongOption } from './checks.ts'

/** A host's Kysely; `Kysely<unknown>` would refuse one that has tables. */
// biome-ignore lint/suspicious/noExplicitAny: the host's tables are its own
export type AnyKysely = Kysely<any>

/** A `redis://` or `rediss://` URL, the path of a socket, or a client of the host, which is only ever duplicated. */
export type RedisSource = string | Redis | Cluster

/** Redis for the codes and for the mail queue. */
export interface RedisPair {
  cache: RedisSource
  queue: RedisSource
}

const isStorage = port<Storage>(['insertUser'], 'a storage adapter such as kyselyStorage(db)')

/** A storage adapter, or undefined. Its `ids` and a verb tell it from a Kysely. */
export const storage: Check<Storage | undefined> = (path, given) => {
  const found = isStorage(path, given)
  if (!found || ['integer', 'uuid', 'text'].includes(found.ids)) return found
  throw wrongOption(`${path}.ids`, "must be 'integer', 'uuid' or 'text'", shown(found.ids))
}

/** A cache adapter, or undefined. */
export const cache = port<Cache>(['lease'], 'a cache adapter such as redisCache({ redis })')

/** A mailer, or undefined. A nodemailer transport is none. */
export const mailer = port<Mailer>(['progress'], 'a mailer such as smtpMailer({ transport, from })')

/** Redis, hidden because a URL may hold a password. */
export const redis: Check<Hidden<RedisPair> | undefined> = (path, given) => {
  if (given === undefined) return undefined
  if (isRedisSource(given)) return hidden({ cache: given as RedisSource, queue: given as RedisSource })
  const both = given as RedisPair
  if (isRedisSource(both?.cache) && isRedisSource(both?.queue)) return hidden({ cache: both.cache, queue: both.queue })
  throw wrongOption(
    path,
    'must be a URL, an ioredis client or { cache, queue } of these',
    `a value of type ${typeof given}`,
  )
}

function isRedisSource(given: unknown): boolean {
  return typeof given === 'string' || typeof (given as { duplicate?: unknown } | null)?.duplicate === 'function'
}

/** The host's Kysely, hidden because its pool may hold a password. */
export const kysely: Check<Hidden<AnyKysely> | undefined> = (path, given) => {
  if (given === undefined) return undefined
  if (typeof (given as AnyKysely | null)?.selectFrom === 'function') return hidden(given as AnyKysely)
  throw wrongOption(path, 'must be a Kysely instance', `a value of type ${typeof given}`)
}
