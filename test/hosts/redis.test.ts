import fastifyRedis from '@fastify/redis'
import { Redis } from 'ioredis'
import t from 'tap'
import { redisUrl, uniqueName, until } from '../helpers/helper.ts'
import { hostApp, liveThrough } from '../helpers/host-app.ts'

/** How many connections carry a name; those of duplicates carry it too. */
async function connections(watcher: Redis, name: string): Promise<number> {
  const list = (await watcher.client('LIST')) as string
  return list.split('\n').filter((line) => line.includes(`name=${name} `)).length
}

t.test(
  "without `redis` the host's app.redis is taken, only ever duplicated, and closed by the host alone",
  async (t) => {
    const connectionName = uniqueName()
    const client = new Redis(redisUrl(), { connectionName, keyPrefix: 'host:' })
    const watcher = new Redis(redisUrl())
    t.teardown(() => Promise.all([client.quit(), watcher.quit()]))
    const name = uniqueName()
    const host = await hostApp(t, {
      before: (app) => app.register(fastifyRedis, { client }),
      options: { name, cache: undefined },
    })
    t.equal(host.app.redis, client)
    const keys = () => watcher.keys(`*${name}:*`)

    await liveThrough(t, host)

    t.ok((await keys()).length > 0)
    t.ok(
      (await keys()).every((key) => key.startsWith(name)),
      "the host's prefix is not on our keys",
    )
    t.ok((await connections(watcher, connectionName)) > 1)
    await client.set('x', '1')
    await host.app.close()
    await until(async () => (await connections(watcher, connectionName)) === 1)
    t.equal(await client.get('x'), '1', "the host's client is still open")
  },
)

t.test("a client or a URL given as `redis` wins over the host's app.redis", async (t) => {
  const given = new Redis(redisUrl(), { connectionName: uniqueName() })
  const watcher = new Redis(redisUrl())
  t.teardown(() => Promise.all([given.quit(), watcher.quit()]))

  for (const redis of [given, redisUrl(), { cache: given, queue: redisUrl() }]) {
    const connectionName = uniqueName()
    const host = await hostApp(t, {
      before: (app) => app.register(fastifyRedis, { url: redisUrl(), connectionName }),
      options: { name: uniqueName(), cache: undefined, redis },
    })
    await liveThrough(t, host)
    t.equal(await connections(watcher, connectionName), 1)
    await host.app.close()
    await until(async () => (await connections(watcher, connectionName)) === 0)
  }
  t.equal(given.status, 'ready')
})

t.test('with both `cache` and `mailer` no connection is opened', async (t) => {
  const connectionName = uniqueName()
  const watcher = new Redis(redisUrl())
  t.teardown(() => watcher.quit())
  const host = await hostApp(t, {
    before: (app) => app.register(fastifyRedis, { url: redisUrl(), connectionName }),
  })

  await liveThrough(t, host)
  t.equal(await connections(watcher, connectionName), 1)
})
