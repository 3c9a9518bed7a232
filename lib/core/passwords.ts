import { randomBytes } from 'node:crypto'
import { hash, verify } from '@node-rs/argon2'
import type { FastifyBaseLogger } from 'fastify'
import type { Argon2Cost } from '../options/rules.ts'
import { type HashQueue, reservations } from './hash-queue.ts'

// `Algorithm.Argon2id` of @node-rs/argon2, a const enum that isolated modules cannot read.
const argon2id = 2

/** Hash and verification of passwords. With a `request`, its reservation in the hash queue is used. */
export interface Passwords {
  /** Hashes a password with argon2id at the configured cost. Shape: a PHC string. */
  hash(password: string, request?: object | null): Promise<string>
  /**
   * Whether the password belongs to the stored hash. Costs one hash of the configured cost also for `null`, an unusable
   * hash or an ill-formed password, so that the time of a refusal shows nothing.
   */
  verify(stored: string | null, password: string, request?: object | null): Promise<boolean>
  /** Whether a stored hash can be verified: argon2, well-formed and cheap enough to verify safely. */
  usable(stored: string): boolean
  /** Whether `hash` makes a stronger hash now, or one of another variant; a stronger one stays. */
  outdated(stored: string): boolean
}

/** Makes the password hashing of one registration of the plugin. */
export function createPasswords(
  { argon2 }: { argon2: Argon2Cost },
  queue: HashQueue,
  log: FastifyBaseLogger,
): Passwords {
  const settings = { ...argon2, algorithm: argon2id, outputLen: 32 }
  const current = `$argon2id$v=19$m=${argon2.memoryCost},t=${argon2.timeCost},p=${argon2.parallelism}$`
  // Nobody knows a password for it: its tag is random, not a hash.
  const dummy = `${current}${base64(16)}$${base64(32)}`

  // Beside a stored hash of another cost the work of an unknown account is done as well: a cheaper one would be found
  // wrong sooner.
  async function compare(stored: string, password: string): Promise<boolean> {
    const bytes = bytesOf(password)
    const beside = stored.startsWith(current) ? null : verify(dummy, bytes)
    const [right] = await Promise.all([verify(stored, bytes).catch(() => null), beside])
    if (right !== null) return right
    alarm()
    return beside ? false : verify(dummy, bytes)
  }

  function run<T>(task: () => Promise<T>, request?: object | null): Promise<T> {
    return queue.run(task, request ? reservations.get(request) : undefined)
  }

  function alarm(): void {
    log.error('fastify-accounts: a stored password hash is malformed or too costly')
  }

  return {
    hash: (password, request) => run(() => hash(bytesOf(password), settings), request),
    async verify(stored, password, request) {
      const usable = stored !== null && affordable(stored)
      if (stored !== null && !usable) alarm()
      // argon2 would take all ill-formed passwords for one: they are hashed as U+FFFD.
      const honest = usable && password.isWellFormed()
      const right = await run(() => compare(honest ? stored : dummy, password), request)
      return honest && right
    },
    usable: affordable,
    outdated: (stored) => weaker(stored, argon2),
  }
}

const storedHash = /^\$argon2(id|i|d)\$(?:v=(16|19)\$)?m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,3})(?:\$[\w+/]{11,256}){2}$/

/** Whether a stored hash is cheap enough to verify safely: a huge `m` would end the process. */
function affordable(stored: string): boolean {
  if (stored.length > 512) return false
  const cost = costOf(stored)
  if (!cost) return false
  const { m, t, p } = cost
  return m <= 262_144 && t >= 1 && t <= 10 && p >= 1 && p <= 16 && m >= 8 * p
}

/** Whether a stored hash took less memory times passes than the configured cost, or is of another variant. */
function weaker(stored: string, { memoryCost, timeCost }: Argon2Cost): boolean {
  const cost = costOf(stored)
  return cost?.variant !== 'id' || cost.version !== '19' || cost.m * cost.t < memoryCost * timeCost
}

function costOf(stored: string) {
  const [, variant, version, ...cost] = storedHash.exec(stored) ?? []
  const [m = 0, t = 0, p = 0] = cost.map(Number)
  return variant === undefined ? null : { variant, version, m, t, p }
}

// NIST SP 800-63B-4 3.1.1.2: normalised, then hashed as bytes; NFC keeps full-width and ligature forms apart.
function bytesOf(password: string): Buffer {
  return Buffer.from(password.normalize('NFC'))
}

function base64(bytes: number): string {
  return randomBytes(bytes).toString('base64').replaceAll('=', '')
}
