import { hashQueue } from '../../lib/core/hash-queue.ts'

/** Takes places in the queue of the process, all that it gives unless told how many; returns how to leave them. */
export function fillHashQueue(places = Number.POSITIVE_INFINITY): () => Promise<unknown> {
  let leave = () => {}
  const left = new Promise<void>((resolve) => {
    leave = resolve
  })
  const taken: Promise<void>[] = []
  const take = () => taken.push(hashQueue.run(() => left).catch(() => {}))
  while (taken.length < places && admits()) take()
  // Those who hold a reservation may go a little further than those who ask.
  for (let more = 0; more < 10 && taken.length < places; more++) take()
  return () => {
    leave()
    return Promise.all(taken)
  }
}

function admits(): boolean {
  try {
    hashQueue.admit()
    return true
  } catch {
    return false
  }
}
