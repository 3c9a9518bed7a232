import type { MessageKind } from '../contracts.ts'
import type { MailInput, MailTemplate } from '../options/mail.ts'
import { grouped, layout, type MailBlock, plain, readable, unlinked } from './layout.ts'

/** The built-in mails, one for each kind. */
export const builtInMails: Readonly<Record<MessageKind, MailTemplate>> = Object.freeze({
  reset: codeMail((name) => ({
    subject: `Reset your ${name} password`,
    request: `asked for a new password for your ${name} account`,
    place: 'where you asked for it',
    otherwise: 'nothing changes, and your password stays as it is',
  })),
  verify: codeMail((name) => ({
    subject: `Confirm your e-mail address for ${name}`,
    request: `registered at ${name} with this e-mail address`,
    place: 'where you registered',
    otherwise: 'without the code nobody can prove that this address is theirs',
  })),
  change: codeMail((name) => ({
    subject: `Confirm your new e-mail address for ${name}`,
    request: `wants to use this e-mail address for their ${name} account`,
    place: 'where you changed the address',
    otherwise: 'without the code the address of that account stays as it is',
  })),
  password_changed: notice((name, help) => ({
    subject: `Your ${name} password was changed`,
    done: `The password of your ${name} account was changed`,
    otherwise: `ask for a new password at once, by "forgot password" on the login page${help && `, and ${help}`}.`,
  })),
  email_changed: notice((name, help) => ({
    subject: `The e-mail address of your ${name} account was changed`,
    done: `The e-mail address of your ${name} account was changed, and it is no longer this one`,
    // A reset of the password would go to the new address.
    otherwise: `somebody else may have taken your account: ${help || `ask ${name} for help`} at once.`,
  })),
  account_deleted: notice((name, help) => ({
    subject: `Your ${name} account was deleted`,
    done: `Your ${name} account was deleted, and nobody can log in to it any more`,
    otherwise:
      `somebody may know your password: ${help && `${help} at once, and `}` +
      'change that password wherever else you use it.',
  })),
  account_exists: failedRegistration(({ name }) => ({
    subject: `You already have an account at ${name}`,
    intro: `Somebody, hopefully you, tried to register at ${name} with this e-mail address. It already has an account.`,
    advice: 'Log in with your password. If you do not know it any more, ask for a new one on the login page.',
  })),
  username_taken: failedRegistration(({ name, username }) => ({
    subject: `Your registration at ${name}`,
    intro:
      `Somebody, hopefully you, tried to register at ${name} with this e-mail address, but the username` +
      `${username && ` "${username}"`} is taken.`,
    advice: 'Register again with another username.',
    // The account with this username is somebody else's.
    nameless: true,
  })),
})

interface CodeWords {
  subject: string
  /** What somebody, hopefully the reader, did. */
  request: string
  /** Where the code is typed. */
  place: string
  /** What is true when the reader did not ask and does nothing. */
  otherwise: string
}

function codeMail(words: (name: string) => CodeWords): MailTemplate {
  return (input) => {
    const { subject, request, place, otherwise } = words(brandName(input))
    const life = lifeOf(input.minutes)
    const typed = `It is valid for ${life} and works once. Type it ${place}, and never tell it to anybody.`
    return layout(input.brand, {
      subject,
      preheader: `The code is valid for ${life}.`,
      blocks: [
        { text: hello(usernameOf(input)) },
        { text: `Somebody, hopefully you, ${request}. Your code is:` },
        { code: grouped(input.code ?? '') },
        { text: typed },
        ...link(input.url),
        { text: `Requested ${occasion(input)}.`, quiet: true },
        { text: `If that was not you, ignore this mail: ${otherwise}.`, quiet: true },
      ],
    })
  }
}

function link(url: string | undefined): MailBlock[] {
  return url ? [{ url, label: 'Enter the code', intro: 'Or type it on this page:' }] : []
}

interface NoticeWords {
  subject: string
  done: string
  /** What to do if it was not the reader. */
  otherwise: string
}

/** A notice of what was done to an account. */
function notice(words: (name: string, help: string) => NoticeWords): MailTemplate {
  return (input) => {
    const { supportEmail } = input.brand
    const { subject, done, otherwise } = words(brandName(input), supportEmail ? `write to ${supportEmail}` : '')
    return layout(input.brand, {
      subject,
      preheader: 'If that was not you, read on.',
      blocks: [
        { text: hello(usernameOf(input)) },
        { text: `${done}.` },
        { text: `This was done ${occasion(input)}. If it was you, there is nothing to do.` },
        { text: `If that was not you, ${otherwise}` },
      ],
    })
  }
}

interface FailureWords {
  subject: string
  intro: string
  advice: string
  /** Whether the reader is greeted without the name. */
  nameless?: boolean
}

/** A mail about a registration that failed. */
function failedRegistration(words: (about: { name: string; username: string }) => FailureWords): MailTemplate {
  return (input) => {
    const username = usernameOf(input)
    const { subject, intro, advice, nameless } = words({ name: brandName(input), username })
    return layout(input.brand, {
      subject,
      preheader: advice,
      blocks: [
        { text: hello(nameless ? '' : username) },
        { text: intro },
        { text: advice },
        { text: `Requested ${occasion(input)}.`, quiet: true },
        { text: 'If that was not you, ignore this mail: nothing has changed.', quiet: true },
      ],
    })
  }
}

function brandName({ brand }: MailInput): string {
  return plain(brand.name, 64)
}

function usernameOf({ user }: MailInput): string {
  return unlinked(user.username ?? '', 40)
}

function hello(username: string): string {
  return username ? `Hello ${username},` : 'Hello,'
}

/** When and from where: `on 22 November 2026 at 10:15 UTC from 192.0.2.7`. */
function occasion({ requestedAt, network }: MailInput): string {
  const from = network && ` from ${unlinked(network, 64) || 'an unknown network'}`
  return `on ${readable(requestedAt)}${from}`
}

/** A life in words: `10 minutes`, `90 minutes`, `24 hours`. */
function lifeOf(minutes: number): string {
  const hours = minutes / 60
  return hours >= 1 && Number.isInteger(hours) ? counted(hours, 'hour') : counted(minutes, 'minute')
}

function counted(number: number, unit: string): string {
  return `${number} ${unit}${number === 1 ? '' : 's'}`
}
