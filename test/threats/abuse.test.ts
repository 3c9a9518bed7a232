import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Cache } from '../../lib/contracts.ts'
import { hashQueue } from '../../lib/core/hash-queue.ts'
import { loggable } from '../../lib/errors.ts'
import accounts from '../../lib/index.ts'
import { unlinked } from '../../lib/mail/layout.ts'
import { memoryApp, secret, type Teardown } from '../helpers/app.ts'
import { fillHashQueue } from '../helpers/hash-queue.ts'
import { until } from '../helpers/helper.ts'

const ada = { username: 'ada', password: 'correct horse', email: 'ada@example.org' }

/** Sends raw requests on one connection and resets it. */
async function pipeline(t: Teardown, requests: string[], resetAfterMs: number): Promise<void> {
  const { app } = await memoryApp(t, { passwords: {} })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  socket.on('error', () => {})
  socket.write(requests.join(''))
  await sleep(resetAfterMs)
  socket.resetAndDestroy()
}

function request(url: string, body: object): string {
  const text = JSON.stringify(body)
  const headers = `host: a\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}`
  return `POST ${url} HTTP/1.1\r\n${headers}\r\n\r\n${text}`
}

const login = request('/api/login/', { email: ada.email, password: ada.password })
const refused = request('/api/register/', { ...ada, password: 'short' })

t.test('[R-HASH-6] pipelined requests of a connection that dies leave no place in front of the queue', async (t) => {
  for (let round = 0; round < 4; round++) await pipeline(t, [...Array(4).fill(login), ...Array(45).fill(refused)], 25)

  // A leaked place counts for ever: 180 of them are more than the queue has.
  await until(() => hashQueue.size().waiting + hashQueue.size().running === 0)
  t.ok(hashQueue.places() > 0)
})

t.test('[R-HASH-6] pipelined logins of a connection that dies leave the queue', async (t) => {
  const leave = fillHashQueue(hashQueue.concurrency)
  await pipeline(t, Array(60).fill(login), 60)

  await until(() => hashQueue.size().waiting === 0)
  await leave()
})

t.test('[R-HASH-6] HTTP/2 logins that are cancelled leave the queue, and the others succeed', async (t) => {
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())
  const parts = { storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
  await app.register(accounts, { secret, throttle: false, ...parts })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => session.destroy())
  const send = () => {
    const headers = { ':method': 'POST', ':path': '/api/login/', 'content-type': 'application/json' }
    return session.request(headers).end(JSON.stringify(ada))
  }
  const leave = fillHashQueue(hashQueue.concurrency)
  const streams = Array.from({ length: 40 }, send)
  // A busy machine lets fewer wait.
  await until(() => hashQueue.size().waiting >= 10)

  for (const stream of streams) stream.close(http2.constants.NGHTTP2_CANCEL)
  await until(() => hashQueue.size().waiting === 0)
  await leave()

  const [headers] = await once(send(), 'response')
  t.equal(headers[':status'], 401)
  t.ok(hashQueue.places() > 0)
})

t.test('closing refuses whoever is held at once, and their connections end with it', async (t) => {
  const { app, came } = await countingApp(t)
  const url = `${await app.listen({ port: 0, host: '127.0.0.1' })}/api/login/`
  const late = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  late.write(login.slice(0, -1))
  await until(() => came() === 1)
  t.teardown(fillHashQueue())
  const headers = { 'content-type': 'application/json' }
  const held = Array.from({ length: 20 }, () => fetch(url, { method: 'POST', headers, body: JSON.stringify(ada) }))
  await until(() => came() === 1 + held.length)

  const started = performance.now()
  const closed = app.close()

  for (const response of await Promise.all(held)) {
    t.same([response.status, response.headers.get('connection')], [503, 'close'])
    t.match(response.headers.get('retry-after'), /^[1-3]$/)
  }
  late.write(login.slice(-1))
  t.match(String(await once(late, 'data')), /^HTTP\/1\.1 503 /)
  t.ok(performance.now() - started < 900, 'before their patience of a second is over')
  await closed
})

/** An app that counts the logins that came. */
async function countingApp(t: Teardown) {
  let count = 0
  const onRequest = async () => {
    count++
  }
  const { app } = await memoryApp(t, { passwords: {}, routes: { login: { onRequest } } })
  return { app, came: () => count }
}

t.test('[R-PW-3] a body that is not UTF-8 is refused, since all its odd bytes would be one password', async (t) => {
  const { app } = await memoryApp(t)
  const body = Buffer.from(JSON.stringify({ ...ada, password: 'ÿÿÿÿÿÿÿÿ' }), 'latin1')
  const headers = { 'content-type': 'application/json' }

  const { statusCode, body: answer } = await app.inject({
    method: 'POST',
    url: '/api/register/',
    payload: body,
    headers,
  })

  t.same([statusCode, JSON.parse(answer).code], [400, 'ACCOUNTS_VALIDATION'])
})

t.test(
  '[R-REG-2] invisible twins, a full-width @ and other spellings of a username make no second account',
  async (t) => {
    const { post } = await memoryApp(t)
    const register = (username: string, n: number) =>
      post('/api/register/', { ...ada, username, email: `u${n}@example.org` })
    await register('ǰonas', 0)

    const composed = await register('J\u030Conas', 1)
    t.same([composed.status, composed.body.code], [409, 'ACCOUNTS_USERNAME_TAKEN'])
    for (const username of [
      'ad\u034Fmin',
      '\u3164',
      'admin\uFE0F',
      'victim＠example.org',
      `a${'\u0315\u0300'.repeat(3500)}`,
    ]) {
      const answer = await register(username, 2)
      t.same([answer.status, answer.body.code], [400, 'ACCOUNTS_VALIDATION'], JSON.stringify(username.slice(0, 20)))
    }
  },
)

t.test('what a mail client may turn into a link is not shown', async (t) => {
  for (const name of ['evil.com', 'evil。com', 'evil｡com', 'evil.\uFE0Fcom', 'mailto:x', 'a://b', 'www evil'])
    t.equal(unlinked(name, 40), '', name)
  t.equal(unlinked('Ada L.', 40), 'Ada L.')
})

t.test('[R-LOG-1] what a driver reports of a row is not logged', async (t) => {
  const fault = Object.assign(new Error('check'), { code: '23514', detail: 'Failing row contains ($argon2id$canary)' })
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'trace', stream: { write: (line: string) => void lines.push(line) } } })
  t.teardown(() => app.close())
  const storage = { ...memoryStorage(), insertUser: () => Promise.reject(fault) }
  await app.register(accounts, { secret, storage, cache: memoryCache(), mailer: memoryMailer() })
  app.setErrorHandler((_error, _request, reply) => reply.code(503).send({}))

  await app.inject({ method: 'POST', url: '/api/register/', payload: ada })

  t.notMatch(lines.join(''), /canary/)
  t.match(lines.join(''), /\\"insertUser\\" failed.*|23514/, 'the fault is in the log, though the host has a handler')
  t.notOk('detail' in loggable(fault))
})

t.test('a subject that was swapped in the cache is a bad code', async (t) => {
  const cache = memoryCache()
  const subjects: string[] = []
  let lent = ''
  const swapping: Cache = {
    ...cache,
    put(code, now) {
      subjects.push(code.records[0]!.subject)
      return cache.put(code, now)
    },
    lease: async (...args) => ((await cache.lease(...args)) ? lent : null),
  }
  const { post, mailer } = await memoryApp(t, { cache: swapping })
  const eve = { username: 'eve', password: 'correct horse', email: 'eve@example.org' }
  for (const user of [ada, eve]) await post('/api/register/', user)
  const ask = async ({ email }: { email: string }) => (await post('/auth/email_request/', { email })).body.token
  await ask(ada)

  for (const [what, sealed] of Object.entries({ foreign: subjects[0]!, unknown: 'x.AAAA' })) {
    lent = sealed
    const token = await ask(eve)
    await post('/auth/check_otp/', { token, otp: mailer.sent.at(-1)?.code })
    const answer = await post('/auth/reset_password/', { token, new_password: 'another horse' })

    t.same([answer.status, answer.body.code], [400, 'ACCOUNTS_CODE_INVALID'], what)
  }
})
