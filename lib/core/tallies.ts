import type { Acquaintance, Cache, Charge, Charged, Tally } from '../contracts.ts'
import { createMemory } from './memory.ts'

interface Count {
  tries: number
  /** When the next try past the limit is allowed. */
  next: number
  /** When it is forgotten. */
  until: number
}

const mostKnown = 32
/** Pauses double up to this. */
const longestMs = 900_000
/** So much the clocks of instances may differ. */
const skewMs = 60_000

/** What counts tries: the cache, or this process. */
export type Tallies = Pick<Cache, 'charge' | 'refund' | 'acquaint'>

/** Those of this process, which charge at once, too. */
export interface LocalTallies extends Tallies {
  chargeNow(charge: Charge, now: number): Charged
  /** Whether the client of a charge will be known to the account at a time. */
  knows(charge: Charge, at: number): boolean
}

/**
 * Counts tries within this process. Of more than `most` names those that were not used for long are forgotten. The rule
 * is our own, here and in Redis: `rate-limiter-flexible` bounds no memory, reads no clock but its own, charges one key
 * at a time and has no pauses that grow.
 */
export function createTallies(most: number): LocalTallies {
  const counts = createMemory<Count>(most)
  const lists = createMemory<Map<string, number>>(most)

  function countOf({ slot }: Charge, tally: Tally, now: number): Count {
    return live(counts.get(keyOf(slot, tally.name)), tally, now)
  }

  function chargeNow(charge: Charge, now: number): Charged {
    const known = knows(charge, now)
    const all = charged(charge, known).map((tally) => ({ tally, count: countOf(charge, tally, now) }))
    const waitMs = Math.max(0, ...all.map(({ tally, count }) => waitOf(count, tally, now)))
    const share = Math.max(0, ...all.map(({ tally, count }) => shareOf(count, tally)))
    if (waitMs > 0) return { waitMs, known, share }
    for (const { tally, count } of all) counts.set(keyOf(charge.slot, tally.name), counted(count, tally, now))
    return { waitMs: 0, known, share }
  }

  return {
    chargeNow,
    knows,
    charge: async (charge, now) => chargeNow(charge, now),
    async refund(charge, known, now) {
      for (const tally of charged(charge, known)) {
        const count = countOf(charge, tally, now)
        const key = keyOf(charge.slot, tally.name)
        // Refused tries leave no names, or they would push out those that count.
        if (count.tries > 1) counts.set(key, { ...count, tries: count.tries - 1, next: now })
        else counts.delete(key)
      }
    },
    async acquaint({ slot, list, client, until, alone }: Acquaintance, now) {
      const key = keyOf(slot, list)
      const before = alone ? [] : [...(lists.get(key) ?? [])].filter(([name, end]) => name !== client && now < end)
      const all = [...before, [client, until] as const].sort(([, end], [, other]) => end - other)
      lists.set(key, new Map(all.filter(([, end]) => now < end).slice(0, mostKnown)))
    },
  }

  function knows({ slot, known }: Charge, at: number): boolean {
    return known !== undefined && at < (lists.get(keyOf(slot, known.list))?.get(known.client) ?? 0)
  }
}

function charged({ tallies, known }: Charge, isKnown: boolean): Tally[] {
  return known && isKnown ? known.tallies : tallies
}

function live(count: Count | undefined, tally: Tally, now: number): Count {
  // Further ahead than any pause and window lead: the clock was set back.
  if (count && now < count.until && count.until <= now + longestPause(tally) + tally.windowMs + skewMs) return count
  return { tries: 0, next: 0, until: now + tally.windowMs }
}

function waitOf({ tries, next }: Count, tally: Tally, now: number): number {
  const ms = tries < tally.tries ? 0 : next - now
  return ms > pauseAfter(tries, tally) + skewMs ? 0 : Math.max(0, ms)
}

// To six places, as a cache that is elsewhere passes it on.
function shareOf({ tries }: Count, tally: Tally): number {
  return Math.round(((tries + 1) * 1e6) / tally.tries) / 1e6
}

function counted({ tries, until }: Count, tally: Tally, now: number): Count {
  if (tries + 1 < tally.tries) return { tries: tries + 1, next: 0, until: isEven(tally) ? now + tally.windowMs : until }
  const next = now + pauseAfter(tries + 1, tally)
  return { tries: tries + 1, next, until: next + tally.windowMs }
}

function pauseAfter(tries: number, tally: Tally): number {
  const doubled = firstPause(tally) * 2 ** Math.max(0, tries - tally.tries)
  return Math.min(longestPause(tally), doubled)
}

function longestPause(tally: Tally): number {
  return Math.max(longestMs, firstPause(tally))
}

function isEven(tally: Tally): boolean {
  return firstPause(tally) >= longestMs
}

function firstPause({ tries, windowMs }: Tally): number {
  return Math.ceil(windowMs / tries)
}

function keyOf(slot: string, name: string): string {
  return `${slot} ${name}`
}
