import { randomBytes } from 'node:crypto'
import type { Cache, CodeRef, NewCode } from '../contracts.ts'

/** One promise of the cache's contract; `run` throws when it is broken. */
export interface CacheCase {
  name: string
  run(subject: Cache): Promise<void>
}

/** The time at which sample codes are put; far from this machine's, since only the caller's clock counts. */
export const now = 4_000_000_000_000
/** The end of sample codes. */
export const expiresAt = now + 600_000
/** The life of a sample code's grant. */
export const grantMs = 300_000
/** A right guess of a sample code. */
export const right = [{ kid: 'k1', mac: 'right' }]
/** A wrong guess of a sample code. */
export const wrong = [{ kid: 'k1', mac: 'wrong' }]

/** Stores a sample code of one record. */
export async function put(cache: Cache): Promise<CodeRef> {
  const code = newCode()
  await cache.put(code, now)
  return refOf(code)
}

/** Stores a sample code and guesses it. */
export async function putVerified(cache: Cache): Promise<CodeRef> {
  const ref = await put(cache)
  if ((await cache.guess(ref, right, now)) !== 'right') throw new Error('The right guess of a new code was refused.')
  return ref
}

/** A code that no other case knows. */
export function newCode({ tag = unique(), account = unique(), records = 1 } = {}): NewCode {
  return {
    purpose: 'reset',
    tag,
    account,
    records: Array.from({ length: records }, (_, n) => ({
      tokenHash: unique(),
      mac: right[0]!,
      subject: n === 0 ? 'subject' : `subject ${n}`,
    })),
    tries: 5,
    expiresAt,
    grantMs,
  }
}

/** Names a record of a code. */
export function refOf({ purpose, tag, records }: NewCode, record = 0): CodeRef {
  return { purpose, tag, tokenHash: records[record]!.tokenHash }
}

/** A key that no other case uses. */
export function unique(): string {
  return randomBytes(16).toString('base64url')
}

/** Runs callers at once. */
export function parallel<T>(times: number, call: (n: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: times }, (_, n) => call(n)))
}

/** How often each result came. */
export function count(results: unknown[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const result of results) counts[String(result)] = (counts[String(result)] ?? 0) + 1
  return counts
}
