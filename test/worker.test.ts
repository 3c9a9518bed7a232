import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { queueMailer } from '../lib/adapters/bullmq.ts'
import { createRing } from '../lib/core/secrets.ts'
import { sealJob } from '../lib/mail/jobs.ts'
import type { MailLog } from '../lib/mail/log.ts'
import { previewMails } from '../lib/mail/preview.ts'

import type { Mail } from '../lib/options/mail.ts'
import { mailerContract, sampleMessage } from '../lib/testing/mailer.ts'
import { type MailWorkerOptions, startMailWorker } from '../lib/worker.ts'
import {
  despiteLoad,
  faultProxy,
  freePort,
  noRedis,
  redisUrl,
  startRedis,
  uniqueName,
  until,
} from './helpers/helper.ts'
import { codeIn, type SmtpCatcher, smtpError, startSmtp } from './helpers/smtp-catcher.ts'

const secret = randomBytes(32).toString('base64url')
const from = 'Example <no-reply@example.com>'
const quick = { retryMs: 20, retryMostMs: 50 }

/** Something to wait for until it is let through. */
function gated() {
  const gate = { resolve: () => {}, promise: Promise.resolve() }
  gate.promise = new Promise((resolve) => {
    gate.resolve = resolve
  })
  return gate
}

/** A queue, a worker and what the worker logs, all of one realm. */
function realm(t: Test, options: Partial<MailWorkerOptions> & Pick<MailWorkerOptions, 'transport'>) {
  const name = options.name ?? uniqueName()
  const mailer = queueMailer({ redis: redisUrl(), secret, name })
  const connection = new Redis(redisUrl())
  const queue = new Queue('mail', { connection, prefix: `{${name}}` })
  const logged: { level: keyof MailLog; fields: Record<string, unknown>; text: string }[] = []
  const note = (level: keyof MailLog) => (fields: Record<string, unknown>, text: string) =>
    logged.push({ level, fields, text })
  const log = { info: note('info'), warn: note('warn'), error: note('error') }
  const worker = startMailWorker({ redis: redisUrl(), secret, from, log, timing: quick, ...options, name })
  t.teardown(async () => {
    await worker.close()
    await mailer.close()
    await queue.close()
    connection.disconnect()
  })
  const events = (event: string) => logged.filter(({ fields }) => fields.event === event)
  return { name, mailer, worker, queue, logged, events, connection }
}

async function catcher(t: Test, options?: Parameters<typeof startSmtp>[0]): Promise<SmtpCatcher> {
  const smtp = await startSmtp(options)
  t.teardown(() => smtp.close())
  return smtp
}

t.test('a queued mail arrives with its code in a text and an HTML part', async (t) => {
  const smtp = await catcher(t)
  const { mailer } = realm(t, { transport: smtp.url, brand: { name: 'Acme' } })
  const message = sampleMessage({ code: '01234567' })

  await mailer.send(message)
  await until(() => smtp.caught.length === 1)

  const [caught] = smtp.caught
  t.strictSame(caught!.recipients, ['ada@example.com'])
  t.match(caught!.mail, {
    subject: 'Reset your Acme password',
    from: { name: 'Example', address: 'no-reply@example.com' },
    to: [{ name: '', address: 'ada@example.com' }],
    messageId: `<${message.id}@example.com>`,
  })
  t.match(
    caught!.mail.headers.find(({ key }) => key === 'auto-submitted'),
    { value: 'auto-generated' },
  )
  t.equal(codeIn(caught!), '01234567')
  t.match(caught!.mail.html, '0123 4567')
})

t.test('each kind of mail is delivered, and its decoy is not', async (t) => {
  const smtp = await catcher(t)
  const { mailer, queue, logged } = realm(t, { transport: smtp.url })
  const previews = previewMails({ name: 'Example' })

  for (const { kind } of previews) {
    const code = kind === 'reset' || kind === 'verify' || kind === 'change' ? '01234567' : null
    const message = { id: `kind_${kind}`, kind, code, minutes: code ? 60 : 0 }
    await mailer.send(sampleMessage(message))
    await mailer.send(sampleMessage({ ...message, id: `decoy_${kind}`, to: null }))
  }
  await until(async () => (await queue.getCompletedCount()) === 2 * previews.length)

  t.strictSame(
    smtp.caught.map(({ recipients, mail }) => [recipients, mail.messageId, mail.subject]).toSorted(),
    previews.map(({ kind, subject }) => [['ada@example.com'], `<kind_${kind}@example.com>`, subject]).toSorted(),
  )
  for (const caught of smtp.caught) {
    const coded = /kind_(reset|verify|change)@/.test(caught.mail.messageId!)
    t.equal(codeIn(caught), coded ? '01234567' : '', `${caught.mail.subject}`)
    t.match(caught.mail.html, 'Hello')
  }
  t.strictSame(
    logged.flatMap(({ fields }) => (fields.event === 'mail.sent' ? [fields.kind] : [])).toSorted(),
    previews.map(({ kind }) => kind).toSorted(),
  )
})

t.test('a function gets the mail', async (t) => {
  const mails: Mail[] = []
  const { mailer, queue } = realm(t, { transport: async (mail) => mails.push(mail) })
  const message = sampleMessage()

  await mailer.send(message)
  await until(() => queue.getCompletedCount())

  t.match(mails, [
    {
      to: 'ada@example.com',
      from,
      subject: /Reset/,
      text: /1234 5678/,
      html: /1234 5678/,
      messageId: `<${message.id}@example.com>`,
    },
  ])
})

t.test('a ready transport is used and left open', async (t) => {
  const mails: Record<string, unknown>[] = []
  const state = { closed: false }
  const transport = {
    async sendMail(mail: Record<string, unknown>) {
      mails.push(mail)
    },
    close() {
      state.closed = true
    },
  }
  const { mailer, worker } = realm(t, { transport })

  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)
  await worker.close()

  t.match(mails, [{ disableFileAccess: true, disableUrlAccess: true, envelope: { to: ['ada@example.com'] } }])
  t.notOk(state.closed)
})

t.test('a mail is encoded by what is shorter, in ASCII or not', async (t) => {
  const written = {
    subject: 'Your code',
    text: 'Your code is 12345678.',
    html: `<p>${'Your code is 12345678. '.repeat(9)}</p>`,
  }
  const russian = { subject: 'Ваш код', text: 'Ваш код 12345678.', html: `<p>${'Ваш код 12345678. '.repeat(9)}</p>` }
  const heads = async (mail: typeof written, sender: string) => {
    const smtp = await catcher(t)
    const { mailer } = realm(t, { transport: smtp.url, from: sender, templates: { reset: () => mail } })
    await mailer.send(sampleMessage())
    await until(() => smtp.caught.length === 1)
    const { raw } = smtp.caught[0]!
    const encodings = [...raw.matchAll(/^Content-Transfer-Encoding: (\S+)/gim)].map(([, encoding]) => encoding)
    const words = [...raw.matchAll(/=\?UTF-8\?([BQ])\?/g)].map(([, letter]) => letter)
    return [...words, ...encodings]
  }

  t.same(await heads(written, 'Example <no-reply@example.com>'), ['7bit', 'quoted-printable'])
  t.same(await heads(written, 'Пример <no-reply@example.com>'), ['B', '7bit', 'quoted-printable'])
  t.same(await heads(russian, 'Example <no-reply@example.com>'), ['B', 'base64', 'base64'])
})

t.test('a decoy is dropped', async (t) => {
  const mails: Mail[] = []
  const { mailer, queue } = realm(t, { transport: async (mail) => mails.push(mail) })

  await mailer.send(sampleMessage({ to: null }))
  await until(() => queue.getCompletedCount())

  t.equal(mails.length, 0)
})

t.test('[R-MAIL-3] hostile names and networks make no second recipient, no header and no markup', async (t) => {
  const smtp = await catcher(t)
  const { mailer } = realm(t, { transport: smtp.url })
  const names = [
    'Eve\r\nBcc: eve@example.com\r\n\r\n<b>body</b>',
    'eve@example.com, mallory@example.com',
    '<script>alert(1)</script>',
    '<b>bold</b>',
    '{{7*7}} ${7*7} <%= 7*7 %>',
    '\u202egnp.exe\u2066\u200f',
    '"><img src=x onerror=alert(1)>',
    'http://evil.example/ click',
    '\ud800 lone',
  ]

  const previews = previewMails({ name: 'Example' })
  const subjects = new Set(previews.map(({ subject }) => subject))

  for (const { kind } of previews) {
    for (const name of names) {
      const user = { username: name, email: 'ada@example.com' }
      await mailer.send(sampleMessage({ kind, user, network: name }))
    }
  }
  await until(() => smtp.caught.length === names.length * previews.length)

  for (const { recipients, mail, raw } of smtp.caught) {
    t.strictSame(recipients, ['ada@example.com'])
    t.strictSame(mail.to, [{ name: '', address: 'ada@example.com' }])
    t.equal(mail.cc, undefined)
    t.equal(mail.bcc, undefined)
    t.ok(subjects.has(mail.subject!))
    t.notMatch(mail.html, /<script|<b>|<img|onerror=alert\(1\)>$/m)
    t.notMatch(`${mail.text}${mail.html}`, /[\u202a-\u202e\u2066-\u2069\u200e\u200f]/)
    t.notMatch(raw, /^Bcc:/im)
  }
  t.match(
    smtp.caught.map(({ mail }) => mail.text).join(),
    /Hello \{\{7\*7\}\} \$\{7\*7\} <%= 7\*7 %>,/,
    'nothing is filled in',
  )
})

t.test('[R-MAIL-3] an address that would be two is given up, not sent', async (t) => {
  const smtp = await catcher(t)
  const { mailer, events } = realm(t, { transport: smtp.url })
  const addresses = [
    'a@example.com, b@example.com',
    'a@example.com\r\nRCPT TO:<b@example.com>',
    'Group: a@example.com;',
    '"a b"@example.com',
    '<a@example.com>',
  ]

  for (const to of addresses) await mailer.send(sampleMessage({ to }))
  await until(() => events('mail.failed').length === addresses.length)

  t.equal(smtp.caught.length, 0)
  t.strictSame(new Set(events('mail.failed').map(({ fields }) => fields.reason)), new Set(['EENVELOPE API']))
})

const table: [string, Parameters<typeof startSmtp>[0], { final: boolean; alarm?: boolean; reason: string }][] = [
  ['450 to MAIL FROM', { onMailFrom: refuseOnce(450) }, { final: false, reason: '450 MAIL FROM' }],
  ['550 to MAIL FROM', { onMailFrom: refuseOnce(550) }, { final: false, alarm: true, reason: '550 MAIL FROM' }],
  ['530 to MAIL FROM', { onMailFrom: refuseOnce(530) }, { final: false, alarm: true, reason: '530 MAIL FROM' }],
  ['450 to RCPT TO', { onRcptTo: refuseOnce(450) }, { final: false, reason: '450 RCPT TO' }],
  ['421 to RCPT TO', { onRcptTo: refuseOnce(421) }, { final: false, reason: '421 CONN' }],
  ['550 to RCPT TO', { onRcptTo: refuseOnce(550) }, { final: true, reason: '550 RCPT TO' }],
  ['554 to RCPT TO', { onRcptTo: refuseOnce(554) }, { final: true, reason: '554 RCPT TO' }],
  ['451 to DATA', { onMail: failOnce(451) }, { final: false, reason: '451 DATA' }],
  ['552 to DATA', { onMail: failOnce(552) }, { final: true, reason: '552 DATA' }],
  ['421 to the greeting', { onConnect: refuseOnce(421) }, { final: false, reason: '421 CONN' }],
  ['554 to the greeting', { onConnect: refuseOnce(554) }, { final: false, alarm: true, reason: '554 CONN' }],
]
for (const [step, options, { final, alarm = false, reason }] of table) {
  t.test(`${step} ${final ? 'is final' : 'is tried again'}${alarm ? ' with an alarm' : ''}`, async (t) => {
    const smtp = await catcher(t, options)
    const { mailer, queue, events } = realm(t, { transport: smtp.url })

    await mailer.send(sampleMessage())
    await until(() => events(final ? 'mail.failed' : 'mail.sent').length === 1)

    t.equal(smtp.caught.length, final ? 0 : 1)
    t.match(events(final ? 'mail.failed' : 'mail.retry'), [
      { level: final || alarm ? 'error' : 'warn', fields: { reason } },
    ])
    if (final) t.match(await queue.getFailed(), [{ failedReason: reason, stacktrace: [] }])
  })
}

function refuseOnce(code: number) {
  const state = { refused: false }
  return (_subject: unknown, ...rest: unknown[]) => {
    const done = rest.at(-1) as (error?: Error) => void
    if (state.refused) return done()
    state.refused = true
    done(smtpError(code))
  }
}

function failOnce(code: number) {
  const state = { failed: false }
  return () => {
    if (state.failed) return
    state.failed = true
    throw smtpError(code)
  }
}

t.test('535 to the log-in is tried again with an alarm, and is not final', async (t) => {
  const state = { password: 'changed' }
  const smtp = await catcher(t, {
    authOptional: false,
    allowInsecureAuth: true,
    onAuth: (auth, _session, done) =>
      auth.password === state.password ? done(null, { user: 'mail' }) : done(smtpError(535)),
  })
  const { mailer, events } = realm(t, { transport: `smtp://mail:canary-password@127.0.0.1:${smtp.port}` })

  await mailer.send(sampleMessage())
  await until(() => events('mail.retry').length >= 2)
  state.password = 'canary-password'
  await until(() => smtp.caught.length === 1)

  t.match(events('mail.retry')[0], { level: 'error', fields: { reason: '535 AUTH' } })
})

t.test('[R-MAIL-4] a certificate that does not verify is an alarm and gets no mail', async (t) => {
  const smtp = await catcher(t, { disabledCommands: [] })
  const { mailer, events } = realm(t, { transport: smtp.url })

  await mailer.send(sampleMessage())
  await until(() => events('mail.retry').length >= 2)

  t.match(events('mail.retry')[0], { level: 'error', fields: { reason: /CERT/ } })
  t.equal(smtp.caught.length, 0)
})

t.test('mails that were queued while the mail server was down arrive when it is up', async (t) => {
  const port = await freePort()
  const { mailer, events } = realm(t, { transport: `smtp://127.0.0.1:${port}` })

  await mailer.send(sampleMessage({ code: '11112222' }))
  await until(() => events('mail.retry').length >= 3)
  const smtp = await catcher(t, { port })
  await until(() => smtp.caught.length === 1)

  t.equal(codeIn(smtp.caught[0]!), '11112222')
  t.match(events('mail.retry')[0], { level: 'warn', fields: { reason: 'ECONNREFUSED CONN' } })
})

t.test('a dead code is never mailed: retries end with the life of the message', async (t) => {
  const attempts: number[] = []
  const expiresAt = Date.now() + 300
  const { mailer, queue } = realm(t, {
    async transport() {
      attempts.push(Date.now())
      throw new Error('ada@example.com 12345678')
    },
  })

  await mailer.send(sampleMessage({ expiresAt }))
  await mailer.send(sampleMessage({ expiresAt: Date.now() - 1 }))
  await until(async () => (await queue.getFailedCount()) === 2)

  t.ok(attempts.length > 1)
  t.ok(attempts.every((at) => at < expiresAt))
  t.strictSame(
    (await queue.getFailed()).map(({ failedReason }) => failedReason),
    ['EXPIRED OPEN', 'EXPIRED OPEN'],
  )
})

t.test('[R-LOG-1] neither Redis nor the log keeps what a transport says', async (t) => {
  const { name, mailer, logged, events, connection } = realm(t, {
    async transport(mail) {
      throw Object.assign(new Error(`no: ${mail.to} ${mail.text}`), { code: `canary ${mail.to}`, response: mail.text })
    },
  })

  await mailer.send(sampleMessage({ id: 'one', to: 'canary@example.com', code: '90817263' }))
  await until(() => events('mail.retry').length >= 3)

  const stored = await connection.hgetall(`{${name}}:mail:mail-one`)
  t.match(stored, { failedReason: 'UNKNOWN SEND', stacktrace: '[]' })
  t.notMatch(JSON.stringify([stored, logged]), /canary|9081|smtp:/)
})

t.test('altered data is given up with an alarm and never mailed', async (t) => {
  const mails: Mail[] = []
  const name = uniqueName()
  const ring = createRing(name, [secret])
  const { queue, events } = realm(t, { name, transport: async (mail) => mails.push(mail) })
  const one = sealJob(ring, sampleMessage({ id: 'one' }))
  const { sealed } = one
  const at = sealed.length - 40
  const flipped = `${sealed.slice(0, at)}${sealed[at] === 'A' ? 'B' : 'A'}${sealed.slice(at + 1)}`

  await queue.add('reset', { ...one, sealed: flipped }, { jobId: 'mail-one' })
  await queue.add('reset', one, { jobId: 'mail-swapped' })
  await until(() => events('mail.failed').length === 2)

  t.equal(mails.length, 0)
  t.strictSame(
    events('mail.failed').map(({ level, fields }) => [level, fields.reason]),
    [
      ['error', 'ALTERED OPEN'],
      ['error', 'ALTERED OPEN'],
    ],
  )
})

t.test('a job of another secret, kind or version waits, and a worker that knows it sends it', async (t) => {
  const mails: Mail[] = []
  const name = uniqueName()
  const next = randomBytes(32).toString('base64url')
  const { queue } = realm(t, { name, transport: async (mail) => mails.push(mail) })
  const message = sampleMessage()
  const job = sealJob(createRing(name, [next]), message)
  await queue.add('reset', job, { jobId: `mail-${message.id}` })
  const newer = sealJob(createRing(name, [secret]), sampleMessage({ id: 'kind', kind: 'newsletter' as never }))
  await queue.add('mail', newer, { jobId: 'mail-kind' })
  await queue.add('reset', { ...job, v: 3, expiresAt: Date.now() + 200 }, { jobId: 'mail-version' })
  await until(async () => (await queue.getJob('mail-version'))?.isFailed())
  t.equal(await queue.getFailedCount(), 1, 'only what is past its end fails')
  t.equal(mails.length, 0)

  realm(t, { name, secret: [secret, next], transport: async (mail) => mails.push(mail) })
  await until(() => mails.length === 1)

  t.equal(mails[0]?.messageId, `<${message.id}@example.com>`)
})

t.test('two workers side by side send 200 mails once each', async (t) => {
  const smtp = await catcher(t)
  const name = uniqueName()
  const { mailer, queue } = realm(t, { name, transport: smtp.url })
  realm(t, { name, transport: smtp.url })
  const messages = Array.from({ length: 200 }, () => sampleMessage())

  // A slow Redis refuses what it cannot take in time, and a message that is sent again is queued once.
  for (let at = 0; at < messages.length; at += 20) {
    const batch = messages.slice(at, at + 20)
    await Promise.all(batch.map((message) => until(() => mailer.send(message).then(() => true))))
  }
  await until(async () => (await queue.getCompletedCount()) === 200, 60_000)

  t.equal(smtp.caught.length, 200)
  t.equal(new Set(smtp.caught.map(({ mail }) => mail.messageId)).size, 200)
})

t.test('close finishes the mail on the wire and takes no other', async (t) => {
  const sent: string[] = []
  const started: string[] = []
  const gate = gated()
  const { mailer, worker } = realm(t, {
    concurrency: 1,
    async transport(mail) {
      started.push(mail.messageId)
      await gate.promise
      sent.push(mail.messageId)
    },
  })
  await mailer.send(sampleMessage())
  await mailer.send(sampleMessage())
  await until(() => started.length === 1)

  const closed = worker.close()
  t.equal(await Promise.race([closed.then(() => 'closed'), sleep(100).then(() => 'waiting')]), 'waiting')
  gate.resolve()
  await closed

  t.equal(sent.length, 1)
  t.equal(started.length, 1)
})

t.test('close gives up on a mail that does not end, and another worker sends it', async (t) => {
  const mails: Mail[] = []
  const name = uniqueName()
  const timing = { ...quick, drainMs: 200, lockMs: 500, stalledMs: 300 }
  const stuck = realm(t, { name, timing, transport: () => new Promise(() => {}) })
  await stuck.mailer.send(sampleMessage())
  await until(async () => (await stuck.queue.getActiveCount()) === 1)

  const started = Date.now()
  await stuck.worker.close()
  t.ok(Date.now() - started < 2000)

  realm(t, { name, timing, transport: async (mail) => mails.push(mail) })
  await until(() => mails.length === 1)
})

t.test(
  'a worker that starts while Redis is down sends when it is up, and closes fast while it is down',
  { skip: noRedis },
  async (t) => {
    const server = await startRedis()
    await server.stop()
    const mails: Mail[] = []
    const options = { redis: server.url, secret, from, transport: async (mail: Mail) => mails.push(mail), log: silent }
    const worker = startMailWorker(options)
    const idle = startMailWorker(options)
    t.teardown(() => worker.close())
    const started = Date.now()
    await idle.close()
    t.ok(Date.now() - started < 1000)

    const again = await startRedis({ port: server.port })
    t.teardown(() => again.stop())
    const mailer = queueMailer({ redis: server.url, secret })
    t.teardown(() => mailer.close())
    await until(() =>
      mailer.send(sampleMessage()).then(
        () => true,
        () => false,
      ),
    )
    await until(() => mails.length === 1)
  },
)

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: silent,
    // A job that was handed over in an answer that got lost is taken again when its lock ends.
    timing: { ...quick, lockMs: 600, stalledMs: 300 },
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  await until(() => mails.length === 3)
})

const silent = { info() {}, warn() {}, error() {} }

/** A worker in a process of its own: the tests build dist before they run. */
function child(t: Test, { name, smtp, timing = {} }: { name: string; smtp: string; timing?: object }): ChildProcess {
  const options = { redis: redisUrl(), secret, from, name, transport: smtp, timing }
  const program = `
    import { startMailWorker } from './dist/worker.js'
    const worker = startMailWorker(${JSON.stringify(options)})
    process.once('SIGTERM', () => worker.close().then(() => process.exit(0)))`
  const started = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  t.teardown(() => started.kill('SIGKILL'))
  return started
}

t.test(
  '[R-MAIL-5] kill -9 loses no mail: copies are no more than kills, with one Message-ID and one code',
  async (t) => {
    const wire = { open: 0 }
    const held: ReturnType<typeof gated>[] = []
    const smtp = await catcher(t, {
      // The answer to DATA is held back, so that a worker can be killed between the mail and its receipt.
      onMail: async () => {
        wire.open++
        const gate = gated()
        held.push(gate)
        if (held.length > 1) gate.resolve()
        await gate.promise
      },
    })
    const name = uniqueName()
    const timing = { ...quick, lockMs: 600, stalledMs: 300 }
    const mailer = queueMailer({ redis: redisUrl(), secret, name })
    t.teardown(() => mailer.close())
    const first = child(t, { name, smtp: smtp.url, timing })
    await despiteLoad(() => mailer.send(sampleMessage({ id: 'killed', code: '55556666' })))
    await until(() => wire.open === 1)

    first.kill('SIGKILL')
    await once(first, 'exit')
    held[0]!.resolve()
    child(t, { name, smtp: smtp.url, timing })
    await until(() => smtp.caught.length === 2)

    t.strictSame(
      smtp.caught.map((caught) => [caught.mail.messageId, codeIn(caught)]),
      [
        ['<killed@example.com>', '55556666'],
        ['<killed@example.com>', '55556666'],
      ],
    )
  },
)

t.test('SIGTERM while a mail is on the wire delivers it once', async (t) => {
  const gate = gated()
  const wire = { open: 0 }
  const smtp = await catcher(t, {
    onMail: async () => {
      wire.open++
      await gate.promise
    },
  })
  const name = uniqueName()
  const mailer = queueMailer({ redis: redisUrl(), secret, name })
  t.teardown(() => mailer.close())
  const worker = child(t, { name, smtp: smtp.url })
  await despiteLoad(() => mailer.send(sampleMessage()))
  await until(() => wire.open === 1)

  worker.kill('SIGTERM')
  await sleep(200)
  gate.resolve()
  const [code] = await once(worker, 'exit')

  t.equal(code, 0)
  t.equal(smtp.caught.length, 1)
})

t.test('the queue with its worker keeps the contract of mailers', async (t) => {
  const { name } = realm(t, { transport: async () => {} })
  for (const { name: title, run } of mailerContract) {
    t.test(title, (t) => {
      const subject = queueMailer({ redis: redisUrl(), secret, name })
      t.teardown(() => subject.close())
      return despiteLoad(() => run(subject))
    })
  }
})

t.test('wrong options are told by name, and never shown when they may hold a password', async (t) => {
  const right = { redis: redisUrl(), secret, from, transport: 'smtp://127.0.0.1:1', log: silent }
  const wrong: [keyof MailWorkerOptions, unknown][] = [
    ['secret', 'canary'],
    ['secret', [null, 'canary']],
    ['name', 'Not a name'],
    ['redis', 'canary'],
    ['redis', { url: 'canary' }],
    ['redis', undefined],
    ['from', 'canary, b@example.com'],
    ['from', ['canary@example.com']],
    ['transport', 'http://user:canary@example.com'],
    ['transport', 7],
    ['transport', ['smtp://canary']],
    ['transport', Promise.resolve()],
    ['transport', undefined],
    ['concurrency', 0],
    ['clock', 5],
    ['log', { info() {} }],
    ['timing', { lockMs: 0 }],
    ['templates', [() => {}]],
    ['templates', null],
    ['brand', 7],
    ['brand', { colour: '#fff' }],
    ['brand', { color: 'red;background:url(x)' }],
    ['brand', { logoUrl: 'http://example.com/logo.png' }],
  ]
  for (const [option, value] of wrong) {
    const error = t.throws(
      () => startMailWorker({ ...right, [option]: value } as MailWorkerOptions),
      TypeError,
    ) as Error
    t.match(error.message, `"${option}`)
    t.notMatch(error.message, 'canary')
  }
})

t.test('an option or a template that the worker does not know is refused with the names that there are', async (t) => {
  const right = { redis: redisUrl(), secret, from, transport: 'smtp://127.0.0.1:1', log: silent }
  const template = () => ({ subject: 'a', text: 'a', html: 'a' })
  const wrong: [object, string][] = [
    [{ concurency: 5 }, '"concurency" is unknown; the names are transport, from, '],
    [{ template: { reset: template } }, '"template" is unknown; the names are transport, from, '],
    [{ templates: { rest: template } }, '"templates.rest" is unknown; the names are reset, verify, '],
    [
      { templates: { verify: 5 } },
      '"templates.verify" must be a function (input) => ({ subject, text, html }), but 5 ',
    ],
    [{ brand: { logo: 'https://example.com/l.png' } }, '"brand.logo" is unknown; the names are name, logoUrl, '],
    [{ timing: { retries: 5 } }, '"timing.retries" is unknown; the names are retryMs, '],
  ]
  for (const [options, says] of wrong) {
    const error = t.throws(() => startMailWorker({ ...right, ...options }), TypeError) as Error
    t.ok(error.message.startsWith(`fastify-accounts: option ${says}`), error.message)
  }
})
