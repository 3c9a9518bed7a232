/** Called with every text that is heard. */
export type Listener = (text: string) => void

/** Those who listen to one channel. */
export interface Listeners {
  /** Adds a listener; undefined, and nobody added, after `close`. */
  add(listener: Listener, restarted?: () => void): { begin(): void } | undefined
  hear(text: string): void
  /** Tells everybody that listening has begun. */
  begin(): void
  close(): void
}

/** Keeps listeners apart: one that throws harms no other, and `onFault` is told. */
export function createListeners(onFault: (error: Error) => void): Listeners {
  const entries = new Set<{ listener: Listener; begin(): void }>()
  const state = { closed: false }
  function guarded(call: () => void): void {
    try {
      call()
    } catch (error) {
      onFault(error as Error)
    }
  }

  return {
    add(listener, restarted) {
      if (state.closed) return undefined
      const entry = { listener, begin: () => guarded(() => restarted?.()) }
      entries.add(entry)
      return entry
    },
    hear(text) {
      for (const { listener } of entries) guarded(() => listener(text))
    },
    begin() {
      for (const { begin } of entries) begin()
    },
    close() {
      state.closed = true
      entries.clear()
    },
  }
}
