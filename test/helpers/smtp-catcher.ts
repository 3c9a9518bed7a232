import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import PostalMime, { type Email } from 'postal-mime'
import { SMTPServer, type SMTPServerOptions } from 'smtp-server'

/** What the envelope said and what the mail says. */
export interface CaughtMail {
  recipients: string[]
  raw: string
  mail: Email
}

export interface SmtpCatcher {
  readonly port: number
  readonly url: string
  readonly caught: CaughtMail[]
  close(): Promise<void>
}

/** A refusal with an SMTP code, for the handlers of `startSmtp`. */
export function smtpError(responseCode: number): Error {
  return Object.assign(new Error('refused ada@example.com 12345678'), { responseCode })
}

/** A real SMTP server on loopback that keeps what it gets. `onMail` may refuse or delay the answer to DATA. */
export async function startSmtp(
  options: SMTPServerOptions & { port?: number; onMail?: (mail: CaughtMail) => Promise<void> | void } = {},
): Promise<SmtpCatcher> {
  const { port = 0, onMail, ...settings } = options
  const caught: CaughtMail[] = []
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    disableReverseLookup: true,
    closeTimeout: 200,
    onData(stream, session, done) {
      receive(
        stream,
        session.envelope.rcptTo.map(({ address }) => address),
      ).then(
        () => done(),
        (error) => done(error),
      )
    },
    ...settings,
  })
  async function receive(stream: AsyncIterable<Buffer>, recipients: string[]): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of stream) chunks.push(chunk)
    const raw = Buffer.concat(chunks).toString()
    const mail = { recipients, raw, mail: await PostalMime.parse(raw) }
    await onMail?.(mail)
    caught.push(mail)
  }
  server.on('error', () => {})
  server.listen(port, '127.0.0.1')
  await once(server.server, 'listening')
  const actual = (server.server.address() as AddressInfo).port
  return {
    port: actual,
    url: `smtp://127.0.0.1:${actual}`,
    caught,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

/** The code in a built-in mail. */
export function codeIn({ mail }: CaughtMail): string {
  return /^ {4}([\d ]+)$/m.exec(mail.text ?? '')?.[1]?.replaceAll(' ', '') ?? ''
}
