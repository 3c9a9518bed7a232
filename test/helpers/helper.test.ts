import { Redis } from 'ioredis'
import pg from 'pg'
import t, { type Test } from 'tap'
import {
  faultProxy,
  freshDatabase,
  noPostgres,
  noRedis,
  redisUrl,
  startPostgres,
  startRedis,
  uniqueName,
  until,
} from './helper.ts'

async function redisClient(t: Test, url: string): Promise<Redis> {
  const client = new Redis(url, { enableOfflineQueue: false, commandTimeout: 300, lazyConnect: true })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  await client.connect()
  return client
}

async function databaseClient(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, query_timeout: 300 })
  client.on('error', () => {})
  await client.connect()
  return client
}

t.test('a fresh database is empty and goes with its drop', { skip: noPostgres }, async (t) => {
  const { url, drop } = await freshDatabase()
  const client = await databaseClient(url)
  const { rows } = await client.query("select tablename from pg_tables where schemaname = 'public'")

  await drop()

  t.strictSame(rows, [])
  await t.rejects(databaseClient(url), { code: '3D000' })
})

t.test('a frozen PostgreSQL answers nobody until it is thawed', { skip: noPostgres }, async (t) => {
  const server = await startPostgres()
  t.teardown(server.stop)
  const client = await databaseClient(server.url)

  server.freeze()
  await t.rejects(client.query('select 1'), /timeout/)
  server.thaw()

  const { rows } = await (await databaseClient(server.url)).query('select 1 as one')
  t.strictSame(rows, [{ one: 1 }])
})

t.test('a frozen Redis answers nobody until it is thawed', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(server.stop)
  const client = await redisClient(t, server.url)

  server.freeze()
  await t.rejects(client.ping(), /timed out/)
  server.thaw()

  await until(async () => (await client.ping()) === 'PONG')
})

t.test('a Redis comes back on its port with what it saved', { skip: noRedis }, async (t) => {
  const dir = t.testdir()
  const args = ['--appendonly', 'yes', '--appendfsync', 'always']
  const first = await startRedis({ dir, args })
  await (await redisClient(t, first.url)).set('key', 'value')
  await first.kill()

  const second = await startRedis({ dir, args, port: first.port })
  t.teardown(second.stop)

  t.equal(second.url, first.url)
  t.equal(await (await redisClient(t, second.url)).get('key'), 'value')
})

t.test('a Redis in cluster mode owns every slot and refuses to cross them', { skip: noRedis }, async (t) => {
  const server = await startRedis({ cluster: true })
  t.teardown(server.stop)
  const client = await redisClient(t, server.url)

  await t.rejects(client.mset('a', 1, 'b', 2), /CROSSSLOT/)
  t.equal(await client.set('a', 1), 'OK')
})

t.test('a fault proxy passes, freezes, cuts and refuses', async (t) => {
  const proxy = await faultProxy(Number(new URL(redisUrl()).port))
  t.teardown(proxy.close)
  const url = `redis://127.0.0.1:${proxy.port}`
  const key = uniqueName()
  const client = await redisClient(t, url)
  t.equal(await client.setex(key, 60, 'value'), 'OK')

  proxy.mode = 'freeze'
  await t.rejects(client.get(key), /timed out/)
  t.equal(client.status, 'ready')
  proxy.mode = 'pass'
  t.equal(await client.get(key), 'value')

  const cut = new Promise((resolve) => client.once('close', resolve))
  proxy.cut()
  await cut
  await until(async () => (await client.get(key)) === 'value')

  proxy.mode = 'refuse'
  await t.rejects(redisClient(t, url))
  proxy.mode = 'pass'
  await until(async () => (await client.get(key)) === 'value')
})
