import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import type { Cache, Storage, UserId } from '../contracts.ts'
import { loggable } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'

/** Tells which sessions have ended, so that their access tokens stop before they expire. */
export interface Revocation {
  /** Whether the session of a verified access token goes on. No query while the feed is up. */
  alive(sessionId: string, userId: UserId): boolean | Promise<boolean>
  /** Takes note of sessions that have just ended here, and tells the other instances. */
  announce(sessionIds: string[]): void
  /** Stops listening, when what was announced has been told. */
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
  const untold = { announce() {}, async close() {} }
  if (options.revocation === 'none') return { ...untold, alive: () => true }
  if (options.revocation === 'storage' || !cache) {
    return { ...untold, alive: (sessionId, userId) => storage.sessionActive(sessionId, userId, clock()) }
  }
  return createFeed({ ...parts, cache })
}

const beatMs = 1000
/** Two missed heartbeats and a bit. */
const silenceMs = 2500
const pollMs = 10_000
/** How much further back than the life of an access token each poll reaches: clocks differ. */
const overlapMs = 60_000
const readMs = 2000
const mostReads = 10_000
/** How many sessions one text tells of, and how many a fault keeps for the next. */
const mostTold = 10_000
const longestText = 2 ** 20
/** A connection that was opened a moment ago, over a slow link, gets so much more time when a program ends. */
const lastTries = 3
const lastWaitMs = 300

type FeedParts = RevocationParts & { cache: Pick<Cache, 'publish' | 'subscribe'> }

// The truth is the sessions table. Texts on the channel carry news fast; polls carry what a text did not. The own
// heartbeat, sent on the publishing connection and heard on the subscribed one, proves that both work.
function createFeed(parts: FeedParts): Revocation {
  const { cache, log, clock, options } = parts
  const self = randomBytes(9).toString('base64url')
  const ended = endedSessions(options.tokens.accessTtl * 1000 + overlapMs, clock)
  const link = watchedLink(poller(parts, ended))
  const teller = createTeller(cache, self)
  const reads = rowReads(parts)
  const timers: NodeJS.Timeout[] = []
  const state = { started: false, closed: false }

  function hear(text: string): void {
    const news = newsOf(text)
    for (const id of news?.ended ?? []) ended.add(id)
    if (news?.from === self) link.beat(news.at)
  }
  function start(): void {
    state.started = true
    cache.subscribe(hear, link.restart).catch((error) => {
      log.error({ err: loggable(error) }, 'fastify-accounts: the feed of ended sessions cannot be heard')
    })
    timers.push(setInterval(() => teller.tell(), beatMs).unref(), setInterval(link.sync, pollMs).unref())
    teller.tell()
  }

  return {
    alive(sessionId, userId) {
      if (!state.started && !state.closed) start()
      if (ended.has(sessionId)) return false
      return link.inStep() || reads(sessionId, userId)
    },
    announce(sessionIds) {
      if (sessionIds.length === 0) return
      for (const id of sessionIds) ended.add(id)
      teller.tell(sessionIds)
    },
    async close() {
      state.closed = true
      for (const timer of timers) clearInterval(timer)
      await teller.done()
    },
  }
}

/** Judges by heartbeats and polls whether this process knows of every end. */
function watchedLink(poll: () => Promise<boolean>) {
  const state = {
    /** Nothing was missed since the last poll. */
    synced: false,
    /** Counts the times when something may have been missed. */
    gaps: 0,
    heardAt: Number.NEGATIVE_INFINITY,
  }
  const silent = () => performance.now() - state.heardAt > silenceMs
  function miss(): void {
    state.synced = false
    state.gaps++
  }
  async function sync(): Promise<void> {
    const { gaps } = state
    // What was missed while the poll ran, it need not have seen.
    if ((await poll()) && gaps === state.gaps) state.synced = !silent()
  }

  return {
    sync: () => void sync(),
    inStep: () => state.synced && !silent(),
    /** Listening has begun anew. */
    restart(): void {
      miss()
      void sync()
    },
    /** The own heartbeat was heard, sent at `sentAt`. */
    beat(sentAt: number): void {
      if (silent()) miss()
      // When it was sent: a link on which everything comes, but late, is as silent as one that is cut.
      state.heardAt = Math.min(sentAt, performance.now())
      if (!state.synced && !silent()) void sync()
    },
  }
}

/** Tells the others; every text is a heartbeat, too. */
function createTeller(cache: FeedParts['cache'], self: string) {
  const state = { unsent: [] as string[], telling: Promise.resolve() }
  async function send(): Promise<void> {
    const news = state.unsent.splice(0, mostTold)
    const rest = state.unsent.length > 0 ? send() : undefined
    try {
      await cache.publish(JSON.stringify({ from: self, at: performance.now(), ended: news }))
    } catch {
      // The next heartbeat takes them along; what it cannot carry, the polls of the others find.
      state.unsent = [...news, ...state.unsent].slice(-mostTold)
    }
    await rest
  }
  function tell(sessionIds: string[] = []): void {
    state.unsent = state.unsent.concat(sessionIds)
    state.telling = send()
  }
  return {
    tell,
    /** Resolves when what was told is on its way, or cannot be brought on it: no heartbeat comes any more. */
    async done(): Promise<void> {
      await state.telling
      for (let tries = 0; tries < lastTries && state.unsent.length > 0; tries++) {
        await sleep(lastWaitMs)
        tell()
        await state.telling
      }
    },
  }
}

/** The sessions that ended a short while ago; those whose access tokens have all expired are forgotten. */
function endedSessions(keepMs: number, clock: () => number) {
  const ends = new Map<string, number>()
  function prune(): void {
    for (const [id, heardAt] of ends) {
      if (heardAt + keepMs > clock()) return
      ends.delete(id)
    }
  }
  return {
    has: (id: string) => ends.has(id),
    // Kept from when it was heard of, which is never before the end.
    add(id: string): void {
      prune()
      if (!ends.has(id)) ends.set(id, clock())
    },
  }
}

/**
 * Reads what ended while its access tokens may still be out; answers whether it could. The whole of it at each poll: an
 * end is dated by when it was asked for, and may be committed long after, by a host's transaction or behind a lock.
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

/** Reads session rows while the feed is down, each at most every two seconds. */
function rowReads({ storage, clock }: RevocationParts) {
  const reads = new Map<string, { alive: Promise<boolean>; until: number }>()
  return (sessionId: string, userId: UserId): Promise<boolean> => {
    const known = reads.get(sessionId)
    if (known && performance.now() < known.until) return known.alive
    const alive = storage.sessionActive(sessionId, userId, clock())
    reads.delete(sessionId)
    reads.set(sessionId, { alive, until: performance.now() + readMs })
    if (reads.size > mostReads) reads.delete(reads.keys().next().value as string)
    // A fault is told to those who wait, and not remembered.
    alive.catch(() => reads.delete(sessionId))
    return alive
  }
}

/** Reads a text of the channel; null for one that is not ours. */
function newsOf(text: string): { from: string; at: number; ended: string[] } | null {
  if (text.length > longestText) return null
  try {
    const { from, at, ended } = JSON.parse(text)
    const whole = typeof at === 'number' && Array.isArray(ended) && ended.every((id) => typeof id === 'string')
    return whole ? { from, at, ended } : null
  } catch {
    return null
  }
}
