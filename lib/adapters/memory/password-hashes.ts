import { randomInt } from 'node:crypto'
import type { Storage } from '../../contracts.ts'
import { keepUser, type MemoryState } from './state.ts'

/** The verbs about stored password hashes. */
export function passwordHashVerbs(state: MemoryState) {
  const hashes = () =>
    Array.from(state.users.values(), ({ passwordHash }) => passwordHash).filter((hash) => hash !== null)
  return {
    async replacePasswordHash(id, oldHash, newHash) {
      const user = state.users.get(id)
      if (user?.passwordHash !== oldHash) return false
      keepUser(state, { ...user, passwordHash: newHash })
      return true
    },

    async countPasswordHashes() {
      const counts = new Map<string | null, number>()
      for (const hash of hashes()) {
        const keyId = /,keyid=([A-Za-z\d+/]+)/.exec(hash)?.[1] ?? null
        counts.set(keyId, (counts.get(keyId) ?? 0) + 1)
      }
      return Array.from(counts, ([keyId, count]) => ({ keyId, count }))
    },

    async samplePasswordHashes(most) {
      const left = hashes()
      return Array.from({ length: Math.min(most, left.length) }, () => left.splice(randomInt(left.length), 1)[0]!)
    },
  } satisfies Partial<Storage>
}
