// Starts the servers, the services and the clients, and stops them again.
import { fork, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { json } from 'node:stream/consumers'
import { Redis } from 'ioredis'
import { startPostgres, startRedis } from '../test/servers.js'
import { makeDatabase, versionOf } from './databases.js'

const folder = import.meta.dirname
const secret = randomBytes(32).toString('base64url')

/** Starts the servers; what the rows share is in what it returns. */
export async function openBench({ quick }) {
  const running = new Set()
  const keep = async (starting) => {
    const started = await starting
    running.add(started)
    return started
  }
  const close = remembered(() => Promise.allSettled([...running].reverse().map((each) => each.stop())))
  try {
    const [postgres, redis] = await Promise.all([keep(startPostgres()), keep(startRedis())])
    const versions = await versionsOf(postgres, redis)
    const calm = { quick, rounds: quick ? 1 : 5, seconds: quick ? 1 : 3, versions }
    return { ...calm, ...sharing(postgres, redis, keep), close }
  } catch (error) {
    await close()
    throw error
  }
}

function sharing(postgres, redis, keep) {
  const shared = new Map()

  /** What is made once and used by several rows. */
  function remember(name, make) {
    if (!shared.has(name)) shared.set(name, make())
    return shared.get(name)
  }

  /** Starts a service with the database and the part of Redis named by `data`, which has `size` users and sessions. */
  async function start(name, { data = name, size, env = {}, prepare = true } = {}) {
    const url = prepare ? await remember(`database ${data}`, () => makeDatabase(postgres.url, data, size)) : undefined
    const REDIS_URL = `${redis.url}/${redisNumber(data)}`
    const service = await keep(startService(name, { ...(url && { DATABASE_URL: url }), REDIS_URL, ...env }))
    return { ...service, data }
  }

  async function flush({ data }) {
    const client = new Redis(`${redis.url}/${redisNumber(data)}`)
    await client.flushdb()
    await client.quit()
  }

  /** The service that all calm rows use. */
  const service = (name, options) => remember(`service ${options?.data ?? name}`, () => start(name, options))
  return { remember, start, service, flush }
}

function remembered(make) {
  let made
  return () => (made ??= make())
}

const redisNumbers = []

function redisNumber(data) {
  if (!redisNumbers.includes(data)) redisNumbers.push(data)
  return redisNumbers.indexOf(data)
}

async function startService(name, env) {
  const child = fork(join(folder, 'services', `${name}.js`), {
    env: {
      ...process.env,
      NODE_ENV: 'production',
      UV_THREADPOOL_SIZE: String(availableParallelism() + 2),
      ACCOUNTS_SECRET: secret,
      ...env,
    },
    // Its lines must not stand between those of the table.
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const ended = new Promise((resolve) => child.once('exit', resolve))
  const early = ended.then((code) => Promise.reject(new Error(`the service ${name} ended with ${code}`)))
  early.catch(() => {})
  const [{ port }] = await Promise.race([once(child, 'message'), early])
  const pending = new Map()
  let calls = 0
  child.on('message', ({ id, value, error }) => {
    const { resolve, reject } = pending.get(id)
    pending.delete(id)
    if (error) reject(new Error(`${name}: ${error}`))
    else resolve(value)
  })

  function ask(command, ...args) {
    const id = calls++
    const answer = new Promise((resolve, reject) => pending.set(id, { resolve, reject }))
    child.send({ id, command, args })
    return Promise.race([answer, early])
  }
  async function stop() {
    child.kill('SIGKILL')
    await ended
  }
  return { name, port, warm: new Set(), ask, stop, stat: () => ask('stat'), url: `http://127.0.0.1:${port}` }
}

const clients = new Set()
// They would knock at what is gone until their time is over.
process.on('exit', () => {
  for (const client of clients) client.kill()
})

/** Runs one client to its end; statuses that neither `good` nor `allow` names are a failure of the measurement. */
export async function runClient(service, plan) {
  const child = spawn(process.execPath, [join(folder, 'client.js')], { stdio: ['pipe', 'pipe', 'inherit'] })
  clients.add(child)
  child.once('exit', () => clients.delete(child))
  child.stdin.end(JSON.stringify({ port: service.port, ...plan }))
  const result = await json(child.stdout)
  refuseSurprises(result, plan)
  return result
}

function refuseSurprises({ statuses, total }, { good, allow = [], patient }) {
  const known = (status) => allow.includes(status) || (good ? good.includes(status) : status < '400')
  const strange = Object.entries(statuses).filter(([status]) => !known(status))
  if (strange.length > 0) throw new Error(`unexpected responses: ${JSON.stringify(Object.fromEntries(strange))}`)
  // A patient client may be held all the time.
  if (total === 0 && !patient) throw new Error('no response at all')
}

/**
 * A calm load, with the CPU time of the service per request.
 *
 * @param settle seconds before the first measurement, in which most of what runs is compiled
 */
export async function load({ quick, seconds }, service, { settle = 3, ...plan }) {
  const path = plan.requests[0][1]
  const known = service.warm.has(path)
  service.warm.add(path)
  const warmup = quick ? (known ? 0.2 : 0.5) : known ? 1 : settle
  const before = await service.stat()
  const result = await runClient(service, { warmup, seconds, ...plan })
  const after = await service.stat()
  return { ...result, cpuUs: (after.cpuUs - before.cpuUs) / result.total }
}

/** Measures in turn, A B A B …; returns what each round returned, by name. What is false is left out. */
export async function alternate({ rounds }, measures) {
  const named = Object.entries(measures).filter(([, measure]) => measure)
  const results = Object.fromEntries(named.map(([name]) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const [name, measure] of named) results[name].push(await measure(round))
  }
  return results
}

export function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** The median of a figure over the rounds. */
export function medianOf(rounds, figure = 'perSecond') {
  return median(rounds.map((round) => round[figure]))
}

/** The median of the ratios within each round, since a machine has faster and slower minutes. */
export function ratioOf(these, those, figure = 'perSecond') {
  return median(these.map((round, index) => round[figure] / those[index][figure]))
}

export async function post(service, path, body, headers = {}) {
  const response = await fetch(service.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${path} is ${response.status}: ${await response.text()}`)
  return { headers: response.headers, body: await response.json() }
}

/** Requests that rotate the tokens of new sessions: an old token has been rotated. */
export async function refreshRequests(service, ids) {
  return refreshesOf(await service.ask('sessions', ids), '/auth/refresh/')
}

export function refreshesOf(pairs, path) {
  return pairs.map(({ refresh }) => ['POST', path, { refresh }])
}

async function versionsOf(postgres, redis) {
  const client = new Redis(redis.url)
  const info = await client.info('server')
  await client.quit()
  const versionIn = (name) =>
    JSON.parse(readFileSync(join(folder, 'node_modules', name, 'package.json'), 'utf8')).version
  return {
    postgres: await versionOf(postgres.url),
    redis: /redis_version:(\S+)/.exec(info)[1],
    accounts: versionIn('fastify-accounts'),
    betterAuth: versionIn('better-auth'),
  }
}
