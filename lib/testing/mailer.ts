import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import type { Mailer, Message } from '../contracts.ts'

/** One promise of the contract: `run` resolves when the adapter keeps it. */
export interface MailerCase {
  name: string
  run(subject: Mailer): Promise<void>
}

/** A message as the core sends it, for tests of mailers. */
export function sampleMessage(changes: Partial<Message> = {}): Message {
  const now = Date.now()
  return {
    id: randomBytes(16).toString('base64url'),
    kind: 'reset',
    to: 'ada@example.com',
    user: { username: 'Ada', email: 'ada@example.com' },
    code: '12345678',
    token: null,
    url: null,
    minutes: 10,
    requestedAt: now,
    network: '192.0.2.7',
    locale: 'en',
    brand: {},
    expiresAt: now + 600_000,
    ...changes,
  }
}

/**
 * What every mailer promises, for any test runner: give each case a fresh mailer whose dependencies are up.
 *
 * @example
 * for (const { name, run } of mailerContract) test(name, () => run(myMailer()))
 */
export const mailerContract: readonly MailerCase[] = [
  {
    name: 'a mail is accepted within a second',
    run: (subject) => accepts(subject, sampleMessage()),
  },
  {
    name: 'a decoy is accepted like a mail',
    run: (subject) => accepts(subject, sampleMessage({ to: null, user: { username: null, email: 'no@example.com' } })),
  },
  {
    name: 'a message is accepted again with the same id',
    async run(subject) {
      const message = sampleMessage()
      await accepts(subject, message)
      await accepts(subject, message)
    },
  },
  {
    name: 'fifty messages at once are accepted',
    async run(subject) {
      await Promise.all(Array.from({ length: 50 }, () => accepts(subject, sampleMessage())))
    },
  },
  {
    name: 'a message with a link, a long name and hostile texts is accepted',
    run: (subject) =>
      accepts(
        subject,
        sampleMessage({
          user: { username: '<script>\r\nBcc: eve@example.com\u202e'.repeat(3), email: 'ada@example.com' },
          token: 'A'.repeat(43),
          url: `https://example.com/reset#token=${'A'.repeat(43)}`,
          network: '"><img src=x>',
          locale: null,
        }),
      ),
  },
  {
    name: 'a message is not changed by sending it',
    async run(subject) {
      const message = sampleMessage()
      const before = structuredClone(message)
      await accepts(subject, Object.freeze({ ...message, user: Object.freeze({ ...message.user }) }))
      assert.deepEqual(message, before)
    },
  },
  {
    name: 'progress knows mails and decoys that were accepted, and no others, in the order of the ids',
    async run(subject) {
      const [mail, decoy] = [sampleMessage(), sampleMessage({ to: null })]
      await accepts(subject, mail)
      await accepts(subject, decoy)

      const states = await soon(subject.progress([decoy.id, 'never sent', mail.id, '', 'a:b', '1', mail.id]))

      assert.deepEqual(
        states.map((state) => (state === 'unknown' ? state : 'known')),
        ['known', 'unknown', 'known', 'unknown', 'unknown', 'unknown', 'known'],
      )
      assert.ok(states.every((state) => ['done', 'pending', 'unknown'].includes(state)))
      assert.deepEqual(await subject.progress([]), [])
    },
  },
  {
    name: 'progress reports on a hundred messages within a second',
    async run(subject) {
      const messages = Array.from({ length: 100 }, () => sampleMessage())
      await Promise.all(messages.map((message) => accepts(subject, message)))

      const states = await soon(subject.progress(messages.map(({ id }) => id)))

      assert.equal(states.length, 100)
      assert.ok(!states.includes('unknown'))
    },
  },
  {
    name: 'ping resolves within a second',
    run: (subject) => soon(subject.ping()),
  },
  {
    name: 'close finishes, also when it is called twice',
    async run(subject) {
      await accepts(subject, sampleMessage({ to: null }))
      await subject.close()
      await subject.close()
    },
  },
]

async function accepts(subject: Mailer, message: Message): Promise<void> {
  assert.equal(await soon(subject.send(message)), undefined)
}

async function soon<T>(promise: Promise<T>): Promise<T> {
  const started = Date.now()
  const result = await promise
  assert.ok(Date.now() - started < 1000, 'it took more than a second')
  return result
}
