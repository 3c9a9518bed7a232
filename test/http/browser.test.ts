import { generateKeyPairSync } from 'node:crypto'
import cors, { type FastifyCorsOptions } from '@fastify/cors'
import swagger from '@fastify/swagger'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import plugin, { type AccountsOptions } from '../../lib/index.ts'
import {
  type Answer,
  accountsOf,
  bearer,
  clientOf,
  memoryApp,
  openDatabase,
  password,
  passwords,
  secret,
  settableClock,
  startServer,
} from '../helpers/app.ts'
import { inProduction, noPostgres, redisUrl, uniqueName, until } from '../helpers/helper.ts'
import { hostApp } from '../helpers/host-app.ts'
import { inventory } from '../helpers/inventory.ts'
import { claimsOf, newMember } from '../helpers/members.ts'

const page = 'https://app.example.com'
const local = 'http://localhost:5173'
const host = '__Host-accounts-refresh'
const plain = 'accounts-refresh'
const month = 2_592_000
const browser = { origins: [page, local] }
const ada = { username: 'ada', email: 'ada@example.org', password }

type Opened = Awaited<ReturnType<typeof memoryApp>>

/** An app in browser mode with a member, and what a page and everybody else may send. */
async function open(t: Test, options: Partial<AccountsOptions> = {}) {
  const clock = settableClock(1_800_000_000_000)
  const opened = await memoryApp(t, { browser, clock, ...options })
  t.equal((await opened.post('/api/register/', ada)).status, 201)
  return { ...opened, clock, accounts: accountsOf({ ...opened, name: options.name }) }
}

function login({ post }: Opened, headers: Record<string, string> = { origin: page }): Promise<Answer> {
  return post('/api/login/', { email: ada.email, password }, headers)
}

/** The one `set-cookie` of a response. */
function cookieOf({ headers }: Answer): string | undefined {
  const cookies = [headers['set-cookie'] ?? []].flat() as string[]
  if (cookies.length > 1) throw new Error(`more than one cookie: ${cookies}`)
  return cookies[0]
}

/** What a browser sends back of a `set-cookie`. */
function sent(cookie: string | undefined): string {
  return String(cookie).split(';', 1)[0]!
}

function tokenOf(cookie: string | undefined): string {
  return sent(cookie).replace(/^.*?=/, '')
}

t.test('[R-WEB-6] a page has the refresh token in a cookie and never in a body', async (t) => {
  const opened = await open(t)
  const { send, post, clock } = opened
  const expected = (token: string, seconds = month) =>
    `${host}=${token}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Strict; Secure`

  const first = await login(opened)
  t.match(first, { status: 200, headers: { 'cache-control': 'no-store' } })
  t.strictSame(Object.keys(first.body), ['access'])
  t.equal(cookieOf(first), expected(tokenOf(cookieOf(first))))
  t.equal(claimsOf(tokenOf(cookieOf(first))).counter, 0)

  clock.pass(3_600_000)
  const cookie = sent(cookieOf(first))
  const second = await post('/auth/refresh/', {}, { origin: page, cookie })
  t.strictSame([second.status, Object.keys(second.body)], [200, ['access']])
  t.equal(cookieOf(second), expected(tokenOf(cookieOf(second)), month - 3600), 'until the end of the session')
  t.equal(claimsOf(tokenOf(cookieOf(second))).counter, 1)
  t.equal(claimsOf(second.body.access).sid, claimsOf(first.body.access).sid)

  const headers = { ...bearer(second.body.access), origin: page, cookie: sent(cookieOf(second)) }
  const change = { current_password: password, new_password: 'the next password' }
  const changed = await post('/auth/change_password/', change, headers)
  t.strictSame([changed.status, Object.keys(changed.body)], [200, ['message', 'access']])
  t.equal(cookieOf(changed), expected(tokenOf(cookieOf(changed))))

  const gone = `${host}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure`
  const loggedOut = await post('/auth/logout/', {}, { origin: page, cookie: sent(cookieOf(changed)) })
  t.strictSame([loggedOut.status, cookieOf(loggedOut)], [204, gone])
  const after = await post('/auth/refresh/', {}, { origin: page, cookie: sent(cookieOf(changed)) })
  t.match(after, { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' } }, 'the session has ended')
  t.equal(cookieOf(after), undefined, 'a refused refresh leaves the cookie alone')

  const entries = { email: ada.email, password: 'the next password' }
  const third = await post('/api/login/', entries, { origin: page })
  const everywhere = await send({ method: 'POST', url: '/auth/logout_all/', headers: pageOf(third) })
  t.strictSame([everywhere.status, cookieOf(everywhere)], [204, gone])
  const last = await post('/api/login/', entries, { origin: page })
  const own = { password: 'the next password' }
  const deleted = await send({ method: 'DELETE', url: '/auth/user/', payload: own, headers: pageOf(last) })
  t.strictSame([deleted.status, cookieOf(deleted)], [204, gone])
})

function pageOf(login: Answer): Record<string, string> {
  return { ...bearer(login.body.access), origin: page, cookie: sent(cookieOf(login)) }
}

t.test('[R-WEB-6] SameSite is Lax where the option says so', async (t) => {
  const opened = await open(t, { browser: { ...browser, sameSite: 'lax' } })

  t.match(cookieOf(await login(opened)), /; Path=\/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure$/)
})

t.test('[R-WEB-6] a page on http of this machine has a cookie without Secure and its prefix', async (t) => {
  const opened = await open(t)
  const { post } = opened

  const first = await login(opened, { origin: local })
  const cookie = sent(cookieOf(first))
  const second = await post('/auth/refresh/', {}, { origin: local, cookie })
  const last = await post('/auth/logout/', {}, { origin: local, cookie: sent(cookieOf(second)) })

  t.match(cookieOf(first), /^accounts-refresh=[\w.-]+; Path=\/; Max-Age=2592000; HttpOnly; SameSite=Strict$/)
  t.match([first.body, second.body], [{ access: String }, { access: String, refresh: undefined }])
  t.strictSame([second.status, last.status], [200, 204])
  t.equal(cookieOf(last), 'accounts-refresh=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict')
  const foreign = cookie.replace(plain, host)
  t.equal((await post('/auth/refresh/', {}, { origin: local, cookie: foreign })).status, 401, 'not the other name')
})

t.test('[R-WEB-6] behind a proxy that ends TLS the cookie is Secure all the same', async (t) => {
  const opened = await memoryApp(t, { browser }, { trustProxy: '10.0.0.1' })
  await opened.post('/api/register/', ada)

  for (const proto of ['http', 'https']) {
    const forwarded = { 'x-forwarded-proto': proto, 'x-forwarded-host': 'evil.example', origin: page }
    t.match(cookieOf(await login(opened, forwarded)), /^__Host-accounts-refresh=.*; Secure$/)
  }
})

t.test('[R-WEB-6] cookie, body and header are never honoured together', async (t) => {
  const opened = await open(t)
  const { post, get } = opened
  const [one, other] = [await login(opened), await login(opened)]
  const { refresh } = (await login(opened, {})).body
  const cookie = sent(cookieOf(one))
  const both = { origin: page, cookie, ...bearer(other.body.access) }

  for (const url of ['/auth/refresh/', '/auth/logout/']) {
    for (const headers of [{ origin: page } as { origin: string }, { origin: page, cookie }]) {
      const refused = await post(url, { refresh }, headers)
      t.match(refused, { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } }, url)
      t.strictSame(refused.body.errors, [{ field: 'refresh', message: 'must be left out: the cookie has it' }])
      t.equal(cookieOf(refused), undefined)
    }
  }
  t.equal((await post('/auth/refresh/', {}, { origin: page, ...bearer(one.body.access) })).status, 401)
  t.equal((await post('/auth/logout/', {}, both)).status, 204)
  t.equal((await get('/auth/user/', one.body.access)).status, 401, 'the session of the cookie has ended')
  t.equal((await get('/auth/user/', other.body.access)).status, 200, 'the session of the header has not')
  t.equal((await post('/auth/refresh/', { refresh })).status, 200, 'nor that of the body')
  const withoutCookie = await post('/auth/logout/', {}, { origin: page, ...bearer(other.body.access) })
  t.equal(withoutCookie.status, 204, 'the header alone')
  t.equal((await get('/auth/user/', other.body.access)).status, 401)
})

t.test('[R-WEB-6] the cookie opens nothing but refresh and logout', async (t) => {
  const opened = await open(t)
  const cookie = sent(cookieOf(await login(opened)))

  for (const { method, path, guarded, body } of inventory) {
    if (!guarded) continue
    const { status } = await opened.send({ method, url: path, payload: body, headers: { origin: page, cookie } })
    t.equal(status, 401, `${method} ${path}`)
  }
})

t.test('everybody else has the refresh token in the body, as without the option', async (t) => {
  const opened = await open(t)
  const { post } = opened

  for (const origin of [undefined, 'capacitor://localhost', 'https://localhost', 'null', 'https://evil.example']) {
    const headers: Record<string, string> = origin ? { origin } : {}
    const first = await login(opened, headers)
    const second = await post('/auth/refresh/', { refresh: first.body.refresh }, headers)
    const missing = await post('/auth/refresh/', {}, headers)
    const nothing = await opened.send({ method: 'POST', url: '/auth/refresh/', headers })
    const last = await post('/auth/logout/', { refresh: second.body.refresh }, headers)

    t.strictSame([first, second, last].map(cookieOf), [undefined, undefined, undefined], `no cookie for ${origin}`)
    t.match([first.body, second.body], Array(2).fill({ access: String, refresh: String }))
    for (const refused of [missing, nothing]) {
      t.match(refused, { status: 400, body: { errors: [{ field: 'refresh', message: 'is required' }] } })
    }
    t.equal(last.status, 204)
  }
})

const origins = { absent: undefined, null: 'null', evil: 'https://evil.example', listed: page }
const spoofs = [
  'https://sub.app.example.com',
  'https://app.example.com.evil.example',
  'https://app.example.com:8443',
  'https://app.example.com/',
  'https://APP.example.com',
  'http://app.example.com',
  `${page}, https://evil.example`,
  `${page} `.padEnd(30),
]
const sites = [undefined, 'same-origin', 'same-site', 'cross-site', 'none']
const types = [
  'application/json',
  'application/json; charset=utf-8',
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
  undefined,
]
const json = types.slice(0, 2)

t.test('[R-WEB-7] the matrix of Origin, Sec-Fetch-Site, content type and cookie', async (t) => {
  const { app, accounts, get } = await open(t)
  const outcomes = new Map<string, number>()

  async function attempt(route: string, origin: string | undefined, site?: string, type?: string, withCookie = true) {
    const { refresh, access } = await newMember(accounts)
    const listed = origin === page
    const inBody = listed || withCookie ? {} : { refresh }
    const payload = JSON.stringify(route === '/api/login/' ? { email: ada.email, password } : inBody)
    const given = { origin, 'sec-fetch-site': site, 'content-type': type, cookie: withCookie && `${host}=${refresh}` }
    const headers = Object.fromEntries(Object.entries(given).filter(([, value]) => value)) as Record<string, string>
    const answer = await app.inject({ method: 'POST', url: route, payload, headers })

    const refused = listed ? site === 'cross-site' : withCookie
    const good = route === '/auth/logout/' ? 204 : 200
    const anonymous = listed && !withCookie && route !== '/api/login/'
    const expected = refused ? 403 : !json.includes(type ?? '') ? 415 : anonymous ? 401 : good
    const what = `${route} ${JSON.stringify({ ...given, cookie: withCookie })}`
    t.equal(answer.statusCode, expected, what)
    if (expected === 403) t.equal(answer.json().code, 'ACCOUNTS_FORBIDDEN', what)
    if (Boolean(answer.headers['set-cookie']) !== (listed && expected === good)) t.fail(`set-cookie of ${what}`)
    if (expected === 200 && 'refresh' in answer.json() === listed) t.fail(`the body of ${what}`)
    const lives = (await get('/auth/user/', access)).status === 200
    if (lives === (route === '/auth/logout/' && expected === 204)) t.fail(`the session after ${what}`)
    outcomes.set(`${expected}`, (outcomes.get(`${expected}`) ?? 0) + 1)
  }

  for (const route of ['/api/login/', '/auth/refresh/', '/auth/logout/']) {
    for (const withCookie of [true, false]) {
      for (const origin of Object.values(origins)) {
        for (const site of sites) for (const type of types) await attempt(route, origin, site, type, withCookie)
      }
      for (const origin of spoofs) await attempt(route, origin, 'same-site', json[0], withCookie)
    }
  }
  t.strictSame([...outcomes.keys()].toSorted(), ['200', '204', '401', '403', '415'])
})

t.test('[R-WEB-7] with the cookie nothing of ours is changed from an Origin that is not listed', async (t) => {
  const keys = generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
  const opened = await open(t, { registration: { verifyEmail: true }, tokens: { keys } })
  const { user, refresh, access } = await newMember(opened.accounts)
  const cookie = `other=1; ${host}=${refresh}`

  for (const { method, path, body } of inventory) {
    for (const url of [path, path.endsWith('/') ? path.slice(0, -1) : `${path}/`]) {
      for (const origin of [undefined, 'https://evil.example']) {
        const headers = { ...(origin && { origin }), cookie, ...bearer(access) }
        const { status } = await opened.send({ method, url, payload: body, headers })
        t.equal(status, method === 'GET' ? 200 : 403, `${method} ${url} from ${origin}`)
      }
    }
  }
  t.ok(user)
  t.equal((await opened.get('/auth/user/', access)).status, 200)
})

t.test('[R-WEB-7] a login of somebody else’s page plants no cookie', async (t) => {
  const opened = await open(t)

  for (const origin of ['https://evil.example', 'https://sub.app.example.com', 'null']) {
    const form = await opened.send({
      ...{ method: 'POST', url: '/api/login/', payload: `email=${ada.email}&password=${password}` },
      headers: { origin, 'content-type': 'application/x-www-form-urlencoded', 'sec-fetch-site': 'cross-site' },
    })
    const fetched = await login(opened, { origin, 'sec-fetch-site': 'cross-site' })

    t.strictSame([form.status, cookieOf(form)], [415, undefined])
    t.strictSame([fetched.status, cookieOf(fetched)], [200, undefined])
  }
})

t.test('[R-WEB-7] a page logs out and refreshes in JSON, also without a body', async (t) => {
  const opened = await open(t)
  const headers = { origin: page, cookie: sent(cookieOf(await login(opened))) }

  for (const url of ['/auth/refresh/', '/auth/logout/']) {
    const bare = await opened.send({ method: 'POST', url, headers })
    t.match(bare, { status: 415, body: { code: 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED' } }, url)
    const typed = { ...headers, 'content-type': 'application/json' }
    t.match((await opened.send({ method: 'POST', url, headers: typed })).status, /^20[04]$/, url)
  }
})

t.test('a cookie is read strictly', async (t) => {
  const opened = await open(t)
  const cookie = sent(cookieOf(await login(opened)))
  const token = tokenOf(cookie)
  const refresh = (given: string) => opened.post('/auth/refresh/', {}, { origin: page, cookie: given })

  for (const [given, status] of [
    [`a=1; ${cookie}; b="2"`, 200],
    [`a=1;${cookie};b`, 200],
    [`${host}="${token}"`, 401],
    [`${host}=`, 401],
    [`${host} =${token}`, 401],
    [`${host.toLowerCase()}=${token}`, 401],
    [`x${host}=${token}`, 401],
    [`${host}x=${token}`, 401],
    [`a=${host}=${token}`, 401],
    [`\u00a0${host}=${token}`, 401],
    [`${plain}=${token}`, 401],
    [`${host}=${encodeURIComponent(`${token} `)}`, 401],
    [`${cookie}; ${cookie}`, 403],
    [`${cookie}; ${host}=`, 403],
    [`${host}=planted; ${cookie}`, 403],
  ] as const) {
    const answer = await refresh(given)
    t.equal(answer.status, status, given.replaceAll(token, '…'))
    if (status !== 200) t.equal(cookieOf(answer), undefined)
  }
  t.equal((await opened.post('/auth/logout/', {}, { origin: page, cookie: `${cookie}; ${cookie}` })).status, 403)
  t.equal((await refresh(cookie)).status, 200, 'the session goes on')
})

t.test('[R-WEB-7] an empty cookie and a second one count where there must be none', async (t) => {
  const opened = await open(t)

  for (const cookie of [`${host}=`, `${host}=x; ${host}=y`, `${plain}=x`, `a=b; ${host}=garbage`]) {
    t.equal((await login(opened, { cookie })).status, 403, cookie)
    t.equal((await login(opened, { cookie, origin: page })).status, 200, `${cookie} from a page`)
  }
  for (const cookie of ['other-refresh=x', `a=${host}`, `${host}`, '__Host-staff-refresh=x']) {
    t.equal((await login(opened, { cookie })).status, 200, cookie)
  }
  const https = await open(t, { browser: { origins: [page] } })
  t.equal((await login(https, { cookie: `${plain}=x` })).status, 200, 'without http pages there is no such cookie')
})

t.test('[R-WEB-6] two realms have two cookies, and neither takes the other’s', async (t) => {
  const { app, post } = await memoryApp(t, { name: 'customers', prefix: '/customers', browser })
  const parts = { storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer(), throttle: false as const }
  await app.register(plugin, { secret, passwords, ...parts, name: 'staff', prefix: '/staff', browser })
  const enter = async (realm: string) => {
    await post(`/${realm}/api/register/`, ada)
    return sent(cookieOf(await post(`/${realm}/api/login/`, ada, { origin: page })))
  }
  const customer = await enter('customers')
  const member = await enter('staff')
  const refresh = (realm: string, cookie: string) => post(`/${realm}/auth/refresh/`, {}, { origin: page, cookie })
  const renamed = member.replace('staff', 'customers')

  t.match([customer, member], [/^__Host-customers-refresh=/, /^__Host-staff-refresh=/])
  t.equal((await refresh('customers', `${member}; ${customer}`)).status, 200)
  t.equal((await refresh('staff', `${customer}; ${member}`)).status, 200)
  t.equal((await refresh('customers', member)).status, 401)
  t.equal((await refresh('customers', renamed)).status, 401, 'nor its value')
  t.equal((await post('/customers/api/login/', ada, { cookie: member })).status, 200)
  t.equal((await post('/customers/api/login/', ada, { cookie: customer })).status, 403)
})

t.test('a refresh that is refused never removes the cookie, and one without a cookie is a plain 401', async (t) => {
  const opened = await open(t)
  const { post, clock } = opened
  const cookies = [sent(cookieOf(await login(opened)))]
  for (let step = 0; step < 3; step++) {
    cookies.push(sent(cookieOf(await post('/auth/refresh/', {}, { origin: page, cookie: cookies.at(-1)! }))))
  }
  const refused = async (cookie?: string) => {
    const answer = await post('/auth/refresh/', {}, { origin: page, ...(cookie && { cookie }) })
    return [answer.status, answer.body.code, cookieOf(answer)]
  }

  t.strictSame(await refused(), [401, 'ACCOUNTS_TOKEN_INVALID', undefined])
  t.strictSame(await refused(`${host}=garbage`), [401, 'ACCOUNTS_TOKEN_INVALID', undefined])
  t.strictSame(await refused(cookies[1]), [401, 'ACCOUNTS_TOKEN_INVALID', undefined], 'a tab that lost a race')
  t.equal((await post('/auth/refresh/', {}, { origin: page, cookie: cookies[3]! })).status, 200)
  clock.pass(31_000)
  t.strictSame(await refused(cookies[1]), [401, 'ACCOUNTS_REFRESH_REUSED', undefined])
})

t.test('with rotate false a refresh leaves the cookie as it is', async (t) => {
  const opened = await open(t, { refresh: { rotate: false } })
  const cookie = sent(cookieOf(await login(opened)))

  for (let use = 0; use < 3; use++) {
    const answer = await opened.post('/auth/refresh/', {}, { origin: page, cookie })
    t.strictSame([answer.status, Object.keys(answer.body), cookieOf(answer)], [200, ['access'], undefined])
  }
})

t.test('[R-WEB-6] 50 parallel refreshes over two processes set one cookie', { skip: noPostgres }, async (t) => {
  const { url, db } = await openDatabase(t)
  const OPTIONS = JSON.stringify({ name: uniqueName(), browser })
  const settings = { DATABASE_URL: url, REDIS_URL: redisUrl(), OPTIONS }
  const [one, other] = await Promise.all([startServer(t, settings), startServer(t, settings)])
  t.equal((await one.post('/api/register/', ada)).status, 201)
  const counter = async () => {
    const row = await db.selectFrom('accounts_sessions').select('counter').executeTakeFirstOrThrow()
    return Number(row.counter)
  }
  const refreshed = async (server: typeof one, cookie: string) => {
    let answer = await server.post('/auth/refresh/', {}, { origin: page, cookie })
    // A machine that is too busy says so, and its clients try again.
    for (let tries = 1; answer.status === 503 && tries < 10; tries++) {
      answer = await server.post('/auth/refresh/', {}, { origin: page, cookie })
    }
    return answer
  }

  let cookie = sent(cookieOf(await other.post('/api/login/', ada, { origin: page })))
  for (let round = 0; round < 3; round++) {
    const storm = Array.from({ length: 50 }, (_, index) => refreshed(index % 2 ? one : other, cookie))
    const answers = await Promise.all(storm)

    t.strictSame(new Set(answers.map(({ status }) => status)), new Set([200]))
    t.equal(new Set(answers.map((answer) => sent(cookieOf(answer)))).size, 1, 'one cookie')
    t.equal(await counter(), round, 'one step')
    cookie = sent(cookieOf(answers[0]!))
  }
})

t.test('[R-WEB-6] in production the cookie is Secure, and pages on http are refused at boot', async (t) => {
  t.teardown(inProduction())
  const start = async (origins: string[]) => {
    const app = Fastify()
    t.teardown(() => app.close())
    const single = { singleProcess: true }
    const parts = { storage: memoryStorage(single), cache: memoryCache(single), mailer: memoryMailer(single) }
    await app.register(plugin, { ...{ secret, passwords, throttle: false as const, browser: { origins } }, ...parts })
    return clientOf(app)
  }
  const { post } = await start([page])
  await post('/api/register/', ada)

  t.match(cookieOf(await post('/api/login/', ada, { origin: page })), /^__Host-accounts-refresh=.*; Secure$/)
  t.equal(cookieOf(await post('/api/login/', ada, { origin: local })), undefined)
  const message = /option "browser.origins\[1\]" must be https with NODE_ENV=production, but 'http:/
  await t.rejects(start([page, local]), { name: 'TypeError', message })
})

/** The warnings of an app in browser mode that is set up by a host. */
async function warnings(t: Test, setup: (app: FastifyInstance) => unknown, options = { browser } as object) {
  const lines: string[] = []
  const server = { logger: { level: 'warn', stream: { write: (line: string) => lines.push(line) } } }
  const { app } = await hostApp(t, { before: setup, options, server })
  await app.listen({ port: 0, host: '127.0.0.1' })
  // A request of ours comes after the one that the plugin makes when the app is ready.
  await app.inject({ method: 'OPTIONS', url: '/' })
  await until(() => app.server.listening)
  return { app, lines: lines.filter((line) => line.includes('CORS')) }
}

t.test('[R-WEB-8] a host that allows every origin with credentials is warned once, when it starts', async (t) => {
  const using = (options: FastifyCorsOptions) => (app: FastifyInstance) => app.register(cors, options)
  const byHand = (app: FastifyInstance) =>
    app.addHook('onRequest', async ({ headers, method }, reply) => {
      reply.header('access-control-allow-origin', headers.origin).header('access-control-allow-credentials', 'true')
      if (method === 'OPTIONS') await reply.code(204).send()
    })
  const refusing = using({ origin: (_origin, done) => done(new Error('not allowed'), false), credentials: true })

  for (const open of [using({ origin: true, credentials: true }), byHand]) {
    const { lines } = await warnings(t, open)
    t.equal(lines.length, 1)
    t.match(lines[0], /CORS lets every origin use cookies here, whatever the option \\"browser\\" says; name your/)
  }
  for (const closed of [
    using({ origin: [page], credentials: true }),
    using({ origin: true }),
    using({ origin: '*', credentials: true }),
    using({ origin: false, credentials: true }),
    refusing,
    () => {},
  ]) {
    t.strictSame((await warnings(t, closed)).lines, [])
  }
  t.strictSame((await warnings(t, using({ origin: true, credentials: true }), {})).lines, [], 'without the option')
})

t.test('[R-WEB-8] no response of ours has a CORS header, nor is there an answer to a preflight', async (t) => {
  const { send } = await open(t)

  for (const { method, path, body } of inventory) {
    const { headers } = await send({ method, url: path, payload: body, headers: { origin: page } })
    t.strictSame(
      Object.keys(headers).filter((name) => name.startsWith('access-control')),
      [],
      path,
    )
  }
  const preflight = { origin: page, 'access-control-request-method': 'POST' }
  t.equal((await send({ method: 'OPTIONS', url: '/api/login/', headers: preflight })).status, 404)
})

t.test('an app that is closed at once, or that never boots, is not held up by what asks it', async (t) => {
  const { app } = await hostApp(t, { options: { browser } })
  await app.close()

  const late = (app: FastifyInstance) => app.addHook('onReady', () => Promise.reject(new Error('of the host')))
  await t.rejects(hostApp(t, { after: late, options: { browser } }), { message: 'of the host' })
})

t.test('in browser mode the refresh token is optional in the schemas, and 403 is documented', async (t) => {
  const documentOf = async (options: object) => {
    const { app } = await hostApp(t, { before: (app) => app.register(swagger, { openapi: {} }), options })
    return app.swagger().paths as any
  }
  const [without, within] = [await documentOf({}), await documentOf({ browser })]
  const bodyOf = (paths: any, path: string) => paths[path].post.requestBody.content['application/json'].schema
  const pairOf = (paths: any, path: string) => paths[path].post.responses['200'].content['application/json'].schema

  t.strictSame(bodyOf(without, '/auth/refresh/').required, ['refresh'])
  t.notOk(bodyOf(within, '/auth/refresh/').required)
  t.match(bodyOf(within, '/auth/refresh/').properties, { refresh: { type: 'string', maxLength: 8192 } })
  t.strictSame(bodyOf(within, '/auth/logout/'), bodyOf(without, '/auth/logout/'))
  for (const path of ['/api/login/', '/auth/refresh/', '/auth/change_password/']) {
    t.notOk(pairOf(within, path).required.includes('refresh'), path)
  }
  t.match(within['/api/login/'].post.responses['403'].description, 'ACCOUNTS_FORBIDDEN')
  t.notOk(within['/auth/user/'].get.responses['403'])
  t.notOk(without['/api/login/'].post.responses['403'])
})
