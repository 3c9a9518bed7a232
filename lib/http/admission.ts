import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { hashQueue, reservations } from '../core/hash-queue.ts'

/** How to end the reservation of a request. */
const ends = new WeakMap<FastifyRequest, () => void>()

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
  reservations.set(request, reservation)
  const forget = onClose(socket, hangUp)
  ends.set(request, () => {
    forget()
    hangUp()
  })
  // The socket may have closed while a hook of the host ran, and does not emit 'close' twice.
  if (socket.destroyed) hangUp()
}

/**
 * Ends the reservation of a request when its handler is done, whether it hashed or not, and when its response is: that of
 * a cancelled HTTP/2 stream "finishes" before the stream closes, while its handler still waits in the queue.
 */
export function release(request: FastifyRequest): void {
  ends.get(request)?.()
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
