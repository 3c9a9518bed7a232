import { availableParallelism } from 'node:os'
import { AccountsError } from '../errors.ts'

/** Aborted when a client hangs up, or has its answer. */
export type Departure = Pick<AbortSignal, 'aborted'> & {
  addEventListener(type: 'abort', listener: () => void): void
  removeEventListener(type: 'abort', listener: () => void): void
}

/** Counts a request that will soon ask for a hash. */
export interface Reservation {
  readonly signal: Departure
  /** Whether the client is known to the account; such requests have every other turn. */
  known: boolean
  /** Stops counting the request; a second call does nothing. */
  release(): void
}

/** The reservations by request, so that whatever hashes for a request finds its own. */
export const reservations = new WeakMap<object, Reservation>()

/** Admission control for password hashing: a few at a time, the rest in a line of bounded length. */
export interface HashQueue {
  /** How many hashes run at once. */
  readonly concurrency: number
  /** How many more requests may come in before the wait for a hash is too long. */
  places(): number
  /** Counts a validated request before it runs; it holds one of the places. */
  reserve(signal: Departure): Reservation
  /**
   * Runs the task when its turn comes: first in, first out, and by turns with those who are known.
   *
   * @throws {AccountsError} ACCOUNTS_OVERLOADED when there is no place and none was reserved, or the client has hung up
   */
  run<T>(task: () => Promise<T>, reservation?: Reservation): Promise<T>
  /** How many tasks wait and run; for tests and health checks. */
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
  const line = createLine(concurrency)
  let reserved = 0
  let averageMs = 30

  const places = () => Math.floor((maxWaitMs * concurrency) / averageMs) + 1 - line.size().waiting - reserved

  return {
    concurrency,
    places,
    reserve(signal) {
      reserved++
      let counted = true
      const release = () => {
        if (counted) reserved--
        counted = false
      }
      return { signal, known: false, release }
    },
    async run(task, reservation) {
      reservation?.release()
      if (reservation ? reservation.signal.aborted : places() < 1) throw new AccountsError('ACCOUNTS_OVERLOADED')
      await line.turn(reservation)
      const started = performance.now()
      try {
        return await task()
      } finally {
        averageMs += (performance.now() - started - averageMs) / 16
        line.passOn()
      }
    },
    size: line.size,
  }
}

/** First-in-first-out lines of known and other callers for `slots` tasks at a time. */
function createLine(slots: number) {
  const lines: Record<'known' | 'others', { start(): void }[]> = { known: [], others: [] }
  let running = 0
  let turn: keyof typeof lines = 'known'

  function wait({ signal, known = false }: Partial<Reservation> = {}): Promise<void> {
    const waiting = lines[known ? 'known' : 'others']
    return new Promise((resolve, reject) => {
      const entry = { start: () => leave(resolve) }
      const hangUp = () => leave(() => reject(new AccountsError('ACCOUNTS_OVERLOADED')))
      function leave(settle: () => void) {
        signal?.removeEventListener('abort', hangUp)
        waiting.splice(waiting.indexOf(entry), 1)
        settle()
      }
      signal?.addEventListener('abort', hangUp)
      waiting.push(entry)
    })
  }

  return {
    /** Resolves when the caller has a slot, and rejects when the client hangs up before that. */
    async turn(reservation: Reservation | undefined): Promise<void> {
      if (running === slots) return wait(reservation)
      running++
    },
    /** Gives the slot directly to the next in line, so that nobody jumps the queue. */
    passOn(): void {
      const next = lines[turn][0] ?? lines.known[0] ?? lines.others[0]
      turn = turn === 'known' ? 'others' : 'known'
      if (next) next.start()
      else running--
    },
    size: () => ({ waiting: lines.known.length + lines.others.length, running }),
  }
}

/** The queue of this process. All realms and apps share it, since they share the cores. */
export const hashQueue = createHashQueue(hashSlots)
