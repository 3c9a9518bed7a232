import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { MailLog } from '../mail-log.ts'
import { previewMails } from '../mail-preview.ts'
import { loadConfig, mailOf } from './config.ts'
import { failure } from './errors.ts'

/** Writes a preview of every kind of mail into a folder and prints the names. */
export async function writeMails({ config, out = 'mails-preview' }: { config?: string; out?: string }): Promise<void> {
  const { brand, templates } = mailOf(await loadConfig(config), config)
  const failed: string[] = []
  const log: MailLog = {
    info() {},
    warn() {},
    error: ({ kind, error = 'no mail' }) => failed.push(`${kind} (${error})`),
  }
  const mails = previewMails(brand, templates, log)
  await mkdir(out, { recursive: true })
  for (const { kind, subject, text, html } of mails) {
    await write(join(out, `${kind}.html`), html)
    await write(join(out, `${kind}.txt`), `Subject: ${subject}\n\n${text}`)
  }
  if (failed.length > 0) throw failure(`built-in mails were written for templates that failed: ${failed.join(', ')}`)
}

async function write(file: string, text: string): Promise<void> {
  await writeFile(file, text)
  process.stdout.write(`${file}\n`)
}
