import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import accounts from '../../lib/index.ts'
import { createUser, testOptions } from '../../lib/testing/index.ts'
import { settableClock } from '../helpers/app.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const file = `${root}examples/browser/session.js`
const { createSession } = await import(file)

const parallel = 20

t.test('docs/browser.md shows the wrapper that these tests run, word for word', async (t) => {
  const page = readFileSync(`${root}docs/browser.md`, 'utf8')

  t.ok(page.includes(`\`\`\`js\n${readFileSync(file, 'utf8')}\`\`\``))
})

t.test('twenty requests with an expired token refresh once, and all succeed', async (t) => {
  const { session, clock, count } = await loggedIn(t)
  clock.pass(301_000)

  const responses = await Promise.all(Array.from({ length: parallel }, () => session.fetch('/hello')))

  t.strictSame(new Set(responses.map(({ status }) => status)), new Set([200]))
  t.equal(count('/auth/refresh/'), 1)
})

t.test('after a reload the refresh token brings a new access token', async (t) => {
  const { origin, storage, count } = await loggedIn(t)
  const reloaded = createSession({ origin, storage })

  t.equal((await reloaded.fetch('/hello')).status, 200)
  t.equal((await reloaded.fetch('/hello')).status, 200)
  t.equal(count('/auth/refresh/'), 1)
})

t.test('a refused refresh logs out once, and asks no more', async (t) => {
  const { app, user, session, storage, logouts, count } = await loggedIn(t)
  await app.accounts.users.endSessions(user.id)

  const responses = await Promise.all(Array.from({ length: parallel }, () => session.fetch('/hello')))
  const later = await session.fetch('/hello')

  t.strictSame(new Set(responses.map(({ status }) => status)), new Set([401]))
  t.equal(later.status, 401)
  t.equal(logouts(), 1)
  t.equal(count('/auth/refresh/'), 1)
  t.equal(storage.getItem('refresh'), null)
})

t.test('a request that is refused twice in a row is returned, not repeated', async (t) => {
  const { session, logouts, count } = await loggedIn(t)

  const response = await session.fetch('/never')

  t.equal(response.status, 401)
  t.equal(count('/never'), 2)
  t.equal(count('/auth/refresh/'), 1)
  t.equal(logouts(), 0)
})

t.test('a refresh that meets an outage logs nobody out', async (t) => {
  const { session, clock, logouts, breakRefresh, count } = await loggedIn(t)
  clock.pass(301_000)

  breakRefresh(true)
  const during = await session.fetch('/hello')
  breakRefresh(false)
  const after = await session.fetch('/hello')

  t.strictSame([during.status, after.status], [401, 200])
  t.equal(logouts(), 0)
  t.equal(count('/auth/refresh/'), 2)
})

t.test('a logout ends the session, also while a refresh is on its way', async (t) => {
  const { session, storage, clock } = await loggedIn(t)
  const token = storage.getItem('refresh')
  clock.pass(301_000)

  const [response] = await Promise.all([session.fetch('/hello'), session.logout()])

  t.equal(response.status, 401)
  t.equal(storage.getItem('refresh'), null)
  t.ok(token)
  t.equal((await session.fetch('/hello')).status, 401)
})

/** A browser that is logged in to an app on a port of this machine. */
async function loggedIn(t: Test) {
  const clock = settableClock()
  const requests: string[] = []
  let broken = false
  const app = Fastify()
  app.addHook('onRequest', async (request, reply) => {
    requests.push(request.url)
    if (broken && request.url === '/auth/refresh/') await reply.code(503).send()
  })
  await app.register(accounts, { ...testOptions(), clock })
  app.get('/hello', { onRequest: app.accounts.authenticate }, () => 'hello')
  app.get('/never', (_request, reply) => reply.code(401).send())
  t.teardown(() => app.close())
  const origin = await app.listen({ port: 0, host: '127.0.0.1' })

  const user = await createUser(app)
  const storage = fakeStorage()
  let logouts = 0
  const session = createSession({
    origin,
    storage,
    onLogout() {
      logouts++
    },
  })
  session.keep(await app.accounts.startSession(user.id))
  return {
    ...{ app, user, origin, session, storage, clock },
    logouts: () => logouts,
    count: (url: string) => requests.filter((requested) => requested === url).length,
    breakRefresh(now: boolean) {
      broken = now
    },
  }
}

/** What the wrapper needs of `localStorage`. */
function fakeStorage() {
  const items = new Map<string, string>()
  return {
    getItem: (name: string) => items.get(name) ?? null,
    setItem: (name: string, value: string) => void items.set(name, value),
    removeItem: (name: string) => void items.delete(name),
  }
}
