import { randomBytes } from 'node:crypto'
import { createTransport } from 'nodemailer'
import PostalMime from 'postal-mime'
import t from 'tap'
import type { Message, MessageKind } from '../../lib/contracts.ts'
import { createRing } from '../../lib/core/secrets.ts'
import { openJob, sealJob } from '../../lib/mail/jobs.ts'
import type { MailLog } from '../../lib/mail/log.ts'
import { previewMails } from '../../lib/mail/preview.ts'
import { brandOf, render } from '../../lib/mail/render.ts'
import type { MailInput, MailTemplate, MailTemplates } from '../../lib/options/mail.ts'
import { sampleMessage } from '../../lib/testing/mailer.ts'

const requestedAt = Date.UTC(2026, 10, 22, 10, 15)

function written(
  changes: Partial<Message> = {},
  { brand = {}, template, templates }: { brand?: object; template?: MailTemplate; templates?: MailTemplates } = {},
) {
  const logged: Record<string, unknown>[] = []
  const note = (fields: Record<string, unknown>) => logged.push(fields)
  const log: MailLog = { info: note, warn: note, error: note }
  const message = sampleMessage({ requestedAt, ...changes })
  return { ...render(message, brandOf(brand, 'Acme'), templates ?? (template ? { reset: template } : {}), log), logged }
}

const codes = { reset: 10, verify: 1440, change: 60 }
const notices = ['password_changed', 'email_changed', 'account_deleted', 'account_exists', 'username_taken'] as const
const kinds = [...(Object.keys(codes) as (keyof typeof codes)[]), ...notices]

/** A message of a kind as the core sends it. */
function message(kind: MessageKind, changes: Partial<Message> = {}): Partial<Message> {
  if (kind in codes) return { kind, minutes: codes[kind as keyof typeof codes], ...changes }
  return { kind, code: null, minutes: 0, ...changes }
}

/** A part as it is read: without markup, references and line breaks. */
function reading(part: string): string {
  return part
    .replace(/<style>[^<]*<\/style>|<[^>]+>/g, '')
    .replace(/&#(\d+);/g, (_, number) => String.fromCodePoint(number))
    .replace(/\s+/g, ' ')
}

t.test('a reset mail says the code, its life, when and from where it was asked for, and what to do', async (t) => {
  const { subject, text, html } = written()

  t.equal(subject, 'Reset your Acme password')
  for (const part of [text, html]) {
    t.match(part, 'Hello Ada,')
    t.match(part, '1234 5678')
    t.match(part, '10 minutes')
    t.match(part.replaceAll('\n', ' '), '22 November 2026 at 10:15 UTC from 192.0.2.7')
    t.match(part, 'ignore this mail')
  }
  t.notMatch(subject, /\d/, 'a locked phone shows the subject')
  t.notMatch(text + html, /https?:\/\//, 'no link without a page')
})

t.test('each kind of mail says what happened and what to do', async (t) => {
  const says: Record<MessageKind, { subject: string; words: RegExp[] }> = {
    reset: { subject: 'Reset your Acme password', words: [/asked for a new password/, /valid for 10 minutes/] },
    verify: {
      subject: 'Confirm your e-mail address for Acme',
      words: [/registered at Acme with this e-mail address/, /valid for 24 hours/, /where you registered/],
    },
    change: {
      subject: 'Confirm your new e-mail address for Acme',
      words: [/wants to use this e-mail address for their Acme account/, /valid for 1 hour and/, /stays as it is/],
    },
    password_changed: {
      subject: 'Your Acme password was changed',
      words: [/If that was not you, ask for a new password at once/, /and write to help@acme\.test\./],
    },
    email_changed: {
      subject: 'The e-mail address of your Acme account was changed',
      words: [/it is no longer this one/, /If that was not you, .*write to help@acme\.test at once\./],
    },
    account_deleted: {
      subject: 'Your Acme account was deleted',
      words: [/nobody can log in to it any more/, /If that was not you, .*write to help@acme\.test at once/],
    },
    account_exists: {
      subject: 'You already have an account at Acme',
      words: [/tried to register at Acme/, /Log in with your password/, /ask for a new one/, /nothing has changed/],
    },
    username_taken: {
      subject: 'Your registration at Acme',
      words: [/the username "Ada" is taken/, /Register again with another username/, /nothing has changed/],
    },
  }
  t.strictSame(kinds.toSorted(), Object.keys(says).toSorted())
  for (const kind of kinds) {
    const { subject, text, html } = written(message(kind), { brand: { supportEmail: 'help@acme.test' } })

    t.equal(subject, says[kind].subject)
    for (const part of [text, html].map(reading)) {
      for (const words of [...says[kind].words, /on 22 November 2026 at 10:15 UTC from 192\.0\.2\.7\./]) {
        t.match(part, words, kind)
      }
      t.match(part, /Hello(?: Ada)?,/)
      t.notMatch(part, /undefined|null|NaN|ada@example\.com/, `${kind} names no address of a user`)
      t[kind in codes ? 'match' : 'notMatch'](part, /1234 5678|valid for/, kind)
    }
    t.notMatch(html, /<a href="(?!mailto:help@acme\.test")/, `${kind} has no link`)
  }
})

t.test('a notice tells what to do also without an address for questions', async (t) => {
  const advice = {
    password_changed: /ask for a new password at once, by "forgot password" on the login page\./,
    email_changed: /somebody else may have taken your account: ask Acme for help at once\./,
    account_deleted: /somebody may know your password: change that password wherever else you use it\./,
  }
  for (const [kind, words] of Object.entries(advice)) {
    const { text, html } = written(message(kind as MessageKind))

    for (const part of [text, html]) t.match(reading(part), words)
  }
})

t.test('a mail about what the app did by itself names no network', async (t) => {
  for (const kind of kinds) {
    const { text, html } = written(message(kind, { network: '' }))

    for (const part of [text, html].map(reading)) {
      t.match(part, /on 22 November 2026 at 10:15 UTC\./, kind)
      t.notMatch(part, / from |unknown network/, kind)
    }
  }
})

t.test('the owner of a taken username is not greeted by it, and a wanted name that is none is left out', async (t) => {
  t.match(written(message('username_taken')).text, /^Hello,\n/)
  for (const username of [null, 'evil.example', '\u202e']) {
    const { text } = written(message('username_taken', { user: { username, email: 'a@b.co' } }))
    t.match(reading(text), /but the username is taken\./)
  }
})

t.test('a notice that comes with a code, a life or a link shows none of them', async (t) => {
  for (const kind of notices) {
    const url = 'https://example.com/reset#token=x'
    const { text, html } = written(message(kind, { code: '12345678', token: 'x', url, minutes: 10 }))

    t.notMatch(text + html, /1234|10 minutes|https:/, kind)
  }
})

t.test('the life of a code is told in hours when it is whole hours', async (t) => {
  for (const [minutes, words] of [
    [1, '1 minute'],
    [59, '59 minutes'],
    [60, '1 hour'],
    [90, '90 minutes'],
    [120, '2 hours'],
    [1440, '24 hours'],
  ] as const) {
    const { text, html } = written({ kind: 'verify', minutes })

    for (const part of [text, html]) t.match(reading(part), `valid for ${words} and works once`)
  }
})

t.test('codes are grouped so that they can be read and typed', async (t) => {
  t.match(written({ code: '12345678' }).text, '    1234 5678\n')
  t.match(written({ code: '123456789' }).text, '    123 456 789\n')
  t.match(written({ code: '1234567890' }).text, '    12345 67890\n')
  t.match(written({ minutes: 1 }).text, /1 minute and/)
})

t.test('the link is whole in both parts, and the page still asks for the code', async (t) => {
  const url = `https://example.com/reset?a=1&b=2#token=${'A'.repeat(90)}`

  const { text, html } = written({ url, token: 'A'.repeat(90) })

  t.match(text, `\n${url}\n`)
  t.match(html, `href="${url.replaceAll('&', '&#38;')}"`)
  t.match(text, '1234 5678')
  t.match(text, 'type it on this page')
})

t.test('the text part has no line over 76 columns but the link', async (t) => {
  const long = 'Long '.repeat(20)
  for (const kind of kinds) {
    const { text } = written(message(kind, { user: { username: long, email: 'a@b.co' }, network: long }), {
      brand: { name: long.slice(0, 60), supportEmail: 'help@example.com' },
    })

    t.ok(
      text.split('\n').every((line) => line.length <= 76),
      kind,
    )
  }
})

t.test('[R-MAIL-3] what users typed is escaped and cannot turn, hide or link text', async (t) => {
  const { text, html } = written({
    user: { username: `<b onclick='x'>"&\u202e\u2066\u200f\u200b\u0000\r\nEve`, email: 'a@b.co' },
    network: '<i>\u202e',
  })

  t.match(html, '&#60;b onclick=&#39;x&#39;&#62;&#34;&#38; Eve')
  t.match(html, '&#60;i&#62;')
  t.notMatch(html, /<b |<i>/)
  t.match(text, `Hello <b onclick='x'>"& Eve,`)
  t.notMatch(text + html, /[\u202a-\u202e\u2066-\u2069\u200b\u200f\0\r]/)
})

const hostile = [
  'Eve\r\nBcc: eve@example.com\r\n\r\n<b>body</b>',
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  '{{7*7}} ${7*7} <%= 7*7 %>',
  '\u202egnp.exe\u2066\u200f\u0000',
  'http://evil.example/ click',
  'evil.example',
  'mailto:eve',
  '\ud800 lone',
  '&#60;b&#62;',
  'עדה',
]

/** Parses a mail as it goes over the wire. */
async function parsed(written: { subject: string; text: string; html: string }) {
  const transport = createTransport({ streamTransport: true, buffer: true })
  const envelope = { from: 'no-reply@example.com', to: ['ada@example.com'] }
  const { message } = await transport.sendMail({ ...written, envelope, from: envelope.from, to: envelope.to })
  return PostalMime.parse(message as Buffer)
}

t.test('[R-MAIL-3] hostile names and networks make no header, markup, link or turn in any kind of mail', async (t) => {
  for (const kind of kinds) {
    const calm = await parsed(written(message(kind)))
    const tags = (html = '') => html.match(/<[^>]*>/g)
    for (const username of hostile) {
      const mail = await parsed(written(message(kind, { user: { username, email: 'a@b.co' }, network: username })))
      const text = `${mail.text}${mail.html}`

      t.equal(mail.subject, calm.subject, `${kind} of ${JSON.stringify(username)}`)
      t.strictSame(
        mail.headers.map(({ key }) => key),
        calm.headers.map(({ key }) => key),
      )
      t.strictSame(mail.to, [{ name: '', address: 'ada@example.com' }])
      t.strictSame(mail.attachments, [])
      t.strictSame(tags(mail.html), tags(calm.html), 'not one tag or attribute more')
      t.notMatch(text, /[\u202a-\u202e\u2066-\u2069\u200e\u200f\0\ufffd]/)
      t.notMatch(text, /evil\.example|eve@|mailto:eve/)
      t.notMatch(text, /(?<!\d)49(?!\d)/, 'nothing is filled in')
    }
  }
})

t.test('a name that a mail client could make a link of is not greeted', async (t) => {
  for (const username of [
    'http://evil.example',
    'evil.example',
    'go to www evil',
    'a@evil.example',
    'evil\uff0ecom',
    'evil\u2024com',
  ]) {
    t.match(written({ user: { username, email: 'a@b.co' } }).text, /^Hello,\n/, username)
  }
  t.match(written({ user: { username: null, email: 'a@b.co' } }).text, /^Hello,\n/)
  t.match(written({ user: { username: 'Dr. A. Lovelace-Ó\u0301', email: 'a@b.co' } }).text, /^Hello Dr\. A\. Lovelace/)
  t.match(written({ user: { username: 'עדה', email: 'a@b.co' } }).html, '<bdi>Hello עדה,</bdi>')
  t.match(written({ network: 'evil.example/x' }).text, /unknown network/)
})

t.test('the brand alone restyles the mail', async (t) => {
  const brand = {
    name: 'Böse & Co',
    color: '#ff0',
    logoUrl: 'https://example.com/l.png?a=1&b=2',
    supportEmail: 'help@example.com',
  }
  const { subject, text, html } = written({ url: 'https://example.com/#token=x' }, { brand })

  t.equal(subject, 'Reset your Böse & Co password')
  t.match(html, 'Böse &#38; Co')
  t.match(html, 'background:#ff0;color:#000000')
  t.match(html, '<img src="https://example.com/l.png?a=1&#38;b=2"')
  t.match(html, 'mailto:help@example.com')
  t.match(text, 'help@example.com')
  t.match(
    written({ url: 'https://example.com/' }, { brand: { color: '#000080' } }).html,
    'background:#000080;color:#ffffff',
  )
})

t.test('a mail loads nothing but the logo and works in dark mode', async (t) => {
  for (const kind of kinds) {
    const { html } = written(message(kind), { brand: { logoUrl: 'https://example.com/l.png' } })

    t.strictSame(html.match(/(?:src|background|href)="[^"]*"|url\([^)]*\)|@import/g), [
      'src="https://example.com/l.png"',
    ])
    t.notMatch(html, /<script|<link|<form|<iframe/)
    t.match(html, 'prefers-color-scheme:dark')
    t.match(html, '<html lang="en"')
  }
})

t.test('a template of the host gets what it needs and nothing more', async (t) => {
  const inputs: MailInput[] = []
  const { subject, text, html } = written(
    { token: 'link-token', url: 'https://example.com/#token=link-token', locale: 'de' },
    {
      template: (input) => {
        inputs.push(input)
        return { subject: 'Dein Code', text: `Code: ${input.code}`, html: `<p>${input.code}</p>` }
      },
    },
  )

  t.strictSame([subject, text, html], ['Dein Code', 'Code: 12345678', '<p>12345678</p>'])
  t.strictSame(Object.keys(inputs[0]!).sort(), [
    'brand',
    'code',
    'kind',
    'locale',
    'minutes',
    'network',
    'requestedAt',
    'url',
    'user',
  ])
  t.match(inputs[0], { kind: 'reset', locale: 'de', requestedAt, user: { username: 'Ada' }, brand: { name: 'Acme' } })
})

t.test('a template that fails falls back to ours, and the log does not tell what it said', async (t) => {
  const broken: [string, () => unknown][] = [
    [
      'throws',
      () => {
        throw new Error('canary')
      },
    ],
    ['answers nothing', () => undefined],
    ['answers a text', () => 'canary'],
    ['answers a promise', () => Promise.reject(new Error('canary'))],
    ['leaves out the HTML', () => ({ subject: 'canary', text: 'canary' })],
    ['answers an empty text', () => ({ subject: 'canary', text: ' ', html: 'canary' })],
    ['breaks the subject', () => ({ subject: 'canary\r\nBcc: eve@example.com', text: 'canary', html: 'canary' })],
  ]
  for (const [what, template] of broken) {
    const { subject, text, logged } = written({}, { template: template as MailTemplate })

    t.equal(subject, 'Reset your Acme password', what)
    t.match(text, '1234 5678')
    t.match(logged, [{ event: 'mail.template', kind: 'reset' }], what)
    t.notMatch(JSON.stringify(logged), 'canary')
  }
})

t.test('a host writes any kind of mail, and one that fails falls back to ours of that kind', async (t) => {
  for (const kind of kinds) {
    const inputs: MailInput[] = []
    const own: MailTemplate = (input) => {
      inputs.push(input)
      return { subject: 'Own', text: 'Own', html: '<p>Own</p>' }
    }
    const broken: MailTemplate = () => {
      throw new Error('canary')
    }

    const { subject, logged } = written(message(kind), { templates: { [kind]: own } })
    const fallen = written(message(kind), { templates: { [kind]: broken } })

    t.equal(subject, 'Own')
    t.strictSame(logged, [])
    t.match(inputs, [{ kind, minutes: kind in codes ? codes[kind as keyof typeof codes] : 0 }])
    t.equal('code' in inputs[0]!, kind in codes, 'a notice has no code')
    t.strictSame({ ...fallen, logged: [] }, written(message(kind)))
    t.match(fallen.logged, [{ event: 'mail.template', kind }])
  }
})

t.test('sealed jobs of every kind are of one size and open again', async (t) => {
  const ring = createRing('accounts', [randomBytes(32).toString('base64url')])
  const users = [
    { username: null, email: 'a@b.co' },
    { username: 'Ada Lovelace of Ockham Park '.repeat(3), email: `${'a'.repeat(60)}@${'example.'.repeat(8)}com` },
  ]
  const url = `https://accounts.example.com/a/long/page/for/resets#token=${'A'.repeat(80)}`
  const messages = kinds.flatMap((kind) =>
    users.flatMap((user) => [
      sampleMessage(message(kind, { user, to: user.email, brand: { name: 'Acme', color: '#ff0' } })),
      sampleMessage(message(kind, { user, to: null, ...(kind === 'reset' ? { url, token: 'A'.repeat(80) } : {}) })),
    ]),
  )

  const jobs = messages.map((one) => sealJob(ring, one))

  t.equal(new Set(jobs.map(({ sealed }) => sealed.length)).size, 1)
  t.strictSame(
    jobs.map((job, at) => openJob(ring, `mail-${messages[at]!.id}`, job)),
    messages.map((one) => ({ ...one, brand: {} })),
  )
})

t.test('a preview shows every kind once, with the brand and the templates of the host', async (t) => {
  const logged: unknown[] = []
  const note = (fields: object) => logged.push(fields)
  const templates: MailTemplates = {
    verify: ({ code, minutes }) => ({ subject: 'Own', text: `${code} ${minutes}`, html: '<p>Own</p>' }),
    change: () => {
      throw new Error('canary')
    },
  }

  const plain = previewMails()
  const own = previewMails({ name: 'Acme' }, templates, { info: note, warn: note, error: note })

  t.strictSame(plain.map(({ kind }) => kind).toSorted(), kinds.toSorted())
  t.equal(new Set(plain.map(({ subject }) => subject)).size, kinds.length, 'subjects tell the kinds apart')
  t.ok(own.every(({ kind, subject }) => subject === 'Own' || subject.includes('Acme') || kind === 'verify'))
  t.match(
    own.find(({ kind }) => kind === 'verify'),
    { subject: 'Own', text: '12345678 1440' },
  )
  t.match(logged, [{ event: 'mail.template', kind: 'change' }])
  for (const { kind, text, html } of plain) {
    t.equal(/ {4}1234 5678\n/.test(text), kind in codes, kind)
    t.equal(html.includes('https://example.com/reset#token='), kind === 'reset', kind)
  }
  t.throws(() => previewMails({ color: 'red' }), /"brand.color"/)
})

t.test('a wrong brand is told by name', async (t) => {
  const wrong = {
    name: ['', 'a\nb', 'x'.repeat(65), 7],
    color: ['red', '#12', '#12345', 'url(x)', 7],
    logoUrl: ['http://example.com/l.png', 'javascript:alert(1)', 'data:image/png;base64,', 'logo.png', 7],
    supportEmail: ['nobody', 'a@b.co?subject=x', 'a@b.co"onclick="x', 7],
  }
  for (const [option, values] of Object.entries(wrong)) {
    for (const value of values) {
      t.throws(() => brandOf({ [option]: value }, 'Acme'), {
        name: 'TypeError',
        message: new RegExp(`"brand.${option}"`),
      })
    }
  }
  t.throws(() => brandOf({ colour: '#fff' } as object, 'Acme'), /"brand.colour" is unknown; did you mean "color"/)
  t.equal(brandOf({ logoUrl: 'http://localhost:3000/l.png' }, 'Acme').logoUrl, 'http://localhost:3000/l.png')
})
