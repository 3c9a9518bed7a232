import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t from 'tap'
import { findBinaries, poll } from '../servers.js'

export { freePort, startMariadb, startPostgres, startRedis } from '../servers.js'
export { type FaultProxy, faultProxy } from './fault-proxy.ts'

/**
 * Why tests that need a real PostgreSQL cannot run here, or false; for `t.test(title, { skip: noPostgres }, …)`. A file
 * that opens a database without asking is skipped whole by run.js.
 */
export const noPostgres = process.env.TEST_DATABASE_URL ? false : 'no PostgreSQL on this machine'
/** The same for tests that start a Redis process. The shared Redis may be an embedded stand-in. */
export const noRedis = process.env.TEST_REDIS_STANDIN ? 'no Redis on this machine' : false

/** The same for tests that need MariaDB, or a MySQL in `TEST_MYSQL_URL`. */
export const noMariadb = process.env.TEST_MYSQL_URL ? false : 'no MariaDB on this machine'

/** The same for tests that drive Chromium, which are in the long run. */
export const noChromium = findBinaries().chromium ? false : 'no Chromium on this machine'

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

/** Of stores, memory first, those that a commit tries: the real ones, on a machine that has them. */
export function stores<T>([memory, ...real]: [T, ...T[]]): T[] {
  return everything || noPostgres ? [memory, ...real] : real
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

/** A name that no other test uses, fit for `name` of a registration. */
export function uniqueName(): string {
  return `t${randomBytes(6).toString('hex')}`
}

/** Waits until a condition holds; throws, with the last fault as its cause, when it does not within `ms`. */
export async function until(condition: () => unknown, ms = 30_000): Promise<void> {
  await poll(condition, ms)
}

/**
 * Runs what needs a real server, and again when the machine was too busy for it: the server did not reply within its
 * half a second.
 */
export async function despiteLoad<T>(run: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await run()
    } catch (error) {
      const { code, message } = error as { code?: string; message: string }
      const late = code === 'ACCOUNTS_UNAVAILABLE' || /timed out|more than a second/.test(message)
      if (attempt === 4 || !late) throw error
      await sleep(attempt * 500)
    }
  }
}
