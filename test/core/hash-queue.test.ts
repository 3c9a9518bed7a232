import { once } from 'node:events'
import { Agent, type IncomingMessage, request } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrateToLatest } from '../../lib/adapters/kysely/index.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage } from '../../lib/contracts.ts'
import { createHashQueue, type HashQueue, hashQueue, hashSlots, type Reservation } from '../../lib/core/hash-queue.ts'
import plugin from '../../lib/index.ts'
import { testOptions } from '../../lib/testing/index.ts'
import { accountsOf, memoryApp } from '../helpers/app.ts'
import { fillHashQueue } from '../helpers/hash-queue.ts'
import { freshDatabase, noPostgres, until } from '../helpers/helper.ts'
import { newMember } from '../helpers/members.ts'

const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse battery' }
const overloaded = { statusCode: 503, code: 'ACCOUNTS_OVERLOADED' }

/** A task that ends when it is told to. */
function gate() {
  let open = () => {}
  let begun = false
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  const task = () => {
    begun = true
    return opened
  }
  return { task, open, begun: () => begun }
}

/** Takes all slots of a queue until they are given back. */
function occupy(queue: HashQueue) {
  const { task, open } = gate()
  const running = Array.from({ length: queue.concurrency }, () => queue.run(task))
  return async () => {
    open()
    await Promise.all(running)
  }
}

const fresh = () => new AbortController().signal

t.test('never more tasks run at once than there are slots, and they begin first in, first out', async (t) => {
  for (const slots of [1, 2, 3]) {
    const queue = createHashQueue(slots)
    const begun: number[] = []
    let running = 0
    let most = 0

    const task = (index: number) => async () => {
      begun.push(index)
      most = Math.max(most, ++running)
      await sleep(index % 3)
      running--
      return index
    }
    const results = await Promise.all(Array.from({ length: 60 }, (_, index) => queue.run(task(index))))

    t.equal(most, slots)
    t.same(
      begun,
      [...begun].sort((a, b) => a - b),
    )
    t.same(results, begun, 'each caller gets its own result')
    t.same(queue.size(), { waiting: 0, running: 0 })
  }
})

t.test('[R-THR-3] those who are known have every other turn', async (t) => {
  const queue = createHashQueue(1)
  const leave = occupy(queue)
  const begun: string[] = []
  const add = (name: string, known: boolean) =>
    queue.run(async () => void begun.push(name), Object.assign(queue.reserve(fresh()), { known }))
  const strangers = ['a', 'b', 'c', 'd'].map((name) => add(name, false))
  const friends = ['A', 'B'].map((name) => add(name, true))
  t.equal(queue.size().waiting, 6)

  await leave()
  await Promise.all([...strangers, ...friends])

  t.equal(begun.join(''), 'AaBbcd')
})

t.test('whoever comes while a slot is passed on does not slip in', async (t) => {
  const queue = createHashQueue(1)
  const begun: string[] = []
  const add = (name: string) => queue.run(async () => void begun.push(name))
  const { task, open } = gate()
  const first = queue.run(task)
  const second = add('second')

  open()
  const late = first.then(() => add('late'))
  await Promise.all([first, second, late])

  t.same(begun, ['second', 'late'])
})

t.test('a task that fails gives its slot back', async (t) => {
  const queue = createHashQueue(1)

  await t.rejects(
    queue.run(async () => {
      throw new Error('out of memory')
    }),
    { message: 'out of memory' },
  )
  await t.rejects(
    queue.run(() => {
      throw new Error('at once')
    }),
    { message: 'at once' },
  )

  t.equal(await queue.run(async () => 'next'), 'next')
  t.same(queue.size(), { waiting: 0, running: 0 })
})

t.test('[R-HASH-6] the queue’s door refuses when the estimated wait is too long', async (t) => {
  const queue = createHashQueue(1, 100)
  const leave = occupy(queue)
  // 30 ms is the first estimate of a task: three of them wait 90 ms.
  const waiting = Array.from({ length: 4 }, () => queue.run(async () => {}))

  const answers = await Promise.allSettled(Array.from({ length: 20 }, () => queue.run(async () => {})))

  t.equal(queue.size().waiting, 4)
  const waits = new Set<string>()
  for (const answer of answers) {
    if (answer.status === 'fulfilled') return t.fail('a place in a full line')
    t.match(answer.reason, overloaded)
    waits.add(answer.reason.headers['retry-after'])
  }
  for (const wait of waits) t.match(wait, /^[1-9]\d*$/, 'an integer Retry-After')
  t.ok(waits.size > 1, 'with jitter')
  await leave()
  await Promise.all(waiting)
  t.equal(await queue.run(async () => 'free again'), 'free again')
})

t.test('the line gets shorter when the tasks take longer', async (t) => {
  const length = async (slow: number) => {
    const queue = createHashQueue(1, 100)
    for (let task = 0; task < 8; task++) await queue.run(() => sleep(slow))
    const leave = occupy(queue)
    const places: Promise<unknown>[] = []
    for (let refused = false; !refused; ) {
      const place = queue.run(async () => {})
      refused = await Promise.race([
        place.then(
          () => false,
          () => true,
        ),
        sleep(0, false),
      ])
      if (!refused) places.push(place)
    }
    await leave()
    await Promise.all(places)
    return places.length
  }

  const [quick, slow] = [await length(0), await length(80)]

  t.ok(quick > slow, `${quick} places for quick tasks, ${slow} for slow ones`)
})

t.test(
  '[R-HASH-6] an entry whose client hung up leaves the line at once, and the others keep their order',
  async (t) => {
    const queue = createHashQueue(1)
    const leave = occupy(queue)
    const begun: number[] = []
    const clients = Array.from({ length: 5 }, () => new AbortController())
    const places = clients.map(({ signal }, index) =>
      queue.run(async () => void begun.push(index), queue.reserve(signal)),
    )
    const settled = Promise.allSettled(places)

    clients[1]?.abort()
    clients[3]?.abort()

    t.equal(queue.size().waiting, 3, 'they do not wait for their turn')
    await t.rejects(places[1] as Promise<unknown>, overloaded)
    await leave()
    await settled
    t.same(begun, [0, 2, 4])
    clients[0]?.abort()
    t.same(queue.size(), { waiting: 0, running: 0 }, 'hanging up after the end changes nothing')
  },
)

t.test('[R-HASH-6] a client that hung up before its turn costs no hash', async (t) => {
  const queue = createHashQueue(1)
  const hungUp = new AbortController()
  const reservation = queue.reserve(hungUp.signal)
  hungUp.abort()

  await t.rejects(
    queue.run(async () => t.fail('it ran'), reservation),
    overloaded,
  )
})

t.test('those on their way count at the first door until they reach the second, once', async (t) => {
  const queue = createHashQueue(1, 100)
  const before = queue.places()
  const reservation = queue.reserve(fresh())

  t.equal(queue.places(), before - 1)
  await queue.run(async () => {}, reservation)
  const after = queue.places()
  reservation.release()
  reservation.release()

  t.equal(queue.places(), after, 'a second time it is not taken off again')
  t.ok(after >= before)
})

async function listening(t: Test, options: Parameters<typeof memoryApp>[1] = {}, prepare = (_: FastifyInstance) => {}) {
  const opened = await memoryApp(t, options)
  prepare(opened.app)
  await opened.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = opened.app.server.address() as AddressInfo
  return { ...opened, port }
}

async function rawSocket(t: Test, port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  return socket
}

function requestText(path: string, body: object | string): string {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const headers = ['host: localhost', 'content-type: application/json', `content-length: ${Buffer.byteLength(text)}`]
  return `POST ${path} HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n${text}`
}

async function firstAnswer(socket: Socket): Promise<string> {
  const chunks: Buffer[] = []
  socket.on('data', (chunk) => chunks.push(chunk))
  await until(() => /\r\n\r\n.*\}/s.test(Buffer.concat(chunks).toString()))
  return Buffer.concat(chunks).toString()
}

t.test('[R-HASH-6] 64 logins abandoned by their clients free the queue, and none of them is hashed', async (t) => {
  const { port, post } = await listening(t)
  await post('/api/register/', ada)
  const leave = occupy(hashQueue)
  const sockets = await Promise.all(Array.from({ length: 64 }, () => rawSocket(t, port)))
  for (const socket of sockets) socket.write(requestText('/api/login/', ada))
  await until(() => hashQueue.size().waiting === 64)

  for (const socket of sockets) socket.destroy()

  // No slot was given back, so only leaving the line can empty it.
  await until(() => hashQueue.size().waiting === 0)
  t.equal(hashQueue.size().running, hashSlots)
  await leave()
  t.same(hashQueue.size(), { waiting: 0, running: 0 })
  t.equal((await post('/api/login/', ada)).status, 200)
})

t.test('a client that hangs up before validation is over neither hashes nor stays counted', async (t) => {
  let held = 0
  const hungUp = new Set<unknown>()
  const { port, post } = await listening(t, {}, (app) => {
    // A host's own hook, which our scope inherits, takes its time; meanwhile the client goes.
    app.addHook('preHandler', async (request, reply) => {
      if (request.headers['content-length'] === undefined || !request.raw.socket.remotePort) return
      held++
      reply.raw.once('close', () => hungUp.add(reply.raw))
      await until(() => hungUp.has(reply.raw))
    })
  })
  const before = hashQueue.places()
  const refusedByPolicy = { ...ada, password: 'short' }
  const leave = occupy(hashQueue)

  for (const [path, body] of [
    ['/api/register/', refusedByPolicy],
    ['/api/login/', ada],
  ] as const) {
    const sockets = await Promise.all(Array.from({ length: 10 }, () => rawSocket(t, port)))
    const already = held
    for (const socket of sockets) socket.write(requestText(path, body))
    await until(() => held === already + 10)
    for (const socket of sockets) socket.destroy()
  }
  await until(() => hungUp.size === 20)
  await sleep(50)

  t.equal(hashQueue.size().waiting, 0, 'nobody waits for a hash that is of no use')
  t.equal(hashQueue.places(), before, 'nobody stays counted')
  await leave()
  t.equal((await post('/api/login/', ada)).status, 401)
})

t.test('[R-HASH-6] requests that end before the queue do not stay counted', async (t) => {
  const broken: Storage = {
    ...memoryStorage(),
    findUserByEmail: async () => {
      throw Object.assign(new Error('the database is gone'), { code: 'ECONNREFUSED' })
    },
  }
  const { port, post } = await listening(t, { storage: broken })
  const before = hashQueue.places()
  const answers: Record<string, [string, unknown, number]> = {
    'not valid': ['/api/login/', { email: 5 }, 400],
    'refused by the policy': ['/api/register/', { ...ada, password: 'short' }, 400],
    'refused by the handler': ['/api/register/', { ...ada, username: 'a@b.example' }, 400],
    'a code that is none': ['/auth/reset_password/', { token: 'x', new_password: 'correct horse' }, 400],
    'an outage before the hash': ['/api/login/', ada, 503],
  }

  for (const [what, [path, body, status]] of Object.entries(answers)) {
    for (let index = 0; index < 10; index++) t.equal((await post(path, body)).status, status, what)
    await until(() => hashQueue.places() === before)
  }

  const halves = await Promise.all(Array.from({ length: 10 }, () => rawSocket(t, port)))
  for (const socket of halves) socket.write(requestText('/api/login/', ada).slice(0, -10))
  await sleep(20)
  for (const socket of halves) socket.destroy()
  await until(() => hashQueue.places() === before)
  t.pass('hung up in the middle of the body')
})

t.test('[R-HASH-6] a client that hangs up while it waits for a place is forgotten', async (t) => {
  const { port, post } = await listening(t)
  await post('/api/register/', ada)
  const leave = fillHashQueue()
  const sockets = await Promise.all(Array.from({ length: 30 }, () => rawSocket(t, port)))
  for (const socket of sockets) socket.write(requestText('/api/login/', ada))
  await sleep(50)
  const patient = post('/api/login/', ada)

  for (const socket of sockets) socket.destroy()
  await sleep(50)
  await leave()

  t.equal((await patient).status, 200, 'and is in nobody’s way')
  await until(() => hashQueue.size().waiting + hashQueue.size().running === 0)
})

t.test('[R-HASH-6] a request is refused before its body is read', async (t) => {
  const { port, post, get, app } = await listening(t)
  const { access } = await newMember(accountsOf({ app }))
  const reservations: Reservation[] = []
  while (hashQueue.places() > 0) reservations.push(hashQueue.reserve(fresh()))
  t.teardown(() => {
    for (const reservation of reservations) reservation.release()
  })

  const unfinished = await rawSocket(t, port)
  unfinished.write(requestText('/api/login/', ada).slice(0, -20))
  const invalid = await rawSocket(t, port)
  invalid.write(requestText('/api/register/', '{"username":'))
  const unsent = await rawSocket(t, port)
  unsent.write(requestText('/auth/reset_password/', 'x'.repeat(1_000_000)).slice(0, 200))

  for (const socket of [unfinished, invalid, unsent]) {
    const answer = await firstAnswer(socket)
    t.match(answer, /^HTTP\/1\.1 503 /)
    t.match(answer, /\r\nretry-after: [1-9]\d*\r\n/i)
    t.match(answer, /"code":"ACCOUNTS_OVERLOADED"/)
    t.match(answer, /\r\ncache-control: no-store\r\n/i)
  }
  t.equal((await get('/auth/user/', access)).status, 200, 'what does not hash goes on')
  t.equal((await post('/auth/refresh/', { refresh: 'x' })).status, 401)
  for (const reservation of reservations) reservation.release()
  t.equal((await post('/api/register/', ada)).status, 201, 'and so does the rest when the line is short again')
})

t.test('[R-HASH-6] whoever has a place keeps it, also when the line grows before the hash', async (t) => {
  const storage = memoryStorage()
  const lookup = gate()
  const held: Storage = {
    ...storage,
    async findUserByEmail(email) {
      await lookup.task()
      return storage.findUserByEmail(email)
    },
  }
  const { post } = await memoryApp(t, { storage: held })
  await post('/api/register/', ada)
  const login = post('/api/login/', ada)
  await until(lookup.begun)
  const leave = fillHashQueue()

  lookup.open()
  await until(() => hashQueue.places() === 0 && hashQueue.size().waiting > 0)
  await leave()

  t.equal((await login).status, 200)
})

t.test(
  '[R-HASH-6] a body that comes to its end while the queue is full waits before anything is looked up',
  async (t) => {
    const storage = memoryStorage()
    let lookups = 0
    const counted: Storage = {
      ...storage,
      findUserByEmail(email) {
        lookups++
        return storage.findUserByEmail(email)
      },
    }
    const { port, post } = await listening(t, { storage: counted })
    await post('/api/register/', ada)
    const sockets = await Promise.all(Array.from({ length: 20 }, () => rawSocket(t, port)))
    const text = requestText('/api/login/', ada)
    for (const socket of sockets) socket.write(text.slice(0, -5))
    await sleep(50)
    const leave = fillHashQueue()

    for (const socket of sockets) socket.write(text.slice(-5))
    await sleep(100)

    t.equal(lookups, 0)
    await leave()
    for (const socket of sockets) t.match(await firstAnswer(socket), /^HTTP\/1\.1 200 /)
  },
)

t.test('no database connection is held while hashing', { skip: noPostgres }, async (t) => {
  const { url, drop } = await freshDatabase()
  const pool = new pg.Pool({ connectionString: url, max: 1 })
  pool.on('error', () => {})
  const db = new Kysely<any>({ dialect: new PostgresDialect({ pool }) })
  t.teardown(async () => {
    await db.destroy()
    await drop()
  })
  await migrateToLatest(db)
  const { app, post, get } = await memoryApp(t, { storage: undefined, db })
  const { access } = await newMember(accountsOf({ app }))
  await post('/api/register/', ada)
  const leave = occupy(hashQueue)

  const pending = Promise.all([
    post('/api/login/', ada),
    post('/api/register/', { ...ada, username: 'bob', email: 'bob@example.org' }),
  ])
  await until(() => hashQueue.size().waiting === 2)
  const meanwhile = await get('/auth/user/', access)

  t.equal(meanwhile.status, 200, 'the only connection is free')
  t.equal(pool.idleCount, 1)
  await leave()
  t.same(
    (await pending).map(({ status }) => status),
    [200, 201],
  )
})

t.test('the other routes work on during a storm of logins', async (t) => {
  const { app, post, get } = await memoryApp(t, { passwords: {} })
  await post('/api/register/', ada)
  const { access } = await newMember(accountsOf({ app }))
  const storm = Promise.all(Array.from({ length: 60 }, () => post('/api/login/', ada)))
  await until(() => hashQueue.size().waiting > 20)

  const took: number[] = []
  while (hashQueue.size().waiting > 0) {
    t.ok(hashQueue.size().running <= hashSlots)
    const begun = performance.now()
    t.equal((await get('/auth/user/', access)).status, 200)
    took.push(performance.now() - begun)
    await sleep(5)
  }

  const answers = await storm
  t.ok(answers.every(({ status }) => status === 200 || status === 503))
  t.ok(answers.some(({ status }) => status === 200))
  took.sort((a, b) => a - b)
  t.ok((took[Math.floor(took.length / 2)] as number) < 100, `median ${took[Math.floor(took.length / 2)]} ms`)
})

t.test('two apps of one process share the queue', async (t) => {
  const [one, other] = [await memoryApp(t), await memoryApp(t)]
  const leave = occupy(hashQueue)

  const pending = [one, other].map(({ post }) => post('/api/register/', ada))
  await until(() => hashQueue.size().waiting === 2)

  await leave()
  for (const { status } of await Promise.all(pending)) t.equal(status, 201)
})

t.test('a reservation is released when a hook of the host replies first', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRoute', (route) => {
    const limited = async (_request: FastifyRequest, reply: FastifyReply) => reply.code(429).send({})
    if (route.url.startsWith('/api/login')) route.preHandler = [route.preHandler ?? [], limited].flat()
  })
  await app.register(plugin, testOptions())
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const body = JSON.stringify({ email: 'ada@example.org', password: 'correct horse battery' })

  for (let n = 0; n < 400; n++) {
    const options = { method: 'POST', agent, headers: { 'content-type': 'application/json' } }
    const asked = request(`${address}/api/login/`, options).end(body)
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    response.resume()
    await once(response, 'end')
    if (response.statusCode !== 429) return t.fail(`attempt ${n} was answered with ${response.statusCode}`)
  }
  t.ok(hashQueue.places() > 0)
})
