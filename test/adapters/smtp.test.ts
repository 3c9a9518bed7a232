import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { smtpMailer } from '../../lib/adapters/smtp.ts'
import type { MailLog } from '../../lib/mail/log.ts'
import { openPost, smtpLimits, smtpOptions } from '../../lib/mail/transport.ts'
import type { Mail } from '../../lib/options/mail.ts'
import { mailerContract, sampleMessage } from '../../lib/testing/mailer.ts'
import { freePort, until } from '../helpers/helper.ts'
import { codeIn, type SmtpCatcher, smtpError, startSmtp } from '../helpers/smtp-catcher.ts'

const from = '"Example Ltd" <no-reply@example.com>'
const timing = { retryMs: 20, retryMostMs: 50 }

function mailer(
  t: Test,
  options: Partial<Parameters<typeof smtpMailer>[0]> & Pick<Parameters<typeof smtpMailer>[0], 'transport'>,
) {
  const logged: { level: keyof MailLog; fields: Record<string, unknown> }[] = []
  const note = (level: keyof MailLog) => (fields: Record<string, unknown>) => logged.push({ level, fields })
  const log = { info: note('info'), warn: note('warn'), error: note('error') }
  const subject = smtpMailer({ from, log, timing, ...options })
  t.teardown(() => subject.close())
  const events = (event: string) => logged.filter(({ fields }) => fields.event === event)
  return { subject, logged, events }
}

async function catcher(t: Test, options?: Parameters<typeof startSmtp>[0]): Promise<SmtpCatcher> {
  const smtp = await startSmtp(options)
  t.teardown(() => smtp.close())
  return smtp
}

t.test('smtpMailer keeps the contract of mailers', async (t) => {
  const smtp = await catcher(t)
  for (const { name, run } of mailerContract) {
    t.test(name, (t) => run(mailer(t, { transport: smtp.url }).subject))
  }
})

t.test('a mail arrives, with the brand of the app unless the mailer has its own', async (t) => {
  const smtp = await catcher(t)
  const message = sampleMessage({ brand: { name: 'Acme', color: '#ff0000' } })

  await mailer(t, { transport: smtp.url }).subject.send({ ...message, id: 'one' })
  await mailer(t, { transport: smtp.url, brand: { name: 'Other' } }).subject.send({ ...message, id: 'two' })
  await mailer(t, { transport: smtp.url }).subject.send({ ...message, id: 'three', brand: {} })
  await until(() => smtp.caught.length === 3)

  const byId = Object.fromEntries(smtp.caught.map((caught) => [caught.mail.messageId, caught]))
  t.equal(byId['<one@example.com>']?.mail.subject, 'Reset your Acme password')
  t.match(byId['<one@example.com>']?.mail.html, '#ff0000')
  t.equal(byId['<two@example.com>']?.mail.subject, 'Reset your Other password')
  t.equal(byId['<three@example.com>']?.mail.subject, 'Reset your Example Ltd password')
  t.equal(codeIn(byId['<one@example.com>']!), message.code)
})

t.test('[R-ENUM-3] send answers before anything is sent, for mails and decoys alike', async (t) => {
  const sent: Mail[] = []
  const rendered: string[] = []
  const { subject } = mailer(t, {
    transport: async (mail) => sent.push(mail),
    templates: {
      reset: ({ user }) => {
        rendered.push(user.email)
        return { subject: 'Code', text: 'text', html: 'html' }
      },
    },
  })

  await subject.send(sampleMessage({ user: { username: null, email: 'known@example.com' } }))
  await subject.send(sampleMessage({ to: null, user: { username: null, email: 'unknown@example.com' } }))
  t.strictSame([sent.length, rendered.length], [0, 0])
  await until(() => rendered.length === 2)

  t.strictSame(rendered, ['known@example.com', 'unknown@example.com'])
  t.equal(sent.length, 1)
})

t.test('a mail that was accepted while the mail server was down arrives when it is up', async (t) => {
  const port = await freePort()
  const { subject, events } = mailer(t, { transport: `smtp://127.0.0.1:${port}` })

  await t.resolves(subject.send(sampleMessage()))
  await until(() => events('mail.retry').length >= 3)
  const smtp = await catcher(t, { port })

  await until(() => smtp.caught.length === 1)
  t.match(events('mail.retry')[0], { level: 'warn', fields: { reason: 'ECONNREFUSED CONN' } })
})

t.test('a refused recipient is final, and nobody is told but the log', async (t) => {
  const smtp = await catcher(t, { onRcptTo: (_address, _session, done) => done(smtpError(550)) })
  const { subject, events, logged } = mailer(t, { transport: smtp.url })

  await t.resolves(subject.send(sampleMessage()))
  await until(() => events('mail.failed').length === 1)

  t.match(events('mail.failed'), [{ level: 'error', fields: { reason: '550 RCPT TO' } }])
  t.equal(events('mail.retry').length, 0)
  t.notMatch(JSON.stringify(logged), /ada@example|12345678/)
})

t.test('a dead code is never mailed', async (t) => {
  const time = { now: 1000 }
  const attempts: number[] = []
  const { subject, events } = mailer(t, {
    clock: () => time.now,
    async transport() {
      attempts.push(time.now)
      time.now += 1000
      throw new Error('down')
    },
  })

  await subject.send(sampleMessage({ expiresAt: 3000 }))
  await until(() => events('mail.failed').length === 1)

  t.strictSame(attempts, [1000, 2000])
  t.match(events('mail.failed'), [{ fields: { reason: 'EXPIRED' } }])
})

t.test('progress knows what is on its way, and what was sent or given up', async (t) => {
  const gates: Record<string, () => void> = {}
  const { subject, events } = mailer(t, {
    transport: ({ messageId }) =>
      new Promise((resolve, reject) => {
        gates[messageId] = () => (messageId.includes('refused') ? reject(smtpError(550)) : resolve(undefined))
      }),
  })
  const ids = ['sent', 'refused', 'decoy', 'never']
  await subject.send(sampleMessage({ id: 'sent' }))
  await subject.send(sampleMessage({ id: 'refused' }))
  await subject.send(sampleMessage({ id: 'decoy', to: null }))
  t.strictSame(await subject.progress(ids), ['pending', 'pending', 'pending', 'unknown'])

  await until(() => Object.keys(gates).length === 2)
  t.strictSame(await subject.progress(ids), ['pending', 'pending', 'done', 'unknown'])
  for (const open of Object.values(gates)) open()
  await until(() => events('mail.sent').length + events('mail.failed').length === 2)

  t.strictSame(await subject.progress(ids), ['done', 'done', 'done', 'unknown'])
})

t.test('a message of one id is sent once', async (t) => {
  const sent: unknown[] = []
  const { subject } = mailer(t, { transport: async (mail: unknown) => sent.push(mail) })
  await Promise.all(Array.from({ length: 5 }, () => subject.send(sampleMessage({ id: 'one' }))))
  await until(async () => (await subject.progress(['one']))[0] === 'done')

  await subject.send(sampleMessage({ id: 'one' }))
  await subject.send(sampleMessage({ id: 'two' }))
  await until(async () => (await subject.progress(['two']))[0] === 'done')

  t.equal(sent.length, 2)
})

t.test('progress remembers the last 10,000 that were sent', async (t) => {
  const { subject } = mailer(t, { transport: async () => {} })
  const send = async (id: string) => {
    await subject.send(sampleMessage({ id, to: null }))
    await until(async () => (await subject.progress([id]))[0] === 'done')
  }
  await send('second')
  await send('first')

  for (let last = 0; last < 9999; last += 101) {
    await Promise.all(
      Array.from({ length: 101 }, (_, n) => subject.send(sampleMessage({ id: `${last + n}`, to: null }))),
    )
  }
  await until(async () => (await subject.progress(['9998']))[0] === 'done')

  t.strictSame(await subject.progress(['second', 'first', '0', '9998']), ['unknown', 'done', 'done', 'done'])
  await send('more')
  t.strictSame(await subject.progress(['first', '0']), ['unknown', 'done'])
})

t.test('close waits for the mail on the wire and tries what waits a last time', async (t) => {
  const state = { down: true }
  const sent: string[] = []
  const { subject, events } = mailer(t, {
    timing: { retryMs: 60_000, retryMostMs: 60_000 },
    async transport(mail) {
      if (state.down) throw Object.assign(new Error('down'), { code: 'ECONNREFUSED' })
      await new Promise((resolve) => setTimeout(resolve, 50))
      sent.push(mail.messageId)
    },
  })
  await subject.send(sampleMessage({ id: 'waits' }))
  await until(() => events('mail.retry').length === 1)
  state.down = false
  await subject.send(sampleMessage({ id: 'new' }))

  await subject.close()

  t.strictSame(sent.sort(), ['<new@example.com>', '<waits@example.com>'])
  await t.rejects(subject.send(sampleMessage()), { code: 'ACCOUNTS_UNAVAILABLE' })
})

t.test('close gives up after its time', async (t) => {
  const { subject, events } = mailer(t, { timing: { drainMs: 100 }, transport: () => new Promise(() => {}) })
  await subject.send(sampleMessage())

  const started = Date.now()
  await subject.close()

  t.ok(Date.now() - started < 1000)
  t.match(events('mail.lost'), [{ level: 'error', fields: { count: 1 } }])
})

t.test('more than 10,000 mails on their way are refused, decoys too', async (t) => {
  const gates: (() => void)[] = []
  const { subject } = mailer(t, { transport: () => new Promise<void>((resolve) => gates.push(resolve)) })
  await Promise.all(Array.from({ length: 10_000 }, () => subject.send(sampleMessage())))

  await t.rejects(subject.send(sampleMessage()), { code: 'ACCOUNTS_UNAVAILABLE' })
  await t.rejects(subject.send(sampleMessage({ to: null })), { code: 'ACCOUNTS_UNAVAILABLE' })
  await t.rejects(subject.ping(), { code: 'ACCOUNTS_UNAVAILABLE' })
  await until(() => gates.length === 10_000)
  for (const open of gates) open()

  await until(() =>
    subject.send(sampleMessage({ to: null })).then(
      () => true,
      () => false,
    ),
  )
})

t.test('[R-MAIL-4] files and addresses are never read, and no wait is longer than 30 s', async (t) => {
  t.match(smtpLimits, { pool: true, disableFileAccess: true, disableUrlAccess: true })
  t.match(smtpLimits, { connectionTimeout: 10_000, greetingTimeout: 10_000, socketTimeout: 30_000 })
  t.equal(smtpLimits.maxMessages, Number.POSITIVE_INFINITY)
})

t.test('[R-MAIL-4] a password is sent to another machine over TLS only, unless the host says otherwise', async (t) => {
  const auth = { user: 'mail', pass: 'secret' }

  t.match(smtpOptions('smtp://mail:secret@mail.example.com'), { requireTLS: true })
  t.match(smtpOptions({ host: 'mail.example.com', auth }), { requireTLS: true })
  t.equal(smtpOptions('smtp://mail.example.com').requireTLS, undefined)
  t.equal(smtpOptions('smtp://mail:secret@127.0.0.1:2525').requireTLS, undefined)
  t.equal(smtpOptions({ host: 'mail.example.com', auth, requireTLS: false }).requireTLS, false)
  t.match(smtpOptions({ host: 'mail.example.com', socketTimeout: 1000 }), {
    socketTimeout: 1000,
    greetingTimeout: 10_000,
  })
})

t.test('wrong options are told by name', async (t) => {
  t.throws(() => smtpMailer({ transport: 'canary', from }), { name: 'TypeError', message: /"transport"/ })
  t.throws(() => smtpMailer({ transport: 'smtp://127.0.0.1', from: '' }), { name: 'TypeError', message: /"from"/ })
  t.throws(() => smtpMailer({ transport: 'smtp://127.0.0.1', from: 'a@b.co\r\nBcc: c@d.co' }), {
    name: 'TypeError',
    message: /"from"/,
  })
  t.throws(() => smtpMailer({ transport: 'smtp://127.0.0.1', from, brand: { color: 'red' } }), {
    name: 'TypeError',
    message: /"brand.color"/,
  })
  const right = { transport: 'smtp://127.0.0.1', from }
  const unknown = [
    { brnd: {} },
    { clock: 5 },
    { log: {} },
    { templates: { rest: () => {} } },
    { templates: { reset: 5 } },
    { timing: { retryMs: '1' } },
  ]
  for (const options of unknown) {
    const [name] = Object.keys(options)
    const { message } = t.throws(() => smtpMailer({ ...right, ...(options as object) }), TypeError) as Error
    t.match(message, `option "${name}`)
  }
})

t.test('a mail that takes two minutes is given up and cut off; no timer outlives one that was sent', async (t) => {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
  const signals: AbortSignal[] = []
  const sendMail = ({ signal }: Record<string, unknown>, done: Promise<void>) => {
    signals.push(signal as AbortSignal)
    return done
  }
  const stuck = openPost({ from, transport: { sendMail: (mail) => sendMail(mail, new Promise(() => {})) } })
  const quick = openPost({ from, transport: { sendMail: (mail) => sendMail(mail, Promise.resolve()) } })

  const outcome = stuck.deliver(sampleMessage()).then(
    () => 'sent',
    (error) => error.code,
  )
  await quick.deliver(sampleMessage())
  mock.timers.tick(119_999)
  t.same(
    signals.map(({ aborted }) => aborted),
    [false, false],
  )
  mock.timers.tick(1)

  t.equal(await outcome, 'ETIMEDOUT')
  t.same(
    signals.map(({ aborted }) => aborted),
    [true, false],
  )
})
