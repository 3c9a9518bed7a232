import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import axios, { type AxiosError } from 'axios'
import { createAuthRefresh } from 'axios-auth-refresh'
import t, { type Test } from 'tap'
import { createUser } from '../../lib/testing/index.ts'
import { newPassword, password, settableClock } from '../helpers/app.ts'
import { everything } from '../helpers/helper.ts'
import { hostApp } from '../helpers/host-app.ts'

const email = 'ada@example.org'
const orders = [{ id: 1, article: 'cog wheel' }]

/** A server at the paths of a Django project, and a user of it. */
async function listening(t: Test) {
  const clock = settableClock()
  const routes = { login: '/api/token/', refresh: '/api/token/refresh/', changePassword: '/api/password/' }
  const asked: string[] = []
  const { app } = await hostApp(t, {
    options: { errors: 'drf', clock, routes },
    before(app) {
      app.addHook('onResponse', async ({ url }, { statusCode }) => void asked.push(`${url} ${statusCode}`))
      app.addHook('preValidation', async ({ body }) => {
        const typed = Object(body) as { email?: unknown; username?: unknown }
        typed.email ??= typed.username
      })
    },
    after(app) {
      const onRequest = app.accounts.authenticate
      app.get('/api/orders/', { onRequest }, () => ({ count: orders.length, results: orders }))
      app.delete('/api/orders/:id/', { onRequest: app.accounts.require({ owner: () => 0 }) }, () => '')
      app.post('/api/orders/', { onRequest: app.accounts.require({ recent: true }) }, (request) => request.body)
    },
  })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { id } = await createUser(app, { email, password })
  const { port } = app.server.address() as AddressInfo
  return { id, app, clock, asked, origin: `http://127.0.0.1:${port}` }
}

/** A client as its README has it, with the tokens of simplejwt. */
function axiosClient(baseURL: string, keepsFirst: boolean, options = {}) {
  const tokens = { access: '', refresh: '' }
  const api = axios.create({ baseURL, proxy: false })
  const plain = axios.create({ baseURL, proxy: false })
  api.interceptors.request.use((request) => {
    request.headers.Authorization = `Bearer ${tokens.access}`
    return request
  })
  async function refresh(failed: any): Promise<void> {
    const { data } = await plain.post('/api/token/refresh/', { refresh: tokens.refresh })
    Object.assign(tokens, keepsFirst ? { access: data.access } : data)
    failed.response.config.headers.Authorization = `Bearer ${data.access}`
  }
  // It has the types of axios twice, for ES modules and for CommonJS.
  createAuthRefresh(api as never, refresh, options)
  const login = async (typed: string) =>
    Object.assign(tokens, (await plain.post('/api/token/', { username: email, password: typed })).data)
  return { api, tokens, login }
}

function refusalOf(request: Promise<unknown>): Promise<unknown> {
  return request.then(
    () => null,
    ({ response }: AxiosError) => [response?.status, response?.data],
  )
}

for (const keepsFirst of [false, true]) {
  const which = keepsFirst ? 'keeps its first refresh token' : 'keeps its newest refresh token'
  t.test(`axios-auth-refresh refreshes for one request and for many at once, and ${which}`, async (t) => {
    const { origin, clock, asked } = await listening(t)
    // By default it hands a 401 to all but one of those that were on their way.
    const { api, login } = axiosClient(origin, keepsFirst, { deduplicateRefresh: false })
    await login(password)

    for (const parallel of [5, 1, 5, 1]) {
      const answers = await Promise.all(Array.from({ length: parallel }, () => api.get('/api/orders/')))
      for (const { status, data } of answers) t.strictSame([status, data.results], [200, orders])
      clock.pass(301_000)
    }

    const refreshes = asked.filter((line) => line.startsWith('/api/token/refresh/'))
    t.ok(refreshes.length >= 3)
    t.ok(refreshes.every((line) => line.endsWith(' 200')))
  })
}

t.test('axios-auth-refresh gives up when the session has ended, by the answer that it knows', async (t) => {
  const { id, app, origin, asked } = await listening(t)
  const { api, tokens, login } = axiosClient(origin, false)

  t.strictSame(await refusalOf(login('a wrong one')), [
    401,
    { detail: 'No active account found with the given credentials' },
  ])
  t.strictSame(await refusalOf(login('')), [401, { detail: 'No active account found with the given credentials' }])
  await login(password)
  const wrong = { current_password: 'a wrong one', new_password: newPassword }
  t.strictSame(await refusalOf(api.post('/api/password/', wrong)), [
    403,
    { detail: 'The password is wrong.', code: 'password_wrong' },
  ])
  t.strictSame(await refusalOf(api.delete('/api/orders/1/')), [404, { detail: 'Not found.' }])
  t.notOk(
    asked.some((line) => line.startsWith('/api/token/refresh/')),
    'neither is a reason to refresh',
  )
  await app.accounts.users.endSessions(id)
  t.strictSame(await refusalOf(api.get('/api/orders/')), [
    401,
    { detail: 'Token is invalid or expired', code: 'token_not_valid' },
  ])
  t.equal(asked.filter((line) => line.startsWith('/api/token/refresh/')).length, 1)
  t.ok(tokens.refresh)
})

// What its package asks for, and what ra-core of that time imports beside it.
const reactAdmin = [
  ...['ra-data-django-rest-framework@0.2.1', 'ra-core@3.19.12'],
  ...['jsonexport@2', 'final-form-arrays@3', 'react-final-form-arrays@3'],
]

t.test(
  'ra-data-django-rest-framework logs in, reads, and logs out over the answers that it knows',
  { skip: !everything && 'npm installs react-admin for it in the long run alone' },
  async (t) => {
    const folder = t.testdir({ 'package.json': '{ "private": true }' })
    const install = ['install', '--silent', '--no-audit', '--no-fund', ...reactAdmin]
    await promisify(execFile)('npm', install, { cwd: folder })
    writeFileSync(`${folder}/index.cjs`, '')
    const package_ = createRequire(`${folder}/index.cjs`)('ra-data-django-rest-framework')
    const stored = new Map<string, string>()
    const localStorage = {
      getItem: (name: string) => stored.get(name) ?? null,
      setItem: (name: string, value: string) => void stored.set(name, value),
      removeItem: (name: string) => void stored.delete(name),
    }
    Object.defineProperty(globalThis, 'localStorage', { value: localStorage, configurable: true })
    const { id, app, origin, clock } = await listening(t)
    const auth = package_.jwtTokenAuthProvider({ obtainAuthTokenUrl: `${origin}/api/token/` })
    const data = package_.default(`${origin}/api`, package_.fetchJsonWithAuthJWTToken)
    const list = { filter: {}, pagination: { page: 1, perPage: 10 }, sort: { field: 'id', order: 'ASC' } }
    const failure = (request: Promise<unknown>) =>
      request.then(
        () => null,
        (error) => error,
      )

    t.match(await failure(auth.login({ username: email, password: 'a wrong one' })), { message: 'Unauthorized' })
    await t.rejects(auth.checkAuth())
    await auth.login({ username: email, password })
    await auth.checkAuth()
    t.strictSame([...stored.keys()], ['access', 'refresh'])
    t.strictSame(await data.getList('orders', list), { data: orders, total: 1 })
    t.match(await data.create('orders', { data: { article: 'lever' } }), { data: { article: 'lever' } })
    const missing = await failure(data.delete('orders', { id: 1 }))
    t.match(missing, { status: 404, body: { detail: 'Not found.' } })
    await auth.checkError(missing)
    t.equal(stored.size, 2, 'it stays logged in')

    clock.pass(301_000)
    const expired = await failure(data.getList('orders', list))
    t.match(expired, { status: 401, body: { code: 'token_not_valid', messages: [{ token_type: 'access' }] } })
    await t.rejects(auth.checkError(expired))
    t.equal(stored.size, 0, 'it is logged out')
    await app.accounts.users.disable(id)
    t.match(await failure(auth.login({ username: email, password })), { message: 'Unauthorized' })
  },
)
