import type { Queue } from 'bullmq'
import type { Cluster, Redis } from 'ioredis'
import type { Mailer, Message } from '../contracts.ts'
import { AccountsError } from '../errors.ts'
import { jobId, type MailSecret, queueName, queuePrefix, ringOf, sealJob } from '../mail/jobs.ts'
import type { RedisSource } from '../options/ports.ts'
import { realmName } from '../options/rules.ts'
import { commandFault, connected, openRedis } from './redis/connection.ts'

/** Options of `queueMailer`. */
export interface QueueMailerOptions {
  /** A URL or an ioredis client; connections of our own are opened beside it. */
  redis: RedisSource
  /** The secret of the accounts, or `[current, previous]`; the worker needs the same. */
  secret: MailSecret
  /** The realm; the worker needs the same. @default 'accounts' */
  name?: string
  /** Called with the faults of connections, for the log. */
  onError?: (error: Error) => void
  /** The time in milliseconds. @default Date.now */
  clock?: () => number
}

/** With more waiting jobs than this `send` rejects. */
export const mostWaiting = 10_000

/**
 * Makes a mailer that queues messages in Redis for the mail worker, which runs in a process of its own.
 *
 * `send` seals the message and adds exactly one job, also when it is called again before the end of the message. It
 * rejects within about a second when Redis is down or frozen, and while more than 10,000 jobs wait, and recovers by
 * itself. `progress` knows a message for an hour after it was sent, and for a day after it was given up.
 */
export function queueMailer(options: QueueMailerOptions): Mailer {
  const { redis, onError, clock = Date.now } = options
  const name = realmName('name', options.name)
  const ring = ringOf(name, options.secret)
  const connection = openRedis(redis, {}, onError)
  // Opened when it is first needed: BullMQ takes a tenth of a second and 10 MB that most processes never use.
  let opened: Promise<Queue> | undefined
  const open = () => (opened ??= openQueue(connection, name, onError))
  const waiting = waitingJobs(clock)
  async function command<T>(run: () => Promise<T>): Promise<T> {
    await connected(connection)
    return run().catch((error) => {
      throw commandFault(error)
    })
  }

  return {
    async send(message: Message) {
      const queue = await open()
      if (waiting(queue) > mostWaiting)
        throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: new Error('queue is full') })
      const id = jobId(message.id)
      // The job is forgotten an hour after it was sent; its id must not be taken again before the message's end.
      const deduplication = { id, ttl: Math.max(1, message.expiresAt - clock()) }
      await command(() => queue.add('mail', sealJob(ring, message), { jobId: id, deduplication }))
    },
    async progress(ids: string[]) {
      const queue = await open()
      const states = await command(() => Promise.all(ids.map((id) => queue.getJobState(jobId(id)))))
      return states.map(progressOf)
    },
    async ping() {
      await command(() => connection.ping())
    },
    async close() {
      await (await opened)?.close()
      // QUIT lets commands on their way finish; it fails at once when there is no connection.
      await connection.quit().catch(() => connection.disconnect())
    },
  }
}

async function openQueue(connection: Redis | Cluster, name: string, onError?: (error: Error) => void): Promise<Queue> {
  const { Queue } = await import('bullmq')
  const queue = new Queue(queueName, {
    connection,
    prefix: queuePrefix(name),
    // Without these a queue that starts while Redis is down waits or fails for ever.
    skipWaitingForReady: true,
    skipVersionCheck: true,
    skipMetasUpdate: true,
    defaultJobOptions: {
      // By age: a limit by count would forget a job, and with it that it was already added, under load.
      removeOnComplete: { age: 3600 },
      removeOnFail: { age: 86_400 },
      // The worker gives up at the end of the message's life, not after a number of attempts.
      attempts: 1_000_000,
      backoff: { type: 'mail' },
      // Stack traces are stored in the clear.
      stackTraceLimit: 0,
    },
  })
  queue.on('error', (error) => onError?.(error))
  return queue
}

// A job that failed and will be tried again is `delayed`; `failed` is final.
function progressOf(state: string): 'done' | 'pending' | 'unknown' {
  if (state === 'completed' || state === 'failed') return 'done'
  return state === 'unknown' ? 'unknown' : 'pending'
}

/** The number of jobs that wait, counted in the background at most once a second. */
function waitingJobs(clock: () => number): (queue: Queue) => number {
  const last = { count: 0, at: Number.NEGATIVE_INFINITY }
  async function recount(queue: Queue): Promise<void> {
    try {
      last.count = await queue.getJobCountByTypes('wait', 'delayed', 'prioritized')
    } catch {
      // Redis is away, and `send` reports that itself.
      last.count = 0
    }
  }
  return (queue) => {
    const now = clock()
    // Also after a clock that was set back.
    if (Math.abs(now - last.at) >= 1000) {
      last.at = now
      void recount(queue)
    }
    return last.count
  }
}
