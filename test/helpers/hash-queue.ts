import { hashQueue } from '../../lib/core/hash-queue.ts'

/** Takes places in the queue of the process, all that it gives unless told how many; returns how to leave them. */
export function fillHashQueue(places = Number.POSITIVE_INFINITY): () => Promise<unknown> {
  let leave = () => {}
  const left = new Promise<void>((resolve) => {
    leave = resolve
  })
  const taken: Promise<void>[] = []
  while (taken.length < places && hashQueue.places() > 0) taken.push(hashQueue.run(() => left))
  return () => {
    leave()
    return Promise.all(taken)
  }
}
