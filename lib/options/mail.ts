import type { SMTPPoolOptions } from 'nodemailer'
import type { Brand, Message, MessageKind } from '../contracts.ts'
import { type Check, fn, optionalText, section, shown, webAddress, wrongOption } from './checks.ts'

/** A brand with its defaults filled in. */
export type MailBrand = Partial<Brand> & Pick<Brand, 'name' | 'color'>

/** What a template writes from. Strangers may have typed what is in `user` and `network`: escape it in HTML. */
export interface MailInput {
  kind: MessageKind
  /** The digits that the user types, without spaces; a notice has none. */
  code?: string
  /** The page where the code is typed. */
  url?: string
  /** How many minutes the code lives; 0 in a notice. */
  minutes: number
  /** When the code was asked for, or the change was made: milliseconds. */
  requestedAt: number
  /** The network that asked; empty when no request did. */
  network: string
  user: Message['user']
  brand: MailBrand
  /** The first language of the request, or null. */
  locale: string | null
}

/** The texts of a mail. */
export interface WrittenMail {
  subject: string
  text: string
  html: string
}

/** Writes a mail. One that throws or returns something else is replaced by the built-in one. */
export type MailTemplate = (input: MailInput) => WrittenMail

/** Templates of the host, by kind. */
export type MailTemplates = Partial<Record<MessageKind, MailTemplate>>

/** A mail on its way to a transport. */
export interface Mail extends WrittenMail {
  /** One bare address. */
  to: string
  /** As configured, such as `Example <no-reply@example.com>`. */
  from: string
  /** The same in every copy of the mail. */
  messageId: string
  headers: Readonly<Record<string, string>>
}

/**
 * How mails leave: an SMTP URL or nodemailer's SMTP options, a ready nodemailer transport, or a function that hands the
 * mail to a provider. When it throws, the mail is tried again, unless the error has a `responseCode` of 500 or more.
 */
export type MailTransport =
  | string
  | SMTPPoolOptions
  | { sendMail(mail: Record<string, unknown>): Promise<unknown> }
  | ((mail: Mail) => Promise<unknown>)

/** How mails look. */
export const brand = section<{ [Name in keyof Brand]: Brand[Name] | undefined }>({
  name: optionalText(/^[^\p{Cc}]{1,64}$/u, 'must be a name of at most 64 characters'),
  logoUrl: (path, given) => {
    if (given === undefined || webAddress(given)) return given as string | undefined
    throw wrongOption(path, 'must be an https address (http on localhost)', shown(given))
  },
  color: optionalText(/^#([0-9a-f]{3}|[0-9a-f]{6})$/i, 'must be a colour such as "#0055aa"'),
  supportEmail: optionalText(/^[^\s@<>"?&]+@[^\s@<>"?&]+$/, 'must be an e-mail address'),
})

const template = fn('(input) => ({ subject, text, html })', undefined as MailTemplates[MessageKind])

/** Mails of the host's own, by kind. */
export const templates = section<{ [Kind in MessageKind]: MailTemplates[Kind] }>({
  reset: template,
  verify: template,
  change: template,
  password_changed: template,
  email_changed: template,
  account_deleted: template,
  account_exists: template,
  username_taken: template,
})

const unused: Check<undefined> = () => undefined

/** How mails look, and what the worker of a config takes. */
export const mail = section({
  brand,
  // The mail worker alone uses and checks these; here they would only be printed.
  transport: unused,
  from: unused,
  templates,
})
