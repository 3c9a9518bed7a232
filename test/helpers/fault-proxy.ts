import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

export interface FaultProxy {
  readonly port: number
  /**
   * `pass` forwards, `refuse` refuses new connections and destroys open ones, `freeze` keeps connections open, also new
   * ones, and forwards nothing.
   */
  mode: 'pass' | 'refuse' | 'freeze'
  /** Destroys the current connections. */
  cut(): void
  close(): Promise<void>
}

/** The address of a server as it is through a proxy. */
export function onPort(url: string, port: number): string {
  return Object.assign(new URL(url), { port: String(port) }).href
}

/** Puts a TCP proxy with switchable faults in front of a port of this machine. */
export async function faultProxy(target: number): Promise<FaultProxy> {
  const pairs = new Set<[Socket, Socket]>()
  const server = createServer((client) => accept(client))
  let mode: FaultProxy['mode'] = 'pass'
  const port = await listen(server, 0)

  function accept(client: Socket): void {
    if (mode === 'refuse') return void client.destroy()
    const pair: [Socket, Socket] = [client, connect(target, '127.0.0.1')]
    pairs.add(pair)
    for (const socket of pair) {
      socket.on('error', () => {})
      socket.once('close', () => drop(pair))
    }
    if (mode === 'pass') join(pair)
  }
  function drop(pair: [Socket, Socket]): void {
    pairs.delete(pair)
    for (const socket of pair) socket.destroy()
  }
  function cut(): void {
    for (const pair of pairs) drop(pair)
  }
  function change(next: FaultProxy['mode']): void {
    mode = next
    if (next === 'refuse') {
      server.close()
      cut()
      return
    }
    for (const pair of pairs) next === 'pass' ? join(pair) : part(pair)
    if (!server.listening) server.listen(port, '127.0.0.1')
  }
  return {
    port,
    get mode() {
      return mode
    },
    set mode(next) {
      if (next !== mode) change(next)
    },
    cut,
    async close() {
      const closed = server.listening ? once(server, 'close') : undefined
      server.close()
      cut()
      await closed
    },
  }
}

async function listen(server: Server, port: number): Promise<number> {
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

function join([one, other]: [Socket, Socket]): void {
  one.pipe(other)
  other.pipe(one)
}

function part([one, other]: [Socket, Socket]): void {
  for (const socket of [one, other]) socket.unpipe().pause()
}

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
  const texts = new Map<string, string>()
  // A prepared statement is on the wire once, and only its name afterwards.
  function statementsOf(sent: string): string {
    for (const [, name, text] of sent.matchAll(/(accounts_[0-9a-f]{32})\0([^\0]{9,})\0/g)) texts.set(name!, text!)
    return sent.replace(/accounts_[0-9a-f]{32}(?=\0)/g, (name) => texts.get(name) ?? name)
  }
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
      const statements = statementsOf(chunk.toString('latin1'))
      if (armed?.pattern.test(statements)) {
        lost = armed.when === 'after'
        armed = undefined
        if (!lost) return end()
      }
      upstream.write(chunk)
    })
    upstream.on('data', (chunk) => (lost ? end() : client.write(chunk)))
  })
  const port = await listen(server, 0)
  return {
    port,
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
