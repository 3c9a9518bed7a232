import type { Brand, Message } from '../contracts.ts'
import type { MailBrand, MailInput, MailTemplate, MailTemplates, WrittenMail } from '../options/mail.ts'

import { brand as brandRule } from '../options/mail.ts'
import type { MailLog } from './log.ts'
import { builtInMails } from './texts.ts'

/** Checks the `brand` option and fills its defaults. */
export function brandOf(given: Partial<Brand>, fallbackName: string): MailBrand {
  const brand = brandRule('brand', given)
  return { ...brand, name: brand.name ?? fallbackName, color: brand.color ?? '#1d4ed8' }
}

/** Writes a message's mail with the host's template, or with the built-in one. */
export function render(message: Message, brand: MailBrand, templates: MailTemplates, log: MailLog): WrittenMail {
  const { kind, code, url, minutes, requestedAt, network, user, locale } = message
  const input: MailInput = {
    kind,
    ...(code === null ? {} : { code }),
    ...(url === null ? {} : { url }),
    minutes,
    requestedAt,
    network,
    user: { ...user },
    brand: { ...brand },
    locale,
  }
  const template = templates[kind]
  return (template && tried(template, input, log)) || builtInMails[kind](input)
}

function tried(template: MailTemplate, input: MailInput, log: MailLog): WrittenMail | undefined {
  try {
    const written: Partial<WrittenMail> | undefined = template({ ...input })
    const { subject, text, html } = written ?? {}
    const whole = [subject, text, html].every((part) => typeof part === 'string' && part.trim() !== '')
    if (whole && !/\p{Cc}/u.test(subject!)) return { subject: subject!, text: text!, html: html! }
    // A promise is no mail, and its rejection must not end the process.
    if (written instanceof Promise) written.catch(() => {})
    log.error({ event: 'mail.template', kind: input.kind }, 'A mail template returned no { subject, text, html }')
  } catch (error) {
    // Not the message: the template may have put the code into it.
    log.error({ event: 'mail.template', kind: input.kind, error: (error as Error)?.name }, 'A mail template threw')
  }
  return undefined
}
