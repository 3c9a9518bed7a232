import { randomInt } from 'node:crypto'
import { type Cluster, Redis, type RedisOptions } from 'ioredis'
import { AccountsError } from '../../errors.ts'
import type { RedisSource } from '../../options/ports.ts'

/**
 * Opens a connection of our own with settings that fail fast: no offline queue, no command sent twice, 500 ms for a
 * reply, primary only, no key prefix. Never throws for a server that is down, and comes back by itself when it does.
 *
 * @param overrides a member that is `undefined` unsets ours; with `maxRetriesPerRequest: null` commands wait for ever
 * and those without a reply are sent again
 * @param onError called with the first fault of each outage, without the arguments of the command that met it
 * @throws {TypeError} for what is neither the address of a Redis nor a client
 */
export function openRedis(
  redis: RedisSource,
  overrides: RedisOptions = {},
  onError: (error: Error) => void = () => {},
): Redis | Cluster {
  if (typeof redis !== 'string' && typeof redis?.duplicate !== 'function') throw notAnAddress()
  const client = duplicate(typeof redis === 'string' ? template(redis) : redis, settings(overrides))
  let down = false
  client.on('ready', () => {
    down = false
  })
  client.on('error', (error: Error) => {
    if (down) return
    down = true
    onError(withoutArguments(error))
  })
  return client
}

/**
 * Opens a connection with the settings of another one of ours; beside a cluster's, to any one of its nodes. Undefined
 * while the cluster's nodes are not known.
 */
export function openBeside(
  client: Redis | Cluster,
  overrides: RedisOptions,
  onError: (error: Error) => void,
): Redis | undefined {
  const nodes = isCluster(client) ? client.nodes() : [client]
  const node = nodes[randomInt(nodes.length || 1)]
  return node && (openRedis(node, overrides, onError) as Redis)
}

// Parses only: duplicating it is what lets our settings win over those in the URL's query.
function template(url: string): Redis {
  // ioredis takes any text for a host name, and `REDISS://` for a connection without TLS.
  if (!/^(rediss?:\/\/|\/)/.test(url)) throw notAnAddress()
  try {
    return new Redis(url, { lazyConnect: true })
  } catch {
    // Not passed on as the cause: the parser's error holds the whole URL, and with it the password.
    throw notAnAddress()
  }
}

function notAnAddress(): TypeError {
  return new TypeError(
    '"redis" is not an address of a Redis; pass a URL like redis://localhost:6379 or an ioredis client',
  )
}

function settings(overrides: RedisOptions): RedisOptions {
  const merged: RedisOptions = {
    keyPrefix: '',
    enableOfflineQueue: false,
    commandTimeout: 500,
    connectTimeout: 1000,
    disconnectTimeout: 500,
    maxLoadingRetryTime: 1000,
    // Zero: a command without a reply when its connection breaks is refused at once.
    maxRetriesPerRequest: 0,
    // A client that never gives up on a command has to repeat it, or its caller waits for ever.
    autoResendUnfulfilledCommands: overrides.maxRetriesPerRequest === null,
    retryStrategy: (times) => Math.min(times * 100, 1000),
    // Primary only, also when the one behind this address was demoted.
    readOnly: false,
    role: 'master',
    reconnectOnError: (error) => error.message.includes('READONLY'),
    stringNumbers: false,
    replyMapping: 'legacy',
    enableAutoPipelining: false,
    lazyConnect: false,
    ...overrides,
  }
  // A link without a reply for so long is dead, even if nobody closed it (a host that vanished).
  const socketTimeout = merged.commandTimeout && 4 * merged.commandTimeout
  return { socketTimeout, ...merged }
}

function duplicate(client: Redis | Cluster, options: RedisOptions): Redis | Cluster {
  if (!isCluster(client)) return client.duplicate(options)
  const { keyPrefix, enableOfflineQueue, lazyConnect, retryStrategy, readOnly, ...redisOptions } = options
  return client.duplicate([], {
    keyPrefix,
    enableOfflineQueue,
    lazyConnect,
    enableAutoPipelining: false,
    scaleReads: 'master',
    clusterRetryStrategy: retryStrategy as (times: number) => number,
    // The cluster's own way of sending a command again that got no reply.
    retryDelayOnFailover: options.autoResendUnfulfilledCommands ? 100 : 0,
    slotsRefreshTimeout: 500,
    slotsRefreshInterval: 5000,
    redisOptions: { ...redisOptions, keyPrefix: '' },
  })
}

// Not `instanceof`: the host's client may come from another copy of ioredis.
function isCluster(client: Redis | Cluster): client is Cluster {
  return client.isCluster
}

/**
 * Waits until a connection attempt that is under way has ended, well or not, at most `ms`. Without it the first
 * commands after boot would fail on a healthy server, since nothing is queued.
 */
export function connected(client: Redis | Cluster, ms = 400): Promise<void> {
  if (client.status !== 'connecting' && client.status !== 'connect') return Promise.resolve()
  const attempt = attempts.get(client) ?? attemptEnds(client, ms).finally(() => attempts.delete(client))
  attempts.set(client, attempt)
  return attempt
}

// Shared, so that a thousand waiting commands are one listener.
const attempts = new WeakMap<Redis | Cluster, Promise<void>>()

function attemptEnds(client: Redis | Cluster, ms: number): Promise<void> {
  const ends = ['ready', 'error', 'close', 'end']
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms)
    function done() {
      clearTimeout(timer)
      for (const event of ends) client.off(event, done)
      resolve()
    }
    for (const event of ends) client.on(event, done)
  })
}

/** Copies an error of ioredis without the arguments of its command, which hold passwords, MACs and sealed values. */
export function withoutArguments(error: unknown): Error {
  const { message, name, code } = error as Error & { code?: string }
  const clean = new Error(message.replace(/,? with args beginning with.*/s, ''))
  return Object.assign(clean, { name }, code === undefined ? {} : { code })
}

/**
 * The fault of a command: `ACCOUNTS_UNAVAILABLE` unless Redis refused a command or a script of ours as wrong, which is
 * a bug. Both without the arguments of the command.
 */
export function commandFault(error: unknown): Error {
  const cause = withoutArguments(error)
  const bug = error instanceof TypeError || (cause.name === 'ReplyError' && !outageReplies.test(cause.message))
  return bug ? cause : new AccountsError('ACCOUNTS_UNAVAILABLE', { cause })
}

// Replies of a server that cannot serve now, or not us; in Redis 6 they stand behind a dash when a script met them.
const outageReplies = new RegExp(
  `(?:^|-)(?:${[
    ...['LOADING', 'BUSY', 'MASTERDOWN', 'READONLY', 'MISCONF', 'OOM', 'NOREPLICAS', 'ERR max number of clients'],
    ...['CLUSTERDOWN', 'TRYAGAIN', 'MOVED', 'ASK', 'NOAUTH', 'WRONGPASS', 'NOPERM'],
  ].join('|')})\\b`,
)
