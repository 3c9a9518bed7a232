import { type Check, type Hidden, hidden, wrongOption } from './checks.ts'
import { knownSecret } from './known-secrets.ts'

/** Refuses a secret that is short, repetitive, published or not a symmetric one. Never shows it. */
export const secret: Check<string> = (path, given) => {
  const make = 'must be a random text of at least 32 bytes; make one with "npx fastify-accounts generate-secret"'
  if (given === undefined) throw wrongOption(path, make, 'nothing')
  if (typeof given !== 'string') throw wrongOption(path, make, `a value of type ${typeof given}`)
  // Hexadecimal text carries half as many bytes as it is long.
  const bytes = /^([0-9a-f]{2})+$/i.test(given) ? given.length / 2 : Buffer.byteLength(given)
  if (bytes < 32) throw wrongOption(path, make, `a text of ${bytes} bytes`)
  if (given.includes('-----BEGIN')) throw wrongOption(path, make, 'an asymmetric key')
  if (/^(.+?)\1+$/s.test(given) || new Set(given).size < 10) throw wrongOption(path, make, 'a repetitive text')
  if (knownSecret(given)) throw wrongOption(path, make, 'a published one, which anybody can sign with')
  // The worker's environment parts two secrets by a comma.
  if (given.includes(',')) throw wrongOption(path, 'must not have a comma; pass two as [current, previous]')
  return given
}

/** A secret, or the current and the previous one; hidden. */
export const secrets: Check<Hidden<readonly string[]>> = (path, given) => {
  if (!Array.isArray(given)) return hidden([secret(path, given)])
  if (given.length < 1 || given.length > 2) {
    throw wrongOption(path, 'must be a text or [current, previous]', `a list of ${given.length}`)
  }
  return hidden(Object.freeze(given.map((one, index) => secret(`${path}[${index}]`, one))))
}
