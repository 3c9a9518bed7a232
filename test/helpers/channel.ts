import { memoryCache, memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Cache, Storage } from '../../lib/contracts.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { openApp, type Teardown } from './app.ts'
import { newMember } from './members.ts'

/** One instance's way to a channel, with faults that are set. */
export interface Link extends Pick<Cache, 'publish' | 'subscribe'> {
  /** Whether what it publishes arrives; otherwise publishing is refused. */
  publishes: boolean
  /** Whether it hears anything. */
  hears: boolean
  /** How late it hears. */
  lateMs: number
  /** What it has published. */
  published: string[]
  /** Listening begins anew. */
  restart(): void
}

/** A channel in this process. */
export function openChannel(): { link(): Link } {
  const heard = new Set<(text: string) => void>()
  function link(): Link {
    const restarts: (() => void)[] = []
    const own: Link = {
      ...{ publishes: true, hears: true, lateMs: 0, published: [] },
      async publish(text) {
        if (!own.publishes) throw refused()
        own.published.push(text)
        for (const hear of heard) hear(text)
      },
      async subscribe(listener, restarted = () => {}) {
        heard.add((text) => {
          if (own.hears) setTimeout(listener, own.lateMs, text).unref()
        })
        restarts.push(restarted)
        restarted()
      },
      restart() {
        for (const restarted of restarts) restarted()
      },
    }
    return own
  }
  return { link }
}

/**
 * A storage whose reads are counted and may be refused; a blind one takes every session for one that goes on, so that
 * what is refused was refused by the feed.
 */
export function watchedStorage(storage: Storage) {
  const faults = { down: false, pollsDown: false, blind: false }
  const watch = { ...faults, polls: 0, failedPolls: 0, reads: [] as { id: string; at: number }[] }
  const refuseWhenDown = () => {
    if (watch.down) throw refused()
  }
  const watched: Storage = {
    ...storage,
    async sessionActive(id, userId, now) {
      watch.reads.push({ id, at: performance.now() })
      refuseWhenDown()
      return watch.blind || storage.sessionActive(id, userId, now)
    },
    async endedSince(time, usedSince) {
      if (watch.down || watch.pollsDown) {
        watch.failedPolls++
        throw refused()
      }
      const ended = await storage.endedSince(time, usedSince)
      watch.polls++
      return ended
    },
  }
  return Object.assign(watch, { storage: watched })
}

type Instance = Awaited<ReturnType<typeof watchedInstance>>

/** An instance of a host with a guarded route at `/me`, whose reads of sessions are counted. */
export async function watchedInstance(t: Teardown, storage: Storage, options: Partial<AccountsOptions> = {}) {
  const watch = watchedStorage(storage)
  const { app, accounts, ...client } = await openApp(t, { storage: watch.storage, ...options })
  app.get('/me', { onRequest: accounts.authenticate }, async () => ({}))
  const me = async (access: string) => (await client.get('/me', access)).status
  return { app, accounts, watch, me, ...client }
}

/** Whether an instance lets a token pass, and asks the storage of no session: not of a new one, which it never read. */
export async function fedFor({ accounts, me, watch }: Instance, access: string): Promise<boolean> {
  const fresh = await newMember(accounts)
  const passed = (await me(access)) === 200 && (await me(fresh.access)) === 200
  return passed && watch.reads.every(({ id }) => id !== fresh.sessionId)
}

/** Two instances over one storage in memory, joined by a channel. */
export async function linkedInstances(t: Teardown, options: Partial<AccountsOptions> = {}) {
  const storage = memoryStorage()
  const channel = openChannel()
  const open = async () => {
    const link = channel.link()
    const cache = { ...memoryCache(), publish: link.publish, subscribe: link.subscribe }
    return { link, ...(await watchedInstance(t, storage, { cache, ...options })) }
  }
  return { storage, one: await open(), other: await open() }
}

/** What a driver throws when nothing listens. */
function refused(): Error {
  return Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
}
