import type { Realm } from './realm.ts'

/** How a dependency is. */
export interface PartHealth {
  ok: boolean
  /** How far the dependency's clock is ahead of ours, in milliseconds; null when it does not report its time. */
  offsetMs: number | null
}

/** How a realm is; `degraded` while one of its dependencies does not respond. */
export interface Health {
  status: 'ok' | 'degraded'
  storage: PartHealth
  /** Null when nothing needs it. */
  cache: PartHealth | null
  /** Null when nothing needs it. */
  mailer: PartHealth | null
}

/** Pings every dependency, each for at most a second. */
export async function healthOf({ storage, cache, mailer, clock }: Realm): Promise<Health> {
  const [stored, cached, mailed] = await Promise.all([
    ping(storage, clock),
    cache ? ping(cache, clock) : null,
    mailer ? ping(mailer, clock) : null,
  ])
  const ok = [stored, cached, mailed].every((part) => part === null || part.ok)
  return { status: ok ? 'ok' : 'degraded', storage: stored, cache: cached, mailer: mailed }
}

async function ping(part: { ping(): Promise<unknown> }, clock: () => number): Promise<PartHealth> {
  const sentAt = clock()
  try {
    const time = await part.ping()
    // It was read about half-way between sending and receiving.
    return { ok: true, offsetMs: typeof time === 'number' ? Math.round(time - (sentAt + clock()) / 2) : null }
  } catch {
    return { ok: false, offsetMs: null }
  }
}
