import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Tripwire {
  readonly port: number
  /**
   * Cuts the connection that sends a text like `pattern`, once: before the server gets it, or after the server has done
   * it and before the answer arrives.
   */
  arm(pattern: RegExp, when: 'before' | 'after'): void
  /** Whether the wire was pulled since it was armed. */
  pulled(): boolean
  close(): Promise<void>
}

/** Puts a TCP proxy in front of a port of this machine that cuts a connection at a chosen statement. */
export async function tripwire(target: number): Promise<Tripwire> {
  let armed: { pattern: RegExp; when: 'before' | 'after' } | undefined
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1')
    let lost = false
    const end = () => {
      client.destroy()
      upstream.destroy()
    }
    for (const socket of [client, upstream]) {
      sockets.add(socket.on('error', () => {}).on('close', end))
    }
    client.on('data', (chunk) => {
      if (armed?.pattern.test(chunk.toString('latin1'))) {
        lost = armed.when === 'after'
        armed = undefined
        if (!lost) return end()
      }
      upstream.write(chunk)
    })
    upstream.on('data', (chunk) => (lost ? end() : client.write(chunk)))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    arm(pattern, when) {
      armed = { pattern, when }
    },
    pulled: () => armed === undefined,
    async close() {
      server.close()
      for (const socket of sockets) socket.destroy()
      await once(server, 'close')
    },
  }
}
