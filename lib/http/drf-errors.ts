import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { AccountsError, type AccountsErrorCode, type FieldError, isRefusal, type PasswordReason } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'
import { type GuardParts, refusedBy } from './guards.ts'

/** Sends an error of a route, its status and headers too. */
export type SendError = (error: unknown, request: FastifyRequest, reply: FastifyReply) => FastifyReply

/**
 * Makes the function that sends errors in the shapes of Django REST framework with simplejwt. Statuses stay ours; an
 * error handler of the host is not asked.
 */
export function drfErrors({ passwords }: Pick<ResolvedOptions, 'passwords'>): SendError {
  return (error, request, reply) => {
    const refusal = isRefusal(error) ? error : { statusCode: 500, headers: {} }
    reply.code(refusal.statusCode).headers(refusal.headers ?? {})
    if (refusal.statusCode === 401 && error instanceof AccountsError) {
      reply.header('www-authenticate', 'Bearer realm="api"')
    }
    logFault(error, reply)
    return reply.send(error instanceof AccountsError ? bodyOf(error, request, passwords) : hostBody(error))
  }
}

/** Sends what a guard of the realm refuses with so, on all routes that are added to the app from now on. */
export function sendGuardErrors(app: FastifyInstance, realm: GuardParts, send: SendError): void {
  app.addHook('onRoute', (route) => {
    const { errorHandler } = route
    route.errorHandler = function (error, request, reply) {
      if (refusedBy(error) === realm) return send(error, request, reply)
      // A rejection goes to the next error handler whatever it is; what is thrown at once would have to be an Error.
      return errorHandler ? errorHandler.call(this, error, request, reply) : Promise.reject(error)
    }
  })
}

// Fastify's own error handler logs; it is not asked either.
function logFault(err: unknown, { statusCode, log }: FastifyReply): void {
  const { message, cause } = Object(err) as { message?: string; cause?: unknown }
  if (statusCode >= 500) log.error({ err }, message)
  else if (cause) log.info({ err }, message)
}

function hostBody(error: unknown): object {
  if (!isRefusal(error)) return { detail: 'A server error occurred.' }
  const { message, code } = error as Error & { code?: unknown }
  return { detail: message, ...(code === undefined ? {} : { code }) }
}

type Passwords = ResolvedOptions['passwords']

function bodyOf(error: AccountsError, request: FastifyRequest, passwords: Passwords): object {
  const { code, errors, reasons, headers, message } = error
  switch (code) {
    case 'ACCOUNTS_VALIDATION':
      return validationBody(error, errors ?? [{ field: '', message }], request.body)
    case 'ACCOUNTS_PASSWORD_REFUSED': {
      const field = Object.hasOwn(Object(request.body), 'new_password') ? 'new_password' : 'password'
      return { [field]: reasons?.map((reason) => passwordSentence(reason, passwords)) ?? [message] }
    }
    case 'ACCOUNTS_EMAIL_TAKEN':
      return { email: ['user with this email address already exists.'] }
    case 'ACCOUNTS_USERNAME_TAKEN':
      return { username: ['A user with that username already exists.'] }
    case 'ACCOUNTS_CODE_INVALID':
      return { non_field_errors: [message] }
    case 'ACCOUNTS_TOKEN_INVALID':
    case 'ACCOUNTS_TOKEN_EXPIRED':
    case 'ACCOUNTS_REFRESH_REUSED':
      return tokenBody(code, request)
    case 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED':
      return { detail: `Unsupported media type "${request.headers['content-type'] ?? ''}" in request.` }
    case 'ACCOUNTS_TOO_MANY_REQUESTS':
      return { detail: `Request was throttled. Expected available in ${secondsOf(headers['retry-after'])}.` }
    default:
      return details[code] ?? { detail: message, code: code.slice('ACCOUNTS_'.length).toLowerCase() }
  }
}

const details: Partial<Record<AccountsErrorCode, object>> = {
  ACCOUNTS_CREDENTIALS_INVALID: { detail: 'No active account found with the given credentials' },
  ACCOUNTS_FORBIDDEN: { detail: 'You do not have permission to perform this action.' },
  ACCOUNTS_NOT_FOUND: { detail: 'Not found.' },
}

function secondsOf(text: string | undefined): string {
  return `${text} second${text === '1' ? '' : 's'}`
}

const tokenSentence = 'Token is invalid or expired'

function tokenBody(refusal: AccountsErrorCode, { body, headers: { authorization = '' } }: FastifyRequest): object {
  const code = 'token_not_valid'
  if (refusal === 'ACCOUNTS_REFRESH_REUSED') return { detail: 'Token is blacklisted', code }
  if (Object.hasOwn(Object(body), 'refresh')) return { detail: tokenSentence, code }
  const [scheme = '', ...tokens] = authorization.split(/\s+/)
  if (scheme.toLowerCase() !== 'bearer') return { detail: 'Authentication credentials were not provided.' }
  if (tokens.length !== 1) {
    const detail = 'Authorization header must contain two space-delimited values'
    return { detail, code: 'bad_authorization_header' }
  }
  const messages = [{ token_class: 'AccessToken', token_type: 'access', message: tokenSentence }]
  return { detail: 'Given token not valid for any token type', code, messages }
}

interface FieldMessages {
  [field: string]: string[] | FieldMessages
}

function validationBody({ cause }: AccountsError, errors: FieldError[], body: unknown): object {
  // Only a body that does not parse has a cause.
  if (cause) return { detail: `JSON parse error - ${errors[0]?.message}` }
  return errors.reduce<FieldMessages>((fields, { field, message }) => {
    if (field) return withMessage(fields, field.split('.'), fieldSentence(message))
    return withMessage(fields, ['non_field_errors'], body ? bodySentence(message) : 'No data provided')
  }, {})
}

/** The messages with one more, at the path of its field. Where a field is wrong as a whole, none stands below it. */
function withMessage(fields: FieldMessages, [name = '', ...below]: string[], message: string): FieldMessages {
  const found = Object.hasOwn(fields, name) ? fields[name] : undefined
  if (below.length === 0) return { ...fields, [name]: [...(Array.isArray(found) ? found : []), message] }
  return Array.isArray(found) ? fields : { ...fields, [name]: withMessage(found ?? {}, below, message) }
}

const sentences: readonly [RegExp, string][] = [
  [/^is required$/, 'This field is required.'],
  [/^must be an e-mail address$/, 'Enter a valid email address.'],
  [/^must be string$/, 'Not a valid string.'],
  [/^must be integer$/, 'A valid integer is required.'],
  [/^must be number$/, 'A valid number is required.'],
  [/^must be boolean$/, 'Must be a valid boolean.'],
  [/^must not have more than (\d+) characters$/, 'Ensure this field has no more than $1 characters.'],
  [/^must not have fewer than (\d+) characters$/, 'Ensure this field has at least $1 characters.'],
  [/^must be >= (\S+)$/, 'Ensure this value is greater than or equal to $1.'],
  [/^must be <= (\S+)$/, 'Ensure this value is less than or equal to $1.'],
]

function fieldSentence(message: string): string {
  const [pattern, sentence] = sentences.find(([pattern]) => pattern.test(message)) ?? []
  if (pattern && sentence) return message.replace(pattern, sentence)
  return `${message.charAt(0).toUpperCase()}${message.slice(1)}.`
}

function bodySentence(message: string): string {
  return message === 'must be object' ? 'Invalid data. Expected a dictionary.' : fieldSentence(message)
}

function passwordSentence(reason: PasswordReason, { minLength, maxLength }: Passwords): string {
  return {
    too_short: `This password is too short. It must contain at least ${minLength} characters.`,
    too_long: `Ensure this field has no more than ${maxLength} characters.`,
    ill_formed: 'Not a valid string.',
    common: 'This password is too common.',
    context: 'The password is too similar to other information of the account.',
    breached: 'This password has appeared in a data breach.',
  }[reason]
}
