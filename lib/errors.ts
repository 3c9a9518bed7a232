import { randomInt } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'

const table = {
  VALIDATION: [400, 'The request is not valid.'],
  CODE_INVALID: [400, 'The code is not valid or no longer valid.'],
  PASSWORD_REFUSED: [400, 'The password does not meet the requirements.'],
  CREDENTIALS_INVALID: [401, 'The e-mail address or the password is wrong.'],
  TOKEN_INVALID: [401, 'The token is not valid.'],
  TOKEN_EXPIRED: [401, 'The token has expired.'],
  REFRESH_REUSED: [401, 'The refresh token was already used; the session has ended.'],
  FORBIDDEN: [403, 'You are not allowed to do this.'],
  REAUTH_REQUIRED: [403, 'You need to log in again for this.'],
  EMAIL_UNVERIFIED: [403, 'The e-mail address is not verified yet.'],
  PASSWORD_WRONG: [403, 'The password is wrong.'],
  NOT_FOUND: [404, 'Not found.'],
  EMAIL_TAKEN: [409, 'The e-mail address is already in use.'],
  USERNAME_TAKEN: [409, 'The username is already in use.'],
  ACCOUNT_IN_USE: [409, 'The account is still in use elsewhere and cannot be deleted.'],
  BODY_TOO_LARGE: [413, 'The request body is too large.'],
  MEDIA_TYPE_UNSUPPORTED: [415, 'The request body must be JSON.'],
  TOO_MANY_REQUESTS: [429, 'Too many attempts; try again later.'],
  OVERLOADED: [503, 'The service is busy; try again in a moment.'],
  UNAVAILABLE: [503, 'The service is not available; try again in a moment.'],
} as const satisfies Record<string, readonly [number, string]>

type Name = keyof typeof table

/** Every `code` that a refusal can carry. */
export type AccountsErrorCode = `ACCOUNTS_${Name}`

/** Why a password was refused. */
export type PasswordReason = 'too_short' | 'too_long' | 'ill_formed' | 'common' | 'context' | 'breached'

/** A field that failed validation. */
export interface FieldError {
  /** Path inside the body, members separated by dots; empty for the body itself. */
  field: string
  message: string
}

export interface AccountsErrorDetails {
  /** The original fault; for the log, never for the client. */
  cause?: unknown
  errors?: FieldError[]
  reasons?: PasswordReason[]
}

/**
 * A refusal of a request: `statusCode`, a `code` from the closed table, a generic text and the headers that belong to
 * it. The original fault is the `cause`.
 */
export class AccountsError extends Error {
  override name = 'AccountsError'
  readonly code: AccountsErrorCode
  readonly statusCode: number
  readonly headers: Record<string, string>
  declare readonly errors?: FieldError[]
  declare readonly reasons?: PasswordReason[]

  constructor(code: AccountsErrorCode, { cause, errors, reasons }: AccountsErrorDetails = {}) {
    const [statusCode, message] = table[code.slice('ACCOUNTS_'.length) as Name]
    super(message, cause === undefined ? undefined : { cause })
    this.code = code
    this.statusCode = statusCode
    this.headers = headersOf(statusCode)
    if (errors) this.errors = errors
    if (reasons) this.reasons = reasons
  }
}

/** Every code with its status and text, as docs/troubleshooting.md prints them. */
export const errorTable = Object.entries(table).map(([name, [statusCode, message]]) => ({
  code: `ACCOUNTS_${name}` as AccountsErrorCode,
  statusCode,
  message,
}))

/** An error of the host's own that refuses a request, as a hook throws it: its error handler gets it as it is. */
export interface HostRefusal extends Error {
  statusCode: number
  headers?: Record<string, string>
}

const refusals = new WeakSet<Error>()

/**
 * What a function of the host threw: an object with a `statusCode` from 400 to 599 is a refusal, and becomes an Error
 * if it is none. Anything else is a fault and stays what it is.
 */
export function hostRefusal(thrown: unknown): unknown {
  const { statusCode, message, code, headers } = Object(thrown) as Partial<HostRefusal> & { code?: unknown }
  if (!Number.isInteger(statusCode) || statusCode! < 400 || statusCode! > 599) return thrown
  const members = { statusCode, ...(code !== undefined && { code }), ...(headers && { headers }) }
  const error = thrown instanceof Error ? thrown : Object.assign(new Error(String(message ?? 'Refused.')), members)
  refusals.add(error)
  return error
}

/** Calls a function of the host, which may be async; what it throws with a `statusCode` refuses the request. */
export function callHost<T>(call: () => T): T {
  const refuse = (thrown: unknown): never => {
    throw hostRefusal(thrown)
  }
  try {
    const result = call()
    return result instanceof Promise ? (result.catch(refuse) as T) : result
  } catch (thrown) {
    return refuse(thrown)
  }
}

/** Whether an error is meant for the client: ours, one that the host refuses with, or one of `errorForClient`. */
export function isRefusal(error: unknown): error is AccountsError | HostRefusal {
  return error instanceof AccountsError || (error instanceof Error && refusals.has(error))
}

/** A refusal as it is. Anything else is logged, and becomes a 500 without its text, which may be that of a driver. */
export function errorForClient(error: unknown, log: FastifyBaseLogger | undefined, what: string): Error {
  if (isRefusal(error)) return error
  const cause = loggable(error)
  log?.error({ err: cause }, `fastify-accounts: ${what} failed`)
  return hostRefusal(Object.assign(new Error('Internal Server Error', { cause }), { statusCode: 500 })) as Error
}

// What sockets and name look-ups of Node fail with, what TLS fails with, and what `fetch` has for a cause.
const outageCodes = /^(?:ECONN\w+|EPIPE|ETIMEDOUT|EPROTO|ENOTFOUND|EAI_\w+|EHOST\w+|ENET\w+|EADDRNOTAVAIL|E[MN]FILE)$/
const outageFamilies = /^(?:UND_ERR_|ERR_TLS_|ERR_SSL_|CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/

/**
 * Whether a fault is an outage, so that trying again later may help: an `ACCOUNTS_UNAVAILABLE`, or an error of a
 * network, wherever it stands in the chain of causes. Any other fault is a bug.
 */
export function isOutage(fault: unknown): boolean {
  if (!(fault instanceof Error)) return false
  const { code, syscall, cause, name } = fault as Error & { code?: unknown; syscall?: unknown }
  if (code === 'ACCOUNTS_UNAVAILABLE' || syscall === 'connect' || name === 'TimeoutError') return true
  const text = String(code)
  return outageCodes.test(text) || outageFamilies.test(text) || isOutage(cause)
}

/** A copy of a fault that may be logged: drivers put whole rows and commands into further members of their errors. */
export function loggable(fault: unknown): Error {
  if (!(fault instanceof Error)) return new Error('Something that is not an Error was thrown.')
  const { name, message, stack, cause, code } = fault as Error & { code?: unknown }
  const copy = new Error(message, cause === undefined ? undefined : { cause: loggable(cause) })
  return Object.assign(copy, { name, stack }, code === undefined ? {} : { code })
}

function headersOf(statusCode: number): Record<string, string> {
  if (statusCode === 401) return { 'www-authenticate': 'Bearer' }
  // Random, so that refused clients do not all come back at once.
  if (statusCode === 503) return { 'retry-after': String(randomInt(1, 4)) }
  return {}
}
