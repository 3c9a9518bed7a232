import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { hashQueue, reservations } from '../core/hash-queue.ts'
import { createWaitingRoom } from '../core/waiting-room.ts'

const room = createWaitingRoom(hashQueue.places)

interface Watch {
  /** Aborted when the client hangs up, or has its answer. */
  hungUp: AbortController
  unwatch(): void
}

const watches = new WeakMap<FastifyRequest, Watch>()

// Without a reason of ours each abort makes a DOMException with a stack, which takes longer than all else here.
const gone = 'the client hung up, or has its answer'

/** The hooks of a route that hashes. Those who come from a familiar network do not wait behind all the others. */
export function admission(isFamiliar: (request: FastifyRequest) => boolean) {
  const wait = (request: FastifyRequest) => room.enter(request.raw.socket, watch(request), isFamiliar(request))
  return {
    /** An `onRequest` hook: while the hash queue is full a request waits, before its body is read, or is refused. */
    async admit(request: FastifyRequest): Promise<void> {
      if (room.crowded()) await wait(request)
    },

    /** A `preHandler` hook: reserves a turn in the hash queue for a validated request, until it ends or hangs up. */
    async reserve(request: FastifyRequest): Promise<void> {
      const signal = watch(request)
      // Many bodies may have come to their end together.
      if (hashQueue.places() < 1) await wait(request)
      const reservation = hashQueue.reserve(signal)
      reservations.set(request, reservation)
      if (signal.aborted) reservation.release()
      else signal.addEventListener('abort', reservation.release)
    },
  }
}

function watch(request: FastifyRequest): AbortSignal {
  const watched = watches.get(request)
  if (watched) return watched.hungUp.signal
  const { socket } = request.raw
  const hungUp = new AbortController()
  watches.set(request, { hungUp, unwatch: onClose(socket, () => hungUp.abort(gone)) })
  // The socket may have closed while a hook of the host ran, and does not emit 'close' twice.
  if (socket.destroyed) hungUp.abort(gone)
  return hungUp.signal
}

/** Ends the reservation of a request when its handler is done, whether it hashed or not. */
export function release(request: FastifyRequest): void {
  reservations.get(request)?.release()
  watches.get(request)?.unwatch()
}

/**
 * An `onResponse` hook: nobody waits for the hash any more. A hook of the host may have replied before the handler, and
 * with HTTP/2 this runs for a cancelled stream before its 'close'.
 */
export async function abandon(request: FastifyRequest): Promise<void> {
  watches.get(request)?.hungUp.abort(gone)
  release(request)
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
