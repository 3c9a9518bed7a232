import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis, RedisOptions } from 'ioredis'
import type { Cache } from '../../contracts.ts'
import { withoutArguments } from './connection.ts'

/** Opens one connection; undefined when there is nothing to connect to yet. */
export type OpenLink = (overrides: RedisOptions, onError: (error: Error) => void) => Redis | undefined

/** The listening end of a channel. */
export interface RedisChannel {
  /** Listens from now on, whether Redis is up or not. */
  subscribe: (...args: Parameters<Cache['subscribe']>) => void
  /** Ends listening, at once and for good. */
  close(): void
}

const beatMs = 1000

// A link is used once and replaced when it ends. In a cluster too it goes to one node: ioredis' own subscriber of a
// cluster neither notices that its link is frozen nor reports that it has subscribed again.
const linkOptions: RedisOptions = { retryStrategy: () => null, socketTimeout: beatMs }

/**
 * Listens to a channel of Redis over a connection of its own, which is opened for the first listener, watched, and
 * replaced within about three seconds when it is dead, also when nobody closed it.
 *
 * @param onError called with the first fault of each outage, and with what a listener throws
 */
export function redisChannel(
  channel: string,
  open: OpenLink,
  onError: (error: Error) => void = () => {},
): RedisChannel {
  const listeners = createListeners(onError)
  const closing = new AbortController()
  let link: Link | undefined
  let started = false
  let down = false
  const events: LinkEvents = {
    onMessage: listeners.onMessage,
    onBegin() {
      down = false
      listeners.onBegin()
    },
    onFailure(error) {
      if (down || closing.signal.aborted) return
      down = true
      onError(error)
    },
  }
  async function stayConnected(): Promise<void> {
    for (let attempt = 1; !closing.signal.aborted; attempt++) {
      const redis = open(linkOptions, events.onFailure)
      link = redis && { redis, listening: false }
      if (link) await listenOn(link, channel, events)
      if (link?.listening) attempt = 1
      link = undefined
      await sleep(Math.min(attempt * 100, 1000), undefined, { signal: closing.signal }).catch(() => {})
    }
  }

  return {
    subscribe(listener, restarted) {
      if (closing.signal.aborted) return
      const begin = listeners.add(listener, restarted)
      if (link?.listening) queueMicrotask(begin)
      if (!started) void stayConnected()
      started = true
    },
    close() {
      closing.abort()
      listeners.clear()
      link?.redis.disconnect()
    },
  }
}

// Each is called by itself: one that throws does not affect the others.
function createListeners(onError: (error: Error) => void) {
  const entries = new Set<{ onMessage(text: string): void; onBegin(): void }>()
  function guarded<Args extends unknown[]>(call: (...args: Args) => void) {
    return (...args: Args): void => {
      try {
        call(...args)
      } catch (error) {
        onError(error as Error)
      }
    }
  }
  return {
    add(listener: (text: string) => void, restarted: () => void = () => {}): () => void {
      const entry = { onMessage: guarded(listener), onBegin: guarded(restarted) }
      entries.add(entry)
      return entry.onBegin
    },
    onMessage(text: string): void {
      for (const { onMessage } of entries) onMessage(text)
    },
    onBegin(): void {
      for (const { onBegin } of entries) onBegin()
    },
    clear: () => entries.clear(),
  }
}

interface Link {
  redis: Redis
  /** Whether it was subscribed. */
  listening: boolean
}

interface LinkEvents {
  onMessage(text: string): void
  /** Called when listening has begun. */
  onBegin(): void
  onFailure(error: Error): void
}

/** Resolves when the link has ended. */
async function listenOn(link: Link, channel: string, { onMessage, onBegin, onFailure }: LinkEvents): Promise<void> {
  const { redis } = link
  const beats: NodeJS.Timeout[] = []
  async function beat(): Promise<void> {
    // Only while a reply is awaited does the socket's timeout find out that the link is dead.
    if (link.listening) return void (await redis.ping().catch(() => {}))
    await redis.subscribe(channel)
    link.listening = true
    onBegin()
  }
  // A subscription that was refused is tried again with the next beat.
  const tick = () => void beat().catch((error) => onFailure(withoutArguments(error)))
  redis.on('message', (_channel: string, text: string) => onMessage(text))
  redis.once('ready', () => {
    beats.push(setInterval(tick, beatMs))
    tick()
  })
  await new Promise((resolve) => redis.once('end', resolve))
  for (const timer of beats) clearInterval(timer)
}
