import type { FastifyRequest } from 'fastify'
import { callHost } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'

/** Where a call comes from, as sessions, mails and events show it. */
export interface Client {
  ip: string
  userAgent: string
  /** As the option `network` names it. */
  network: string
  /** Null for a call without a request. */
  requestId: string | null
  request: FastifyRequest | null
}

/** Where a request comes from. */
export function clientOf({ options }: { options: ResolvedOptions }, request: FastifyRequest): Client {
  return {
    // Behind a trusted proxy it is whatever text the proxy passes on.
    ip: request.ip.replace(/^::ffff:(?=\d+\.)/i, '').slice(0, 64),
    userAgent: (request.headers['user-agent'] ?? '').slice(0, 256),
    network: networkOf(options, request),
    requestId: String(request.id),
    request,
  }
}

function networkOf(options: ResolvedOptions, request: FastifyRequest): string {
  const name: unknown = callHost(() => options.network(request))
  if (typeof name === 'string') return name.slice(0, 64)
  // Its fault is beside the point, and must not end the process.
  if (name instanceof Promise) name.catch(() => {})
  throw new TypeError('fastify-accounts: option "network" must return a text at once')
}

/** The caller of a use case that no request asked for. */
export const noClient: Client = Object.freeze({ ip: '', userAgent: '', network: '', requestId: null, request: null })
