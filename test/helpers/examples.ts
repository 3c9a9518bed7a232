import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Teardown } from './databases.ts'
import { freePort, freshDatabase, redisUrl, until } from './helper.ts'
import { spawnNode } from './program.ts'

export const root = fileURLToPath(new URL('../..', import.meta.url))

/** Starts a server of `examples/` as a user does, on a database of its own. */
export async function startExample(t: Teardown, file: string) {
  const database = await freshDatabase()
  t.teardown(database.drop)
  const ACCOUNTS_SECRET = randomBytes(32).toString('base64url')
  return startServer(t, file, { DATABASE_URL: database.url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET })
}

/** Starts a server of `examples/` with variables of the environment, to which its port is added. */
export async function startServer(t: Teardown, file: string, variables: Record<string, string>) {
  const port = await freePort()
  const env = { ...process.env, ...variables, PORT: String(port) }
  const child = spawnNode([file], { cwd: root, env, stdio: ['ignore', 'ignore', 'pipe'] })
  let complaints = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    complaints += text
  })
  t.teardown(() => end(child))

  const origin = `http://localhost:${port}`
  await until(async () => child.exitCode !== null || (await fetch(origin)).status > 0)
  if (child.exitCode !== null) throw new Error(`${file} ended with ${child.exitCode}\n${complaints}`)
  return {
    origin,
    post: (path: string, body: unknown, token?: string) => call(origin + path, { method: 'POST', body, token }),
    open: (path: string, token?: string) => call(origin + path, { token }),
    remove: (path: string, token?: string, body?: unknown) => call(origin + path, { method: 'DELETE', body, token }),
    async stop() {
      await end(child)
      return child.exitCode
    },
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  await once(child, 'exit')
}

async function call(url: string, { method = 'GET', body, token }: { method?: string; body?: unknown; token?: string }) {
  const headers: Record<string, string> = {}
  if (body !== undefined) headers['content-type'] = 'application/json'
  if (token !== undefined) headers.authorization = `Bearer ${token}`
  const response = await fetch(url, { method, headers, body: body === undefined ? null : JSON.stringify(body) })
  const text = await response.text()
  return { status: response.status, body: (text ? JSON.parse(text) : null) as Record<string, string> }
}
