import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import plugin, { type AccountsOptions } from '../../lib/index.ts'
import { testOptions } from '../../lib/testing/index.ts'
import { accountsOf, bearer, clientOf, memoryApp, passwords } from '../helpers/app.ts'

// A page's code, without types.
const { default: captcha } = await import(new URL('../../examples/captcha/captcha.js', import.meta.url).href)

const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse battery' }
const required = { status: 403, body: { code: 'CAPTCHA_REQUIRED' } }

/** Stands in for siteverify: a proof is good once. */
async function siteverify(t: Test) {
  const asked: URLSearchParams[] = []
  const used = new Set<string | null>()
  const server = createServer(async (request, response) => {
    const form = new URLSearchParams(await text(request))
    asked.push(form)
    const proof = form.get('response')
    const success = form.get('secret') === 'site secret' && proof?.startsWith('human') === true && !used.has(proof)
    used.add(proof)
    response.end(JSON.stringify({ success }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { asked, server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` }
}

async function withCaptcha(t: Test, throttle: AccountsOptions['throttle'] = {}) {
  const site = await siteverify(t)
  const app = Fastify()
  await app.register(plugin, { ...testOptions(), passwords, throttle })
  await app.register(captcha, { secret: 'site secret', url: site.url })
  t.teardown(() => app.close())
  const { post } = clientOf(app)
  const humans = (function* () {
    for (let n = 0; ; n++) yield { 'x-captcha': `human ${n}` }
  })()
  return { ...site, post, accounts: accountsOf({ app }), human: () => humans.next().value as Record<string, string> }
}

t.test('[R-THR-9] robots are asked for a captcha, users are not until they guess', async (t) => {
  const { post, human, asked } = await withCaptcha(t)
  const login = (password: string, headers = {}) => post('/api/login/', { email: ada.email, password }, headers)

  t.match(await post('/api/register/', ada), required)
  t.match(await post('/api/register/', ada, { 'x-captcha': 'robot' }), required)
  t.match(await post('/api/register/', ada, human()), { status: 201 })
  t.equal(asked.at(-1)?.get('remoteip'), '127.0.0.1')
  t.match(await login(ada.password), { status: 200 })

  for (let n = 0; n < 3; n++) t.match(await login('a wrong password'), { status: 401 })
  for (let n = 0; n < 20; n++) t.match(await login('a wrong password'), required)
  t.match(await login(ada.password), required)
  t.match(await login('a wrong password', human()), { status: 401 })
  t.match(await login(ada.password, human()), { status: 200 })
})

t.test('[R-THR-9] one proof is enough for a request that is asked about twice', async (t) => {
  const { post, human, asked } = await withCaptcha(t)
  await post('/api/register/', ada, human())
  const { access } = (await post('/api/login/', ada)).body
  const change = (password: string, headers = {}) =>
    post('/auth/change_email/', { email: 'ada@example.net', password }, { ...bearer(access), ...headers })
  for (let n = 0; n < 4; n++) await change('a wrong password', human())
  const before = asked.length
  const proof = human()

  t.match(await change(ada.password), required)
  t.match(await change(ada.password, proof), { status: 200 })
  t.match(await change(ada.password, proof), required, 'it is good for one request')
  t.equal(asked.length - before, 2)
})

t.test('[R-THR-9] a hook that fails or takes too long refuses', async (t) => {
  const { post, human, server } = await withCaptcha(t)
  t.match(await post('/api/register/', ada, human()), { status: 201 })
  server.close()
  server.closeAllConnections()
  const down = await post('/auth/email_request/', { email: ada.email }, human())
  t.match(down, { status: 503, body: { code: 'ACCOUNTS_UNAVAILABLE' }, headers: { 'retry-after': /^\d+$/ } })

  const slow = await memoryApp(t)
  slow.accounts.addHook('beforeAttempt', () => sleep(60_000, undefined, { ref: false }))
  const from = performance.now()
  t.match(await slow.post('/api/login/', ada), { status: 503 })
  t.ok(performance.now() - from < 4000)

  const broken = await memoryApp(t)
  broken.accounts.addHook('beforeAttempt', () => {
    throw new Error('a bug')
  })
  t.match(await broken.post('/api/login/', ada), { status: 500 })
})

t.test('[R-THR-9] a hook is told what is tried, from where, and how much of the limit is used up', async (t) => {
  const { accounts, post, mailer } = await memoryApp(t, { throttle: {} })
  const seen: unknown[] = []
  accounts.addHook('beforeAttempt', ({ act, share, known, identifier, client }) => {
    seen.push([act, share, known, identifier === null, client.ip])
  })

  await post('/api/register/', ada)
  for (const password of ['a wrong password', 'another wrong password', ada.password, ada.password]) {
    await post('/api/login/', { ...ada, password })
  }
  await post('/auth/email_request/', ada)

  t.strictSame(seen, [
    ['register', 0.05, false, true, '127.0.0.1'],
    ['password', 0.1, false, false, '127.0.0.1'],
    ['password', 0.2, false, false, '127.0.0.1'],
    ['password', 0.3, false, false, '127.0.0.1'],
    ['password', 0.1, true, false, '127.0.0.1'],
    ['mail', 0.05, false, true, '127.0.0.1'],
  ])
  t.equal(mailer.sent.length, 1)
})
