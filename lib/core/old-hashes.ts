import { createHash, pbkdf2, scrypt, timingSafeEqual } from 'node:crypto'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'

/** Whether a password belongs to a stored hash. */
export type Compare = (password: string) => Promise<boolean>

/** A form of stored hashes. Null for a hash that has another form, is malformed or costs too much to verify safely. */
type Form = (stored: string) => Compare | null

const derive = { pbkdf2: promisify(pbkdf2), scrypt: promisify<string, Buffer, number, object, Buffer>(scrypt) }

// Each of these takes about as long as the most that a stored argon2 hash may.
const mostRounds = 15
const mostIterations = 5_000_000
const mostScryptBytes = 256 * 1024 * 1024
const mostScryptWork = 2 ** 22

/**
 * How to verify a hash that other software has stored: bcrypt, Django's PBKDF2, scrypt and bcrypt, and PBKDF2 and
 * scrypt as PHC strings. They hash the bytes of a password as it was typed, so it is not normalised.
 */
export function readOldHash(stored: string): Compare | null {
  const forms: Form[] = [bcryptForm, djangoBcrypt, djangoPbkdf2, djangoScrypt, phcPbkdf2, phcScrypt]
  for (const form of forms) {
    const compare = form(stored)
    if (compare) return compare
  }
  return null
}

/** Whether the stored hash is bcrypt, by itself or as Django keeps it. */
export function isBcrypt(stored: string): boolean {
  return /^(?:bcrypt(?:_sha256)?\$)?\$2[aby]\$/.test(stored)
}

/** Whether bcrypt has compared only the first bytes of so long a password with the stored hash. */
export function comparedInPart(stored: string, password: string): boolean {
  return isBcrypt(stored) && !stored.startsWith('bcrypt_sha256$') && Buffer.byteLength(password) > 72
}

interface Bcrypt {
  verify(password: string, stored: string): Promise<boolean>
  hash(password: string, cost: number | { cost: number }): Promise<string>
}

let bcrypt: Bcrypt | null | undefined

/** `@node-rs/bcrypt`, looked for when the first bcrypt hash is met; null when the host has not installed it. */
export function loadBcrypt(): Bcrypt | null {
  if (bcrypt !== undefined) return bcrypt
  try {
    bcrypt = createRequire(import.meta.url)('@node-rs/bcrypt') as Bcrypt
  } catch {
    bcrypt = null
  }
  return bcrypt
}

function bcryptForm(stored: string): Compare | null {
  const rounds = /^\$2[aby]\$(\d\d)\$[./A-Za-z\d]{53}$/.exec(stored)?.[1]
  if (rounds === undefined || Number(rounds) < 4 || Number(rounds) > mostRounds) return null
  const library = loadBcrypt()
  // Much software stops at a NUL, and what follows it would count here.
  return (
    library && (async (password) => (await library.verify(password, canonical(stored))) && !password.includes('\0'))
  )
}

const alphabet = './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

// Old versions of some libraries have written bits after the last one of salt and tag.
function canonical(stored: string): string {
  const cleared = (at: number, bits: number) => alphabet[alphabet.indexOf(stored[at]!) & -(2 ** bits)]!
  return stored.slice(0, 28) + cleared(28, 4) + stored.slice(29, 59) + cleared(59, 2)
}

function djangoBcrypt(stored: string): Compare | null {
  const [, sha256, hash = ''] = /^bcrypt(_sha256)?\$(.+)$/s.exec(stored) ?? []
  const compare = bcryptForm(hash)
  if (!compare || !sha256) return compare
  return (password) => compare(createHash('sha256').update(password).digest('hex'))
}

function djangoPbkdf2(stored: string): Compare | null {
  const [, digest, iterations, salt, hash] =
    /^pbkdf2_(sha256|sha1)\$(\d{1,8})\$([^$]{1,128})\$([A-Za-z\d+/]{20,88}={0,2})$/.exec(stored) ?? []
  return pbkdf2Of(digest, iterations, salt, hash)
}

// With `i=` as PHC strings have it, without as Passlib writes it, whose base64 has a dot for the plus.
function phcPbkdf2(stored: string): Compare | null {
  const [, digest = 'sha1', iterations, salt, hash] =
    /^\$pbkdf2(?:-(sha1|sha256|sha512))?\$(?:i=)?(\d{1,8})(?:,l=\d+)?\$([\w+/.-]{1,128})\$([A-Za-z\d+/.]{20,88})$/.exec(
      stored,
    ) ?? []
  return pbkdf2Of(digest, iterations, bytesOf(salt), hash)
}

function pbkdf2Of(
  digest: string | undefined,
  iterations: string | undefined,
  salt: string | Buffer | undefined,
  hash: string | undefined,
): Compare | null {
  const [rounds, expected] = [Number(iterations), bytesOf(hash)]
  if (!digest || !salt || !expected || !(rounds >= 1 && rounds <= mostIterations)) return null
  // Each further block would take all iterations again.
  if (expected.length > { sha1: 20, sha256: 32, sha512: 64 }[digest]!) return null
  return async (password) =>
    timingSafeEqual(await derive.pbkdf2(password, salt, rounds, expected.length, digest), expected)
}

function djangoScrypt(stored: string): Compare | null {
  const [, N, salt, r, p, hash] =
    /^scrypt\$(\d{1,8})\$([^$]{1,128})\$(\d{1,3})\$(\d{1,3})\$([A-Za-z\d+/]{22,88}={0,2})$/.exec(stored) ?? []
  return salt === undefined ? null : scryptOf(Number(N), Number(r), Number(p), Buffer.from(salt), hash)
}

function phcScrypt(stored: string): Compare | null {
  const [, ln, r, p, salt, hash] =
    /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z\d+/]{1,128})\$([A-Za-z\d+/]{22,88})$/.exec(stored) ?? []
  return scryptOf(2 ** Number(ln), Number(r), Number(p), bytesOf(salt), hash)
}

function scryptOf(N: number, r: number, p: number, salt: Buffer | undefined, hash: string | undefined): Compare | null {
  const expected = bytesOf(hash)
  if (!salt || !expected || !(N >= 2 && Number.isInteger(Math.log2(N)) && r >= 1 && p >= 1)) return null
  // RFC 7914 2: N is less than 2^(128 * r / 8).
  if (128 * N * r > mostScryptBytes || N * r * p > mostScryptWork || N >= 2 ** (16 * r)) return null
  const cost = { N, r, p, maxmem: 2 * mostScryptBytes }
  return async (password) => timingSafeEqual(await derive.scrypt(password, salt, expected.length, cost), expected)
}

function bytesOf(base64: string | undefined): Buffer | undefined {
  return base64 === undefined ? undefined : Buffer.from(base64.replaceAll('.', '+'), 'base64')
}
