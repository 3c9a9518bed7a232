import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import Fastify, { type FastifyInstance, type FastifyServerOptions, type InjectOptions } from 'fastify'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { migrateToLatest } from '../../lib/adapters/kysely/index.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import accounts, { type Accounts, type AccountsOptions } from '../../lib/index.ts'
import { cheapHashes } from '../../lib/options/rules.ts'
import { freshDatabase, redisUrl, uniqueName } from './helper.ts'
import { spawnNode } from './program.ts'

/** What tests need of tap's `t`. */
export interface Teardown {
  teardown(fn: () => unknown): void
}

/** A clock that tests set. */
export function settableClock(start = Date.now()) {
  let now = start
  const pass = (ms: number) => {
    now += ms
  }
  return Object.assign(() => now, { pass })
}

export interface Answer {
  status: number
  body: any
  headers: Record<string, unknown>
}

/** A client of an app by `inject`, that is of its whole HTTP handling without a socket. */
export function clientOf(app: FastifyInstance) {
  async function send(request: InjectOptions): Promise<Answer> {
    const { statusCode: status, headers, body } = await app.inject(request)
    return { status, headers, body: body === '' ? undefined : JSON.parse(body) }
  }
  return {
    send,
    post: (url: string, payload: unknown, headers: Record<string, string> = {}) =>
      send({ method: 'POST', url, payload: payload as object, headers }),
    get: (url: string, access?: string) =>
      send({ method: 'GET', url, headers: access ? { authorization: `Bearer ${access}` } : {} }),
  }
}

/** Hashes that cost next to nothing, for every test whose subject is not hashing. */
export const passwords = { argon2: cheapHashes }

export const secret = randomBytes(32).toString('base64url')

/** An app on the memory parts. */
export async function memoryApp(
  t: Teardown,
  options: Partial<AccountsOptions> = {},
  server: FastifyServerOptions = {},
) {
  const mailer = memoryMailer()
  const app = Fastify(server)
  const parts = { storage: memoryStorage(), cache: memoryCache(), mailer }
  await app.register(accounts, { secret, passwords, ...parts, ...options } as AccountsOptions)
  t.teardown(() => app.close())
  return { app, mailer, ...clientOf(app) }
}

/** What the plugin decorated an app of these helpers with, whatever its realm. */
export function accountsOf({ app, name = 'accounts' }: { app: FastifyInstance; name?: string }): Accounts {
  return (app as unknown as Record<string, Accounts>)[name]!
}

/** Whether a statement is of an instance's housekeeping or of its revocation feed, which no request waits for. */
function inBackground(statement: string): boolean {
  return /skip locked|"ended_at" >=/.test(statement)
}

/** A database of its own, migrated, with a pool of 10 and the statements that ran. */
export async function openDatabase(t: Teardown, { ids = 'integer' as 'integer' | 'uuid' } = {}) {
  const { url, drop } = await freshDatabase()
  const statements: string[] = []
  const pool = new pg.Pool({ connectionString: url, max: 10 })
  // A pool settles its end before its connections are closed, and dropping the database breaks them.
  pool.on('error', () => {})
  const db = new Kysely<any>({
    dialect: new PostgresDialect({ pool }),
    log: ({ query }) => void (inBackground(query.sql) || statements.push(query.sql)),
  })
  await migrateToLatest(db, { ids })
  statements.length = 0
  t.teardown(async () => {
    await db.destroy()
    await drop()
  })
  return { url, db, statements }
}

/** An app on PostgreSQL and Redis; mails are kept in memory unless a mailer is given. */
export async function realApp(t: Teardown, options: Partial<AccountsOptions> = {}, server: FastifyServerOptions = {}) {
  const name = uniqueName()
  const database = await openDatabase(t)
  const mailer = memoryMailer()
  const app = Fastify(server)
  await app.register(accounts, { name, secret, passwords, db: database.db, redis: redisUrl(), mailer, ...options })
  t.teardown(() => app.close())
  return { app, name, mailer, ...database, ...clientOf(app) }
}

/** What a server in a process of its own is told; see server-process.js. */
export interface ServerSettings {
  DATABASE_URL: string
  REDIS_URL: string
  ACCOUNTS_SECRET?: string
  /** JSON of further plugin options. */
  OPTIONS?: string
}

/** Starts an instance of the built package in a process of its own and answers its address. */
export async function startServer(t: Teardown, settings: ServerSettings & Record<string, string>) {
  const env = { ...process.env, ACCOUNTS_SECRET: secret, ...settings }
  const child = spawnNode([new URL('server-process.js', import.meta.url).pathname], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => stopServer(child))
  const died = once(child, 'exit').then(([code]) => Promise.reject(new Error(`the server ended with ${code}`)))
  died.catch(() => {})
  const [address] = (await Promise.race([once(createInterface(child.stdout), 'line'), died])) as [string]
  const post = async (url: string, body: unknown, headers: Record<string, string> = {}) =>
    answerOf(
      await fetch(address + url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
      }),
    )
  const get = async (url: string, access?: string) =>
    answerOf(await fetch(address + url, { headers: access ? { authorization: `Bearer ${access}` } : {} }))
  return { address, child, post, get, stop: () => stopServer(child) }
}

async function stopServer(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  await once(child, 'exit')
}

async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text()
  return {
    status: response.status,
    headers: Object.fromEntries(response.headers),
    body: text === '' ? undefined : JSON.parse(text),
  }
}
