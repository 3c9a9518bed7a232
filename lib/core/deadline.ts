import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { AccountsError, isOutage, loggable } from '../errors.ts'
import type { ConcurrencyLimit } from './concurrency-limit.ts'
import { type Call, withEachMethod } from './methods.ts'

/** How long the caller of a port waits. */
const deadlineMs = 1000
// Work in batches may take longer, and says nothing about how requests fare: it neither trips the breaker nor heeds it.
// `settleMails` is called by both: no request waits longer for it.
const batchMs = new Map([
  ...['importUsers', 'endAnySessions', 'purge', 'claimMails', 'progress'].map((verb) => [verb, 30_000] as const),
  ['settleMails', deadlineMs],
  ...['countPasswordHashes', 'samplePasswordHashes'].map((verb) => [verb, 600_000] as const),
])
const mostTimeouts = 3
const pauseMs = 1000
// Sent every second: the connection logs each outage once.
const heartbeat = 'publish'
/** Without turns: a storm of requests must neither cut the feed of ended sessions nor make the process look ill. */
const withoutTurn = new Set([...batchMs.keys(), 'endedSince', 'ping'])

/**
 * Bounds every call of a port but `close`: one that takes longer than a second, or fails because of an outage, is
 * `ACCOUNTS_UNAVAILABLE` with the fault as cause; any other fault is a bug and is thrown as it is. After three calls in
 * a row that took too long the port is left alone but for one call a second, so that a frozen dependency collects no
 * pile of work. With a `limit`, calls wait for their turn before that, a second at most. A write abandoned here may be
 * done all the same. Faults are logged here, since a host's error handler need not look at causes.
 */
export function bounded<Port extends object>(port: Port, log: FastifyBaseLogger, limit?: ConcurrencyLimit): Port {
  const breaker = { timeouts: 0, pausedUntil: 0 }
  // A mailer may take its time to send what it has accepted.
  return withEachMethod(port, (name, call) => {
    if (name === 'close') return call
    return boundedCall(name, call, { breaker, log, limit: withoutTurn.has(name) ? undefined : limit })
  })
}

interface Breaker {
  /** Calls in a row that took too long. */
  timeouts: number
  pausedUntil: number
}

interface Bounds {
  breaker: Breaker
  log: FastifyBaseLogger
  limit: ConcurrencyLimit | undefined
}

function boundedCall(name: string, call: Call, { breaker, log, limit }: Bounds): Call {
  const batch = batchMs.get(name)
  return async (...args) => {
    if (!batch) refuseWhilePaused(breaker)
    const turn = limit?.enter()
    if (turn) await turn
    let late = false
    try {
      // The port of a host may answer at once.
      const ms = batch ?? deadlineMs
      const expired = () => new Expired(`"${name}" took longer than ${ms} ms`)
      const result = await beforeItExpires(ms, Promise.resolve(call(...args)), expired)
      if (!batch) breaker.timeouts = 0
      return result
    } catch (cause) {
      late = cause instanceof Expired
      if (!batch) breaker.timeouts = late ? breaker.timeouts + 1 : 0
      // The driver's own fault, which an adapter may have translated.
      const fault = cause instanceof AccountsError ? (cause.cause ?? cause) : cause
      if (name !== heartbeat) log.error({ err: loggable(fault) }, `fastify-accounts: "${name}" failed`)
      if (!isOutage(cause)) throw cause
      throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: loggable(fault) })
    } finally {
      limit?.leave(late)
    }
  }
}

function refuseWhilePaused(breaker: Breaker): void {
  if (breaker.timeouts < mostTimeouts) return
  const now = performance.now()
  if (now < breaker.pausedUntil) throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: new Error('port is paused') })
  breaker.pausedUntil = now + pauseMs
}

class Expired extends Error {
  override name = 'TimeoutError'
}

/** Settles as the work does, or rejects with what `late` makes when it takes longer. The timer ends with the work. */
export function beforeItExpires<T>(ms: number, work: Promise<T>, late: () => Error, unref?: 'unref'): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(late()), ms)
    if (unref) timer.unref()
    work.then(resolve, reject).then(() => clearTimeout(timer))
  })
}

/**
 * Does work that has so long; the signal is aborted when the time is over, and at the end.
 *
 * @throws {Error} named TimeoutError, when it is not done in time
 */
export async function inTime<T>(ms: number, work: (signal: AbortSignal) => T | Promise<T>): Promise<T> {
  const deadline = new AbortController()
  const { signal } = deadline
  const late = sleep(ms, undefined, { signal }).then(() => {
    throw new Expired(`it took longer than ${ms} ms`)
  })
  // Whoever wins, the end of the other is nobody's.
  late.catch(() => {})
  try {
    return await Promise.race([Promise.resolve(signal).then(work), late])
  } finally {
    deadline.abort()
  }
}

/** Waits for work, at most `ms`. */
export async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const deadline = new AbortController()
  await Promise.race([work, sleep(ms, undefined, { signal: deadline.signal }).catch(() => {})])
  deadline.abort()
}
