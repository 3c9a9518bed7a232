import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Cache, Storage, UserId } from '../contracts.ts'
import { loggable } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'

/** Knows which sessions have ended, so that their access tokens stop before they expire. */
export interface Revocation {
  /**
   * Whether the session of a verified access token goes on. No query while the feed is up, unless the token is one that
   * was signed within a host's transaction and its session was not seen since.
   */
  alive(sessionId: string, userId: UserId, uncommitted?: boolean): boolean | Promise<boolean>
  /** Records sessions that have just ended here, and publishes them to the other instances. */
  announce(sessionIds: string[]): void
  /** Stops listening, when what was announced has been published. */
  close(): Promise<void>
}

/** What the feed works with. */
export interface RevocationParts {
  options: Pick<ResolvedOptions, 'revocation' | 'tokens'>
  storage: Pick<Storage, 'sessionActive' | 'endedSince'>
  cache: Pick<Cache, 'publish' | 'subscribe'> | undefined
  log: FastifyBaseLogger
  clock(): number
}

/** Makes the revocation that the option names. */
export function createRevocation(parts: RevocationParts): Revocation {
  const { options, storage, cache, clock } = parts
  const silent = { announce() {}, async close() {} }
  if (options.revocation === 'storage' || (options.revocation === 'feed' && !cache)) {
    return { ...silent, alive: (sessionId, userId) => storage.sessionActive(sessionId, userId, clock()) }
  }
  const reads = rowReads(parts)
  const { alive, ...feed } =
    options.revocation === 'feed' && cache ? createFeed({ ...parts, cache }, reads) : { ...silent, alive: () => true }
  const unseen = firstReads(reads)
  return {
    ...feed,
    alive(sessionId, userId, uncommitted = false) {
      const known = alive(sessionId, userId)
      return (uncommitted && known !== false && unseen(sessionId, userId)) || known
    },
  }
}

/** Reads the row of a session until it was there once: what started it may have been rolled back. */
function firstReads(reads: ReturnType<typeof rowReads>) {
  const seen = new Set<string>()
  return (sessionId: string, userId: UserId): Promise<boolean> | null =>
    seen.has(sessionId)
      ? null
      : reads(sessionId, userId).then((active) => {
          if (active) seen.add(sessionId)
          if (seen.size > mostReads) seen.delete(seen.values().next().value as string)
          return active
        })
}

const beatMs = 1000
/** Two missed heartbeats and a bit. */
const silenceMs = 2500
const pollMs = 10_000
/** How much further back than the life of an access token each poll reaches: clocks differ. */
const overlapMs = 60_000
const readMs = 2000
const mostReads = 10_000
/** How many sessions one message names, and how many a fault keeps for the next. */
const mostNamed = 10_000
const longestMessage = 2 ** 20
/** A connection that was opened a moment ago, over a slow link, gets so much more time when a program ends. */
const lastTries = 3
const lastWaitMs = 300

type FeedParts = RevocationParts & { cache: Pick<Cache, 'publish' | 'subscribe'> }

// The truth is the sessions table. Messages on the channel are fast; polls find what a message did not bring. The own
// heartbeat, sent on the publishing connection and received on the subscribed one, proves that both work.
function createFeed(parts: FeedParts, reads: ReturnType<typeof rowReads>): Revocation {
  const { cache, log, clock, options } = parts
  const self = randomBytes(9).toString('base64url')
  const ended = endedSessions(options.tokens.accessTtl * 1000 + overlapMs, clock)
  const link = watchedLink(poller(parts, ended))
  const publisher = createPublisher(cache, self)
  const timers: NodeJS.Timeout[] = []
  let [started, closed] = [false, false]

  function onMessage(text: string): void {
    const message = messageOf(text)
    for (const id of message?.ended ?? []) ended.add(id)
    if (message?.from === self) link.beat(message.at)
  }
  function start(): void {
    started = true
    cache.subscribe(onMessage, link.restart).catch((error) => {
      log.error({ err: loggable(error) }, 'fastify-accounts: the feed of ended sessions cannot be received')
    })
    timers.push(setInterval(() => publisher.publish(), beatMs).unref(), setInterval(link.sync, pollMs).unref())
    publisher.publish()
  }

  return {
    alive(sessionId, userId) {
      if (!started && !closed) start()
      if (ended.has(sessionId)) return false
      return link.isCurrent() || reads(sessionId, userId)
    },
    announce(sessionIds) {
      if (sessionIds.length === 0) return
      for (const id of sessionIds) ended.add(id)
      publisher.publish(sessionIds)
    },
    async close() {
      closed = true
      for (const timer of timers) clearInterval(timer)
      await publisher.done()
    },
  }
}

/** Judges by heartbeats and polls whether this process has seen every end. */
function watchedLink(poll: () => Promise<boolean>) {
  // Whether nothing was missed since the last poll.
  let synced = false
  // Counts the times when something may have been missed.
  let gaps = 0
  let lastBeat = Number.NEGATIVE_INFINITY
  const silent = () => performance.now() - lastBeat > silenceMs
  function miss(): void {
    synced = false
    gaps++
  }
  async function sync(): Promise<void> {
    const before = gaps
    // What was missed while the poll ran, it need not have seen.
    if ((await poll()) && before === gaps) synced = !silent()
  }

  return {
    sync: () => void sync(),
    isCurrent: () => synced && !silent(),
    /** Listening has begun anew. */
    restart(): void {
      miss()
      void sync()
    },
    /** The own heartbeat was received, sent at `sentAt`. */
    beat(sentAt: number): void {
      if (silent()) miss()
      // When it was sent: a link on which everything comes, but late, is as silent as one that is cut.
      lastBeat = Math.min(sentAt, performance.now())
      if (!synced && !silent()) void sync()
    },
  }
}

/** Publishes ended sessions to the others; every message is a heartbeat, too. */
function createPublisher(cache: FeedParts['cache'], self: string) {
  let unsent: string[] = []
  let sending = Promise.resolve()
  async function send(): Promise<void> {
    const ended = unsent.splice(0, mostNamed)
    const rest = unsent.length > 0 ? send() : undefined
    try {
      await cache.publish(JSON.stringify({ from: self, at: performance.now(), ended }))
    } catch {
      // The next heartbeat takes them along; what it cannot carry, the polls of the others find.
      unsent = [...ended, ...unsent].slice(-mostNamed)
    }
    await rest
  }
  function publish(sessionIds: string[] = []): void {
    unsent = unsent.concat(sessionIds)
    sending = send()
  }
  return {
    publish,
    /** Resolves when all is on its way, or cannot be brought on it: no heartbeat comes any more. */
    async done(): Promise<void> {
      await sending
      for (let tries = 0; tries < lastTries && unsent.length > 0; tries++) {
        await sleep(lastWaitMs)
        publish()
        await sending
      }
    },
  }
}

/** The sessions that ended a short while ago; those whose access tokens have all expired are forgotten. */
function endedSessions(keepMs: number, clock: () => number) {
  const ends = new Map<string, number>()
  function prune(): void {
    for (const [id, knownAt] of ends) {
      if (knownAt + keepMs > clock()) return
      ends.delete(id)
    }
  }
  return {
    has: (id: string) => ends.has(id),
    // Kept from when it became known, which is never before the end.
    add(id: string): void {
      prune()
      if (!ends.has(id)) ends.set(id, clock())
    },
  }
}

/**
 * Reads what ended while its access tokens may still be out, and returns whether it could. The whole of it at each
 * poll: an end is dated by when it was asked for, and may be committed long after, by a host's transaction or behind a
 * lock.
 */
function poller({ storage, clock, options }: RevocationParts, ended: ReturnType<typeof endedSessions>) {
  const accessMs = options.tokens.accessTtl * 1000
  return async (): Promise<boolean> => {
    const since = clock() - accessMs - overlapMs
    try {
      for (const { id } of await storage.endedSince(since, since - accessMs)) ended.add(id)
    } catch {
      return false
    }
    return true
  }
}

/** Reads session rows, each at most every two seconds. */
function rowReads({ storage, clock }: RevocationParts) {
  const reads = new Map<string, { alive: Promise<boolean>; until: number }>()
  return (sessionId: string, userId: UserId): Promise<boolean> => {
    const known = reads.get(sessionId)
    if (known && performance.now() < known.until) return known.alive
    const alive = storage.sessionActive(sessionId, userId, clock())
    reads.delete(sessionId)
    reads.set(sessionId, { alive, until: performance.now() + readMs })
    if (reads.size > mostReads) reads.delete(reads.keys().next().value as string)
    // A fault goes to those who wait, and is not remembered.
    alive.catch(() => reads.delete(sessionId))
    return alive
  }
}

/** Reads a message of the channel; null for one that is not ours. */
function messageOf(text: string): { from: string; at: number; ended: string[] } | null {
  if (text.length > longestMessage) return null
  try {
    const { from, at, ended } = JSON.parse(text)
    const whole = typeof at === 'number' && Array.isArray(ended) && ended.every((id) => typeof id === 'string')
    return whole ? { from, at, ended } : null
  } catch {
    return null
  }
}
