import { randomBytes } from 'node:crypto'
import Type, { type Static } from 'typebox'
import type { Accounts } from '../accounts.ts'
import { placeOf } from '../admission.ts'
import { borrowGrant, burnCodes, checkCode, type Grant, type IssuedCode, issueCode } from '../codes.ts'
import type { User } from '../contracts.ts'
import { canonicalEmail } from '../email-address.ts'
import { AccountsError, loggable } from '../errors.ts'
import type { Place } from '../hash-queue.ts'
import { CodeToken, Email, MessageBody, Otp, Password } from '../schemas.ts'
import { clientOf, type Route } from '../scope.ts'

const EmailRequestBody = Type.Object({ email: Email })
const ResetBody = Type.Object({ token: CodeToken, new_password: Password })

/**
 * Mails a one-time code and answers the token that goes with it. Works alike, and answers alike, for an address without
 * an account: its code is a decoy and its mail is dropped by the worker.
 */
export async function requestPasswordReset(
  accounts: Accounts,
  { email, network, locale }: { email: string; network: string; locale: string | null },
): Promise<{ token: string }> {
  const address = canonicalEmail(email)
  if (address === null) throw new AccountsError('ACCOUNTS_VALIDATION')
  const found = await accounts.storage.findUserByEmail(address)
  const user = found?.active ? found : null
  const { url, ...limits } = resetOptions(accounts)
  const issued = await issueCode(accounts, { purpose: 'reset', address, user, link: url !== undefined, ...limits })

  await mailerOf(accounts).send(resetMail(accounts, { user, address, issued, network, locale }))

  return { token: issued.token }
}

interface ResetMail {
  user: User | null
  address: string
  issued: IssuedCode
  network: string
  locale: string | null
}

function resetMail(accounts: Accounts, { user, address, issued, network, locale }: ResetMail) {
  const now = accounts.clock()
  const { url } = resetOptions(accounts)
  return {
    id: randomBytes(16).toString('base64url'),
    kind: 'reset' as const,
    // The stored spelling gets the mail, never the submitted one.
    to: user?.email ?? null,
    user: { username: user?.username ?? null, email: user?.email ?? address },
    code: issued.code,
    token: issued.linkToken,
    // In the fragment, which no server and no proxy sees.
    url: url && issued.linkToken ? `${url}#token=${issued.linkToken}` : null,
    minutes: Math.round((issued.expiresAt - now) / 60_000),
    requestedAt: now,
    network,
    locale,
    brand: accounts.options.mail.brand,
    expiresAt: issued.expiresAt,
  }
}

/**
 * Sets a new password with a grant, ends all sessions and kills all codes of the account. Of parallel calls with one
 * token exactly one succeeds. A refused password, a full queue or an outage gives the grant back.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID, ACCOUNTS_PASSWORD_REFUSED
 */
export async function resetPassword(
  accounts: Accounts,
  { token, new_password: password }: Static<typeof ResetBody>,
  place?: Place,
): Promise<void> {
  const grant = await borrowGrant(accounts, 'reset', token)
  const done = await changeByGrant(accounts, grant, password, place).catch(async (error) => {
    await giveBack(accounts, grant, error)
    throw error
  })
  // The storage's fence decides: another reset or a change of credentials came first.
  if (!done) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  await burnCodes(accounts, grant.subject.address).catch((error) => {
    // The password is changed, and with it the credential version that every code of the account needs.
    accounts.log.warn({ err: loggable(error) }, 'fastify-accounts: used codes were not removed')
  })
}

async function changeByGrant(accounts: Accounts, grant: Grant, password: string, place?: Place): Promise<boolean> {
  const { storage, passwords, clock } = accounts
  const { userId, credentialVersion: fence } = grant.subject
  const user = userId === null ? null : await storage.findUserById(userId)
  if (!user?.active || fence === null || user.credentialVersion !== fence) return false
  const reasons = passwords.refusals(password)
  if (reasons.length > 0) throw new AccountsError('ACCOUNTS_PASSWORD_REFUSED', { reasons })
  const passwordHash = await passwords.hash(password, place)
  const credentialVersion = fence + 1
  return storage.changePassword({ userId: user.id, fence, passwordHash, credentialVersion, now: clock() })
}

async function giveBack({ log }: Accounts, grant: Grant, error: unknown): Promise<void> {
  const refused = error instanceof AccountsError && error.code === 'ACCOUNTS_PASSWORD_REFUSED'
  await grant.giveBack(refused ? 'refused' : 'outage').catch((fault) => {
    // The lease ends by itself.
    log.warn({ err: loggable(fault) }, 'fastify-accounts: a grant was not given back')
  })
}

function mailerOf({ mailer }: Accounts) {
  if (!mailer) throw new TypeError('fastify-accounts: password reset needs a mailer')
  return mailer
}

function resetOptions({ options }: Accounts) {
  if (!options.passwordReset) throw new TypeError('fastify-accounts: "passwordReset" is off')
  return options.passwordReset
}

/** `POST /auth/email_request/`, `/auth/check_otp/` and `/auth/reset_password/`; none with `passwordReset: false`. */
export function passwordResetRoutes(accounts: Accounts): Route[] {
  const { passwordReset } = accounts.options
  if (!passwordReset) return []
  return [emailRequestRoute(accounts), checkOtpRoute(accounts, passwordReset.digits), resetPasswordRoute(accounts)]
}

function emailRequestRoute(accounts: Accounts): Route {
  return {
    name: 'emailRequest',
    method: 'POST',
    path: '/auth/email_request/',
    summary: 'Ask for a password reset code by e-mail',
    body: EmailRequestBody,
    answer: [200, Type.Object({ ...MessageBody.properties, token: Type.String() })],
    refusals: [],
    async handler(request) {
      const { email } = request.body as Static<typeof EmailRequestBody>
      const { network } = clientOf(accounts, request)
      const locale = firstLanguage(request.headers['accept-language'])
      const { token } = await requestPasswordReset(accounts, { email, network, locale })
      return { message: 'Password reset link sent to email.', token }
    },
  }
}

function checkOtpRoute(accounts: Accounts, digits: number): Route {
  const CheckOtpBody = Type.Object({ token: CodeToken, otp: Otp(digits) })
  return {
    name: 'checkOtp',
    method: 'POST',
    path: '/auth/check_otp/',
    summary: 'Check the code that was mailed',
    body: CheckOtpBody,
    answer: [200, MessageBody],
    refusals: ['ACCOUNTS_CODE_INVALID'],
    async handler(request) {
      const { token, otp } = request.body as Static<typeof CheckOtpBody>
      await checkCode(accounts, 'reset', token, otp)
      return { message: 'OTP is valid.' }
    },
  }
}

function resetPasswordRoute(accounts: Accounts): Route {
  return {
    name: 'resetPassword',
    method: 'POST',
    path: '/auth/reset_password/',
    summary: 'Set a new password with a checked code',
    body: ResetBody,
    answer: [200, MessageBody],
    refusals: ['ACCOUNTS_CODE_INVALID', 'ACCOUNTS_PASSWORD_REFUSED'],
    hashes: true,
    async handler(request) {
      await resetPassword(accounts, request.body as Static<typeof ResetBody>, placeOf(request))
      return { message: 'Password has been reset successfully.' }
    },
  }
}

function firstLanguage(header: string | undefined): string | null {
  return /^ *([a-z]{2,3}(?:-[a-z0-9]{2,8}){0,2})(?=[ ,;]|$)/i.exec(header ?? '')?.[1] ?? null
}
