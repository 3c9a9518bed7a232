import Type, { type Static } from 'typebox'
import type { Client } from '../core/client.ts'
import { checkCode, identifierOf, withGrant } from '../core/codes.ts'
import { addressOf, changeCredentials, checkPolicy } from '../core/credentials.ts'
import { canonicalEmail } from '../core/email-address.ts'
import { emit } from '../core/events.ts'
import { post } from '../core/outbox.ts'
import type { Realm } from '../core/realm.ts'
import { knowOnly } from '../core/throttle.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { CodeToken, Email, MessageAndToken, MessageBody, Otp, Password } from '../http/schemas.ts'
import { noticesOf, proofOf } from '../mail/letters.ts'

const EmailRequestBody = Type.Object({ email: Email })
const ResetBody = Type.Object({ token: CodeToken, new_password: Password })

/**
 * Mails a one-time code and returns the token that goes with it. Does the same work, and returns the same, for an
 * address without an account: its code is a decoy and its mail is dropped by the worker.
 */
async function requestPasswordReset(
  realm: Realm,
  { email }: { email: string },
  client: Client,
): Promise<{ token: string }> {
  const address = canonicalEmail(email)
  if (address === null) throw new AccountsError('ACCOUNTS_VALIDATION')
  const found = await realm.storage.findUserByEmail(address)
  const user = found?.active ? found : null
  const subject = { address, credentialVersion: user?.credentialVersion ?? null }
  // The stored spelling gets the mail, never the submitted one.
  const shown = { username: user?.username ?? null, email: user?.email ?? address }
  const { token, draft } = proofOf(realm, { purpose: 'reset', subject, to: user?.email ?? null, shown }, client)

  await post(realm, draft)

  const identifier = identifierOf(realm, address)
  emit(realm, 'codeIssue', { client, userId: user?.id, identifier, details: { purpose: 'reset' } })
  return { token }
}

/**
 * Sets a new password with a grant, ends all sessions and kills all codes of the account; the mailbox is proved, too.
 * Of parallel calls with one token exactly one succeeds. A refused password, a full queue or an outage gives the grant
 * back.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID, ACCOUNTS_PASSWORD_REFUSED
 */
export async function resetPassword(
  realm: Realm,
  { token, new_password: password }: Static<typeof ResetBody>,
  client: Client,
): Promise<void> {
  const user = await withGrant(realm, { purpose: 'reset', token }, async (user) => {
    await checkPolicy(realm, password, user, client)
    await realm.hooks.before('beforePasswordChange', { user, by: 'reset', client })
    const passwordHash = await realm.passwords.hash(password, client.request)
    const emailVerifiedAt = user.emailVerifiedAt ?? realm.clock()
    const mails = noticesOf(realm, 'password_changed', { ...user, emailVerifiedAt }, client)
    const change = { set: { passwordHash, emailVerifiedAt }, sessions: 'end', mails } as const
    return (await changeCredentials(realm, user, change)) === 'changed' ? user : null
  })
  knowOnly(realm, addressOf(user), client, { proved: true })
  const about = { client, userId: user.id }
  emit(realm, 'passwordReset', { ...about, details: {} })
  if (user.emailVerifiedAt === null) emit(realm, 'emailVerify', { ...about, details: { password: 'discarded' } })
}

/** `POST /auth/email_request/`, `/auth/check_otp/` and `/auth/reset_password/`; none with `passwordReset: false`. */
export function passwordResetRoutes(realm: Realm): Route[] {
  const { passwordReset } = realm.options
  if (!passwordReset) return []
  return [emailRequestRoute(realm), checkOtpRoute(realm, passwordReset.digits), resetPasswordRoute(realm)]
}

function emailRequestRoute(realm: Realm): Route {
  return route({
    name: 'emailRequest',
    method: 'POST',
    path: '/auth/email_request/',
    summary: 'Ask for a password reset code by e-mail',
    body: EmailRequestBody,
    limited: 'mail',
    response: [200, MessageAndToken],
    async run({ body, client }) {
      const { token } = await requestPasswordReset(realm, body, client)
      return { message: 'Password reset link sent to email.', token }
    },
  })
}

function checkOtpRoute(realm: Realm, digits: number): Route {
  return route({
    name: 'checkOtp',
    method: 'POST',
    path: '/auth/check_otp/',
    summary: 'Check the code that was mailed',
    body: Type.Object({ token: CodeToken, otp: Otp(digits) }),
    response: [200, MessageBody],
    refusals: ['ACCOUNTS_CODE_INVALID'],
    async run({ body: { token, otp }, client }) {
      await checkCode(realm, { purpose: 'reset', token, otp }, client)
      return { message: 'OTP is valid.' }
    },
  })
}

function resetPasswordRoute(realm: Realm): Route {
  return route({
    name: 'resetPassword',
    method: 'POST',
    path: '/auth/reset_password/',
    summary: 'Set a new password with a checked code',
    body: ResetBody,
    response: [200, MessageBody],
    refusals: ['ACCOUNTS_CODE_INVALID', 'ACCOUNTS_PASSWORD_REFUSED'],
    hashes: true,
    async run({ body, client }) {
      await resetPassword(realm, body, client)
      return { message: 'Password has been reset successfully.' }
    },
  })
}
