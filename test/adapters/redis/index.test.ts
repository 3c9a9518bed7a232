import { createServer } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { Cluster, Redis } from 'ioredis'
import { createRedisMock } from 'js-redis-server'
import t, { type Test } from 'tap'
import { commandFault, connected, withoutArguments } from '../../../lib/adapters/redis/connection.ts'
import { openRedis, redisCache } from '../../../lib/adapters/redis/index.ts'
import type { Cache, CodeRef, NewCode } from '../../../lib/contracts.ts'
import type { RedisSource } from '../../../lib/options/ports.ts'
import { cacheContract } from '../../../lib/testing/cache.ts'
import {
  despiteLoad,
  type FaultProxy,
  faultProxy,
  freePort,
  longRun,
  noRedis,
  redisUrl,
  startRedis,
  uniqueName,
  until,
} from '../../helpers/helper.ts'

const now = Date.now()
const right = [{ kid: 'k1', mac: 'right' }]
const wrong = [{ kid: 'k1', mac: 'wrong' }]
const ref: CodeRef = { purpose: 'reset', tag: 'tag', tokenHash: 'hash' }
const code: NewCode = {
  purpose: 'reset',
  tag: 'tag',
  account: 'account',
  records: [{ tokenHash: 'hash', mac: right[0]!, subject: 'sealed' }],
  tries: 5,
  expiresAt: now + 600_000,
  grantMs: 300_000,
}

// What waits for timers of connections does so beside its neighbours.
t.jobs = 4
const patient = { skip: noRedis, buffered: true }

t.test('the contract holds on a Redis', (t) => runContract(t, redisUrl(), noRedis ? oneByOne : undefined))

longRun('the contract holds on a Redis in JavaScript', async (t) => {
  const server = await createRedisMock()
  t.teardown(() => server.close())

  await runContract(t, server.url, oneByOne)
})

longRun('the contract holds on a cluster', { skip: noRedis }, async (t) => {
  const server = await startRedis({ cluster: true, args: ['--cluster-announce-ip', '127.0.0.1'] })
  t.teardown(() => server.stop())
  const cluster = new Cluster([{ host: '127.0.0.1', port: server.port }], { scaleReads: 'slave' })
  t.teardown(() => cluster.disconnect())

  await t.test('through a plain connection', (t) => runContract(t, server.url))
  await t.test('through a cluster client', (t) => runContract(t, cluster))
})

t.test('[R-OTP-4] no key is ever without a lifetime', { skip: noRedis }, async (t) => {
  const { url, redis } = await privateRedis(t)

  for (const { run } of cacheContract) {
    await runCase(run, () => open(t, url, { name: uniqueName() }))

    const keys = await redis.keys('*')
    const lifetimes = await Promise.all(keys.map((key) => redis.pttl(key)))
    t.equal(keys.filter((_, n) => lifetimes[n]! < 0).length, 0)
  }
  t.ok((await redis.dbsize()) > 100)
})

t.test('[R-OTP-4] a key lives as long as the code or its grant, and a minute', async (t) => {
  const { cache, redis, record, index } = await realm(t)

  await cache.put(code, now)
  t.ok(await livesFor(redis, record, 600_000))
  t.ok(await livesFor(redis, index, 900_000))

  await cache.guess(ref, wrong, now)
  await cache.guess(ref, right, now + 599_000)
  t.ok(await livesFor(redis, record, 300_000))

  await cache.put({ ...code, expiresAt: now + 1000, grantMs: 1000 }, now)
  t.ok(await livesFor(redis, index, 900_000), 'a shorter code does not shorten the life of the index')

  await cache.burn(code)
  t.ok(await livesFor(redis, record, 300_000), 'a tombstone stays')
})

t.test('[R-OTP-4] the index forgets records whose end is past', async (t) => {
  const { cache, redis, index } = await realm(t)
  await cache.put(code, now)

  const later = now + 600_000 + 300_000 + 60_000
  await cache.put({ ...code, records: [{ ...code.records[0]!, tokenHash: 'next' }], expiresAt: later + 1000 }, later)

  const keys = await redis.zrange(index, '0', '-1')
  t.equal(keys.length, 1)
  t.match(keys, [/:next$/])
})

t.test('[R-OTP-3] guesses, leases and refusals of an unknown record create no key', { skip: noRedis }, async (t) => {
  const { url, redis } = await privateRedis(t)
  const cache = open(t, url)

  await cache.guess(ref, right, now)
  await cache.lease(ref, 'lease', now + 30_000, now)
  await cache.giveBack(ref, 'lease', 'refused', now)
  await cache.burn(code)

  t.equal(await redis.dbsize(), 0)
})

t.test('[R-OTP-2] a tombstone keeps no MAC, and the sealed subject only when it is exhausted', async (t) => {
  const { cache, redis, record } = await realm(t)
  const secrets = /mac|subject|kid|lease/
  const kept = async () => Object.keys(await redis.hgetall(record)).filter((field) => secrets.test(field))
  await cache.put(code, now)
  t.same((await kept()).sort(), ['kid', 'mac', 'subject'])

  for (let guess = 1; guess <= 6; guess++) await cache.guess(ref, wrong, now)
  t.same(await kept(), ['subject'])
  t.equal(await redis.hget(record, 'state'), 'exhausted')
  await cache.burn(code)
  t.same(await kept(), [])

  await redis.del(record)
  await cache.put(code, now)
  await cache.guess(ref, right, now)
  await cache.lease(ref, 'lease', now + 30_000, now)
  await cache.burn(code)
  t.same(await kept(), [])
  t.equal(await redis.hget(record, 'state'), 'burnt')
})

t.test('a burn does not bring back a record that Redis has dropped', async (t) => {
  const { cache, redis, record } = await realm(t)
  await cache.put(code, now)
  await redis.del(record)

  await cache.burn(code)

  t.equal(await redis.exists(record), 0)
})

t.test('the first verbs after boot wait for the connection', async (t) => {
  t.teardown(failOnWarning(t))
  // Not by `realm`, which waits itself.
  const booting = () => open(t, redisUrl(), { name: uniqueName() })

  await despiteLoad(async () => {
    const cache = booting()
    await cache.put(code, now)
    t.equal(await cache.guess(ref, right, now), 'right')
  })

  await despiteLoad(async () => {
    const crowd = booting()
    const results = await Promise.all(Array.from({ length: 50 }, () => crowd.guess(ref, right, now)))
    t.equal(results.filter((result) => result === 'dead').length, 50)
  })
})

/** What an outage is for who calls a verb. */
const unavailable = { code: 'ACCOUNTS_UNAVAILABLE' }

t.test('a server that cannot serve is an outage, a command that it refuses as wrong is a bug', async (t) => {
  const replies = [
    'LOADING Redis is loading the dataset in memory',
    "OOM command not allowed when used memory > 'maxmemory'.",
    'ERR Error running script (call to f_1): @user_script:3: -READONLY You cannot write against a read only replica.',
    'CLUSTERDOWN The cluster is down',
    'NOREPLICAS Not enough good replicas to write.',
    'ERR max number of clients reached',
  ]
  const reply = (message: string) => Object.assign(new Error(message), { name: 'ReplyError' })
  for (const message of replies) t.match(commandFault(reply(message)), unavailable, message)
  for (const message of ['Command timed out', 'Connection is closed.', "Stream isn't writeable"]) {
    t.match(commandFault(new Error(message)), unavailable, message)
  }
  for (const message of ['WRONGTYPE Operation against a key', "ERR unknown command 'HSETX'", 'CROSSSLOT Keys']) {
    t.notMatch(commandFault(reply(message)), unavailable, message)
  }
  t.notMatch(commandFault(new TypeError('not a function')), unavailable)
})

t.test('with Redis refused every verb rejects within a second', async (t) => {
  const cache = open(t, `redis://127.0.0.1:${await freePort()}`)

  for (const verb of everyVerb(cache)) {
    const started = performance.now()
    await t.rejects(verb(), unavailable)
    t.ok(performance.now() - started < 1000)
  }
})

t.test('boot with Redis down works, and the cache recovers by itself', { skip: noRedis }, async (t) => {
  const port = await freePort()
  const errors: Error[] = []
  const cache = open(t, `redis://127.0.0.1:${port}`, { onError: (error) => errors.push(error) })
  await t.rejects(cache.put(code, now))

  const server = await startRedis({ port })
  t.teardown(() => server.stop())
  await until(() => cache.put(code, now).then(() => true))

  t.equal(await cache.guess(ref, right, now), 'right')
  t.match(errors, [{ code: 'ECONNREFUSED' }])
  t.equal(errors.length, 1)
})

t.test('an outage is told once, the next one again', { skip: noRedis }, async (t) => {
  const port = await freePort()
  const errors: Error[] = []
  let attempts = 0
  const client = openRedis(`redis://127.0.0.1:${port}`, {}, (error) => errors.push(error))
  t.teardown(() => client.disconnect())
  client.on('close', () => attempts++)

  await until(() => attempts >= 3)
  t.equal(errors.length, 1)

  const server = await startRedis({ port })
  await until(() => client.status === 'ready')
  await server.kill()
  attempts = 0
  await until(() => attempts >= 3)
  t.equal(errors.length, 2)
})

t.test('a frozen Redis is given up after half a second, and works again once thawed', patient, async (t) => {
  const { server, url, redis } = await privateRedis(t)
  const cache = open(t, url)
  await cache.put(code, now)

  server.freeze()
  for (const verb of everyVerb(cache)) {
    const started = performance.now()
    await t.rejects(verb(), unavailable)
    const took = performance.now() - started
    t.ok(took < 900, `${took} ms`)
  }
  server.thaw()

  await until(() => cache.ping().then(() => true))
  await redis.flushall()
  await cache.put(code, now)
  t.equal(await cache.guess(ref, right, now), 'right')
})

t.test('a link that stays silent is replaced', patient, async (t) => {
  const { server } = await privateRedis(t)
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const client = openRedis(`redis://127.0.0.1:${proxy.port}`)
  t.teardown(() => client.disconnect())
  await connected(client)
  let closed = false
  client.once('close', () => {
    closed = true
  })

  proxy.mode = 'freeze'
  await t.rejects(client.ping())

  await until(() => closed)
})

t.test('[R-OTP-3] an unanswered script is not sent twice', patient, async (t) => {
  const { server, redis } = await privateRedis(t)
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())

  await loseAnAnswer(open(t, `redis://127.0.0.1:${proxy.port}`), server, proxy)

  t.equal(await redis.hget('accounts:{tag}:reset:hash', 'used'), '2')
})

// Of two nodes, since a client that has lost its only one sends nothing again anyway.
t.test('[R-OTP-3] an unanswered script is not sent twice in a cluster', patient, async (t) => {
  const { server, redis } = await privateRedis(t, { cluster: true })
  const other = await privateRedis(t, { cluster: true })
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  await redis.config('SET', 'cluster-announce-ip', '127.0.0.1')
  await redis.config('SET', 'cluster-announce-port', String(proxy.port))
  await redis.config('SET', 'cluster-announce-bus-port', String(server.port + 10_000))
  await other.redis.cluster('FLUSHSLOTS')
  await redis.cluster('DELSLOTS', 0)
  await other.redis.cluster('ADDSLOTS', 0)
  await redis.cluster('MEET', '127.0.0.1', other.server.port)
  await until(async () => (await redis.cluster('SLOTS')).length === 2)
  await until(async () => String(await redis.cluster('INFO')).includes('cluster_state:ok'))
  const startup = new Cluster([{ host: '127.0.0.1', port: proxy.port }], { lazyConnect: true })

  await loseAnAnswer(open(t, startup), server, proxy)

  t.equal(await redis.hget('accounts:{tag}:reset:hash', 'used'), '2')
})

// The second guess reaches the server, but its answer never comes back.
async function loseAnAnswer(cache: Cache, server: { freeze(): void; thaw(): void }, proxy: FaultProxy): Promise<void> {
  await until(() => cache.put(code, now).then(() => true))
  await cache.guess(ref, wrong, now)

  server.freeze()
  const lost = cache.guess(ref, wrong, now).catch(() => 'lost')
  await setTimeout(100)
  proxy.cut()
  if ((await lost) !== 'lost') throw new Error('The guess was answered.')
  server.thaw()

  await until(() => cache.lease(ref, 'lease', now, now).then(() => true))
  // Long enough for a client to send it again: ioredis does so within 100 ms.
  await setTimeout(300)
}

t.test('a server that forgot the scripts gets them again', async (t) => {
  const { cache, redis } = await realm(t)
  await cache.put(code, now)
  await cache.guess(ref, wrong, now)

  await redis.script('FLUSH')

  t.equal(await cache.guess(ref, right, now), 'right')
  t.equal(await cache.lease(ref, 'lease', now + 30_000, now), 'sealed')
})

t.test("the host's client is neither used nor closed, and its settings stay out", async (t) => {
  const host = new Redis(redisUrl(), {
    keyPrefix: 'host:',
    stringNumbers: true,
    readOnly: true,
    enableAutoPipelining: true,
    replyMapping: 'resp3',
  })
  t.teardown(() => host.disconnect())
  const { cache, redis, record } = await realm(t, host)

  await cache.put(code, now)
  t.equal(await cache.guess(ref, right, now), 'right')
  t.equal(await redis.exists(record), 1)
  await cache.close()

  t.equal(await host.ping(), 'PONG')
  t.equal(host.options.keyPrefix, 'host:')
})

t.test('close ends the connection for good, also twice and when Redis is down', async (t) => {
  const name = uniqueName()
  const observer = new Redis(redisUrl())
  t.teardown(() => observer.disconnect())
  const cache = redisCache({ redis: new Redis(redisUrl(), { connectionName: name, lazyConnect: true }) })
  const mine = async () => String(await observer.client('LIST')).includes(name)
  await cache.ping()
  t.ok(await mine())

  await cache.close()
  await cache.close()

  await until(async () => !(await mine()))
  await t.rejects(cache.ping())
  const down = redisCache({ redis: `redis://127.0.0.1:${await freePort()}` })
  await t.rejects(down.ping())
  await down.close()
})

t.test('accounts of Redis and database numbers in a URL work', { skip: noRedis }, async (t) => {
  const { server, redis } = await privateRedis(t)
  await redis.acl('SETUSER', 'alice', 'on', '>p@ss/word', '~*', '&*', '+@all')
  const cache = open(t, `redis://alice:${encodeURIComponent('p@ss/word')}@127.0.0.1:${server.port}/3`)

  await cache.put(code, now)

  await redis.select(3)
  t.equal(await redis.exists('accounts:{tag}:reset:hash'), 1)
})

t.test('[R-LOG-1] no error holds the password or what was sent', { skip: noRedis }, async (t) => {
  const { server, redis } = await privateRedis(t)
  const errors: unknown[] = []
  const cache = open(t, `redis://alice:canary@127.0.0.1:${server.port}`, { onError: (error) => errors.push(error) })
  errors.push(await cache.put(code, now).catch((error) => error))
  await redis.set('accounts:{tag}:reset:hash', 'another type')
  const healthy = open(t, server.url)
  errors.push(await healthy.guess(ref, [{ kid: 'k1', mac: 'canary' }], now).catch((error) => error))
  const addresses = [
    'redis://alice:canary@host:port',
    'REDISS://:canary@host',
    'postgres://u:canary@host',
    'redis://:canary%@h',
  ]
  for (const address of addresses) {
    try {
      redisCache({ redis: address })
    } catch (error) {
      errors.push(error)
    }
  }
  errors.push(withoutArguments(new Error('ERR unknown command `HELLO`, with args beginning with: `3`, `canary`')))

  t.match(errors, [/WRONGPASS/, unavailable, /WRONGTYPE/, ...addresses.map(() => TypeError), /unknown command/])
  for (const error of [...errors, (errors[1] as Error).cause] as Error[]) {
    t.notMatch(JSON.stringify(error, Object.getOwnPropertyNames(error)), /canary/)
    t.notMatch(Object.keys(error), ['command'])
  }
})

t.test('a rediss:// URL stays encrypted, and its query changes no setting of ours', async (t) => {
  const address = `127.0.0.1:${await freePort()}`
  const client = openRedis(`rediss://${address}/2?keyPrefix=theirs&enableOfflineQueue=true`) as Redis
  t.teardown(() => client.disconnect())

  t.ok(client.options.tls)
  t.match(client.options, { db: 2, keyPrefix: '', enableOfflineQueue: false, commandTimeout: 500 })
})

t.test('overrides win, and undefined unsets', async (t) => {
  const overrides = { maxRetriesPerRequest: null, commandTimeout: undefined, enableOfflineQueue: true }
  const client = openRedis(redisUrl(), overrides) as Redis
  const cluster = openRedis(new Cluster([{ port: 1 }], { lazyConnect: true }), overrides) as Cluster
  t.teardown(() => {
    client.disconnect()
    cluster.disconnect()
  })

  t.match(client.options, { maxRetriesPerRequest: null, enableOfflineQueue: true, autoResendUnfulfilledCommands: true })
  t.equal(client.options.commandTimeout, undefined)
  t.equal(client.options.socketTimeout, undefined)
  t.match(cluster.options, {
    enableOfflineQueue: true,
    scaleReads: 'master',
    redisOptions: { maxRetriesPerRequest: null },
  })
  t.equal(cluster.options.redisOptions?.commandTimeout, undefined)
})

t.test('a reply of the wrong type is an outage', async (t) => {
  const server = createServer((socket) => {
    socket.on('data', (sent) => socket.write(':1\r\n'.repeat(String(sent).split(/^\*/m).length - 1)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const cache = open(t, `redis://127.0.0.1:${port}`)

  await cache.publish('text')
  for (const verb of everyVerb(cache).slice(1)) await t.rejects(verb(), { ...unavailable, cause: /unexpected reply/ })
})

t.test('[R-SES-1] a text is heard by the other instances of its realm and database alone', async (t) => {
  const name = uniqueName()
  const url = new URL(redisUrl())
  const one = await listener(open(t, url.href, { name }))
  const other = await listener(open(t, url.href, { name }))
  const stranger = await listener(open(t, url.href, { name: uniqueName() }))
  const similar = await listener(open(t, url.href, { name: `${name}:` }))
  url.pathname = '/3'
  const database = await listener(open(t, url.href, { name }))

  const took: number[] = []
  // The worst of a busy machine is the machine's.
  for (let round = 1; round <= 5; round++) {
    const started = performance.now()
    await one.cache.publish('ended')
    await until(() => other.heard.length + one.heard.length === 2 * round)
    took.push(performance.now() - started)
  }
  for (const { cache } of [stranger, similar, database]) await cache.publish('theirs')
  await until(() => stranger.heard.length + similar.heard.length + database.heard.length === 3)

  t.ok(Math.min(...took) < 100, `${took} ms`)
  t.same([one.heard, other.heard], [Array(5).fill('ended'), Array(5).fill('ended')])
  t.same([stranger.heard, similar.heard, database.heard], [['theirs'], ['theirs'], ['theirs']])
})

t.test('no second connection is opened before the first listener, nor left by close', { skip: noRedis }, async (t) => {
  const { url, redis } = await privateRedis(t)
  const cache = open(t, url)
  await cache.publish('nobody listens')
  t.equal((await clients(redis)).length, 2)

  await listener(cache)
  await listener(cache)
  t.equal((await clients(redis)).length, 3)
  t.equal((await clients(redis, 'pubsub')).length, 1)
  await cache.close()

  await until(async () => (await clients(redis)).length === 1)
})

t.test('whoever subscribes while Redis is down is answered at once, and hears when it is up', patient, async (t) => {
  const port = await freePort()
  const errors: Error[] = []
  const cache = open(t, `redis://127.0.0.1:${port}`, { onError: (error) => errors.push(error) })
  const heard: string[] = []
  let began = 0

  await cache.subscribe(
    (text) => heard.push(text),
    () => began++,
  )
  t.equal(errors.length, 0, 'before any connection has failed')
  await t.rejects(cache.publish('lost'))
  // Long enough to try again and again, which is told no more.
  await setTimeout(700)
  t.equal(errors.length, 2, 'one for each connection')

  const server = await startRedis({ port })
  t.teardown(() => server.stop())
  await until(() => began === 1)
  await until(() => cache.publish('heard').then(() => true))
  await until(() => heard.length > 0)
  t.same(heard, ['heard'])
})

for (const kind of ['server', 'cluster'] as const) {
  t.test(`a link to a ${kind} that was cut is replaced, and the listener is told`, patient, async (t) => {
    const { redis, cache } = await served(t, kind)
    const link = await listener(cache)

    for (let round = 1; round <= 3; round++) {
      await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
      await until(() => link.began === round + 1)
      await cache.publish(`round ${round}`)
      await until(() => link.heard.length === round)
    }

    t.same(link.heard, ['round 1', 'round 2', 'round 3'])
    t.equal((await clients(redis, 'pubsub')).length, 1)
  })

  t.test(`a link to a ${kind} that froze hears again soon after it thaws`, patient, async (t) => {
    const { server, cache } = await served(t, kind)
    const link = await listener(cache)

    server.freeze()
    await setTimeout(3000)
    server.thaw()
    await until(() => link.began === 2)
    await until(() => cache.publish('thawed').then(() => true))

    await until(() => link.heard.length === 1)
  })
}

t.test('a link that nobody closed and nothing comes through is replaced', patient, async (t) => {
  const { server, redis } = await privateRedis(t)
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const link = await listener(open(t, `redis://127.0.0.1:${proxy.port}`))

  proxy.mode = 'freeze'
  // The proxy connects in the link's stead, and lets nothing through.
  await until(async () => (await clients(redis)).length > 3)
  t.equal(link.began, 1)
  proxy.mode = 'pass'

  await until(() => link.began === 2)
  await open(t, server.url).publish('replaced')
  await until(() => link.heard.length === 1)
})

t.test('a link on which nobody says anything stays', patient, async (t) => {
  const { url, redis } = await privateRedis(t)
  const link = await listener(open(t, url))
  const before = await clients(redis, 'pubsub')

  await setTimeout(2500)

  t.same(await clients(redis, 'pubsub'), before)
  t.equal(link.began, 1)
})

t.test('a channel that Redis does not allow is told once, and heard when it is allowed', patient, async (t) => {
  const { server, redis } = await privateRedis(t)
  await redis.acl('SETUSER', 'alice', 'on', '>password', '~*', 'resetchannels', '+@all')
  const errors: Error[] = []
  const onError = (error: Error) => errors.push(error)
  const cache = open(t, `redis://alice:password@127.0.0.1:${server.port}`, { onError })
  const link = { began: 0 }
  await cache.subscribe(
    () => {},
    () => link.began++,
  )
  await t.rejects(cache.publish('text'), { ...unavailable, cause: /NOPERM/ })
  await until(() => errors.length > 0)

  await setTimeout(1200)
  t.match(errors, [/NOPERM/])
  t.equal(errors.length, 1)
  t.equal(link.began, 0)

  await redis.acl('SETUSER', 'alice', '&accounts:*')
  await until(() => link.began === 1)
})

t.test('a listener that throws is told to the log, and text of others on the channel is only text', async (t) => {
  const name = uniqueName()
  const errors: Error[] = []
  const cache = open(t, redisUrl(), { name, onError: (error) => errors.push(error) })
  await cache.subscribe(() => {
    throw new Error('broken listener')
  })
  const { heard } = await listener(cache)

  await open(t, redisUrl(), { name }).publish('one')
  await until(() => heard.length === 1)

  t.match(errors, [{ message: 'broken listener' }])
})

t.test('close ends a link that is waiting to be replaced', async (t) => {
  const cache = redisCache({ redis: `redis://127.0.0.1:${await freePort()}` })
  let began = 0
  await cache.subscribe(
    () => {},
    () => began++,
  )
  await t.rejects(cache.publish('text'))

  await cache.close()
  await cache.close()
  await cache.subscribe(
    () => {},
    () => began++,
  )

  // Whatever is left open would keep this file from ending.
  t.equal(began, 0)
})

async function runContract(t: Test, redis: RedisSource, wrap = (cache: Cache) => cache): Promise<void> {
  for (const { name, run } of cacheContract) {
    await t.test(name, (t) => runCase(run, () => wrap(open(t, redis, { name: uniqueName() }))))
  }
}

function runCase(run: (cache: Cache) => Promise<void>, openCache: () => Cache): Promise<void> {
  return despiteLoad(async () => {
    const cache = openCache()
    // The first connection may take longer than a verb waits for it.
    await until(() => cache.ping())
    await run(cache)
  })
}

// 200 scripts at once take the stand-in longer than the time-out of one. It races nothing anyway: it has one thread.
function oneByOne(cache: Cache): Cache {
  let last: Promise<unknown> = Promise.resolve()
  function guess(...args: Parameters<Cache['guess']>) {
    const next = last.then(() => cache.guess(...args))
    last = next.catch(() => {})
    return next
  }
  return { ...cache, guess }
}

function open(t: Test, redis: RedisSource, options: { name?: string; onError?: (error: Error) => void } = {}): Cache {
  const cache = redisCache({ redis, ...options })
  t.teardown(() => cache.close())
  return cache
}

// A name of its own on the shared server, and a connection that is open however busy the machine is.
async function realm(t: Test, source: RedisSource = redisUrl()) {
  const name = uniqueName()
  const redis = new Redis(redisUrl())
  t.teardown(() => redis.disconnect())
  const keys = { record: `${name}:{tag}:reset:hash`, index: `${name}:{tag}:index:account` }
  const cache = open(t, source, { name })
  await until(() => cache.ping().then(() => true))
  return { cache, redis, ...keys }
}

async function privateRedis(t: Test, options: { cluster?: boolean; args?: string[] } = {}) {
  const server = await startRedis(options)
  const redis = new Redis(server.url)
  t.teardown(async () => {
    redis.disconnect()
    await server.stop()
  })
  return { server, url: server.url, redis }
}

/** A private server and a cache on it, through a client of its kind. */
async function served(t: Test, kind: 'server' | 'cluster') {
  if (kind === 'server') {
    const { server, url, redis } = await privateRedis(t)
    return { server, redis, cache: open(t, url) }
  }
  const { server, redis } = await privateRedis(t, { cluster: true, args: ['--cluster-announce-ip', '127.0.0.1'] })
  const host = new Cluster([{ host: '127.0.0.1', port: server.port }], { lazyConnect: true })
  return { server, redis, cache: open(t, host) }
}

/** Listens, from when it has begun. */
async function listener(cache: Cache) {
  const link = { cache, heard: [] as string[], began: 0 }
  await cache.subscribe(
    (text) => link.heard.push(text),
    () => link.began++,
  )
  await until(() => link.began === 1)
  return link
}

/** The ids of the connections to a server, also of a kind. */
async function clients(redis: Redis, type?: 'pubsub'): Promise<string[]> {
  const list = String(await redis.call('CLIENT', 'LIST', ...(type ? ['TYPE', type] : [])))
  return [...list.matchAll(/^id=(\d+)/gm)].map(([, id]) => id!)
}

async function livesFor(redis: Redis, key: string, ms: number): Promise<boolean> {
  const left = (await redis.pttl(key)) - ms - 60_000
  return left <= 0 && left > -10_000
}

function everyVerb(cache: Cache): (() => Promise<unknown>)[] {
  return [
    () => cache.publish('text'),
    () => cache.ping(),
    () => cache.peek(ref, now),
    () => cache.put(code, now),
    () => cache.guess(ref, right, now),
    () => cache.lease(ref, 'lease', now + 30_000, now),
    () => cache.giveBack(ref, 'lease', 'refused', now),
    () => cache.burn(code),
  ]
}

function failOnWarning(t: Test): () => void {
  const fail = (warning: Error) => t.fail(warning.message)
  process.on('warning', fail)
  return () => process.off('warning', fail)
}
