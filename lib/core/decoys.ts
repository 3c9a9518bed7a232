import { mac } from './secrets.ts'

const sampleSize = 1000
const sampleMs = 86_400_000
const retryMs = 60_000

/** What the decoys are taken from. */
export interface DecoySource {
  /** Hashes of some users, at random. */
  sample(most: number): Promise<string[]>
  /** Chooses an address's decoy, so that nobody outside can. */
  key: Buffer
  /** The time in milliseconds. */
  clock(): number
}

/** The hashes that a password is compared with where there is no account: work for nothing. */
export interface Decoys {
  /** An address's hash, always of the same kind: each kind has as many addresses as it has users. */
  of(address: string): string
  /** Told that a hash of another kind than the current one is stored: the kinds of all users are looked at. */
  meet(): void
}

/**
 * Draws decoys from what is stored, once a hash of another kind was met, and again every day; before that they are all
 * `dummy`, and the storage is not asked.
 *
 * @param usable whether a stored hash can be verified
 */
export function createDecoys(dummy: string, usable: (stored: string) => boolean, source?: DecoySource): Decoys {
  let hashes: string[] = []
  let due = 0

  function refresh(): void {
    if (!source || source.clock() < due) return
    due = source.clock() + sampleMs
    source.sample(sampleSize).then(
      // Sorted, a kind is one stretch, and an address stays where it is in the next sample.
      (sample) => {
        hashes = sample.filter(usable).sort()
      },
      // The port has logged it.
      () => {
        due = source.clock() + retryMs
      },
    )
  }

  return {
    of(address) {
      if (!source || hashes.length === 0) return dummy
      refresh()
      const drawn = Buffer.from(mac(source.key, address), 'base64url').readUInt32BE() / 2 ** 32
      return hashes[Math.floor(drawn * hashes.length)]!
    },
    meet: refresh,
  }
}
