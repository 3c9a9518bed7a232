import { AccountsError } from '../errors.ts'

/** A wrong command line: printed without a stack, since the caller can correct it. Exit code 2: nothing was tried. */
export function usageError(message: string, exitCode: 1 | 2 = 2): Error {
  return Object.assign(new Error(message), { exitCode })
}

/** What went wrong: the program ends with 1. */
export function failure(message: string): Error {
  return usageError(message, 1)
}

/** An error as one line, and its exit code. */
export function errorLine(error: unknown): { line: string; exitCode: number } {
  if (error instanceof AccountsError) return { line: refusalText(error), exitCode: 1 }
  const { exitCode, message } = Object(error) as { exitCode?: number; message?: string }
  const ours = (exitCode !== undefined || error instanceof TypeError) && message
  const text = ours ? message.replace(/^fastify-accounts: /, '') : `${faultText(error)}${fixOf(error)}`
  return { line: `fastify-accounts: ${text}`, exitCode: exitCode ?? 1 }
}

function refusalText({ code, message, reasons, errors, cause }: AccountsError): string {
  const problems = errors?.map(({ field, message }) => `${field} ${message}`.trim()) ?? reasons ?? []
  const why = cause === undefined ? problems : [...problems, faultText(cause)]
  return `${code}: ${message}${why.length > 0 ? ` (${why.join(', ')})` : ''}${fixOf(cause)}`
}

// PostgreSQL's codes for a table and a column that are missing.
function fixOf(fault: unknown): string {
  const { code } = Object(fault) as NodeJS.ErrnoException
  return code === '42P01' || code === '42703' ? '; run fastify-accounts migrate' : ''
}

/** The first line of an error's message and its code; without URLs, which may hold a password. */
export function faultText(error: unknown): string {
  const { code, message } = Object(error) as NodeJS.ErrnoException
  const line = `${message ?? ''}`.split('\n', 1)[0]!.replace(/\b[a-z]+:\/\/\S+/gi, '[address]')
  return [line, code && !line.includes(code) ? `(${code})` : ''].filter(Boolean).join(' ') || 'failed'
}

/** Prints lines. */
export function print(...lines: string[]): void {
  process.stdout.write(lines.map((line) => `${line}\n`).join(''))
}
