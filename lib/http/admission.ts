import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { type Departure, hashQueue, reservations } from '../core/hash-queue.ts'
import { createWaitingRoom } from '../core/waiting-room.ts'
import { AccountsError } from '../errors.ts'

const room = createWaitingRoom(hashQueue.places)

interface Watch {
  client: Waiting
  unwatch(): void
}

const watches = new WeakMap<FastifyRequest, Watch>()

/** A client that waits for its answer. Much lighter than an AbortController, of which each login would make one. */
class Waiting implements Departure {
  aborted = false
  readonly #listeners = new Set<() => void>()
  addEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners.add(listener)
  }
  removeEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners.delete(listener)
  }
  leave(): void {
    if (this.aborted) return
    this.aborted = true
    for (const listener of this.#listeners) listener()
  }
}

/** The hooks of a route that hashes. Those who come from a familiar network do not wait behind all the others. */
export function admission(isFamiliar: (request: FastifyRequest) => boolean) {
  const held = new Set<Waiting>()
  let closing = false

  async function wait(request: FastifyRequest): Promise<void> {
    const client = watch(request)
    held.add(client)
    if (closing) client.leave()
    try {
      await room.enter(request.raw.socket, client, isFamiliar(request))
    } catch (error) {
      if (closing && error instanceof AccountsError) error.headers.connection = 'close'
      throw error
    } finally {
      held.delete(client)
    }
  }

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

    /** A `preClose` hook: whoever is held is refused now. Another instance has room, and a shutdown has little time. */
    async close(): Promise<void> {
      closing = true
      for (const client of held) client.leave()
    },
  }
}

function watch(request: FastifyRequest): Waiting {
  const watched = watches.get(request)
  if (watched) return watched.client
  const { socket } = request.raw
  const client = new Waiting()
  watches.set(request, { client, unwatch: onClose(socket, () => client.leave()) })
  // The socket may have closed while a hook of the host ran, and does not emit 'close' twice.
  if (socket.destroyed) client.leave()
  return client
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
  watches.get(request)?.client.leave()
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
