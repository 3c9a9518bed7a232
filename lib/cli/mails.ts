import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { MailLog } from '../mail/log.ts'
import { previewMails } from '../mail/preview.ts'

import type { MailTemplate, MailTemplates } from '../options/mail.ts'
import { loadConfig, mailOf, withoutSecrets } from './config.ts'
import { failure } from './errors.ts'

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

// What a template throws is told here, where it knows no code but the sample's.
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
  process.stdout.write(`${file}\n`)
}
