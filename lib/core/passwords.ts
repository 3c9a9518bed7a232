import type { FastifyBaseLogger } from 'fastify'
import { loggable } from '../errors.ts'
import type { Argon2Cost, LegacyHashes } from '../options/rules.ts'
import type { PepperRing } from '../options/secrets.ts'
import { createDecoys, type DecoySource } from './decoys.ts'
import { type HashQueue, reservations } from './hash-queue.ts'
import { comparedInPart } from './old-hashes.ts'
import { createStoredHashes } from './stored-hashes.ts'
import { argon2Form, bcryptForm, djangoForm } from './written-hashes.ts'

/** Hash and verification of passwords. With a `request`, its reservation in the hash queue is used. */
export interface Passwords {
  /** Hashes a password, with argon2id at the configured cost unless `write` says otherwise. */
  hash(password: string, request?: object | null): Promise<string>
  /**
   * Whether the password belongs to the stored hash. For `null`, and for a hash that is not usable, it is compared with
   * another user's in vain, of a kind that the `address` chooses, so that the time of a refusal shows nothing.
   */
  verify(stored: string | null, password: string, request?: object | null, address?: string): Promise<boolean>
  /** Whether a stored hash can be verified: of a known form, well-formed, cheap enough, its pepper known. */
  usable(stored: string): boolean
  /**
   * Whether `hash` makes a better hash now of the password that has just been verified: a stronger one, or one of
   * another form, variant or pepper.
   */
  outdated(stored: string, password: string): boolean
}

/** How passwords are hashed, and which hashes are verified: the options `passwords`. */
export interface PasswordHashing {
  argon2: Argon2Cost
  pepper?: PepperRing
  legacy?: LegacyHashes | undefined
  upgrade?: boolean
  write?: 'argon2id' | 'bcrypt' | 'django'
}

/** Makes the password hashing of one registration of the plugin. Without a `source` all decoys are of its cost. */
export function createPasswords(
  { argon2, pepper = [], legacy, upgrade = true, write = 'argon2id' }: PasswordHashing,
  queue: HashQueue,
  log: FastifyBaseLogger,
  source?: DecoySource,
): Passwords {
  const hashes = createStoredHashes(pepper, legacy)
  const form = { argon2id: argon2Form, bcrypt: bcryptForm, django: djangoForm }[write](argon2, pepper)
  const decoys = createDecoys(form.decoy, usable, source)

  function usable(stored: string): boolean {
    return hashes.read(stored) !== null
  }

  async function compare(stored: string | null, password: string, decoy: string): Promise<boolean> {
    const spent = (hash: string) => hashes.read(hash)!(password).then(no)
    const inVain = () => spent(decoy).catch(() => spent(form.decoy))
    if (stored === null) return inVain()
    const matches = hashes.read(stored)
    if (!matches) {
      log.error(`fastify-accounts: a stored password hash ${hashes.fault(stored)}`)
      return inVain()
    }
    if (!form.alike(stored)) decoys.meet()
    try {
      // argon2 would take all ill-formed passwords for one: they are hashed as U+FFFD.
      return (await matches(password)) && password.isWellFormed()
    } catch (error) {
      log.error({ err: loggable(error) }, 'fastify-accounts: a stored password hash could not be verified')
      return inVain()
    }
  }

  function run<T>(task: () => Promise<T>, request?: object | null): Promise<T> {
    return queue.run(task, request ? reservations.get(request) : undefined)
  }

  return {
    hash: (password, request) => run(() => form.hash(password), request),
    verify: (stored, password, request, address = '') =>
      run(() => compare(stored, password, decoys.of(address)), request),
    usable,
    outdated: (stored, password) =>
      upgrade && form.outdated(stored) && form.holds(password) && !comparedInPart(stored, password),
  }
}

const no = () => false
