import { randomInt } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { AccountsError, isOutage } from '../errors.ts'
import { withEachMethod } from './methods.ts'

/** What an adapter knows of the errors of its database. */
export interface Faults {
  /** Whether a verb that failed so left nothing behind and may be tried again, as after a deadlock. @default none */
  retry?(error: unknown): boolean
  /** Whether the database could not serve, or not us, so that trying again later may help. @default none */
  unavailable?(error: unknown): boolean
}

const retries = 3
const pauseMs = 10
/** The core waits no longer than this for a call. */
const patienceMs = 1000

/**
 * The verbs of a storage, each but `importUsers` tried again at most three times, and throwing `ACCOUNTS_UNAVAILABLE`,
 * which becomes a 503, for faults of the database and of the connection to it. Without `retry` for a storage that has
 * joined a transaction of the host's, which is rolled back as a whole.
 */
export function resilient<Verbs extends object>(verbs: Verbs, { retry, unavailable }: Faults = {}): Verbs {
  return withEachMethod(verbs, (name, verb) => async (...args) => {
    try {
      // An import is many steps: tried again, it would find its own users taken.
      return await attempt(async () => verb(...args), name === 'importUsers' ? undefined : retry)
    } catch (cause) {
      throw isOutage(cause) || unavailable?.(cause) ? new AccountsError('ACCOUNTS_UNAVAILABLE', { cause }) : cause
    }
  })
}

async function attempt<T>(call: () => Promise<T>, retry: Faults['retry']): Promise<T> {
  const started = performance.now()
  for (let tries = 1; ; tries++) {
    try {
      return await call()
    } catch (error) {
      if (!retry?.(error) || tries > retries || performance.now() - started > patienceMs) throw error
    }
    // Jittered, so that those who met do not meet again.
    await pause(randomInt(1, pauseMs * tries))
  }
}
