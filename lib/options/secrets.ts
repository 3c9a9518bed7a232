import { type Check, type Hidden, hidden, wrongOption } from './checks.ts'
import { knownSecret } from './known-secrets.ts'

/** Refuses a secret that is short, repetitive, a placeholder, published or asymmetric. Never shows it. */
export const secret: Check<string> = (path, given) => {
  const make = 'must be a random text of at least 32 bytes; make one with "npx fastify-accounts generate-secret"'
  if (given === undefined) throw wrongOption(path, make, 'nothing')
  if (typeof given !== 'string') throw wrongOption(path, make, `a value of type ${typeof given}`)
  const bytes = bytesOf(given.trim())
  if (bytes < 32) throw wrongOption(path, make, `a text of ${bytes} bytes`)
  const weakness = weaknessOf(given.trim())
  if (weakness) throw wrongOption(path, make, weakness)
  // ACCOUNTS_SECRET has a comma between two secrets.
  if (given.includes(',')) throw wrongOption(path, 'must not have a comma; pass two as [current, previous]')
  return given
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
