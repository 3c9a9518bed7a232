import { randomInt } from 'node:crypto'
import { loggable } from '../errors.ts'
import { within } from './deadline.ts'
import { sweepOutbox } from './outbox.ts'
import type { Realm } from './realm.ts'

const sweepMs = 5000
const purgeMs = 60_000
const purgeBatch = 1000
/** How long a stop waits for a round that has begun; the next instance does the rest. */
const stopMs = 2000

/**
 * Starts what an instance does in the background: mails that wait in the outbox, and rows that nobody needs any more.
 * Any number of instances may do so at once. Returns a function that stops it when the rounds that have begun are done.
 */
export function startHousekeeping(realm: Realm): () => Promise<void> {
  const stops = [repeat(realm, purge, purgeMs)]
  if (realm.mailer) stops.push(repeat(realm, sweepOutbox, sweepMs))
  return async () => {
    await Promise.all(stops.map((stop) => stop()))
  }
}

/** Removes rows that nobody needs, in batches. */
export async function purge(realm: Realm): Promise<void> {
  const { storage, options, clock } = realm
  const now = clock()
  // Without the option another instance decides how long events are kept.
  const eventsBefore = options.eventLog ? now - options.eventLog.keep * 1000 : 0
  const removed = await storage.purge({ now, eventsBefore, limit: purgeBatch })
  if (removed >= purgeBatch) await purge(realm)
}

type Work = (realm: Realm) => Promise<void>

function repeat(realm: Realm, work: Work, everyMs: number): () => Promise<void> {
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  let round = Promise.resolve()
  function plan(): void {
    if (stopped) return
    // Spread, so that instances which were deployed together do not work together.
    const begin = () => {
      round = run()
    }
    timer = setTimeout(begin, randomInt(everyMs * 0.75, everyMs * 1.25)).unref()
  }
  async function run(): Promise<void> {
    await work(realm).catch((error) => {
      // The next round does it; the port has logged its fault.
      realm.log.debug({ err: loggable(error) }, `fastify-accounts: ${work.name} will be tried again`)
    })
    plan()
  }
  plan()
  return async () => {
    stopped = true
    clearTimeout(timer)
    await within(stopMs, round)
  }
}
