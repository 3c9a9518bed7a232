import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { redisCache } from '../../lib/adapters/redis/index.ts'
import { openDatabase } from '../helpers/app.ts'
import { fedFor, watchedInstance } from '../helpers/channel.ts'
import { faultProxy, freePort, noPostgres, noRedis, startRedis, uniqueName, until } from '../helpers/helper.ts'
import { newMember } from '../helpers/members.ts'
import { monitorOf } from '../helpers/redis-trace.ts'

const skip = noPostgres || noRedis
t.jobs = 4

t.test(
  '[P15] an authenticated request is neither a statement nor a command of Redis',
  { skip, buffered: true },
  async (t) => {
    const { server, one, statements } = await instances(t)
    const { access } = await newMember(one.accounts)
    await until(() => fedFor(one, access))
    const commands = await commandsOf(t, server.url)
    statements.length = 0
    const reads = one.watch.reads.length

    for (let use = 0; use < 300; use++) t.equal(await one.me(access), 200)

    t.same(statements, [])
    t.equal(one.watch.reads.length, reads)
    // The heartbeat on both links, which no request waits for: it goes on without any.
    await until(() => commands.includes('publish') && commands.includes('ping'))
    t.same(
      commands.filter((command) => !['publish', 'ping'].includes(command)),
      [],
    )
    const beats = commands.length
    await until(() => commands.length > beats)
  },
)

t.test(
  'with Redis down at boot guards work and refuse ended sessions, and need no query once it is up',
  { skip, buffered: true },
  async (t) => {
    const { db } = await openDatabase(t)
    const port = await freePort()
    const one = await watchedInstance(t, kyselyStorage(db), {
      name: uniqueName(),
      redis: `redis://127.0.0.1:${port}`,
    })
    const member = await newMember(one.accounts)
    const ended = await newMember(one.accounts)
    await db.updateTable('accounts_sessions').set({ ended_at: Date.now() }).where('id', '=', ended.sessionId).execute()

    t.equal(await one.me(member.access), 200)
    t.equal(await one.me(ended.access), 401)

    const server = await startRedis({ port })
    t.teardown(() => server.stop())
    await until(() => fedFor(one, member.access))
    t.equal(await one.me(ended.access), 401)
  },
)

for (const mode of ['refuse', 'freeze'] as const) {
  t.test(
    `[R-SES-1] with a link to Redis that ${mode}s, what ends elsewhere is refused in about three seconds`,
    { skip, buffered: true },
    async (t) => {
      // docs: "within 5 s when their link to Redis is cut or frozen"
      const { one, other, proxy } = await instances(t)
      const { access, user } = await newMember(one.accounts)
      const idle = await newMember(one.accounts)
      await until(() => fedFor(other, access))

      // A poll may find it sooner, and is not what the bound rests on.
      other.watch.pollsDown = true
      proxy.mode = mode
      await one.accounts.users.endSessions(user.id)
      const ms = await timeUntilRefused(other, access)
      t.ok(ms < 5000, `${ms} ms`)
      t.comment(`${mode}: refused after ${ms} ms`)
      t.equal(await other.me(idle.access), 200, 'others go on')

      other.watch.pollsDown = false
      proxy.mode = 'pass'
      await until(() => fedFor(other, idle.access))
      t.equal(await other.me(access), 401)
    },
  )
}

t.test(
  '[R-SES-1] a Redis that was killed and comes back empty loses no end of a session',
  { skip, buffered: true },
  async (t) => {
    const { server, one, other } = await instances(t, { direct: true })
    const members = [
      await newMember(one.accounts),
      await newMember(one.accounts),
      await newMember(one.accounts),
    ] as const
    const [during, after, kept] = members
    await until(async () => (await fedFor(other, during.access)) && (await fedFor(one, kept.access)))

    await server.kill()
    await one.accounts.users.endSessions(during.user.id)
    const ms = await timeUntilRefused(other, during.access)
    t.ok(ms < 5000, `${ms} ms`)

    const again = await startRedis({ port: server.port })
    t.teardown(() => again.stop())
    await until(async () => (await fedFor(other, kept.access)) && (await fedFor(one, kept.access)))
    other.watch.blind = true
    t.equal(await other.me(during.access), 401)
    // Nothing but its text can tell.
    other.watch.pollsDown = true
    await one.accounts.users.endSessions(after.user.id)
    await until(async () => (await other.me(after.access)) === 401)
  },
)

t.test(
  'a text lost in a gap shorter than a heartbeat is found as soon as the link is back',
  { skip, buffered: true },
  async (t) => {
    const { one, other, proxy } = await instances(t)
    const { access, user } = await newMember(one.accounts)
    await until(() => fedFor(other, access))
    other.watch.blind = true
    const { polls } = other.watch

    proxy.mode = 'refuse'
    await one.accounts.users.endSessions(user.id)
    proxy.mode = 'pass'
    // The next poll that was due anyway is further away.
    await until(() => other.watch.polls > polls, 6000)

    await until(async () => (await other.me(access)) === 401)
  },
)

t.test(
  '[R-SES-1] what a frozen link cannot tell, the polls of the others find, or its next heartbeat tells',
  { skip, buffered: true },
  async (t) => {
    const { one, other, proxy } = await instances(t)
    const [found, told] = [await newMember(one.accounts), await newMember(one.accounts)]
    await until(async () => (await fedFor(one, found.access)) && (await fedFor(other, found.access)))
    one.watch.blind = true

    proxy.mode = 'freeze'
    await other.accounts.users.endSessions(found.user.id)
    const ms = await timeUntilRefused(one, found.access)
    t.ok(ms < 14_000, `${ms} ms`)

    one.watch.pollsDown = true
    await other.accounts.users.endSessions(told.user.id)
    proxy.mode = 'pass'
    await until(async () => (await one.me(told.access)) === 401)
  },
)

t.test('texts of others on the channel harm nothing', { skip, buffered: true }, async (t) => {
  const { server, name, one, other } = await instances(t, { direct: true })
  const { access, user, sessionId } = await newMember(one.accounts)
  const last = await newMember(one.accounts)
  await until(() => fedFor(other, access))
  other.watch.blind = true
  const stranger = redisCache({ redis: server.url, name })
  t.teardown(() => stranger.close())
  const at = Date.now()

  const texts = [
    ...['', ' ', '\0', 'null', '1', '"', '[]', '{}', '{"', '\ud800', '*1\r\n$4\r\nPING\r\n', '['.repeat(100_000)],
    ...[null, [], { from: null }, { ended: 1 }, { from: 1, at, ended: [] }, { from: 'x', at: null, ended: [] }],
    ...[[user.id], [null], [{}], [[]], 'text', { length: 1 }].map((ended) => ({ from: 'x', at, ended })),
    { from: 'x', at: -1e308, ended: ['__proto__', 'constructor', 'toString', '', '\0'] },
    { from: 'x', at, ended: Array.from({ length: 5000 }, (_, n) => `session ${n}`) },
    ...[{ ended: [sessionId] }, { from: 'x', at, ended: [sessionId, null] }],
    '{"__proto__":{"from":"x"},"from":"x","at":1,"ended":["x"]}',
    { from: 'x', at, ended: [sessionId, 'x'.repeat(2 ** 20)] },
  ]
  for (const text of texts) {
    const published = typeof text === 'string' ? text : JSON.stringify(text)
    // A busy machine may not take a long one at once.
    await until(() => stranger.publish(published).then(() => true))
  }

  await until(async () => {
    // The last one is in order, and is told until it is heard.
    await stranger.publish(JSON.stringify({ from: 'x', at, ended: [last.sessionId] }))
    return (await other.me(last.access)) === 401
  })
  await until(() => fedFor(other, access))
  await one.accounts.users.endSessions(user.id)
  await until(async () => (await other.me(access)) === 401)
})

t.test('realms on one Redis do not hear each other', { skip, buffered: true }, async (t) => {
  const { server, one } = await instances(t, { direct: true })
  const { access, sessionId } = await newMember(one.accounts)
  await until(() => fedFor(one, access))
  const text = JSON.stringify({ from: 'x', at: 0, ended: [sessionId] })
  const tell = async (name: string) => {
    const cache = redisCache({ redis: server.url, name })
    await cache.publish(text)
    await cache.close()
  }

  for (const name of ['accounts', uniqueName(), `${realmOf(one.accounts).options.name}2`]) await tell(name)
  const later = await commandsOf(t, server.url)
  await until(() => later.filter((command) => command === 'publish').length > 1)
  t.equal(await one.me(access), 200)

  await tell(realmOf(one.accounts).options.name)
  await until(async () => (await one.me(access)) === 401)
})

t.test('app.close() leaves no connection, also while Redis is frozen', { skip, buffered: true }, async (t) => {
  for (const mode of ['pass', 'freeze', 'refuse'] as const) {
    const { server, one, other, proxy } = await instances(t)
    await one.app.close()
    const redis = new Redis(server.url)
    t.teardown(() => redis.disconnect())
    const { access } = await newMember(other.accounts)
    await until(() => fedFor(other, access))
    t.ok((await connections(redis)) > 1)
    proxy.mode = mode

    const started = performance.now()
    await other.app.close()

    t.ok(performance.now() - started < 5000)
    proxy.mode = 'pass'
    await until(async () => (await connections(redis)) === 1)
  }
})

/** Two instances of a host; the other one, unless it is direct too, has a proxy between itself and Redis. */
async function instances(t: Test, { direct = false } = {}) {
  const [server, { db, statements }] = await Promise.all([startRedis(), openDatabase(t)])
  const proxy = await faultProxy(server.port)
  const name = uniqueName()
  t.teardown(async () => {
    await proxy.close()
    await server.stop()
  })
  const one = await watchedInstance(t, kyselyStorage(db), { name, redis: server.url })
  const redis = direct ? server.url : `redis://127.0.0.1:${proxy.port}`
  const other = await watchedInstance(t, kyselyStorage(db), { name, redis })
  return { server, proxy, db, statements, name, one, other }
}

async function connections(redis: Redis): Promise<number> {
  return String(await redis.call('CLIENT', 'LIST'))
    .trim()
    .split('\n').length
}

/** How long a token is still let in. */
async function timeUntilRefused({ me }: { me(access: string): Promise<number> }, access: string): Promise<number> {
  const started = performance.now()
  await until(async () => (await me(access)) === 401)
  return Math.round(performance.now() - started)
}

/** The names of the commands that a server gets from now on. */
async function commandsOf(t: Test, url: string): Promise<string[]> {
  const redis = new Redis(url)
  const monitor = await monitorOf(redis)
  t.teardown(() => {
    redis.disconnect()
    monitor.disconnect()
  })
  const commands: string[] = []
  monitor.on('monitor', (_time: string, [command]: string[]) => commands.push(command!.toLowerCase()))
  return commands
}
