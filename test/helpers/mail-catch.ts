import type { MessageKind } from '../../lib/contracts.ts'
import { previewMails } from '../../lib/mail/preview.ts'
import { startMailWorker } from '../../lib/worker.ts'
import { secret, type Teardown } from './app.ts'

/** A mail as `resetActs` reads it. */
export interface CaughtCode {
  kind: MessageKind
  to: string
  subject: string
  text: string
  html: string
  /** Empty in a notice. */
  code: string
  /** The token of the link, or null. */
  token: string | null
}

/** A transport is not told the kind, but the built-in subjects differ and have no word of a user in them. */
const kindOf = new Map(previewMails({ name: 'Example' }).map(({ kind, subject }) => [subject, kind]))

/** Runs a mail worker of a realm in this process that keeps the mails. */
export function catchMails(t: Teardown, settings: { redis: string; name: string }) {
  const caught: CaughtCode[] = []
  const worker = startMailWorker({
    ...settings,
    secret,
    from: 'Example <no-reply@example.com>',
    log: { info() {}, warn() {}, error() {} },
    async transport({ to, subject, text, html }) {
      const code = /^ {4}([\d ]+)$/m.exec(text)?.[1]?.replaceAll(' ', '') ?? ''
      const kind = kindOf.get(subject)!
      caught.push({ kind, to, subject, text, html, code, token: /#token=([\w.-]+)/.exec(text)?.[1] ?? null })
    },
  })
  t.teardown(() => worker.close())
  return caught
}
