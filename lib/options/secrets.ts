import { type Check, type Hidden, hidden, section, wrongOption } from './checks.ts'
import { knownSecret } from './known-secrets.ts'

/** Refuses a secret that is short, repetitive, a placeholder, published or asymmetric. Never shows it. */
const strongSecret: Check<string> = (path, given) => {
  const make = 'must be a random text of at least 32 bytes; make one with "npx fastify-accounts generate-secret"'
  if (given === undefined) throw wrongOption(path, make, 'nothing')
  if (typeof given !== 'string') throw wrongOption(path, make, `a value of type ${typeof given}`)
  const bytes = bytesOf(given.trim())
  if (bytes < 32) throw wrongOption(path, make, `a text of ${bytes} bytes`)
  const weakness = weaknessOf(given.trim())
  if (weakness) throw wrongOption(path, make, weakness)
  return given
}

const secret: Check<string> = (path, given) => {
  const text = strongSecret(path, given)
  // ACCOUNTS_SECRET has a comma between two secrets.
  if (text.includes(',')) throw wrongOption(path, 'must not have a comma; pass two as [current, previous]')
  return text
}

// Hexadecimal digits, a UUID's too, carry half as many bytes as they take.
function bytesOf(text: string): number {
  const digits = text.replaceAll('-', '')
  return /^([0-9a-f]{2})+$/i.test(digits) ? digits.length / 2 : Buffer.byteLength(text)
}

function weaknessOf(text: string): string | null {
  if (text.includes('-----BEGIN')) return 'an asymmetric key'
  if (/^(.+?)(.?)\1(\2\1)*$/s.test(text) || new Set(text).size < 10) return 'a repetitive text'
  if (/^\D+$/.test(text) && /secret|passw|change|replace|token|example|production|your/i.test(text)) {
    return 'a placeholder'
  }
  return knownSecret(text) ? 'a published one, which anybody can sign with' : null
}

/** A secret, or the current and the previous one; hidden. */
export const secrets: Check<Hidden<readonly string[]>> = (path, given) => {
  if (!Array.isArray(given)) return hidden([secret(path, given)])
  if (given.length < 1 || given.length > 2) {
    throw wrongOption(path, 'must be a text or [current, previous]', `a list of ${given.length}`)
  }
  return hidden(Object.freeze(given.map((one, index) => secret(`${path}[${index}]`, one))))
}

/** A key of password hashes, kept apart from the database. */
export interface Pepper {
  /** Names it in the hashes: 1 to 16 letters, digits, `_` and `-`. */
  id: string
  /** At least 32 bytes, from `fastify-accounts generate-secret`; never one of the option `secret`. */
  secret: string
}

/** The peppers, the one that hashes first; null stands for none. Their secrets are hidden. */
export type PepperRing = readonly (Readonly<{ id: string; secret: Hidden<string> }> | null)[]

/** Checks a pepper, or a list of them. Whatever was given may hold a secret, and is never shown. */
export const peppers: Check<PepperRing> = (path, given) => {
  if (given === undefined) return Object.freeze([])
  const list: unknown[] = Array.isArray(given) ? given : [given]
  if (list.every((one) => one === null)) throw wrongOption(path, pepperShape, 'none')
  const ring = list.map((one, index) => pepper(Array.isArray(given) ? `${path}[${index}]` : path, one))
  const texts = pepperTexts(ring)
  if (new Set(ring.map((one) => one?.id)).size < ring.length || new Set(texts).size < texts.length) {
    throw wrongOption(path, 'must not have two with the same id or secret')
  }
  return Object.freeze(ring)
}

/** The secrets of peppers. */
export function pepperTexts(ring: PepperRing): string[] {
  return ring.flatMap((one) => one?.secret.reveal() ?? [])
}

const pepperShape = 'must be { id, secret } or a list of these'

const pepper: Check<PepperRing[number]> = (path, given) => {
  if (given === null) return null
  if (typeof given !== 'object') throw wrongOption(path, pepperShape, `a value of type ${typeof given}`)
  // A copy, since what is no plain object would be shown.
  return pepperMembers(path, { ...given })
}

const pepperMembers = section<{ id: string; secret: Hidden<string> }>({
  id: (path, given) => {
    if (typeof given === 'string' && /^[\w-]{1,16}$/.test(given)) return given
    throw wrongOption(path, 'must be 1 to 16 letters, digits, "_" or "-"', `a value of type ${typeof given}`)
  },
  secret: (path, given) => {
    const text = strongSecret(path, given)
    // With the line break of a file it would be another pepper, and every password wrong.
    if (text !== text.trim()) throw wrongOption(path, 'must not begin or end with white space')
    return hidden(text)
  },
})
