/** A map of bounded size. */
export interface Memory<Value> {
  set(key: string, value: Value): void
  get(key: string): Value | undefined
  delete(key: string): void
}

/**
 * A map that forgets what was not used for long, in two generations: each holds half of the size, and the older is
 * dropped when the younger is full.
 */
export function createMemory<Value>(size: number): Memory<Value> {
  let young = new Map<string, Value>()
  let old = young
  function set(key: string, value: Value): void {
    if (young.size >= size / 2 && !young.has(key)) {
      old = young
      young = new Map()
    }
    young.set(key, value)
  }
  return {
    set,
    get(key: string): Value | undefined {
      const value = young.get(key)
      if (value !== undefined) return value
      const older = old.get(key)
      if (older !== undefined) set(key, older)
      return older
    },
    delete(key) {
      young.delete(key)
      old.delete(key)
    },
  }
}
