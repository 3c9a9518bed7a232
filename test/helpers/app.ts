import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import Fastify, { type FastifyInstance, type FastifyServerOptions, type InjectOptions } from 'fastify'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import plugin, { type Accounts, type AccountsOptions } from '../../lib/index.ts'
import { cheapHashes } from '../../lib/options/rules.ts'
import { openDatabase, type Teardown } from './databases.ts'
import { redisUrl, uniqueName } from './helper.ts'
import { spawnNode } from './program.ts'

export { openDatabase, type Teardown } from './databases.ts'

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
  return { send, ...requestsBy(send) }
}

/** The two common requests, each with an access token or without. */
export function requestsBy(send: (request: InjectOptions) => Promise<Answer>) {
  return {
    post: (url: string, payload: unknown, headers: Record<string, string> = {}) =>
      send({ method: 'POST', url, payload: payload as object, headers }),
    get: (url: string, access?: string) => send({ method: 'GET', url, headers: access ? bearer(access) : {} }),
  }
}

export function bearer(access: string): { authorization: string } {
  return { authorization: `Bearer ${access}` }
}

/** Hashes that cost next to nothing, for every test whose subject is not hashing. */
export const passwords = { argon2: cheapHashes }

export const secret = randomBytes(32).toString('base64url')

/** A user's password in these tests, and the one that takes its place. */
export const password = 'the old password'
export const newPassword = 'the new password'

/** An app with the parts that are given; mails are kept in memory unless a mailer is given. */
export async function openApp(t: Teardown, options: Partial<AccountsOptions>, server: FastifyServerOptions = {}) {
  const mailer = memoryMailer()
  const app = Fastify(server)
  await app.register(plugin, { secret, passwords, mailer, throttle: false, ...options } as AccountsOptions)
  t.teardown(() => app.close())
  return { app, mailer, accounts: accountsOf({ app, name: options.name }), ...clientOf(app) }
}

/** An app on the memory parts. */
export function memoryApp(t: Teardown, options: Partial<AccountsOptions> = {}, server: FastifyServerOptions = {}) {
  return openApp(t, { storage: memoryStorage(), cache: memoryCache(), ...options }, server)
}

/** What the plugin decorated an app of these helpers with, whatever its realm. */
export function accountsOf({ app, name = 'accounts' }: { app: FastifyInstance; name?: string }): Accounts {
  return (app as unknown as Record<string, Accounts>)[name]!
}

/** An app on PostgreSQL and Redis; mails are kept in memory unless a mailer is given. */
export async function realApp(t: Teardown, options: Partial<AccountsOptions> = {}, server: FastifyServerOptions = {}) {
  const name = uniqueName()
  const database = await openDatabase(t)
  const opened = await openApp(t, { name, db: database.db, redis: redisUrl(), ...options }, server)
  return { ...opened, ...database, name }
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
