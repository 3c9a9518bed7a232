import type { Brand, CodePurpose, Message, MessageKind } from '../contracts.ts'
import type { MailTemplates, WrittenMail } from '../options/mail.ts'
import { jsonLog, type MailLog } from './log.ts'
import { brandOf, render } from './render.ts'
import { builtInMails } from './texts.ts'

/** A mail as its recipients will see it. */
export interface MailPreview extends WrittenMail {
  kind: MessageKind
}

/** Writes a sample of every kind of mail. A template that fails is logged and replaced, as in the worker. */
export function previewMails(
  brand: Partial<Brand> = {},
  templates: MailTemplates = {},
  log: MailLog = jsonLog,
): MailPreview[] {
  const kinds = Object.keys(builtInMails) as MessageKind[]
  const filled = brandOf(brand, 'Example')
  return kinds.map((kind) => ({ kind, ...render(sample(kind), filled, templates, log) }))
}

const lives: Record<CodePurpose, number> = { reset: 10, verify: 1440, change: 60 }

function sample(kind: MessageKind): Message {
  const minutes = kind in lives ? lives[kind as CodePurpose] : 0
  const token = kind === 'reset' ? 'sample' : null
  const requestedAt = Date.UTC(2026, 10, 22, 10, 15)
  return {
    id: `sample-${kind}`,
    kind,
    to: 'ada@example.com',
    user: { username: 'ada', email: 'ada@example.com' },
    code: minutes ? '12345678' : null,
    token,
    url: token && `https://example.com/reset#token=${token}`,
    minutes,
    requestedAt,
    network: '192.0.2.7',
    locale: 'en',
    brand: {},
    expiresAt: requestedAt + minutes * 60_000,
  }
}
