import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis, RedisOptions } from 'ioredis'
import { createListeners, type Listener } from '../listeners.ts'
import { withoutArguments } from './connection.ts'

/** Opens one connection; undefined when there is nothing to connect to yet. */
export type OpenLink = (overrides: RedisOptions, onError: (error: Error) => void) => Redis | undefined

/** The listening end of a channel. */
export interface RedisChannel {
  /** Listens from now on, whether Redis is up or not. */
  subscribe(listener: Listener, restarted?: () => void): void
  /** Ends listening, at once and for good. */
  close(): void
}

const beatMs = 1000

// A link is used once and replaced when it ends. In a cluster too it goes to one node: ioredis' own subscriber of a
// cluster neither notices that its link is frozen nor tells that it has subscribed again.
const linkOptions: RedisOptions = { retryStrategy: () => null, socketTimeout: beatMs }

/**
 * Listens to a channel of Redis over a connection of its own, which is opened for the first listener, watched, and
 * replaced within about three seconds when it is dead, also when nobody closed it.
 *
 * @param onError told of the first fault of each outage, and of each listener that throws
 */
export function redisChannel(
  channel: string,
  open: OpenLink,
  onError: (error: Error) => void = () => {},
): RedisChannel {
  const listeners = createListeners(onError)
  const closing = new AbortController()
  const state = { link: undefined as Link | undefined, started: false, down: false }
  const events: LinkEvents = {
    heard: listeners.hear,
    begun() {
      state.down = false
      listeners.begin()
    },
    failed(error) {
      if (state.down || closing.signal.aborted) return
      state.down = true
      onError(error)
    },
  }
  async function stayConnected(): Promise<void> {
    for (let attempt = 1; !closing.signal.aborted; attempt++) {
      const redis = open(linkOptions, events.failed)
      state.link = redis && { redis, listening: false }
      if (state.link) await listenOn(state.link, channel, events)
      if (state.link?.listening) attempt = 1
      state.link = undefined
      await sleep(Math.min(attempt * 100, 1000), undefined, { signal: closing.signal }).catch(() => {})
    }
  }

  return {
    subscribe(listener, restarted) {
      const entry = listeners.add(listener, restarted)
      if (!entry) return
      if (state.link?.listening) queueMicrotask(entry.begin)
      if (!state.started) void stayConnected()
      state.started = true
    },
    close() {
      closing.abort()
      listeners.close()
      state.link?.redis.disconnect()
    },
  }
}

interface Link {
  redis: Redis
  /** Whether it was subscribed. */
  listening: boolean
}

interface LinkEvents {
  heard(text: string): void
  begun(): void
  failed(error: Error): void
}

/** Resolves when the link has ended. */
async function listenOn(link: Link, channel: string, { heard, begun, failed }: LinkEvents): Promise<void> {
  const { redis } = link
  const beats: NodeJS.Timeout[] = []
  async function beat(): Promise<void> {
    // Only while something is unanswered does the socket's time-out find out that the link is dead.
    if (link.listening) return void (await redis.ping().catch(() => {}))
    await redis.subscribe(channel)
    link.listening = true
    begun()
  }
  // A subscription that was refused is tried again with the next beat.
  const tick = () => void beat().catch((error) => failed(withoutArguments(error)))
  redis.on('message', (_channel: string, text: string) => heard(text))
  redis.once('ready', () => {
    beats.push(setInterval(tick, beatMs))
    tick()
  })
  await new Promise((resolve) => redis.once('end', resolve))
  for (const timer of beats) clearInterval(timer)
}
