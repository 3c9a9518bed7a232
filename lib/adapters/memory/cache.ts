import type { Cache, CodeMac, CodeRef, NewCode, StoredCode } from '../../contracts.ts'
import { createTallies, type LocalTallies } from '../../core/tallies.ts'
import { refuseProduction } from './state.ts'

interface CodeRecord {
  state: 'issued' | 'verified' | 'exhausted' | 'burnt'
  /** No guess of it is right. */
  decoy: boolean
  tag: string
  account: string
  tries: number
  used: number
  refusals: number
  /** The end of the code, then of the grant. */
  endsAt: number
  grantMs: number
  /** Null in a burnt record. */
  subject: string | null
  /** Null in an exhausted or burnt record. */
  live: { mac: CodeMac; lease?: { id: string; until: number } } | null
}

const mostNames = 100_000

export interface MemoryCacheOptions {
  /** Allows it with `NODE_ENV=production`: a restart forgets every code, and no second process sees them. */
  singleProcess?: boolean
}

/**
 * Keeps one-time codes and counts tries in this process, for tests and trials. Every verb completes within one tick;
 * published texts reach the listeners of this cache alone, in a later tick.
 *
 * @throws {TypeError} with `NODE_ENV=production` unless `singleProcess` is true
 */
export function memoryCache({ singleProcess = false }: MemoryCacheOptions = {}): Cache {
  refuseProduction(
    singleProcess,
    '"singleProcess" is not true: memoryCache forgets all codes at a restart; pass a Redis.',
  )
  const records = new Map<string, CodeRecord>()
  const tallies = createTallies(mostNames)
  const alive = (ref: CodeRef, now: number) => liveOne(records.get(keyOf(ref)), now)

  return {
    put: async (code, now) => put(records, tallies, code, now),
    async guess(ref, macs, now) {
      const found = alive(ref, now)
      if (!found || leased(found.live, now)) return 'dead'
      const right =
        !found.record.decoy && macs.some(({ kid, mac }) => kid === found.live.mac.kid && mac === found.live.mac.mac)
      if (found.record.state === 'verified') return right ? 'right' : 'wrong'
      return tryCode(found.record, right, now)
    },
    async lease(ref, id, until, now) {
      const found = alive(ref, now)
      if (found?.record.state !== 'verified' || leased(found.live, now)) return null
      found.live.lease = { id, until }
      return found.record.subject
    },
    async giveBack(ref, leaseId, reason) {
      const record = records.get(keyOf(ref))
      if (!record?.live || record.live.lease?.id !== leaseId) return
      delete record.live.lease
      if (reason === 'refused' && ++record.refusals >= 5) burn(record)
    },
    async burn({ tag, account }) {
      for (const record of records.values()) {
        if (record.tag === tag && record.account === account) burn(record)
      }
    },
    async peek(ref, now) {
      const record = records.get(keyOf(ref))
      return record && now < record.endsAt ? record.subject : null
    },
    async ping() {
      return Date.now()
    },
    charge: tallies.charge,
    refund: tallies.refund,
    acquaint: tallies.acquaint,
    ...memoryChannel(),
  }
}

function put(records: Map<string, CodeRecord>, tallies: LocalTallies, code: NewCode, now: number): StoredCode {
  sweep(records, now)
  const keys = code.records.map(({ tokenHash }) => keyOf({ ...code, tokenHash }))
  const charged = code.charge && !records.has(keys[0] ?? '') ? tallies.chargeNow(code.charge, now) : null
  const decoy = charged !== null && charged.waitMs > 0
  for (const [index, stored] of code.records.entries()) {
    if (!records.has(keys[index]!)) records.set(keys[index]!, newRecord(code, stored, decoy))
  }
  const first = records.get(keys[0] ?? '')
  return { endsAt: liveOne(first, now)?.record.endsAt ?? 0, decoy: first?.decoy ?? false }
}

function memoryChannel(): Pick<Cache, 'publish' | 'subscribe' | 'close'> {
  const listeners = new Set<{ listener(text: string): void }>()
  let closed = false
  return {
    async publish(text) {
      // Listeners that are added later do not get this text.
      for (const entry of listeners) defer(() => listeners.has(entry) && entry.listener(text))
    },
    async subscribe(listener, restarted) {
      if (closed) return
      listeners.add({ listener })
      defer(() => !closed && restarted?.())
    },
    async close() {
      closed = true
      listeners.clear()
    },
  }
}

// Each call by itself: a listener that throws affects neither the others nor the publisher.
function defer(call: () => void): void {
  queueMicrotask(() => {
    try {
      call()
    } catch (error) {
      process.emitWarning(`A listener of memoryCache threw: ${error}`)
    }
  })
}

function newRecord(code: NewCode, { mac, subject }: NewCode['records'][number], decoy: boolean): CodeRecord {
  const { tag, account, tries, grantMs, expiresAt } = code
  const counts = { tries, used: 0, refusals: 0 }
  return {
    decoy: decoy || mac.kid === '',
    state: 'issued',
    tag,
    account,
    ...counts,
    endsAt: expiresAt,
    grantMs,
    subject,
    live: { mac: { ...mac } },
  }
}

function tryCode(record: CodeRecord, right: boolean, now: number): 'right' | 'wrong' | 'exhausted' {
  // Counted before it is compared: a guess past the last try never learns whether it was right.
  if (++record.used > record.tries) {
    record.state = 'exhausted'
    record.live = null
    return 'exhausted'
  }
  if (!right) return 'wrong'
  record.state = 'verified'
  record.endsAt = now + record.grantMs
  return 'right'
}

function keyOf({ purpose, tag, tokenHash }: CodeRef): string {
  return JSON.stringify([purpose, tag, tokenHash])
}

function sweep(records: Map<string, CodeRecord>, now: number): void {
  for (const [key, { endsAt }] of records) if (endsAt <= now) records.delete(key)
}

function liveOne(record: CodeRecord | undefined, now: number) {
  return record?.live && now < record.endsAt ? { record, live: record.live } : undefined
}

function leased({ lease }: NonNullable<CodeRecord['live']>, now: number): boolean {
  return lease !== undefined && now < lease.until
}

function burn(record: CodeRecord): void {
  record.state = 'burnt'
  record.live = null
  record.subject = null
}
