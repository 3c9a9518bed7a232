import { verify } from '@node-rs/argon2'
import type { LegacyHashes } from '../options/rules.ts'
import type { PepperRing } from '../options/secrets.ts'
import { affordable, keyIdIn, keyIdOf, longest, pepperName, phcOf, withoutKeyId } from './argon2-hashes.ts'
import { inTime } from './deadline.ts'
import { type Compare, isBcrypt, loadBcrypt, readOldHash } from './old-hashes.ts'

/** A function of the host's that hangs would keep its turn for ever. */
const legacyMs = 10_000

/** Which stored hashes can be verified: argon2 with a known pepper, those of other software, and the host's own. */
export interface StoredHashes {
  /** How to verify a stored hash; null when it cannot be verified, or not safely. */
  read(stored: string): Compare | null
  /** Why it cannot be verified. */
  fault(stored: string): string
}

/** Makes the reader of the hashes that one registration of the plugin may meet. */
export function createStoredHashes(pepper: PepperRing, legacy: LegacyHashes | undefined): StoredHashes {
  const peppers = new Map([null, ...pepper].map((one) => [keyIdOf(one), one && Buffer.from(one.secret.reveal())]))

  // NIST SP 800-63B-4 3.1.1.2: normalised, then hashed as bytes; NFC keeps full-width and ligature forms apart. Other
  // software has hashed what was typed.
  async function matches(phc: string, password: string): Promise<boolean> {
    const options = { secret: peppers.get(keyIdIn(phc)) ?? undefined }
    const normalised = password.normalize('NFC')
    const right = await verify(withoutKeyId(phc), normalised, options)
    return right || normalised === password ? right : verify(withoutKeyId(phc), password, options)
  }

  return {
    read(stored) {
      // It may be a form that looks like one of the others.
      if (legacy?.form.test(stored)) return (password) => inTime(legacyMs, () => legacy.verify(stored, password))
      const phc = phcOf(stored)
      if (affordable(phc) && peppers.has(keyIdIn(phc))) return (password) => matches(phc, password)
      return stored.length > longest ? null : readOldHash(stored)
    },
    fault(stored) {
      const phc = phcOf(stored)
      if (affordable(phc) && !peppers.has(keyIdIn(phc))) {
        return `has the pepper ${pepperName(keyIdIn(phc))}, which passwords.pepper lacks`
      }
      if (isBcrypt(stored) && !loadBcrypt()) return 'is bcrypt, which takes the package @node-rs/bcrypt'
      return 'is malformed, of an unknown form or too costly'
    },
  }
}
