import { availableParallelism } from 'node:os'
import { AccountsError } from './errors.ts'

/** A request on its way to the queue. */
export interface Place {
  /** Aborted when the client hung up. */
  readonly signal: AbortSignal
  /** Ends the request's share in the count of those still on their way. */
  reached(): void
}

/** Admission control in front of the password hash: few at a time, the rest in line, and a bound on the line. */
export interface HashQueue {
  /** How many hashes run at once. */
  readonly concurrency: number
  /** The first door, before a body is parsed: refuses when whoever comes now would wait too long. */
  admit(): void
  /** Counts a validated request as on its way, so that the first door sees it coming. */
  approach(signal: AbortSignal): Place
  /**
   * The second door: runs the task when its turn comes, first in, first out.
   *
   * @throws {AccountsError} ACCOUNTS_OVERLOADED when the wait would be too long or the client hung up
   */
  run<T>(task: () => Promise<T>, place?: Place): Promise<T>
  /** How many wait and run; for tests and health checks. */
  size(): { waiting: number; running: number }
}

/** What libuv's pool has by default: https://nodejs.org/api/cli.html#uv_threadpool_sizesize */
const defaultPoolSize = 4

/** Threads of libuv's pool; two of them are left to DNS, files and compression. */
export const poolSize = Number(process.env.UV_THREADPOOL_SIZE) || defaultPoolSize
/** Cores that this process may use. */
export const cores = availableParallelism()
/** Hashes that may run at once in this process. */
export const hashSlots = Math.max(1, Math.min(cores, poolSize - 2))

/** Makes a queue. The plugin uses one for the whole process, `hashQueue`. */
export function createHashQueue(concurrency: number, maxWaitMs = 2000): HashQueue {
  const waiting: { start(): void }[] = []
  let running = 0
  let approaching = 0
  let averageMs = 30

  const waitFor = (before: number) => (before * averageMs) / concurrency
  const refuseWhenLong = (before: number) => {
    if (waitFor(before) > maxWaitMs) throw new AccountsError('ACCOUNTS_OVERLOADED')
  }

  function turn(place: Place | undefined): Promise<void> {
    if (running < concurrency) {
      running++
      return Promise.resolve()
    }
    return new Promise((resolve, reject) => {
      const entry = { start: () => leaveLine(resolve) }
      const hangUp = () => leaveLine(() => reject(new AccountsError('ACCOUNTS_OVERLOADED')))
      function leaveLine(settle: () => void) {
        place?.signal.removeEventListener('abort', hangUp)
        const index = waiting.indexOf(entry)
        if (index >= 0) waiting.splice(index, 1)
        settle()
      }
      place?.signal.addEventListener('abort', hangUp)
      waiting.push(entry)
    })
  }

  // The slot passes straight to the next in line, so nobody can slip in between.
  function passOn(): void {
    const next = waiting[0]
    if (next) next.start()
    else running--
  }

  return {
    concurrency,
    admit: () => refuseWhenLong(waiting.length + approaching),
    approach(signal) {
      approaching++
      let counted = true
      const reached = () => {
        if (counted) approaching--
        counted = false
      }
      return { signal, reached }
    },
    async run(task, place) {
      place?.reached()
      if (place?.signal.aborted) throw new AccountsError('ACCOUNTS_OVERLOADED')
      refuseWhenLong(waiting.length)
      await turn(place)
      const started = performance.now()
      try {
        return await task()
      } finally {
        averageMs += (performance.now() - started - averageMs) / 16
        passOn()
      }
    },
    size: () => ({ waiting: waiting.length, running }),
  }
}

/** The queue of this process; every realm and every app shares it, since they share the cores. */
export const hashQueue = createHashQueue(hashSlots)
