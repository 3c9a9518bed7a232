import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { AccountsError, isOutage, loggable } from '../errors.ts'
import { createConcurrencyLimit } from './concurrency-limit.ts'
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
/** What keeps the feed of ended sessions up waits for no turn, or a storm of requests would cut it. */
const withoutTurn = new Set([...batchMs.keys(), heartbeat, 'subscribe', 'endedSince', 'ping'])

/**
 * Bounds every call of a port but `close`: one that takes longer than a second, or fails because of an outage, is
 * `ACCOUNTS_UNAVAILABLE` with the fault as cause; any other fault is a bug and is thrown as it is. After three calls in
 * a row that took too long the port is left alone but for one call a second, so that a frozen dependency collects no
 * pile of work. At most 100 calls run at once; the others wait for a turn, a second at most. A write abandoned here may
 * still be done. Faults are logged here, since a host's error handler need not look at causes.
 */
export function bounded<Port extends object>(port: Port, log: FastifyBaseLogger): Port {
  const breaker = { timeouts: 0, pausedUntil: 0 }
  const inTurn = turns(log)
  // A mailer may take its time to send what it has accepted.
  return withEachMethod(port, (name, call) => {
    if (name === 'close') return call
    const inTime = boundedCall(name, call, breaker, log)
    return withoutTurn.has(name) ? inTime : inTurn(name, inTime)
  })
}

function turns(log: FastifyBaseLogger) {
  const limit = createConcurrencyLimit()
  let loggedAt = Number.NEGATIVE_INFINITY
  function refuse(name: string, error: AccountsError): never {
    // Thousands may be refused together.
    if (performance.now() - loggedAt >= 1000) {
      loggedAt = performance.now()
      log.error({ err: error.cause }, `fastify-accounts: "${name}" failed`)
    }
    throw error
  }
  return (name: string, call: Call): Call =>
    async (...args) => {
      const turn = limit.enter()
      if (turn) await turn.catch((error) => refuse(name, error))
      let outage = false
      try {
        return await call(...args)
      } catch (error) {
        outage = isOutage(error)
        throw error
      } finally {
        limit.leave(outage)
      }
    }
}

interface Breaker {
  /** Calls in a row that took too long. */
  timeouts: number
  pausedUntil: number
}

function boundedCall(name: string, call: Call, breaker: Breaker, log: FastifyBaseLogger): Call {
  const batch = batchMs.get(name)
  return async (...args) => {
    if (!batch) refuseWhilePaused(breaker)
    try {
      // The port of a host may answer at once.
      const result = await beforeItExpires(Promise.resolve(call(...args)), name, batch ?? deadlineMs)
      if (!batch) breaker.timeouts = 0
      return result
    } catch (cause) {
      if (!batch) breaker.timeouts = cause instanceof Expired ? breaker.timeouts + 1 : 0
      // The driver's own fault, which an adapter may have translated.
      const fault = cause instanceof AccountsError ? (cause.cause ?? cause) : cause
      if (name !== heartbeat) log.error({ err: loggable(fault) }, `fastify-accounts: "${name}" failed`)
      if (!isOutage(cause)) throw cause
      throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: loggable(fault) })
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

function beforeItExpires<T>(work: Promise<T>, name: string, ms: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Expired(`"${name}" took longer than ${ms} ms`)), ms)
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
