import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { hashQueue, type Place } from './hash-queue.ts'

/** A request that may have a place in front of the hash queue. */
export type QueuedRequest = FastifyRequest & { [placeKey]?: QueuedPlace }

const placeKey = Symbol('fastify-accounts.place')

interface QueuedPlace extends Place {
  /** Stops listening to the client. */
  forget(): void
}

/** The queue's first door, an `onRequest` hook: refuses before the body is parsed. */
export async function admit(): Promise<void> {
  hashQueue.admit()
}

/** A `preHandler` hook: counts a validated request as on its way to the queue, until it hangs up or is answered. */
export async function approach(request: QueuedRequest, reply: FastifyReply): Promise<void> {
  const hungUp = new AbortController()
  const place = hashQueue.approach(hungUp.signal)
  const hangUp = () => {
    place.reached()
    hungUp.abort()
  }
  const forget = onEnd(request.raw.socket, hangUp)
  request[placeKey] = { ...place, forget }
  // The socket's end is not told to an answer that waits in its pipeline; an HTTP/2 stream ends before its socket.
  reply.raw.on('close', () => {
    forget()
    if (!reply.raw.writableEnded) hangUp()
  })
  // Neither is told again for a client that went while a host's hook took its time.
  if (reply.raw.closed || request.raw.socket.destroyed) hangUp()
}

/** The request's place in front of the hash queue; undefined on routes that do not hash. */
export function placeOf(request: QueuedRequest): Place | undefined {
  return request[placeKey]
}

/** Ends a request's place; called when its handler is done, whether it came to hash or not. */
export function depart(request: QueuedRequest): void {
  request[placeKey]?.reached()
  request[placeKey]?.forget()
}

const enders = new WeakMap<Socket, Set<() => void>>()

// One listener for all requests of a pipeline.
function onEnd(socket: Socket, end: () => void): () => void {
  const ends = enders.get(socket) ?? new Set()
  if (!enders.has(socket)) {
    enders.set(socket, ends)
    socket.once('close', () => {
      for (const each of ends) each()
    })
  }
  ends.add(end)
  return () => ends.delete(end)
}
