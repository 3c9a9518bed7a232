import { AccountsError } from '../errors.ts'

/**
 * Holds the requests that find no place in the hash queue. A refusal that is answered at once is asked for again at
 * once: a thousand such clients keep the event loop so busy that nothing is hashed any more. Whoever is held asks for
 * nothing.
 */
export interface WaitingRoom {
  /** Whether whoever comes now has to wait. */
  crowded(): boolean
  /**
   * Waits for a place, first come, first served. Of one connection only the first request stands in the order of
   * coming: the others, which HTTP/1.1 would answer after it anyway, stand behind it.
   *
   * @throws {AccountsError} ACCOUNTS_OVERLOADED when there was no place in time, when the client hung up, and when the
   * room is full, which closes the connection
   */
  enter(connection: object, signal: AbortSignal): Promise<void>
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
  { most = 20_000, patienceMs = 1000, longestMs = 10_000, mostRefusals = 300 } = {},
): WaitingRoom {
  const { guests, stand } = createLine(() => {
    let free = places()
    // At a steady pace, or those who are refused together come back together; and never so many that it is felt.
    const perSecond = Math.min((guests.size * 1000) / longestMs, mostRefusals)
    let refusals = Math.ceil((perSecond * tickMs) / 1000)
    const patient = performance.now() - patienceMs
    for (const guest of guests) {
      if (free-- > 0) guest.letIn()
      else if (refusals-- > 0 && guest.since < patient) guest.refuse()
      else return
    }
  })
  const lastOf = new WeakMap<object, Promise<void>>()
  let held = 0

  return {
    crowded: () => guests.size > 0 || places() < 1,
    async enter(connection, signal) {
      if (held >= most) throw closing(new AccountsError('ACCOUNTS_OVERLOADED'))
      held++
      const before = lastOf.get(connection)
      const turn = before ? before.then(() => stand(signal)) : stand(signal)
      const over = turn
        .catch(() => {})
        .finally(() => {
          held--
          if (lastOf.get(connection) === over) lastOf.delete(connection)
        })
      lastOf.set(connection, over)
      return turn
    },
  }
}

function closing(error: AccountsError): AccountsError {
  error.headers.connection = 'close'
  return error
}

/** Those who stand, in the order of their coming; `tick` goes through them every now and then while there are any. */
function createLine(tick: () => void) {
  const guests = new Set<Guest>()
  let timer: NodeJS.Timeout | undefined

  function look(): void {
    tick()
    if (guests.size > 0) return
    clearInterval(timer)
    timer = undefined
  }

  function stand(signal: AbortSignal): Promise<void> {
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
      if (signal.aborted) return guest.refuse()
      signal.addEventListener('abort', guest.refuse)
      guests.add(guest)
      timer ??= setInterval(look, tickMs)
    })
  }

  return { guests: guests as ReadonlySet<Guest>, stand }
}
