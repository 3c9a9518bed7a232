import { DelayedError, type Job, UnrecoverableError, Worker } from 'bullmq'
import { openRedis } from './adapters/redis/connection.ts'
import { within } from './core/deadline.ts'
import { type MailJob, type MailSecret, openJob, queueName, queuePrefix, ringOf } from './mail/jobs.ts'
import { jsonLog, type MailLog } from './mail/log.ts'
import { judgeFault, type MailOptions, type MailPost, mailChecks, openPost, retryDelay } from './mail/transport.ts'
import { anything, fn, integer, section } from './options/checks.ts'
import type { RedisSource } from './options/ports.ts'
import { realmName } from './options/rules.ts'

export type { MailLog } from './mail/log.ts'
export type { Mail, MailBrand, MailInput, MailTemplate, MailTemplates, WrittenMail } from './options/mail.ts'

/** Options of `startMailWorker`. */
export interface MailWorkerOptions extends MailOptions {
  /** The Redis that the app queues its mails in. */
  redis: RedisSource
  /** The secret of the app, or `[current, previous]`. */
  secret: MailSecret
  /** The realm of the app. @default 'accounts' */
  name?: string
  /**
   * Mails taken at a time. Our SMTP pool sends five at once (its `maxConnections`), and finds the next ones waiting;
   * a transport of your own gets all of them at once.
   *
   * @default 10
   */
  concurrency?: number
  /** The time in milliseconds. @default Date.now */
  clock?: () => number
  /** @internal Shortened by tests. */
  timing?: Partial<Timing>
}

/** A running worker. */
export interface MailWorker {
  /** Stops taking mails and finishes those that it has, at most 8 s. What is not finished, another worker sends. */
  close(): Promise<void>
}

interface Timing {
  /** Wait before the second attempt; doubled each time. */
  retryMs: number
  retryMostMs: number
  /** How long a mail stays with a worker that has stopped responding. */
  lockMs: number
  /** How often workers look for mails of workers that died. */
  stalledMs: number
  drainMs: number
}

const resolve = section({
  ...mailChecks,
  redis: anything<RedisSource>(),
  secret: anything<MailSecret>(),
  name: realmName,
  concurrency: integer(1, 1000, 10),
  clock: fn('() => milliseconds', () => Date.now()),
  timing: section<Timing>({
    retryMs: integer(1, 60_000, 2000),
    retryMostMs: integer(1, 60_000, 60_000),
    lockMs: integer(1, 60_000, 20_000),
    stalledMs: integer(1, 60_000, 10_000),
    drainMs: integer(1, 60_000, 8000),
  }),
})

/**
 * Starts sending the mails that the app queues. Any number of workers may run side by side, and none needs the
 * database. A worker starts while Redis or the mail server is down and goes on when they are back.
 *
 * A mail is sent at least once: twice when a worker dies or loses its connection between the mail and its receipt, with
 * the same code and `Message-ID` in every copy. It is tried until the end of its life, never after it.
 */
export function startMailWorker(options: MailWorkerOptions): MailWorker {
  const { log = jsonLog, name, redis, secret, concurrency, clock, timing } = resolve('', options)
  const ring = ringOf(name, secret)
  const post = openPost(options)
  const connections = openConnections(redis, log)
  const process = processor({ open: (id, job) => openJob(ring, id, job), post, log, clock, timing })
  const active = activeWork()

  const worker = new Worker<MailJob>(queueName, (job, lock) => active.track(process(job, lock)), {
    connection: connections.main,
    prefix: queuePrefix(name),
    concurrency,
    lockDuration: timing.lockMs,
    stalledInterval: timing.stalledMs,
    // A mail is given up for its age, not because workers died.
    maxStalledCount: 10,
    settings: {
      backoffStrategy: (attempt, _type, _error, job) => untilEnd(job?.data, clock(), retryDelay(attempt, timing)),
    },
  })
  worker.on('error', (error) => {
    // While Redis is away the connection has reported it once, and BullMQ would report every attempt.
    if (connections.main.status !== 'ready') return
    log.warn({ event: 'mail.redis', error: codeOf(error) }, 'Fault of the mail queue')
  })
  worker.on('failed', (job, error) => {
    if (job?.finishedOn) log.error({ event: 'mail.failed', job: job.id, reason: error.message }, 'Mail given up')
  })
  worker.on('stalled', (id) => log.warn({ event: 'mail.stalled', job: id }, 'A worker died; the mail is sent again'))

  async function shutDown(): Promise<void> {
    // Nothing to finish: BullMQ would only wait for Redis to come back.
    const idle = active.count() === 0 && connections.main.status !== 'ready'
    const closing = worker.close(idle)
    await within(timing.drainMs, closing)
    if (active.count() > 0) log.warn({ event: 'mail.released', count: active.count() }, 'Mails left to another worker')
    active.abandon()
    // Before another worker can take what was left to it.
    post.close()
    connections.close()
    await within(500, closing)
  }
  let closed: Promise<void> | undefined
  return {
    close() {
      closed ??= shutDown()
      return closed
    },
  }
}

/** Keeps track of the mails that the worker has taken. */
function activeWork() {
  const abandons = new Set<() => void>()
  return {
    count: () => abandons.size,
    track: (work: Promise<void>) =>
      new Promise<void>((resolve, reject) => {
        // BullMQ stores nothing for this error: the job keeps its lock until that expires and another worker takes it.
        const abandon = () => reject(new DelayedError())
        abandons.add(abandon)
        work.then(resolve, reject).finally(() => abandons.delete(abandon))
      }),
    abandon() {
      for (const abandon of abandons) abandon()
    },
  }
}

interface Work {
  open(id: string, job: MailJob): ReturnType<typeof openJob>
  post: MailPost
  log: MailLog
  clock: () => number
  timing: Timing
}

function processor({ open, post, log, clock, timing }: Work) {
  return async (job: Job<MailJob>, lock: string | undefined): Promise<void> => {
    const message = open(job.id!, job.data)
    if (message === 'altered') throw new UnrecoverableError('ALTERED OPEN')
    const expiresAt = message === 'unknown' ? job.data?.expiresAt : message.expiresAt
    if (!(clock() < Number(expiresAt))) throw new UnrecoverableError('EXPIRED OPEN')
    if (message === 'unknown') {
      // Another worker may be able to open it: a newer one, or one with the other secret.
      log.warn({ event: 'mail.unknown', job: job.id }, 'Mail of another version or secret')
      await job.moveToDelayed(Date.now() + untilEnd(job.data, clock(), retryDelay(job.attemptsStarted, timing)), lock)
      throw new DelayedError()
    }
    try {
      await post.deliver(message)
    } catch (error) {
      const { reason, final, alarm } = judgeFault(error)
      if (final) throw new UnrecoverableError(reason)
      const fields = { event: 'mail.retry', job: job.id, reason, attempt: job.attemptsMade + 1 }
      log[alarm ? 'error' : 'warn'](fields, 'Mail will be tried again')
      // Redis keeps the text of this error: never the transport's own.
      throw new Error(reason)
    }
    if (message.to !== null) log.info({ event: 'mail.sent', job: job.id, kind: message.kind }, 'Mail sent')
  }
}

/** A wait that does not reach past the end of the message's life, when the job is looked at a last time. */
function untilEnd(job: MailJob | undefined, now: number, delay: number): number {
  const left = (job?.expiresAt ?? now) - now
  return Math.max(1, Math.min(delay, left))
}

/** BullMQ opens a second connection by duplicating the first and cannot close it while Redis is frozen: keep track. */
function openConnections(redis: RedisSource, log: MailLog) {
  const main = openRedis(
    redis,
    // Workers wait for Redis as long as it takes, but never block for 20 s: a link silent for so long is dead.
    { maxRetriesPerRequest: null, enableOfflineQueue: true, commandTimeout: undefined, socketTimeout: 20_000 },
    (error) => log.warn({ event: 'mail.redis', error: codeOf(error) }, 'Redis is away'),
  )
  const all = [main]
  const duplicate = main.duplicate.bind(main) as (...args: unknown[]) => typeof main
  main.duplicate = ((...args: unknown[]) => {
    const copy = duplicate(...args)
    all.push(copy)
    return copy
  }) as typeof main.duplicate
  main.on('ready', () => log.info({ event: 'mail.ready' }, 'Connected to Redis'))
  return {
    main,
    close() {
      for (const connection of all) connection.disconnect()
    },
  }
}

/** What may be logged of a driver's error, whose text may contain addresses and commands. */
function codeOf(error: Error): string {
  return String((error as NodeJS.ErrnoException).code ?? error.name)
}
