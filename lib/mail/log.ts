/** Where a mailer or the worker logs; pino and `app.log` fit. It never gets a code, an address or a secret. */
export interface MailLog {
  info(fields: Record<string, unknown>, text: string): void
  warn(fields: Record<string, unknown>, text: string): void
  error(fields: Record<string, unknown>, text: string): void
}

/** A log that writes one JSON object per line: infos to stdout, warnings and errors to stderr. */
export const jsonLog: MailLog = {
  info: (fields, text) => write(process.stdout, 'info', fields, text),
  warn: (fields, text) => write(process.stderr, 'warn', fields, text),
  error: (fields, text) => write(process.stderr, 'error', fields, text),
}

function write(stream: NodeJS.WriteStream, level: string, fields: Record<string, unknown>, msg: string): void {
  stream.write(`${JSON.stringify({ level, time: new Date().toISOString(), ...fields, msg })}\n`)
}
