import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import accounts from '../../lib/index.ts'
import { createUser, testOptions } from '../../lib/testing/index.ts'
import { passwords, settableClock } from '../helpers/app.ts'
import { until } from '../helpers/helper.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const file = `${root}examples/browser/session.js`
const { createSession } = await import(file)

const parallel = 20
const page = 'http://localhost:5173'
const password = 'correct horse battery'

t.test('docs/browser.md shows the wrapper that these tests run, word for word', async (t) => {
  const page = readFileSync(`${root}docs/browser.md`, 'utf8')

  t.ok(page.includes(`\`\`\`js\n${readFileSync(file, 'utf8')}\`\`\``))
})

const stories: Record<string, (t: Test, cookie: boolean) => Promise<unknown>> = {
  async 'twenty requests with an expired token refresh once, and all succeed'(t, cookie) {
    const { session, clock, count } = await loggedIn(t, cookie)
    clock.pass(301_000)

    const responses = await Promise.all(Array.from({ length: parallel }, () => session.fetch('/hello')))

    t.strictSame(new Set(responses.map(({ status }) => status)), new Set([200]))
    t.equal(count('/auth/refresh/'), 1)
  },

  async 'after a reload the refresh token brings a new access token'(t, cookie) {
    const { origin, storage, count } = await loggedIn(t, cookie)
    const reloaded = createSession({ origin, storage, cookie })

    t.equal((await reloaded.fetch('/hello')).status, 200)
    t.equal((await reloaded.fetch('/hello')).status, 200)
    t.equal(count('/auth/refresh/'), 1)
  },

  async 'a refused refresh logs out once, and asks no more'(t, cookie) {
    const { app, id, session, storage, logouts, count } = await loggedIn(t, cookie)
    await app.accounts.users.endSessions(id)

    const responses = await Promise.all(Array.from({ length: parallel }, () => session.fetch('/hello')))
    const later = await session.fetch('/hello')

    t.strictSame(new Set(responses.map(({ status }) => status)), new Set([401]))
    t.equal(later.status, 401)
    t.equal(logouts(), 1)
    t.equal(count('/auth/refresh/'), 1)
    t.equal(storage.getItem('refresh'), null)
  },

  async 'a request that is refused twice in a row is returned, not repeated'(t, cookie) {
    const { session, logouts, count } = await loggedIn(t, cookie)

    const response = await session.fetch('/never')

    t.equal(response.status, 401)
    t.equal(count('/never'), 2)
    t.equal(count('/auth/refresh/'), 1)
    t.equal(logouts(), 0)
  },

  async 'a refresh that meets an outage logs nobody out'(t, cookie) {
    const { session, clock, logouts, breakRefresh, count } = await loggedIn(t, cookie)
    clock.pass(301_000)

    breakRefresh(true)
    const during = await session.fetch('/hello')
    breakRefresh(false)
    const after = await session.fetch('/hello')

    t.strictSame([during.status, after.status], [401, 200])
    t.equal(logouts(), 0)
    t.equal(count('/auth/refresh/'), 2)
  },

  async 'a logout ends the session, also while a refresh is on its way'(t, cookie) {
    const { session, storage, clock } = await loggedIn(t, cookie)
    const token = storage.getItem('refresh')
    clock.pass(301_000)

    const [response] = await Promise.all([session.fetch('/hello'), session.logout()])

    t.equal(response.status, 401)
    t.equal(storage.getItem('refresh'), null)
    t.ok(token)
    t.equal((await session.fetch('/hello')).status, 401)
  },
}

for (const cookie of [false, true]) {
  t.test(`the client with its refresh token in ${cookie ? 'a cookie' : 'localStorage'}`, async (t) => {
    for (const [title, story] of Object.entries(stories)) await t.test(title, (t) => story(t, cookie))
  })
}

t.test('with the cookie no script has the refresh token, and a logout removes it', async (t) => {
  const { session, storage, jar, clock } = await loggedIn(t, true)
  const first = jar.get('accounts-refresh')
  clock.pass(301_000)
  t.equal((await session.fetch('/hello')).status, 200)

  t.not(jar.get('accounts-refresh'), first)
  t.match(storage.getItem('refresh'), /^[\da-f-]{36}$/, 'a mark')
  await session.logout()
  t.equal(jar.size, 0)
})

t.test('a tab whose refresh is refused forgets no login that came meanwhile', async (t) => {
  const { app, id, origin, storage, logouts, session, hold, count } = await loggedIn(t, true)
  await app.accounts.users.endSessions(id)
  const tab = createSession({ origin, storage, cookie: true })

  const release = hold()
  const asked = session.fetch('/hello')
  await until(() => count('/auth/refresh/') === 1)
  tab.keep({ access: 'of another login' })
  release()

  t.equal((await asked).status, 401)
  t.equal(logouts(), 0)
  t.ok(storage.getItem('refresh'))
})

/** A browser that is logged in to an app on a port of this machine. */
async function loggedIn(t: Test, cookie: boolean) {
  const jar = asPage(t)
  const clock = settableClock()
  const requests: string[] = []
  let broken = false
  let held: Promise<void> | undefined
  const app = Fastify()
  app.addHook('onRequest', async (request, reply) => {
    // Boot asks about CORS.
    if (request.method !== 'OPTIONS') requests.push(request.url)
    if (request.url === '/auth/refresh/') await held
    if (broken && request.url === '/auth/refresh/') await reply.code(503).send()
  })
  await app.register(accounts, { ...testOptions(), passwords, clock, ...(cookie && { browser: { origins: [page] } }) })
  app.get('/hello', { onRequest: app.accounts.authenticate }, () => 'hello')
  app.get('/never', (_request, reply) => reply.code(401).send())
  t.teardown(() => app.close())
  const origin = await app.listen({ port: 0, host: '127.0.0.1' })

  // `createUser` stores no hash that anybody knows.
  const { email, id } = await createUser(app)
  await app.accounts.users.setPassword(id, password)
  const storage = fakeStorage()
  let logouts = 0
  const session = createSession({
    origin,
    cookie,
    storage,
    onLogout() {
      logouts++
    },
  })
  t.equal((await session.login({ email, password })).status, 200)
  return {
    ...{ app, id, origin, session, storage, clock, jar },
    logouts: () => logouts,
    count: (url: string) => requests.filter((requested) => requested === url).length,
    breakRefresh(now: boolean) {
      broken = now
    },
    /** Holds refreshes until the result is called. */
    hold() {
      let release = () => {}
      held = new Promise((resolve) => {
        release = resolve
      })
      return release
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

/** Makes `fetch` that of a page: it says where the page is from, and has cookies. */
function asPage(t: Test): Map<string, string> {
  const { fetch } = globalThis
  const jar = new Map<string, string>()
  globalThis.fetch = async (url, init = {}) => {
    const headers = new Headers(init.headers)
    headers.set('origin', page)
    const cookies = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    if (cookies && init.credentials === 'include') headers.set('cookie', cookies)
    const response = await fetch(url, { ...init, headers })
    for (const line of response.headers.getSetCookie()) {
      const [, name = '', value = '', age] = /^([^=]+)=([^;]*);.* Max-Age=(\d+);/.exec(line) ?? []
      if (age === '0') jar.delete(name)
      else jar.set(name, value)
    }
    return response
  }
  t.teardown(() => {
    globalThis.fetch = fetch
  })
  return jar
}
