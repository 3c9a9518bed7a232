import { execFile, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import cors from '@fastify/cors'
import Fastify from 'fastify'
import type { BrowserContext, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import plugin from '../../lib/index.ts'
import { testOptions } from '../../lib/testing/index.ts'
import { root, startExample } from '../helpers/examples.ts'
import { freePort, longRun, noChromium } from '../helpers/helper.ts'
import { findBinaries } from '../servers.js'

// Of the pages: what `evaluate` is given runs there.
declare const document: any
declare const localStorage: any
declare const navigator: any

const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse battery' }
const bob = { username: 'bob', email: 'bob@example.org', password: 'another horse battery' }
const json = { 'content-type': 'application/json' }

t.test('a page and a phone use one server, each with its refresh token where it belongs', async (t) => {
  const { origin, post } = await startExample(t, 'examples/browser/server.js')
  await post('/api/register/', ada)

  const { stdout } = await promisify(execFile)(process.execPath, [
    ...[`${root}/examples/browser/phone.js`, origin, ada.email, ada.password],
  ])
  const login = await fetch(`${origin}/api/login/`, {
    ...{ method: 'POST', headers: { ...json, origin }, body: JSON.stringify(ada) },
  })
  const index = await fetch(origin)

  t.equal(stdout, 'Hello, user 1.\nThe phone is logged out.\n')
  t.strictSame(Object.keys((await login.json()) as object), ['access'])
  t.match(login.headers.get('set-cookie'), /^accounts-refresh=[^;]+; Path=\/; Max-Age=2592000; HttpOnly; SameSite=Str/)
  t.match(await index.text(), '<script src="/app.js" type="module">')
  t.match(index.headers.get('content-security-policy'), /default-src 'self'/)
})

/** Chromium with a fresh profile; names of example.com and example.net lead to this machine. */
async function openBrowser(t: Test): Promise<BrowserContext> {
  const { chromium } = await import('playwright-core')
  const args = ['--no-sandbox', '--host-resolver-rules=MAP *.example.com 127.0.0.1, MAP *.example.net 127.0.0.1']
  const browser = await chromium.launch({ executablePath: findBinaries().chromium!, args })
  t.teardown(() => browser.close())
  return browser.newContext({ ignoreHTTPSErrors: true })
}

async function openTab(context: BrowserContext, url: string): Promise<Page> {
  const page = await context.newPage()
  await page.goto(url)
  return page
}

/** What the example says, once it says something that matches. */
async function says(page: Page, text: string): Promise<void> {
  await page.locator('#says', { hasText: text }).waitFor({ timeout: 20_000 })
}

async function enter(page: Page, { email, password }: typeof ada, button: 'login' | 'register'): Promise<void> {
  await page.fill('[name=email]', email)
  await page.fill('[name=password]', password)
  await page.click(`[name=${button}]`)
  await says(page, 'You are logged in.')
}

/** Refreshes by a plain request, which knows nothing of other tabs; returns the status. */
function refresh(page: Page): Promise<number> {
  const init = { method: 'POST', headers: json, body: '{}' }
  return page.evaluate(async (init) => (await fetch('/auth/refresh/', init)).status, init)
}

/** Asks so often in a row who is logged in, each time as after a reload, by the client of the example. */
function ask(page: Page, times: number, url = '/hello', origin = ''): Promise<(number | undefined)[]> {
  // A text, since the compiler would change the import of a function.
  return page.evaluate(`(async () => {
    const { createSession } = await import('/session.js')
    const answers = []
    for (let n = 0; n < ${times}; n++) {
      const response = await createSession({ origin: '${origin}', cookie: true }).fetch('${url}')
      answers.push((await response.json()).${url === '/hello' ? 'hello' : 'id'})
    }
    return answers
  })()`)
}

longRun('[R-WEB-6] tabs of a single-page app in Chromium', { skip: noChromium }, async (t) => {
  const { origin } = await startExample(t, 'examples/browser/server.js')
  const context = await openBrowser(t)
  const cookie = async () => (await context.cookies(origin)).find(({ name }) => name === 'accounts-refresh')
  const bodies: string[] = []
  context.on('response', async (response) => {
    if (/\/(login|refresh)\/$/.test(response.url())) bodies.push(await response.text().catch(() => ''))
  })

  const one = await openTab(context, origin)
  await says(one, 'Please log in.')
  await enter(one, ada, 'register')
  const first = await cookie()
  t.match(first, { httpOnly: true, sameSite: 'Strict', secure: false, path: '/', domain: 'localhost' })
  const month = (first!.expires - Date.now() / 1000) / 86_400
  t.ok(month > 29.9 && month < 30.1, 'until the end of the session')
  const seen = await one.evaluate(() => [document.cookie, JSON.stringify(localStorage)])
  t.equal(seen[0], '', 'no script sees the cookie')
  t.notMatch(seen[1], first!.value)

  await one.reload()
  await says(one, 'Hello, user 1.')
  t.not((await cookie())!.value, first!.value, 'a reload refreshes')
  t.ok(bodies.length >= 2)
  t.strictSame(
    bodies.filter((body) => body.includes('"refresh"')),
    [],
  )

  const other = await openTab(context, origin)
  await says(other, 'Hello, user 1.')
  for (let round = 0; round < 20; round++) {
    await Promise.all([one, other].map((tab) => tab.reload({ waitUntil: 'commit' })))
    await Promise.all([one, other].map((tab) => says(tab, 'Hello, user 1.')))
  }
  for (let round = 0; round < 30; round++) {
    t.strictSame(await Promise.all([one, other].map(refresh)), [200, 200], 'without a lock between them')
  }
  const answers = await Promise.all([one, other].map((tab) => ask(tab, 25)))
  t.strictSame(new Set(answers.flat()), new Set([1]), 'with one, without waiting for each other')

  await switchUsers(t, one, other)
  await other.reload()
  await says(other, 'Hello, user 2.')

  await one.click('#logout')
  await says(one, 'You are logged out.')
  t.equal(await cookie(), undefined)
  await other.click('#hello')
  await says(other, 'Please log in.')
  await other.reload()
  await says(other, 'Please log in.')
})

/** A login in one tab while the other one refreshes the older session. */
async function switchUsers(t: Test, one: Page, other: Page): Promise<void> {
  await enter(one, bob, 'register')
  for (let round = 0; round < 6; round++) {
    const [user, name] = round % 2 ? ([bob, 2] as const) : ([ada, 1] as const)
    const refreshing = Promise.all([ask(other, 5), ask(other, 5)])
    await enter(one, user, 'login')
    await refreshing
    t.strictSame(await ask(one, 1), [name], `round ${round}: the login stands`)
    await one.evaluate(() => {
      document.querySelector('#says')!.textContent = ''
    })
  }
}

/** What a page tries that wants to act as its visitor: forms, requests of every kind, and a beacon. */
async function attack(page: Page, target: string): Promise<void> {
  await page.evaluate(async (target) => {
    const login = '{"email":"bob@example.org","password":"another horse battery","x":"'
    const tries: Promise<unknown>[] = []
    for (const path of ['/auth/refresh/', '/auth/logout/', '/auth/logout_all/', '/api/login/']) {
      for (const enctype of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
        const frame = document.body.appendChild(document.createElement('iframe'))
        frame.name = `${path}${enctype}`
        const form = document.body.appendChild(document.createElement('form'))
        Object.assign(form, { method: 'post', enctype, action: target + path, target: frame.name })
        const field = form.appendChild(document.createElement('input'))
        Object.assign(field, { name: path.includes('login') ? login : '{"x":"', value: '"}' })
        tries.push(new Promise((resolve) => frame.addEventListener('load', resolve, { once: true })))
        form.submit()
      }
      const body = path.includes('login') ? `${login}"}` : '{}'
      const include = { method: 'POST', credentials: 'include', body } as const
      const type = { 'content-type': 'application/json' }
      tries.push(fetch(target + path, { ...include, headers: type }))
      tries.push(fetch(target + path, { ...include, headers: type, mode: 'no-cors' }))
      tries.push(fetch(target + path, { ...include, mode: 'no-cors' }))
      tries.push(fetch(target + path, { ...include, mode: 'no-cors', body: new Blob([body]) }))
      tries.push(fetch(target + path, { method: 'POST', credentials: 'include', mode: 'no-cors' }))
      navigator.sendBeacon(target + path, new Blob([body], { type: 'application/json' }))
      navigator.sendBeacon(target + path, body)
    }
    // Some never settle: the frame of a refused form, a request that no preflight allows.
    const late = new Promise((resolve) => setTimeout(resolve, 1500))
    await Promise.race([Promise.allSettled(tries), late])
  }, target)
}

longRun('[R-WEB-7] pages of other origins get nothing done in Chromium', { skip: noChromium }, async (t) => {
  const { origin, post } = await startExample(t, 'examples/browser/server.js')
  await post('/api/register/', bob)
  const evil = createServer((_request, response) => response.setHeader('content-type', 'text/html').end('<p>evil'))
  t.teardown(() => evil.close())
  await once(evil.listen(0), 'listening')
  const { port } = evil.address() as AddressInfo

  for (const host of ['evil.localhost', 'localhost', '127.0.0.1']) {
    const context = await openBrowser(t)
    const statuses: number[] = []
    context.on('response', (response) => {
      if (response.url().startsWith(origin) && response.request().method() === 'POST') statuses.push(response.status())
    })
    const mine = await openTab(context, origin)
    await attack(await openTab(context, `http://${host}:${port}/`), origin)
    t.strictSame(await context.cookies(origin), [], `${host} plants no cookie`)
    await enter(mine, host === 'evil.localhost' ? ada : { ...ada, email: `${port}${host}@example.org` }, 'register')
    const before = await context.cookies(origin)
    statuses.length = 0

    await attack(await openTab(context, `http://${host}:${port}/`), origin)

    t.ok(statuses.length >= 12, `${statuses.length} requests of ${host} came through`)
    // Without the cookie, which Chromium keeps from other sites, a request is anybody's.
    const refusals = host === 'localhost' ? [403] : [400, 401, 403, 415]
    t.strictSame(
      statuses.filter((status) => !refusals.includes(status)),
      [],
    )
    t.strictSame(await context.cookies(origin), before, `${host} changes no cookie`)
    await mine.reload()
    await says(mine, 'Hello, user')
  }
})

/** A key and a certificate that nobody trusts. */
function certificate(t: Test) {
  const folder = t.testdir()
  const args = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
  const files = { key: `${folder}/key.pem`, cert: `${folder}/cert.pem` }
  spawnSync('openssl', [...args, '-subj', '/CN=example.com', '-keyout', files.key, '-out', files.cert])
  return files
}

longRun('[R-WEB-7] an API on a subdomain of its own, over TLS, in Chromium', { skip: noChromium }, async (t) => {
  const { key, cert } = certificate(t)
  const port = await freePort()
  const hosts = ['app.example.com', 'api.example.com', 'evil.example.com', 'evil.example.net']
  const [page, api, ...evils] = hosts.map((host) => `https://${host}:${port}`) as [string, string, string, string]
  const app = Fastify({ https: { key: readFileSync(key), cert: readFileSync(cert) } })
  t.teardown(() => app.close())
  await app.register(cors, { origin: [page], credentials: true, allowedHeaders: ['authorization', 'content-type'] })
  await app.register(plugin, { ...testOptions(), browser: { origins: [page] } })
  app.get('/', (_request, reply) => reply.type('text/html').send('<p>a page'))
  const client = readFileSync(`${root}/examples/browser/session.js`)
  app.get('/session.js', (_request, reply) => reply.type('text/javascript').send(client))
  await app.inject({ method: 'POST', url: '/api/register/', payload: ada })
  await app.inject({ method: 'POST', url: '/api/register/', payload: bob })
  await app.listen({ port, host: '127.0.0.1' })

  const context = await openBrowser(t)
  const mine = await openTab(context, page)
  const login = await mine.evaluate(`(async () => {
    const { createSession } = await import('/session.js')
    return (await createSession({ origin: '${api}', cookie: true }).login(${JSON.stringify(ada)})).status
  })()`)
  t.equal(login, 200)
  const [cookie] = await context.cookies(api)
  t.match(cookie, { name: '__Host-accounts-refresh', httpOnly: true, secure: true, sameSite: 'Strict', path: '/' })
  t.equal(cookie!.domain, 'api.example.com')
  t.strictSame(new Set(await ask(mine, 20, '/auth/user/', api)), new Set([1]))

  const before = await context.cookies(api)
  const statuses: number[] = []
  context.on('response', (response) => {
    if (response.request().method() === 'POST') statuses.push(response.status())
  })
  for (const evil of evils) {
    const tab = await openTab(context, evil)
    await attack(tab, api)
    await tab.evaluate(() => {
      for (const space of ['', '\u00a0', '\u2000']) {
        document.cookie = `${space}__Host-accounts-refresh=planted; Domain=example.com; Path=/; Secure`
      }
    })
  }
  t.ok(statuses.length >= 24, `${statuses.length} requests came through`)
  t.strictSame(
    statuses.filter((status) => ![400, 401, 403, 415].includes(status)),
    [],
  )
  const after = (await context.cookies(api)).filter(({ name }) => name === '__Host-accounts-refresh')
  t.strictSame(after, before)
  t.strictSame(await ask(mine, 1, '/auth/user/', api), [1])
})
