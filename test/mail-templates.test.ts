import t from 'tap'
import type { Message } from '../lib/contracts.ts'
import type { MailLog } from '../lib/mail-log.ts'
import { brandOf, type MailInput, type MailTemplate, render } from '../lib/mail-templates.ts'
import { sampleMessage } from '../lib/testing/mailer.ts'

const requestedAt = Date.UTC(2026, 10, 22, 10, 15)

function written(
  changes: Partial<Message> = {},
  { brand = {}, template }: { brand?: object; template?: MailTemplate } = {},
) {
  const logged: Record<string, unknown>[] = []
  const note = (fields: Record<string, unknown>) => logged.push(fields)
  const log: MailLog = { info: note, warn: note, error: note }
  const message = sampleMessage({ requestedAt, ...changes })
  return { ...render(message, brandOf(brand, 'Acme'), template ? { reset: template } : {}, log), logged }
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
  const { text } = written(
    { user: { username: long, email: 'a@b.co' }, network: long },
    { brand: { name: long.slice(0, 60), supportEmail: 'help@example.com' } },
  )

  t.ok(text.split('\n').every((line) => line.length <= 76))
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
  const { html } = written({}, { brand: { logoUrl: 'https://example.com/l.png' } })

  t.strictSame(html.match(/(?:src|background|href)="[^"]*"|url\([^)]*\)|@import/g), ['src="https://example.com/l.png"'])
  t.notMatch(html, /<script|<link|<form|<iframe/)
  t.match(html, 'prefers-color-scheme:dark')
  t.match(html, '<html lang="en"')
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
