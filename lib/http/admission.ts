import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { hashQueue, type Reservation } from '../core/hash-queue.ts'

const entries = new WeakMap<FastifyRequest, { reservation: Reservation; unwatch(): void }>()

/** An `onRequest` hook: refuses while the hash queue is too long, before the body is parsed. */
export async function admit(): Promise<void> {
  hashQueue.admit()
}

/** A `preHandler` hook: reserves a turn in the hash queue for a validated request, until it ends or hangs up. */
export async function reserve(request: FastifyRequest): Promise<void> {
  const { socket } = request.raw
  const hungUp = new AbortController()
  const reservation = hashQueue.reserve(hungUp.signal)
  function hangUp(): void {
    reservation.release()
    hungUp.abort()
  }
  entries.set(request, { reservation, unwatch: onClose(socket, hangUp) })
  // The socket may have closed while a hook of the host ran, and does not emit 'close' twice.
  if (socket.destroyed) hangUp()
}

/** The reservation of a request; undefined on routes that do not hash. */
export function reservationOf(request: FastifyRequest): Reservation | undefined {
  return entries.get(request)?.reservation
}

/** Ends the reservation of a request when its handler is done, whether it hashed or not. */
export function release(request: FastifyRequest): void {
  const entry = entries.get(request)
  entry?.reservation.release()
  entry?.unwatch()
}

const listeners = new WeakMap<Socket, Set<() => void>>()

// When a connection dies, only the response whose turn it is gets a 'close'; those behind it in the pipeline have no
// socket yet. So the socket itself is watched, with one listener for all. With HTTP/2 it stands for the one stream.
function onClose(socket: Socket, listener: () => void): () => void {
  const ofSocket = listeners.get(socket) ?? new Set()
  if (!listeners.has(socket)) {
    listeners.set(socket, ofSocket)
    socket.once('close', () => {
      for (const each of ofSocket) each()
    })
  }
  ofSocket.add(listener)
  return () => ofSocket.delete(listener)
}
