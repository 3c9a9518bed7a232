import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import pg from 'pg'
import t from 'tap'
import { poll } from '../servers.js'

export { freePort, startPostgres, startRedis } from '../servers.js'

/**
 * Why tests that need a real PostgreSQL cannot run here, or false; for `t.test(title, { skip: noPostgres }, …)`. A file
 * that calls `freshDatabase`, `databaseUrl` or `startPostgres` without asking is skipped whole by run.js.
 */
export const noPostgres = process.env.TEST_DATABASE_URL ? false : 'no PostgreSQL on this machine'
/** The same for tests that start a Redis process. The shared Redis may be an embedded stand-in. */
export const noRedis = process.env.TEST_REDIS_STANDIN ? 'no Redis on this machine' : false

/**
 * Whether this is the long run, `npm run test:all`. The suite of a commit leaves out variants of what it tests: further
 * databases, further sizes, the rest of long lists.
 */
export const everything = process.env.TEST_ALL === '1'

/** `t.test` of what only the long run has. */
export const longRun = ((...test: Parameters<typeof t.test>) => everything && t.test(...test)) as typeof t.test

/** How often something is repeated: `often` times in the long run, `seldom` on a commit. */
export const rounds = (often: number, seldom: number) => (everything ? often : seldom)

/** A long list in the long run, and `count` of it, evenly spread, on a commit. */
export function sampled<T>(list: readonly T[], count: number): T[] {
  if (everything || list.length <= count) return [...list]
  return Array.from({ length: count }, (_, n) => list[Math.floor((n * list.length) / count)] as T)
}

/** The shared PostgreSQL of the run, as superuser. */
export function databaseUrl(): string {
  return fromEnvironment('TEST_DATABASE_URL')
}

/** The shared Redis of the run: never flush it, take a `uniqueName()`. */
export function redisUrl(): string {
  return fromEnvironment('TEST_REDIS_URL')
}

function fromEnvironment(name: string): string {
  const url = process.env[name]
  if (!url) throw new Error(`${name} is not set: run the tests with \`node test/run.js [file]\``)
  return url
}

/** Creates a database of its own on the shared server. */
export async function freshDatabase(): Promise<{ url: string; drop(): Promise<void> }> {
  const name = `test_${randomBytes(6).toString('hex')}`
  const url = new URL(databaseUrl())
  url.pathname = `/${name}`
  await administrate(`create database ${name}`)
  return { url: url.href, drop: () => administrate(`drop database if exists ${name} with (force)`) }
}

async function administrate(statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl() })
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}

/** Sets NODE_ENV to production and answers how to set it back. */
export function inProduction(): () => void {
  const before = process.env.NODE_ENV
  process.env.NODE_ENV = 'production'
  return () => {
    if (before === undefined) delete process.env.NODE_ENV
    else process.env.NODE_ENV = before
  }
}

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

/** A name that no other test uses, fit for `name` of a registration. */
export function uniqueName(): string {
  return `t${randomBytes(6).toString('hex')}`
}

/** Waits until a condition holds; throws, with the last fault as its cause, when it does not within `ms`. */
export async function until(condition: () => unknown, ms = 10_000): Promise<void> {
  await poll(condition, ms)
}
