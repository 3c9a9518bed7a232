import { AccountsError } from '../errors.ts'
import type { Departure } from './hash-queue.ts'

/**
 * Holds the requests that find no place in the hash queue. A refusal that is answered at once is asked for again at
 * once: a thousand such clients keep the event loop so busy that nothing is hashed any more. Whoever is held asks for
 * nothing.
 */
export interface WaitingRoom {
  /** Whether whoever comes now has to wait. */
  crowded(): boolean
  /**
   * Waits for a place, first come, first served, and by turns with those who are `familiar`; whoever was refused and
   * comes back over the same connection before its Retry-After is over stands behind everybody else. Of one connection
   * only the first request stands in line: the others, which HTTP/1.1 would answer after it anyway, stand behind it.
   *
   * @throws {AccountsError} ACCOUNTS_OVERLOADED when there was no place in time, when the client hung up, and when the
   * room is full or too many requests of the connection are in it, which closes the connection
   */
  enter(connection: object, signal: Departure, familiar: boolean): Promise<void>
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
  { most = 20_000, mostPipelined = 4, patienceMs = 1000, longestMs = 10_000, mostRefusals = 300 } = {},
): WaitingRoom {
  const { stand, standing } = createLines(places, { patienceMs, longestMs, mostRefusals })
  const pipelines = new WeakMap<object, { length: number; last?: Promise<void> }>()
  let held = 0

  return {
    crowded: () => standing() > 0 || places() < 1,
    async enter(connection, signal, familiar) {
      const pipeline = pipelines.get(connection) ?? { length: 0 }
      if (held >= most || pipeline.length >= mostPipelined) throw closing(new AccountsError('ACCOUNTS_OVERLOADED'))
      const turn = pipeline.last?.then(() => stand(connection, signal, familiar)) ?? stand(connection, signal, familiar)
      held++
      pipeline.length++
      pipeline.last = turn
        .catch(() => {})
        .finally(() => {
          held--
          if (--pipeline.length === 0) pipelines.delete(connection)
        })
      pipelines.set(connection, pipeline)
      return turn
    },
  }
}

function closing(error: AccountsError): AccountsError {
  error.headers.connection = 'close'
  return error
}

interface Pace {
  patienceMs: number
  longestMs: number
  mostRefusals: number
}

/** Two lines for those who may come, with half of the turns each, and behind them one for those who are too early. */
function createLines(places: () => number, { patienceMs, longestMs, mostRefusals }: Pace) {
  const [familiars, strangers, early] = [createLine(), createLine(), createLine()]
  let turns = [familiars, strangers]
  const welcomeAt = new WeakMap<object, number>()
  let timer: NodeJS.Timeout | undefined

  const standing = () => familiars.size() + strangers.size() + early.size()

  function letIn(most: number): void {
    for (let count = 0; count < most && standing() > 0; count++) {
      const [next, other] = turns.map((line) => line.first())
      turns = turns.toReversed()
      ;(next ?? other ?? early.first())?.letIn()
    }
  }

  function refuse(most: number): void {
    const patient = performance.now() - patienceMs
    for (let count = 0; count < most; count++) {
      const oldest = older(older(familiars.first(), strangers.first()), early.first())
      if (!oldest || oldest.since >= patient) return
      oldest.refuse()
    }
  }

  function tick(): void {
    letIn(places())
    // At a steady pace, or those who are refused together come back together; and never so many that it is felt.
    const perSecond = Math.min((standing() * 1000) / longestMs, mostRefusals)
    refuse(Math.ceil((perSecond * tickMs) / 1000))
    if (standing() > 0) return
    clearInterval(timer)
    timer = undefined
  }

  async function stand(connection: object, signal: Departure, familiar: boolean): Promise<void> {
    timer ??= setInterval(tick, tickMs)
    const comesEarly = performance.now() < (welcomeAt.get(connection) ?? 0)
    try {
      await (comesEarly ? early : familiar ? familiars : strangers).stand(signal)
    } catch (error) {
      const { headers } = error as AccountsError
      welcomeAt.set(connection, performance.now() + Number(headers['retry-after']) * 1000)
      throw error
    }
  }

  return { stand, standing }
}

function older(one: Guest | undefined, other: Guest | undefined): Guest | undefined {
  return one && other ? (one.since <= other.since ? one : other) : (one ?? other)
}

/** Those who stand, in the order of their coming. */
function createLine() {
  const guests = new Set<Guest>()

  function stand(signal: Departure): Promise<void> {
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
    })
  }

  return { stand, first: (): Guest | undefined => guests.values().next().value, size: () => guests.size }
}
