import type { Mailer, Message } from '../../contracts.ts'
import { refuseProduction } from './state.ts'

/** A message that `memoryMailer` kept. */
export type SentMessage = Readonly<Message & { to: string }>

/** A mailer for tests and trials that keeps what was sent. */
export interface MemoryMailer extends Mailer {
  /** Every message sent so far, oldest first, without decoys. */
  readonly sent: SentMessage[]
}

/**
 * Makes a mailer that keeps messages in this process and delivers nothing.
 *
 * @throws {TypeError} with `NODE_ENV=production`, unless `singleProcess` is true
 */
export function memoryMailer(options: { singleProcess?: boolean } = {}): MemoryMailer {
  refuseProduction(
    options.singleProcess,
    'fastify-accounts: option "mailer" is a memoryMailer, which delivers nothing; pass "redis" for the mail queue, ' +
      'smtpMailer({ transport, from }), or memoryMailer({ singleProcess: true }) if that is intended',
  )
  const sent: SentMessage[] = []
  // Decoys too: they count as done like mails.
  const done = new Set<string>()
  return {
    inProcess: true,
    sent,
    async send(message) {
      if (done.has(message.id)) return
      done.add(message.id)
      if (message.to !== null) sent.push({ ...message, to: message.to, user: { ...message.user } })
    },
    async progress(ids) {
      return ids.map((id) => (done.has(id) ? 'done' : 'unknown'))
    },
    async ping() {},
    async close() {},
  }
}
