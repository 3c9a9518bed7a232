import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { hashQueue, reservations } from '../core/hash-queue.ts'

/** How to stop listening to the client of a request. */
const listeners = new WeakMap<FastifyRequest, () => void>()

/** The queue's first door, an `onRequest` hook: refuses before the body is parsed. */
export async function admit(): Promise<void> {
  hashQueue.admit()
}

/** A `preHandler` hook: counts a validated request as on its way to the queue, until it hangs up or has its response. */
export async function reserve(request: FastifyRequest): Promise<void> {
  const { socket } = request.raw
  const hungUp = new AbortController()
  const reservation = hashQueue.reserve(hungUp.signal)
  function hangUp(): void {
    reservation.release()
    hungUp.abort()
  }
  reservations.set(request, reservation)
  listeners.set(request, onEnd(socket, hangUp))
  // There is no second event for a client that went while a host's hook took its time.
  if (socket.destroyed) hangUp()
}

/** Ends a request's reservation; called when its handler is done, whether it came to hash or not. */
export function release(request: FastifyRequest): void {
  reservations.get(request)?.release()
  listeners.get(request)?.()
}

const enders = new WeakMap<Socket, Set<() => void>>()

// When a connection dies, only the response whose turn it is gets an event; the others of its pipeline have no socket
// yet. So one listener on the socket serves all of them. With HTTP/2 it stands for the one stream.
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
