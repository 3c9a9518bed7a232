import type { Cluster, Redis } from 'ioredis'
import type { Kysely } from 'kysely'
import type { Cache, Mailer, Storage } from '../contracts.ts'
import { type Check, type Hidden, hidden, port, wrongOption } from './checks.ts'

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

const storageVerbs = [
  'insertUser',
  'importUsers',
  'findUserById',
  'findUserByEmail',
  'findHolders',
  'findUserWithPassword',
  'listUsers',
  'updateUser',
  'setRole',
  'replacePasswordHash',
  'changeCredentials',
  'deleteUser',
  'insertSession',
  'sessionActive',
  'refreshSession',
  'listSessions',
  'endSession',
  'endSessions',
  'endAnySessions',
  'endedSince',
  'addMails',
  'claimMails',
  'settleMails',
  'addEvent',
  'listEvents',
  'purge',
  'ping',
] as const satisfies (keyof Storage)[]

const cacheVerbs = [
  'put',
  'guess',
  'lease',
  'giveBack',
  'burn',
  'peek',
  'publish',
  'subscribe',
  'ping',
  'close',
] as const satisfies (keyof Cache)[]

const mailerVerbs = ['send', 'progress', 'ping', 'close'] as const satisfies (keyof Mailer)[]

/** A storage with every verb of the contract, or undefined. */
export const storage = port<Storage>(storageVerbs, 'a storage adapter such as kyselyStorage(db)')

/** A cache with every verb of the contract, or undefined. */
export const cache = port<Cache>(cacheVerbs, 'a cache adapter such as redisCache({ redis })')

/** A mailer with every verb of the contract, or undefined. */
export const mailer = port<Mailer>(mailerVerbs, 'a mailer such as smtpMailer({ transport, from })')

/** Redis, hidden since a URL may hold a password. */
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
