import { pbkdf2, randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { hash } from '@node-rs/argon2'
import type { Argon2Cost } from '../options/rules.ts'
import type { PepperRing } from '../options/secrets.ts'
import { base64, keyIdIn, keyIdOf, phcOf, weaker, withKeyId, withoutKeyId } from './argon2-hashes.ts'
import { isBcrypt, loadBcrypt } from './old-hashes.ts'

/** The form in which passwords are hashed. */
export interface WrittenForm {
  hash(password: string): Promise<string>
  /** A hash of this form; nobody knows a password for it. */
  readonly decoy: string
  /** Whether a stored hash has the same form and the same cost. */
  alike(stored: string): boolean
  /** Whether a stored hash is to be replaced by one of this form. */
  outdated(stored: string): boolean
  /** Whether a hash of this form is of the whole password, also for the other software that reads it. */
  holds(password: string): boolean
}

// `Algorithm.Argon2id` of @node-rs/argon2, a const enum that isolated modules cannot read.
const argon2id = 2

/** argon2id at a cost, with the first pepper of the list. A stronger argon2id hash stays. */
export function argon2Form(cost: Argon2Cost, pepper: PepperRing): WrittenForm {
  const keyId = keyIdOf(pepper[0])
  const secret = pepper[0] ? Buffer.from(pepper[0].secret.reveal()) : undefined
  const settings = { ...cost, algorithm: argon2id, outputLen: 32, secret }
  const start = `$argon2id$v=19$m=${cost.memoryCost},t=${cost.timeCost},p=${cost.parallelism}$`
  return {
    hash: async (password) => withKeyId(await hash(password.normalize('NFC'), settings), keyId),
    decoy: withKeyId(`${start}${base64(randomBytes(16))}$${base64(randomBytes(32))}`, keyId),
    alike: (stored) => withoutKeyId(stored).startsWith(start),
    outdated: (stored) => weaker(phcOf(stored), cost) || keyIdIn(phcOf(stored)) !== keyId,
    holds: () => true,
  }
}

/** OWASP Password Storage Cheat Sheet asks for 10 at least; this is what most libraries take. */
const rounds = 12
const bcryptBytes = 72
const alphabet = './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

/**
 * bcrypt, for older software that reads the hashes too. Every other form is replaced, or it could not.
 *
 * @throws {TypeError} when @node-rs/bcrypt is not installed
 */
export function bcryptForm(): WrittenForm {
  const library = loadBcrypt()
  if (!library) throw new TypeError('fastify-accounts: passwords.write "bcrypt" takes the package @node-rs/bcrypt')
  const start = `$2b$${rounds}$`
  const text = (length: number) => Array.from(randomBytes(length), (byte) => alphabet[byte % 64]).join('')
  return {
    // The second major version takes an object.
    hash: (password) => library.hash(password, 'parseOptions' in library ? { cost: rounds } : rounds),
    // The last character of the salt and that of the tag stand for fewer bits.
    decoy: `${start}${text(21)}.${text(30)}.`,
    alike: (stored) => /^\$2[aby]\$/.test(stored) && stored.slice(4, 6) === String(rounds),
    outdated: (stored) => !isBcrypt(stored) || !stored.startsWith('$') || Number(stored.slice(4, 6)) < rounds,
    holds: (password) => fitsBcrypt(password) && isNormal(password),
  }
}

/** Whether bcrypt knows the whole password: it stops after 72 bytes, and much software at a NUL. */
export function fitsBcrypt(password: string): boolean {
  return Buffer.byteLength(password) <= bcryptBytes && !password.includes('\0')
}

// What was typed in another form verifies by its normal form now, and would not by a hash of what was typed.
function isNormal(password: string): boolean {
  return password === password.normalize('NFC')
}

/** OWASP Password Storage Cheat Sheet, for PBKDF2 with SHA-256. */
const iterations = 600_000
const derive = promisify(pbkdf2)

/** Django's own form, for a Django project that reads the hashes too. Its stronger forms stay. */
export function djangoForm(): WrittenForm {
  const start = `pbkdf2_sha256$${iterations}$`
  return {
    async hash(password) {
      const salt = randomBytes(16).toString('hex')
      return `${start}${salt}$${(await derive(password, salt, iterations, 32, 'sha256')).toString('base64')}`
    },
    decoy: `${start}${randomBytes(16).toString('hex')}$${randomBytes(32).toString('base64')}`,
    alike: (stored) => stored.startsWith(start),
    outdated(stored) {
      const [name, cost] = stored.split('$')
      return name === 'pbkdf2_sha256'
        ? Number(cost) < iterations
        : !['argon2', 'scrypt', 'bcrypt_sha256'].includes(name!)
    },
    holds: isNormal,
  }
}
