import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue, UnrecoverableError, Worker } from 'bullmq'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { queueMailer } from '../../lib/adapters/bullmq.ts'
import { memoryMailer } from '../../lib/adapters/memory/mailer.ts'
import { createRing } from '../../lib/core/secrets.ts'
import { openJob, sealJob } from '../../lib/mail/jobs.ts'
import { mailerContract, sampleMessage } from '../../lib/testing/mailer.ts'
import { despiteLoad, inProduction, noRedis, redisUrl, startRedis, uniqueName, until } from '../helpers/helper.ts'
import { monitorOf } from '../helpers/redis-trace.ts'

const secret = randomBytes(32).toString('base64url')

function mailer(t: Test, options: Partial<Parameters<typeof queueMailer>[0]> = {}) {
  const subject = queueMailer({ redis: redisUrl(), secret, name: uniqueName(), ...options })
  t.teardown(() => subject.close())
  return subject
}

function redis(t: Test, url = redisUrl()): Redis {
  const client = new Redis(url)
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  return client
}

function bullmq(t: Test, name: string, connection: Redis): Queue {
  const queue = new Queue('mail', { connection, prefix: `{${name}}` })
  t.teardown(() => queue.close())
  return queue
}

t.test('queueMailer keeps the contract of mailers', async (t) => {
  for (const { name, run } of mailerContract) t.test(name, (t) => despiteLoad(() => run(mailer(t))))
})

t.test('memoryMailer keeps the contract of mailers', async (t) => {
  for (const { name, run } of mailerContract) t.test(name, () => run(memoryMailer()))
})

t.test('memoryMailer keeps mails and no decoys', async (t) => {
  const subject = memoryMailer()

  await subject.send(sampleMessage({ id: 'one', token: 'link', url: 'https://example.com/#token=link' }))
  await subject.send(sampleMessage({ id: 'two', to: null }))

  t.match(subject.sent, [{ id: 'one', kind: 'reset', to: 'ada@example.com', code: '12345678', token: 'link' }])
  t.equal(subject.sent.length, 1)
})

t.test('memoryMailer is done with what was sent, decoys too', async (t) => {
  const subject = memoryMailer()

  await subject.send(sampleMessage({ id: 'one' }))
  await subject.send(sampleMessage({ id: 'two', to: null }))

  t.strictSame(await subject.progress(['two', 'one', 'three']), ['done', 'done', 'unknown'])
})

t.test('memoryMailer refuses production unless it is meant', async (t) => {
  t.teardown(inProduction())

  t.throws(() => memoryMailer(), { name: 'TypeError', message: /"mailer".*singleProcess/ })
  t.doesNotThrow(() => memoryMailer({ singleProcess: true }))
})

t.test('a message sent twice is one job', async (t) => {
  const name = uniqueName()
  const message = sampleMessage()
  const subject = mailer(t, { name })

  await Promise.all(Array.from({ length: 50 }, () => subject.send(message)))

  const queue = bullmq(t, name, redis(t))
  t.equal(await queue.getJobCountByTypes('wait'), 1)
  t.equal((await queue.getJobs('wait'))[0]?.id, `mail-${message.id}`)
})

t.test('a message is added once until its end, also when its job has been forgotten', async (t) => {
  const name = uniqueName()
  const subject = mailer(t, { name })
  const queue = bullmq(t, name, redis(t))
  const [message, short] = [sampleMessage(), sampleMessage({ expiresAt: Date.now() + 300 })]
  for (const one of [message, short]) await subject.send(one)
  const connection = redis(t)
  const forget = async () => {
    for (const { id } of [message, short]) await connection.del(`{${name}}:mail:mail-${id}`)
    await connection.del(`{${name}}:mail:wait`)
  }

  await forget()
  await subject.send(message)
  t.strictSame(await subject.progress([message.id]), ['unknown'])
  t.equal(await queue.getJobCountByTypes('wait'), 0)

  await sleep(400)
  await subject.send(short)
  t.equal(await queue.getJobCountByTypes('wait'), 1, 'past its end the id may be taken again')
})

t.test('memoryMailer keeps a message of one id once', async (t) => {
  const subject = memoryMailer()
  for (let time = 0; time < 2; time++) await subject.send(sampleMessage({ id: 'one' }))

  t.equal(subject.sent.length, 1)
})

t.test('progress follows a message from the queue to its end, and forgets it with the job', async (t) => {
  const name = uniqueName()
  const subject = mailer(t, { name })
  const ids = ['sent', 'refused', 'retried', 'waits']
  for (const id of ids) await subject.send(sampleMessage({ id }))
  const queue = bullmq(t, name, redis(t))
  const done = gate()
  t.strictSame(await subject.progress(ids), ['pending', 'pending', 'pending', 'pending'])

  const worker = mailWorker(t, name, async (id) => {
    await done.opened
    if (id === 'mail-refused') throw new UnrecoverableError('550')
    if (id === 'mail-retried') throw new Error('421')
    if (id === 'mail-waits') return new Promise(() => {})
  })
  await until(async () => (await queue.getActiveCount()) === 4)
  t.strictSame(await subject.progress(ids), ['pending', 'pending', 'pending', 'pending'], 'in the hands of a worker')
  done.open()

  await until(async () => (await queue.getActiveCount()) === 1)
  t.equal(await queue.getJobState('mail-retried'), 'delayed')
  t.strictSame(await subject.progress(ids), ['done', 'done', 'pending', 'pending'])
  await worker.close(true)
  for (const job of await queue.getJobs(['completed', 'failed'])) await job.remove()
  t.strictSame(await subject.progress(ids), ['unknown', 'unknown', 'pending', 'pending'])
})

function mailWorker(t: Test, name: string, work: (id: string) => Promise<unknown>): Worker {
  const connection = new Redis(redisUrl(), { maxRetriesPerRequest: null })
  const worker = new Worker('mail', (job) => work(job.id!), {
    connection,
    prefix: `{${name}}`,
    concurrency: 10,
    settings: { backoffStrategy: () => 60_000 },
  })
  t.teardown(async () => {
    await worker.close(true)
    connection.disconnect()
  })
  return worker
}

function gate(): { opened: Promise<void>; open(): void } {
  const resolvers: (() => void)[] = []
  const opened = new Promise<void>((resolve) => resolvers.push(resolve))
  return { opened, open: () => resolvers[0]!() }
}

t.test('[R-LOG-2] Redis holds neither code, address, name, link nor network', async (t) => {
  const name = uniqueName()
  const message = sampleMessage({
    to: 'canary-address@example.com',
    user: { username: 'canary-name', email: 'canary-address@example.com' },
    code: '90817263',
    token: 'canary-token',
    url: 'https://canary-host.example/#token=canary-token',
    network: 'canary-network',
  })

  await mailer(t, { name }).send(message)

  const dump = await everything(redis(t), name)
  t.match(dump, `mail-${message.id}`)
  t.notMatch(dump, /canary|90817263|9081 7263/)
  t.notMatch(Buffer.from(dump, 'base64').toString(), /canary/)
})

/** MONITOR prints binary bytes as `\\x1f`. */
function sizeOf(argument: string): number {
  return argument.replace(/\\(x[0-9a-f]{2}|.)/g, '?').length
}

/** All keys of a realm with their values. */
async function everything(client: Redis, name: string): Promise<string> {
  const keys = await client.keys(`*${name}*`)
  const values = keys.map(async (key) => {
    const type = await client.type(key)
    if (type === 'hash') return client.hgetall(key)
    if (type === 'list') return client.lrange(key, '0', '-1')
    if (type === 'zset') return client.zrange(key, '0', '-1')
    if (type === 'set') return client.smembers(key)
    return type === 'stream' ? client.xrange(key, '-', '+') : client.get(key)
  })
  return JSON.stringify([keys, await Promise.all(values)])
}

t.test('[R-ENUM-3] a mail and a decoy are one enqueue of the same size by the same commands', async (t) => {
  const name = uniqueName()
  const clock = () => 0
  const subject = mailer(t, { name, clock })
  await subject.send(sampleMessage())
  const client = redis(t)
  const watcher = await monitorOf(client)
  t.teardown(() => watcher.disconnect())
  const seen: string[][] = []
  watcher.on('monitor', (_time: string, args: string[]) => {
    if (args.some((arg) => arg.includes(name))) seen.push(args)
  })

  const mail = await traceOf(sampleMessage({ user: { username: 'Ada Lovelace', email: 'ada@example.com' } }))
  const decoy = await traceOf(sampleMessage({ to: null, user: { username: null, email: 'nobody@example.com' } }))

  t.ok(mail.length > 0)
  t.strictSame(decoy, mail)

  /** Commands with the sizes of their arguments, without the values that differ from mail to mail. */
  async function traceOf(message: ReturnType<typeof sampleMessage>): Promise<unknown[]> {
    seen.length = 0
    await subject.send(message)
    await client.get(name)
    await until(() => seen.at(-1)?.[1] === name)
    const added = seen.filter(([command]) => /^evalsha$/i.test(command!))
    t.equal(added.length, 1, 'exactly one enqueue')
    return seen.map((args) => [args[0], args.map(sizeOf)])
  }
})

t.test('the seal: a job opens only under its own id, realm, kind and secret', async (t) => {
  const name = uniqueName()
  const ring = createRing(name, [secret])
  const message = sampleMessage()
  await mailer(t, { name }).send(message)
  const [job] = await bullmq(t, name, redis(t)).getJobs('wait')
  const id = `mail-${message.id}`
  const { sealed } = job!.data
  const middle = sealed.length >> 1
  const flipped = sealed.slice(0, middle) + (sealed[middle] === 'A' ? 'B' : 'A') + sealed.slice(middle + 1)

  t.strictSame(openJob(ring, id, job!.data), message)
  t.equal(openJob(ring, 'mail-other', job!.data), 'altered')
  t.equal(openJob(createRing('other', [secret]), id, job!.data), 'unknown')
  t.equal(openJob(ring, id, { ...job!.data, sealed: flipped }), 'altered')
  t.equal(openJob(ring, id, { ...job!.data, sealed: '' }), 'unknown')
  t.equal(openJob(ring, id, { ...job!.data, sealed: `${ring[0].kid}.` }), 'altered')
  t.equal(openJob(ring, id, { ...job!.data, sealed: 7 as never }), 'altered')
  const newer = sealJob(ring, { ...message, kind: 'newsletter' as never })
  t.equal(openJob(ring, id, newer), 'unknown')
  t.equal(openJob(ring, id, { ...job!.data, v: 3 as never }), 'unknown')
  t.equal(openJob(ring, id, null), 'unknown')
  t.equal(openJob(createRing(name, [`${secret}x`]), id, job!.data), 'unknown')
  t.strictSame(openJob(createRing(name, [`${secret}x`, secret]), id, job!.data), message)
})

t.test('[R-OTP-12] more than 10,000 waiting jobs are refused until there are fewer', async (t) => {
  // docs: "While more than 10,000 jobs wait"
  const name = uniqueName()
  const time = { now: 0 }
  const client = redis(t)
  const subject = mailer(t, { name, clock: () => time.now })
  const waiting = `{${name}}:mail:wait`
  const delayed = `{${name}}:mail:delayed`
  await client.rpush(waiting, ...Array.from({ length: 6000 }, (_, index) => `filler-${index}`))
  await client.zadd(delayed, ...Array.from({ length: 4000 }, (_, index) => ['0', `later-${index}`]).flat())
  t.teardown(() => client.del(waiting, delayed))
  await t.resolves(subject.send(sampleMessage()), 'the 10,001st is accepted: it was the 10,000th that was counted')

  time.now += 1000
  await until(() => refused())
  await client.del(waiting)
  t.ok(await refused(), 'counted at most once a second')
  // A clock that is set back is no reason not to count.
  time.now -= 3_600_000

  await until(async () => !(await refused()))

  function refused(): Promise<boolean> {
    return subject.send(sampleMessage()).then(
      () => false,
      (error) => error.code === 'ACCOUNTS_UNAVAILABLE',
    )
  }
})

t.test(
  'a mailer that starts while Redis is down refuses fast and works when it is up',
  { skip: noRedis },
  async (t) => {
    const server = await startRedis()
    await server.stop()
    const errors: Error[] = []
    const subject = mailer(t, { redis: server.url, onError: (error) => errors.push(error) })

    t.ok((await refusal(subject.send(sampleMessage()))) < 1000)
    t.ok((await refusal(subject.progress(['one', 'two']))) < 1000)
    await t.rejects(subject.ping())

    const again = await startRedis({ port: server.port })
    t.teardown(() => again.stop())
    await until(() =>
      subject.send(sampleMessage()).then(
        () => true,
        () => false,
      ),
    )
    await t.resolves(subject.ping())
    t.ok(errors.length > 0)
  },
)

t.test('a frozen Redis is refused within a second, and the mailer recovers', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const subject = mailer(t, { redis: server.url })
  await subject.send(sampleMessage())

  server.freeze()
  t.ok((await refusal(subject.send(sampleMessage()))) < 1000)
  t.ok((await refusal(subject.progress(['one', 'two']))) < 1000)
  server.thaw()

  await until(() =>
    subject.send(sampleMessage()).then(
      () => true,
      () => false,
    ),
  )
})

async function refusal(attempt: Promise<unknown>): Promise<number> {
  const started = Date.now()
  const error = await attempt.then(
    () => undefined,
    (error) => error,
  )
  if (error?.code !== 'ACCOUNTS_UNAVAILABLE') throw new Error('it was not refused', { cause: error })
  return Date.now() - started
}

t.test('the queue works on a Redis in cluster mode', { skip: noRedis }, async (t) => {
  const server = await startRedis({ cluster: true })
  t.teardown(() => server.stop())
  const name = uniqueName()
  await mailer(t, { redis: server.url, name }).send(sampleMessage())

  const slots = new Set(
    await Promise.all(
      (await redis(t, server.url).keys('*')).map((key) => redis(t, server.url).cluster('KEYSLOT', key)),
    ),
  )

  t.equal(slots.size, 1)
})

t.test('wrong options are told by name', async (t) => {
  t.throws(() => queueMailer({ redis: redisUrl(), secret: 'short' }), { name: 'TypeError', message: /"secret"/ })
  t.throws(() => queueMailer({ redis: redisUrl(), secret, name: 'No {}' }), { name: 'TypeError', message: /"name"/ })
  t.throws(() => queueMailer({ redis: 'nonsense', secret }), { name: 'TypeError', message: /"redis"/ })
})
