import { randomInt } from 'node:crypto'
import { createTransport, type SMTPPoolOptions } from 'nodemailer'
import type { Brand, Message } from '../contracts.ts'
import { beforeItExpires } from '../core/deadline.ts'
import { canonicalEmail } from '../core/email-address.ts'
import { anything, port, wrongOption } from '../options/checks.ts'
import type { Mail, MailTransport } from '../options/mail.ts'

import { brand, type MailTemplates, templates } from '../options/mail.ts'
import { jsonLog, type MailLog } from './log.ts'
import { brandOf, render } from './render.ts'

/** Options of every sender of mails. */
export interface MailOptions {
  transport: MailTransport
  /** The sender: an address, or `Example <no-reply@example.com>`. */
  from: string
  /** Restyles the built-in mails. @default the name in `from`, or its domain */
  brand?: Partial<Brand>
  /** Mails of your own. @default the built-in ones */
  templates?: MailTemplates
  /** @default JSON lines on stdout and stderr */
  log?: MailLog
}

/** The checks of `MailOptions`, for `section`. `openPost` looks at the sender and the transport. */
export const mailChecks = {
  transport: anything<MailTransport>(),
  from: anything<string>(),
  brand,
  templates,
  log: port<MailLog>(['info', 'warn', 'error'], 'a logger such as app.log'),
}

/** Writes messages and hands them to the transport. */
export interface MailPost {
  /** Sends a message; a decoy is written and dropped. Rejects with the transport's fault, see `judgeFault`. */
  deliver(message: Message): Promise<void>
  /** Closes the transport if it was opened here; a mail on the wire is cut off. */
  close(): void
}

/** A mail takes no longer than this, however slowly the server trickles its replies. */
const longestSendMs = 120_000

/** Checks the options and opens the transport. */
export function openPost(options: MailOptions): MailPost {
  const { templates = {}, log = jsonLog } = options
  const sender = parseSender(options.from)
  const brandFor = (message?: Message) => brandOf({ ...message?.brand, ...options.brand }, sender.name || sender.domain)
  brandFor()
  const { send, close } = openTransport(options.transport)

  return {
    async deliver(message) {
      const written = render(message, brandFor(message), templates, log)
      if (message.to === null) return
      // The core stores canonical addresses only; any other must not reach an address parser.
      if (canonicalEmail(message.to) === null)
        throw Object.assign(new Error('address'), { code: 'EENVELOPE', command: 'API' })
      const mail: Mail = {
        ...written,
        to: message.to,
        from: options.from,
        messageId: `<${encodeURIComponent(message.id)}@${sender.domain}>`,
        // RFC 3834: so that no holiday notice is sent in reply.
        headers: { 'Auto-Submitted': 'auto-generated', 'X-Auto-Response-Suppress': 'All' },
      }
      const deadline = new AbortController()
      const late = () => {
        deadline.abort()
        return Object.assign(new Error('timeout'), { code: 'ETIMEDOUT' })
      }
      // Its timer keeps no process, nor the mail once it was sent.
      await beforeItExpires(longestSendMs, send(mail, { sender, signal: deadline.signal }), late, 'unref')
    },
    close,
  }
}

interface Sender {
  name: string
  address: string
  domain: string
}

function parseSender(from: unknown): Sender {
  const text = typeof from === 'string' ? from : ''
  const [, name = '', inBrackets, bare] = /^(?:"?([^"<>@\p{Cc}]*?)"?\s*<([^<>\s]+)>|([^<>\s]+))$/u.exec(text) ?? []
  const address = inBrackets ?? bare ?? ''
  const domain = address.slice(address.lastIndexOf('@') + 1)
  // A development machine may send as root@localhost.
  if (canonicalEmail(address) === null && !/^[\w.+-]+@localhost$/.test(address)) {
    throw wrongOption('from', 'must be an address such as "Example <no-reply@example.com>"')
  }
  return { name, address, domain }
}

type Send = (mail: Mail, how: { sender: Sender; signal: AbortSignal }) => Promise<unknown>

function openTransport(transport: MailTransport): { send: Send; close(): void } {
  if (typeof transport === 'function') return { send: (mail) => Promise.resolve(transport(mail)), close() {} }
  if (hasSendMail(transport)) return { send: (mail, how) => transport.sendMail(sealedEnvelope(mail, how)), close() {} }
  const opened = createTransport(smtpOptions(transport))
  // `force`: the caller has waited long enough.
  return {
    send: (mail, how) => opened.sendMail({ ...sealedEnvelope(mail, how), ...encodingOf(mail) }),
    close: () => opened.transporter.close?.({ force: true }),
  }
}

function hasSendMail(transport: unknown): transport is { sendMail(mail: Record<string, unknown>): Promise<unknown> } {
  return typeof (transport as { sendMail?: unknown } | null)?.sendMail === 'function'
}

/** nodemailer parses addresses given as text, where a comma makes two recipients; it does not parse objects. */
function sealedEnvelope({ to, from, ...mail }: Mail, { sender, signal }: { sender: Sender; signal: AbortSignal }) {
  return {
    ...mail,
    signal,
    from: { name: sender.name, address: sender.address },
    to: { name: '', address: to },
    envelope: { from: sender.address, to: [to] },
    disableFileAccess: true,
    disableUrlAccess: true,
  }
}

// As nodemailer would choose, which counts all letters twice: a mail takes 0.9 of the CPU.
function encodingOf({ from, subject, text, html }: Mail): { textEncoding?: 'quoted-printable' } {
  const ascii = [from, subject, text, html].every((part) => Buffer.byteLength(part) === part.length)
  return ascii ? { textEncoding: 'quoted-printable' } : {}
}

/** nodemailer's own limits reach ten minutes; an unpooled connection is 15 times slower. */
export const smtpLimits = Object.freeze({
  pool: true,
  maxMessages: Number.POSITIVE_INFINITY,
  connectionTimeout: 10_000,
  greetingTimeout: 10_000,
  dnsTimeout: 10_000,
  socketTimeout: 30_000,
  disableFileAccess: true,
  disableUrlAccess: true,
})

/** Checks an SMTP URL or SMTP options and completes them with our limits. */
export function smtpOptions(transport: unknown): SMTPPoolOptions & { pool: true } {
  const fix = 'must be an SMTP URL, SMTP options, a nodemailer transport or a function (mail) => Promise'
  const given = typeof transport === 'string' ? { url: transport } : (transport as SMTPPoolOptions)
  // The value is not shown: it may hold a password.
  if (typeof given !== 'object' || given === null || Array.isArray(given) || given instanceof Promise)
    throw wrongOption('transport', fix, `a value of type ${typeof transport}`)
  const url = URL.canParse(`${given.url}`) ? new URL(`${given.url}`) : undefined
  if (given.url !== undefined && !/^smtps?:$/.test(url?.protocol ?? ''))
    throw wrongOption('transport', fix, 'another text')
  const host = url?.hostname ?? given.host ?? 'localhost'
  // Without this, an attacker who strips STARTTLS from the server's greeting gets the password.
  const requireTLS = Boolean(url?.username || given.auth) && !/^(localhost|127\.\d+\.\d+\.\d+|\[?::1\]?)$/.test(host)
  return { ...smtpLimits, ...(requireTLS ? { requireTLS } : {}), ...given, pool: true }
}

/** What a failed attempt means. */
export interface MailFault {
  /** Safe to store and to log: a code and a stage, no address and no driver's text. */
  reason: string
  /** Nothing will change when it is tried again. */
  final: boolean
  /** The configuration is wrong, and somebody should know now. */
  alarm: boolean
}

/** Judges a transport's fault: a 5xx to RCPT or DATA is final, everything else may pass. */
export function judgeFault(fault: unknown): MailFault {
  const { responseCode, code, originalCode, command } = Object(fault) as Record<string, unknown>
  const reply = Number.isInteger(responseCode) ? (responseCode as number) : 0
  const stage = stages.find((known) => `${command}`.startsWith(known)) ?? 'SEND'
  const word = [originalCode, code].find((text) => typeof text === 'string' && /^[A-Z][A-Z0-9_]{1,39}$/.test(text))
  const login = loginReplies.includes(reply) || loginCodes.includes(`${code}`)
  const refused = reply >= 500 && reply < 600
  const final = !login && ((refused && finalStages.includes(stage)) || (code === 'EENVELOPE' && !reply))
  const alarm = !final && (login || refused || tlsCodes.test(`${code} ${originalCode}`))
  return { reason: `${reply || word || 'UNKNOWN'} ${stage}`, final, alarm }
}

const stages = ['CONN', 'EHLO', 'HELO', 'STARTTLS', 'AUTH', 'MAIL FROM', 'RCPT TO', 'DATA', 'API']
const finalStages = ['RCPT TO', 'DATA', 'SEND']
// RFC 4954 6
const loginReplies = [530, 534, 535, 538]
const loginCodes = ['EAUTH', 'ENOAUTH', 'EOAUTH2']
const tlsCodes = /TLS|SSL|CERT|UNABLE_TO_|EPROTO\b/

/** How long to wait before attempt `attempt + 1`: doubled each time up to a minute, with jitter. */
export function retryDelay(
  attempt: number,
  { retryMs, retryMostMs }: { retryMs: number; retryMostMs: number },
): number {
  const most = Math.min(retryMs * 2 ** Math.min(attempt - 1, 20), retryMostMs)
  return randomInt(Math.ceil(most / 2), most + 1)
}
