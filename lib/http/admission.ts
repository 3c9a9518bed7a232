import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { hashQueue, type Place } from '../core/hash-queue.ts'

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
export async function approach(request: QueuedRequest): Promise<void> {
  const { socket } = request.raw
  const hungUp = new AbortController()
  const place = hashQueue.approach(hungUp.signal)
  function hangUp(): void {
    place.reached()
    hungUp.abort()
  }
  request[placeKey] = { ...place, forget: onEnd(socket, hangUp) }
  // The end is not told again for a client that went while a host's hook took its time.
  if (socket.destroyed) hangUp()
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

// Of a connection that dies only the answer whose turn it is hears; the others of its pipeline have no socket yet. The
// socket tells for all of them, with one listener. With HTTP/2 it stands for the one stream.
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
