import { setMaxListeners } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Mailer, Message } from '../contracts.ts'
import { within } from '../core/deadline.ts'
import { AccountsError } from '../errors.ts'
import { jsonLog } from '../mail/log.ts'
import { judgeFault, type MailOptions, mailChecks, openPost, retryDelay } from '../mail/transport.ts'
import { fn, integer, section } from '../options/checks.ts'

/** Options of `smtpMailer`. */
export interface SmtpMailerOptions extends MailOptions {
  /** The time in milliseconds. @default Date.now */
  clock?: () => number
  /** @internal Shortened by tests. */
  timing?: Partial<Timing>
}

interface Timing {
  retryMs: number
  retryMostMs: number
  drainMs: number
}

const resolve = section({
  ...mailChecks,
  clock: fn('() => milliseconds', () => Date.now()),
  timing: section<Timing>({
    retryMs: integer(1, 60_000, 2000),
    retryMostMs: integer(1, 60_000, 60_000),
    drainMs: integer(1, 60_000, 8000),
  }),
})

/** With this many mails on their way `send` rejects. */
export const mostPending = 10_000
/** `progress` remembers this many messages that were delivered or given up. */
export const mostDone = 10_000

/**
 * Makes a mailer that sends from this process, for hosts that want no worker.
 *
 * `send` settles before anything is sent, for mails and decoys alike, and adds a message once. A mail that fails is
 * tried again until the end of its life; it is in memory only, so a crash loses it. `progress` remembers the last
 * 10,000 that were sent or given up. `close` waits for mails on their way, at most 8 s.
 */
export function smtpMailer(options: SmtpMailerOptions): Mailer {
  const { log = jsonLog, clock, timing } = resolve('', options)
  const post = openPost(options)
  const { pending, track, stateOf } = deliveries()
  const closing = new AbortController()
  // Every mail that waits for its next attempt adds a listener.
  setMaxListeners(0, closing.signal)

  async function deliver(message: Message, attempt = 1): Promise<void> {
    const last = closing.signal.aborted
    if (clock() >= message.expiresAt) return report(message, 'EXPIRED')
    try {
      await post.deliver(message)
      if (message.to !== null) log.info({ event: 'mail.sent', id: message.id, kind: message.kind }, 'Mail sent')
    } catch (error) {
      const { reason, final, alarm } = judgeFault(error)
      if (final || last) return report(message, reason)
      log[alarm ? 'error' : 'warn'](
        { event: 'mail.retry', id: message.id, reason, attempt },
        'Mail will be tried again',
      )
      // Closing ends the wait: one last attempt, then the mail is given up.
      await sleep(retryDelay(attempt, timing), undefined, { signal: closing.signal }).catch(() => {})
      return deliver(message, attempt + 1)
    }
  }
  function report({ id, kind }: Message, reason: string): void {
    log.error({ event: 'mail.failed', id, kind, reason }, 'Mail given up')
  }

  return {
    inProcess: true,
    async send(message) {
      if (pending.size >= mostPending || closing.signal.aborted) throw new AccountsError('ACCOUNTS_UNAVAILABLE')
      if (stateOf(message.id) !== 'unknown') return
      const delivery = new Promise<void>((resolve) => setImmediate(resolve)).then(() => deliver({ ...message }))
      track(message.id, delivery)
    },
    progress: async (ids) => ids.map(stateOf),
    async ping() {
      if (pending.size >= mostPending || closing.signal.aborted) throw new AccountsError('ACCOUNTS_UNAVAILABLE')
    },
    async close() {
      closing.abort()
      await within(timing.drainMs, Promise.all(pending.values()))
      if (pending.size > 0) log.error({ event: 'mail.lost', count: pending.size }, 'Mails given up at shutdown')
      post.close()
    },
  }
}

/** Keeps track by id of what is on its way, and of the last that were sent or given up. */
function deliveries() {
  const pending = new Map<string, Promise<void>>()
  const done = new Set<string>()
  return {
    pending: pending as ReadonlyMap<string, Promise<void>>,
    track(id: string, delivery: Promise<void>): void {
      pending.set(id, delivery)
      delivery.finally(() => {
        pending.delete(id)
        done.add(id)
        if (done.size > mostDone) done.delete(done.values().next().value as string)
      })
    },
    stateOf(id: string) {
      if (done.has(id)) return 'done'
      return pending.has(id) ? 'pending' : 'unknown'
    },
  }
}
