import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyBaseLogger } from 'fastify'
import { AccountsError, loggable } from '../errors.ts'

/** How long the caller of a port waits. */
export const deadlineMs = 1000
const patience = 3
const pauseMs = 1000
// Sent every second: the connection tells of each outage once.
const heartbeat = 'publish'

/**
 * Bounds every call of a port but `close`: past one second, or when the port throws, it is `ACCOUNTS_UNAVAILABLE` with
 * the fault as cause. After three calls in a row that ran out of time the port is left alone but for one call a second,
 * so that a frozen dependency collects no pile of work. A write abandoned here may still be done. Faults are logged
 * here, since a host's error handler need not look at causes.
 */
export function bounded<Port extends object>(port: Port, log: FastifyBaseLogger): Port {
  const breaker = { timeouts: 0, openUntil: 0 }
  const members = methodNames(port).map((name) => [name, boundedCall(port, name, breaker, log)])
  return Object.assign(Object.create(port), Object.fromEntries(members))
}

interface Breaker {
  /** Calls in a row that ran out of time. */
  timeouts: number
  openUntil: number
}

type Call = (...args: unknown[]) => Promise<unknown>

function boundedCall(port: object, name: string, breaker: Breaker, log: FastifyBaseLogger): Call {
  const call = (port as Record<string, Call>)[name] as Call
  return async (...args) => {
    refuseWhileOpen(breaker)
    const timer = startTimer(name)
    try {
      const answer = await Promise.race([call.apply(port, args), timer.expired])
      breaker.timeouts = 0
      return answer
    } catch (cause) {
      breaker.timeouts = cause instanceof Expired ? breaker.timeouts + 1 : 0
      if (name !== heartbeat) log.error({ err: loggable(cause) }, `fastify-accounts: "${name}" failed`)
      throw cause instanceof AccountsError ? cause : new AccountsError('ACCOUNTS_UNAVAILABLE', { cause })
    } finally {
      timer.stop()
    }
  }
}

function refuseWhileOpen(breaker: Breaker): void {
  if (breaker.timeouts < patience) return
  const now = performance.now()
  if (now < breaker.openUntil) throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: new Error('port is paused') })
  breaker.openUntil = now + pauseMs
}

class Expired extends Error {}

function startTimer(name: string): { expired: Promise<never>; stop(): void } {
  let timer: NodeJS.Timeout
  const expired = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Expired(`"${name}" did not answer within ${deadlineMs} ms`)), deadlineMs)
  })
  return { expired, stop: () => clearTimeout(timer) }
}

function methodNames(port: object): string[] {
  const names = new Set<string>()
  for (let level = port; level && level !== Object.prototype; level = Object.getPrototypeOf(level)) {
    for (const name of Object.getOwnPropertyNames(level)) names.add(name)
  }
  names.delete('constructor')
  // A mailer may take its time to send what it has accepted.
  names.delete('close')
  return [...names].filter((name) => typeof (port as Record<string, unknown>)[name] === 'function')
}

/** Waits for work, at most `ms`. */
export async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const deadline = new AbortController()
  await Promise.race([work, sleep(ms, undefined, { signal: deadline.signal }).catch(() => {})])
  deadline.abort()
}
