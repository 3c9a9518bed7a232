import type { Realm } from './realm.ts'

/** How a dependency is. */
export interface PartHealth {
  ok: boolean
  /** How far the dependency's clock is ahead of ours, in milliseconds; null when it did not tell. */
  offsetMs: number | null
}

/** How a realm is; `degraded` while one of its dependencies does not answer. */
export interface Health {
  status: 'ok' | 'degraded'
  storage: PartHealth
  /** Null when nothing needs it. */
  cache: PartHealth | null
  /** Null when nothing needs it. */
  mailer: PartHealth | null
}

/** Asks every dependency how it is, each for at most a second. */
export async function healthOf({ storage, cache, mailer, clock }: Realm): Promise<Health> {
  const [stored, cached, mailed] = await Promise.all([
    ask(storage, clock),
    cache ? ask(cache, clock) : null,
    mailer ? ask(mailer, clock) : null,
  ])
  const ok = [stored, cached, mailed].every((part) => part === null || part.ok)
  return { status: ok ? 'ok' : 'degraded', storage: stored, cache: cached, mailer: mailed }
}

async function ask(part: { ping(): Promise<unknown> }, clock: () => number): Promise<PartHealth> {
  const asked = clock()
  try {
    const time = await part.ping()
    // It was read about half-way between the question and the answer.
    return { ok: true, offsetMs: typeof time === 'number' ? Math.round(time - (asked + clock()) / 2) : null }
  } catch {
    return { ok: false, offsetMs: null }
  }
}
