import { AccountsError } from '../errors.ts'

/**
 * Holds the requests that find no place in the hash queue. A refusal that is answered at once is asked for again at
 * once: a thousand such clients keep the event loop so busy that nothing is hashed any more. Whoever is held asks for
 * nothing.
 */
export interface WaitingRoom {
  /** Whether whoever comes now has to wait behind others. */
  crowded(): boolean
  /**
   * Waits for a place, first come, first served.
   *
   * @throws {AccountsError} ACCOUNTS_OVERLOADED when there was none in time, the room is full, or the client hung up
   */
  enter(signal: AbortSignal): Promise<void>
}

interface Guest {
  since: number
  letIn(): void
  refuse(): void
}

const tickMs = 20

/** Makes a room in front of a queue with so many free `places`. */
export function createWaitingRoom(
  places: () => number,
  { most = 10_000, patienceMs = 1000, longestMs = 10_000 } = {},
): WaitingRoom {
  // In the order of their coming.
  const guests = new Set<Guest>()
  let timer: NodeJS.Timeout | undefined

  function tick(): void {
    let free = places()
    // At a steady pace, or those who are refused together come back together.
    let refusals = Math.ceil((guests.size * tickMs) / longestMs)
    const patient = performance.now() - patienceMs
    for (const guest of guests) {
      if (free-- > 0) guest.letIn()
      else if (refusals-- > 0 && guest.since < patient) guest.refuse()
      else break
    }
    if (guests.size > 0) return
    clearInterval(timer)
    timer = undefined
  }

  return {
    crowded: () => guests.size > 0 || places() < 1,
    enter(signal) {
      if (guests.size >= most || signal.aborted) return Promise.reject(new AccountsError('ACCOUNTS_OVERLOADED'))
      timer ??= setInterval(tick, tickMs)
      return new Promise((resolve, reject) => {
        const guest = {
          since: performance.now(),
          letIn: () => leave(resolve),
          refuse: () => leave(() => reject(new AccountsError('ACCOUNTS_OVERLOADED'))),
        }
        function leave(settle: () => void) {
          signal.removeEventListener('abort', guest.refuse)
          guests.delete(guest)
          settle()
        }
        signal.addEventListener('abort', guest.refuse)
        guests.add(guest)
      })
    },
  }
}
