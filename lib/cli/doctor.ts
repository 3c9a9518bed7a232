import { realmOf } from '../accounts.ts'
import { keyIdOf, pepperName } from '../core/argon2-hashes.ts'
import { withAccounts } from './accounts.ts'
import type { Flags } from './config.ts'
import { failure, print } from './output.ts'

/** Prints how many password hashes have which pepper, and fails when the options lack one of these. */
export function examine(flags: Flags): Promise<void> {
  return withAccounts(flags, async (accounts) => {
    const { options, storage } = realmOf(accounts)
    const given = ['', ...options.passwords.pepper.map(keyIdOf)]
    const counts = new Map(given.map((keyId) => [keyId, 0]))
    for (const { keyId, count } of await storage.countPasswordHashes()) counts.set(keyId ?? '', count)
    print(...Array.from(counts, ([keyId, count]) => `password hashes with ${labelOf(keyId)}: ${count}`))
    const lacking = [...counts.keys()].filter((keyId) => !given.includes(keyId)).map(pepperName)
    if (lacking.length === 0) return
    throw failure(`passwords.pepper lacks ${lacking.join(', ')}: nobody can log in by the password hashes that have it`)
  })
}

function labelOf(keyId: string): string {
  return keyId === '' ? 'no pepper' : `the pepper ${pepperName(keyId)}`
}
