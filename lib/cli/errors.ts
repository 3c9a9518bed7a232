import { AccountsError } from '../errors.ts'

/** What is wrong with a call is told without a stack: it is the caller's to mend. Exit code 2: nothing was tried. */
export function usageError(message: string, exitCode: 1 | 2 = 2): Error {
  return Object.assign(new Error(message), { exitCode })
}

/** What went wrong: the program ends with 1. */
export function failure(message: string): Error {
  return usageError(message, 1)
}

/** The one line that tells an error, and the exit code that goes with it. */
export function told(error: unknown): { line: string; exitCode: number } {
  if (error instanceof AccountsError) return { line: refusalText(error), exitCode: 1 }
  const { exitCode, message } = error as { exitCode?: number; message?: string }
  const ours = (exitCode !== undefined || error instanceof TypeError) && message
  const text = ours ? message.replace(/^fastify-accounts: /, '') : faultText(error)
  return { line: `fastify-accounts: ${text}`, exitCode: exitCode ?? 1 }
}

function refusalText({ code, message, reasons, errors, cause }: AccountsError): string {
  const problems = errors?.map(({ field, message }) => `${field} ${message}`.trim()) ?? reasons ?? []
  const why = cause === undefined ? problems : [...problems, faultText(cause)]
  return `${code}: ${message}${why.length > 0 ? ` (${why.join(', ')})` : ''}${fixOf(cause)}`
}

// PostgreSQL's codes for a table and a column that are missing.
function fixOf(cause: unknown): string {
  const { code } = Object(cause) as NodeJS.ErrnoException
  return code === '42P01' || code === '42703' ? '; run fastify-accounts migrate' : ''
}

/** A driver's error may hold the address of a server: its code says enough, or its first line without addresses. */
export function faultText(error: unknown): string {
  const { code, message } = Object(error) as NodeJS.ErrnoException
  const line = `${message ?? ''}`.split('\n', 1)[0]!.replace(/\b[a-z]+:\/\/\S+/gi, '[address]')
  return [line, code && !line.includes(code) ? `(${code})` : ''].filter(Boolean).join(' ') || 'failed'
}

/** Loads a package that not every host has. */
export async function installed<T>(load: () => Promise<T>, name: string): Promise<T> {
  try {
    return await load()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw failure(`the package ${name} is needed for this; run: npm install ${name}`)
  }
}
