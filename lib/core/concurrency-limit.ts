import type { FastifyBaseLogger } from 'fastify'
import { AccountsError } from '../errors.ts'

/** Bounds how many calls run at once; the others wait for their turn. */
export interface ConcurrencyLimit {
  /**
   * Takes a turn: at once, and then it returns nothing, or when the calls before have had theirs.
   *
   * @throws {AccountsError} ACCOUNTS_UNAVAILABLE, after a second without a turn
   */
  enter(): Promise<void> | undefined
  /** Gives the turn back. When a call took too long, half as many may run from now on, and then slowly more. */
  leave(late: boolean): void
}

/**
 * Makes a limit by additive increase and multiplicative decrease. Without one, what waits for a connection of a pool is
 * too late when it gets there: the work is done, and nobody waits for it any more.
 */
export function createConcurrencyLimit(
  log: Pick<FastifyBaseLogger, 'error'>,
  { most = 100, least = 4, patienceMs = 1000 } = {},
): ConcurrencyLimit {
  const line = new Set<() => void>()
  let limit = most
  let running = 0
  // What runs at the same time is late at the same time, and says it once.
  const slowDown = atMostEvery(patienceMs, () => {
    limit = Math.max(least, limit / 2)
  })
  const tell = atMostEvery(patienceMs, () => {
    log.error('fastify-accounts: calls of the database were refused, since others have waited too long')
  })

  function wait(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        line.delete(start)
        tell()
        reject(new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: new Error('port is busy') }))
      }, patienceMs)
      function start() {
        clearTimeout(timer)
        resolve()
      }
      line.add(start)
    })
  }

  return {
    enter() {
      if (running >= Math.floor(limit)) return wait()
      running++
      return undefined
    },
    leave(late) {
      running--
      if (late) slowDown()
      else limit = Math.min(most, limit + 1 / limit)
      for (const start of line) {
        if (running >= Math.floor(limit)) return
        line.delete(start)
        running++
        start()
      }
    },
  }
}

function atMostEvery(ms: number, act: () => void): () => void {
  let last = Number.NEGATIVE_INFINITY
  return () => {
    const now = performance.now()
    if (now - last < ms) return
    last = now
    act()
  }
}
