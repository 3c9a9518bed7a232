import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Cache, Mailer, Storage } from '../contracts.ts'
import type { ResolvedOptions } from '../options/options.ts'
import { bounded } from './deadline.ts'
import { hashQueue } from './hash-queue.ts'
import { createHooks, type Hooks } from './hooks.ts'
import { createMemory, type Memory } from './memory.ts'
import { createPasswordPolicy, type PasswordPolicy } from './password-policy.ts'
import { createPasswords, type Passwords } from './passwords.ts'
import { type CleanProfile, profileCleaner } from './profiles.ts'
import { createRevocation, type Revocation } from './revocation.ts'
import type { Ring } from './secrets.ts'
import { createTallies, type LocalTallies } from './tallies.ts'
import { createTokens, type Tokens } from './tokens.ts'

/** So many names are counted in this process while the cache is away, and so many networks are familiar. */
const localNames = 10_000

/** The dependencies of one realm; every call is bounded in time. */
export interface Ports {
  readonly storage: Storage
  /** Undefined when nothing needs it. */
  readonly cache: Cache | undefined
  /** Undefined when nothing needs it. */
  readonly mailer: Mailer | undefined
}

/** What every use case works with. Hosts never see it: they get the members of `Accounts`. */
export interface Realm extends Ports {
  readonly options: ResolvedOptions
  readonly ring: Ring
  readonly tokens: Tokens
  readonly passwords: Passwords
  readonly policy: PasswordPolicy
  readonly revocation: Revocation
  readonly hooks: Hooks
  readonly cleanProfile: CleanProfile
  /** Counts tries in this process while the cache is away, and remembers who is known. */
  readonly tallies: LocalTallies
  /** Networks from which somebody has logged in to this process. */
  readonly familiar: Memory<true>
  readonly log: FastifyBaseLogger
  /** Events on their way into the database; closing waits for them. */
  readonly pending: Set<Promise<void>>
  /** Whether the storage is within a transaction of the host's, which may still roll back. */
  readonly joined: boolean
  /** The time in milliseconds. */
  clock(): number
}

/** Builds a realm over its ports. */
export async function createRealm(
  scope: FastifyInstance,
  options: ResolvedOptions,
  ring: Ring,
  { storage, cache, mailer }: Ports,
): Promise<Realm> {
  const { log } = scope
  const { clock } = options
  return {
    ...{ options, ring, storage, cache, mailer, log, clock },
    tokens: await createTokens(scope, ring, options, storage.ids),
    passwords: createPasswords(options.passwords, hashQueue, log, {
      sample: (most) => storage.samplePasswordHashes(most),
      key: ring[0].key('decoy'),
      clock,
    }),
    policy: createPasswordPolicy(options),
    revocation: createRevocation({ options, storage, cache, log, clock }),
    hooks: createHooks(log),
    cleanProfile: await profileCleaner(options),
    tallies: createTallies(localNames),
    familiar: createMemory(localNames),
    pending: new Set(),
    joined: false,
  }
}

/**
 * The realm within a transaction of the host's.
 *
 * @throws {TypeError} when it is no storage, or one with other ids
 */
export function joinRealm(realm: Realm, storage: Storage): Realm {
  if (typeof storage?.insertUser !== 'function') {
    throw new TypeError('fastify-accounts: using() takes a storage adapter such as kyselyStorage(trx)')
  }
  if (storage.ids !== realm.storage.ids) {
    throw new TypeError(`fastify-accounts: using() takes a storage with ids of this realm: '${realm.storage.ids}'`)
  }
  // Other processes must not learn of an end that may be rolled back: their polls find it once it has committed.
  const revocation = { ...realm.revocation, announce() {} }
  return { ...realm, storage: bounded(storage, realm.log), revocation, joined: true }
}
