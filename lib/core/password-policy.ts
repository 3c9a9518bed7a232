import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { brotliDecompress } from 'node:zlib'
import { AccountsError, type PasswordReason } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'
import { shortestWord } from '../options/rules.ts'
import { inTime } from './deadline.ts'
import { fitsBcrypt } from './written-hashes.ts'

/** Whose password it is to be. */
export interface Owner {
  username?: string | null
  email?: string | null
}

/** What new passwords have to be; never asked at login. */
export interface PasswordPolicy {
  /**
   * Why a new password is refused; empty when it is not.
   *
   * @param unchecked called when the check for leaked passwords failed, which then lets the password pass
   */
  refusals(password: string, owner: Owner, unchecked: (fault: unknown) => void): Promise<PasswordReason[]>
}

const breachMs = 1000
/** Lists of leaked passwords have next to none that are so long: patterns stand in for them. */
const nistLength = 15
const largestShare = 0.4

/** Makes the policy of one registration of the plugin. */
export function createPasswordPolicy({ passwords, mail }: ResolvedOptions): PasswordPolicy {
  const { minLength, maxLength, context, breached, write } = passwords
  let loaded: Promise<string> | undefined
  const common = () => (loaded ??= commonPasswords().catch(readAgain))

  function readAgain(cause: unknown): never {
    loaded = undefined
    throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause })
  }

  async function leaked(password: string, unchecked: (fault: unknown) => void): Promise<boolean> {
    if (!breached) return false
    const sha1 = createHash('sha1').update(password).digest('hex').toUpperCase()
    try {
      return hasSuffix(await inTime(breachMs, (signal) => breached(sha1.slice(0, 5), signal)), sha1.slice(5))
    } catch (fault) {
      unchecked(fault)
      return false
    }
  }

  return {
    async refusals(password, owner, unchecked) {
      if (!password.isWellFormed()) return ['ill_formed']
      const normal = password.normalize('NFC')
      const { length } = [...normal]
      if (length < minLength) return ['too_short']
      if (length > maxLength || (write === 'bcrypt' && !fitsBcrypt(password))) return ['too_long']
      const folded = normal.toLowerCase()
      const reasons: PasswordReason[] = []
      if ((minLength >= nistLength && isPattern(folded)) || (await common()).includes(`\n${folded}\n`))
        reasons.push('common')
      if (wordsOf(owner, [...context, mail.brand?.name ?? '']).some((word) => dwells(folded, word)))
        reasons.push('context')
      // Nothing of a password that is refused anyway leaves the process.
      if (reasons.length === 0 && (await leaked(normal, unchecked))) reasons.push('breached')
      return reasons
    },
  }
}

/** Lines in lower case, of 8 characters or more, with a line end before each and after the last. */
async function commonPasswords(): Promise<string> {
  const packed = await readFile(new URL('./common-passwords.br', import.meta.url))
  return `\n${(await promisify(brotliDecompress)(packed)).toString()}\n`
}

const keyboard = '1234567890qwertyuiopasdfghjklzxcvbnm'

/** Whether it is a short piece that repeats, or characters that follow one another. */
function isPattern(folded: string): boolean {
  const runs = [folded, [...folded].reverse().join('')]
  return repeats(folded) || runs.some((run) => keyboard.includes(run) || isSequence(run))
}

function repeats(folded: string): boolean {
  const { length } = folded
  const sizes = Array.from({ length: Math.floor(length / 2) }, (_, index) => index + 1)
  return sizes.some((size) => folded.slice(size) === folded.slice(0, length - size))
}

function isSequence(run: string): boolean {
  const codes = [...run].map((character) => character.codePointAt(0) as number)
  // 9 is followed by 0, as on the keyboard.
  return codes.slice(1).every((code, index) => code === codes[index]! + 1 || (code === 48 && codes[index] === 57))
}

function wordsOf({ username, email }: Owner, context: readonly string[]): string[] {
  const [local = '', domain = ''] = (email ?? '').split('@')
  const labels = domain.split('.').slice(0, -1)
  return [username ?? '', local, local.split('+')[0]!, domain, ...labels, ...context]
    .flatMap((word) => [word, word.replace(/\s+/g, '')])
    .map((word) => word.normalize('NFC').toLowerCase())
    .filter((word) => word.length >= shortestWord)
}

function dwells(folded: string, word: string): boolean {
  const times = folded.split(word).length - 1
  return times * word.length > folded.length * largestShare
}

// `suffix:count` per line; lines with 0 only hide how many there are.
function hasSuffix(range: unknown, suffix: string): boolean {
  const lines = typeof range === 'string' ? range.toUpperCase().match(/^[\dA-F]{35}:\d+/gm) : null
  if (!lines) throw new TypeError('passwords.breached must return lines of 35 hexadecimal digits, ":" and a count')
  return lines.some((line) => line.startsWith(suffix) && !/:0+$/.test(line))
}
