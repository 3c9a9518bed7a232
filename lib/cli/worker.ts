import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { jsonLog, type MailLog } from '../mail/log.ts'
import { previewMails } from '../mail/preview.ts'
import type { MailTemplate, MailTemplates } from '../options/mail.ts'
import type { MailWorkerOptions } from '../worker.ts'
import { type Config, loadConfig, mailOf, required, secretOf, variable, withoutSecrets } from './config.ts'
import { failure, print } from './output.ts'

/** Sends the queued mails until a signal. */
export async function work({ config: file }: { config?: string }): Promise<void> {
  const config = await loadConfig(file)
  const options = workerOptions(config, file)
  const { startMailWorker } = await import('../worker.ts')
  const running = namingSources(config, file, () => startMailWorker(options))
  const signal = await new Promise<string>((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, resolve)
  })
  await running.close()
  jsonLog.info({ event: 'mail.stopped', signal }, 'Stopped')
  // What did not finish in time must not keep the process.
  process.exit(0)
}

function workerOptions(config: Config, file: string | undefined): MailWorkerOptions {
  const { name, redis } = config
  const { brand, templates, transport, from } = mailOf(config, file)
  const queue = typeof redis === 'object' && redis !== null && 'queue' in redis ? redis.queue : redis
  return {
    secret: secretOf(config, file),
    redis: queue ?? required('REDIS_URL', 'redis', file),
    transport: transport ?? required('SMTP_URL', 'mail.transport', file),
    from: from ?? required('MAIL_FROM', 'mail.from', file),
    name: name ?? variable('ACCOUNTS_NAME') ?? 'accounts',
    ...(brand && { brand }),
    ...(templates && { templates }),
  }
}

const sources = {
  secret: { variable: 'ACCOUNTS_SECRET', option: 'secret' },
  name: { variable: 'ACCOUNTS_NAME', option: 'name' },
  redis: { variable: 'REDIS_URL', option: 'redis' },
  transport: { variable: 'SMTP_URL', option: 'mail.transport' },
  from: { variable: 'MAIL_FROM', option: 'mail.from' },
}

/** The worker names its own options: an error has to name the variable, or the option of the config. */
function namingSources<T>(config: Config, file: string | undefined, start: () => T): T {
  try {
    return start()
  } catch (error) {
    const text = (error as Error).message.replace(/^fastify-accounts: /, '')
    const found = Object.entries(sources).find(([name]) => new RegExp(`"${name}[."[]`).test(text))
    if (!(error instanceof TypeError) || !found) throw error
    const [name, { variable, option }] = found
    const configured = (name in config ? config : config.mail)?.[name as never] !== undefined
    throw failure(configured ? `${file}: ${text.replace(`"${name}`, `"${option}`)}` : `${variable}: ${text}`)
  }
}

/** Writes a preview of every kind of mail into a folder and prints the names. */
export async function writeMails({ config, out = 'mails-preview' }: { config?: string; out?: string }): Promise<void> {
  const { brand, templates } = mailOf(await loadConfig(config), config)
  const failed: string[] = []
  const thrown = new Map<unknown, string>()
  const log: MailLog = {
    info() {},
    warn() {},
    error: ({ kind }) => failed.push(`${kind} (${thrown.get(kind) ?? 'no mail'})`),
  }
  const mails = previewMails(brand, noting(thrown, templates), log)
  await mkdir(out, { recursive: true })
  for (const { kind, subject, text, html } of mails) {
    await write(join(out, `${kind}.html`), html)
    await write(join(out, `${kind}.txt`), `Subject: ${subject}\n\n${text}`)
  }
  if (failed.length > 0) throw failure(`built-in mails were written for templates that failed: ${failed.join(', ')}`)
}

// The log never shows what a template throws, since it may hold a code; here it can only be the sample's.
function noting(thrown: Map<unknown, string>, templates: MailTemplates = {}): MailTemplates {
  const given = Object.entries(templates).filter(([, template]) => template !== undefined)
  const noted = given.map(([kind, template]) => {
    const act: MailTemplate = (input) => {
      try {
        return template(input)
      } catch (error) {
        thrown.set(kind, `${(error as Error | null)?.name ?? 'Error'}: ${withoutSecrets(error)}`)
        throw error
      }
    }
    return [kind, act]
  })
  return Object.fromEntries(noted)
}

async function write(file: string, text: string): Promise<void> {
  await writeFile(file, text)
  print(file)
}
