import { randomBytes } from 'node:crypto'
import Type, { type Static } from 'typebox'
import type { User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { checkCode, type IssuedCode, newCode, putCode, withGrant } from '../core/codes.ts'
import { changeCredentials, checkPolicy } from '../core/credentials.ts'
import { canonicalEmail } from '../core/email-address.ts'
import { emit } from '../core/events.ts'
import type { Place } from '../core/hash-queue.ts'
import { mailerOf } from '../core/outbox.ts'
import type { Realm } from '../core/realm.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { CodeToken, Email, MessageAndToken, MessageBody, Otp, Password } from '../http/schemas.ts'
import { asked, noticeOf } from '../mail/letters.ts'

const EmailRequestBody = Type.Object({ email: Email })
const ResetBody = Type.Object({ token: CodeToken, new_password: Password })

/**
 * Mails a one-time code and answers the token that goes with it. Works alike, and answers alike, for an address without
 * an account: its code is a decoy and its mail is dropped by the worker.
 */
export async function requestPasswordReset(
  realm: Realm,
  { email }: { email: string },
  client: Client,
): Promise<{ token: string }> {
  const address = canonicalEmail(email)
  if (address === null) throw new AccountsError('ACCOUNTS_VALIDATION')
  const found = await realm.storage.findUserByEmail(address)
  const user = found?.active ? found : null
  const { url, ...limits } = resetOptions(realm)
  const issued = newCode(realm, { purpose: 'reset', address, user, link: url !== undefined, ...limits })

  const expiresAt = await putCode(realm, issued.draft)
  await mailerOf(realm).send(resetMail(realm, { user, address, issued, expiresAt, client }))

  emit(realm, 'codeIssue', { client, userId: user?.id, identifier: issued.draft.tag, details: { purpose: 'reset' } })
  return { token: issued.token }
}

interface ResetMail {
  user: User | null
  address: string
  issued: IssuedCode
  expiresAt: number
  client: Client
}

function resetMail(realm: Realm, { user, address, issued, expiresAt, client }: ResetMail) {
  const now = realm.clock()
  const { url } = resetOptions(realm)
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
    minutes: Math.round((expiresAt - now) / 60_000),
    ...asked(client, now),
    brand: realm.options.mail.brand,
    expiresAt,
  }
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
  place?: Place,
): Promise<void> {
  const user = await withGrant(realm, { purpose: 'reset', token }, async (subject) => {
    const user = await realm.storage.findUserById(subject.userId)
    if (!user?.active || user.credentialVersion !== subject.credentialVersion) return null
    checkPolicy(realm, password)
    await realm.hooks.before('beforePasswordChange', { user, by: 'reset', client })
    const passwordHash = await realm.passwords.hash(password, place)
    const set = { passwordHash, emailVerifiedAt: user.emailVerifiedAt ?? realm.clock() }
    const mails = [noticeOf(realm, 'password_changed', user, client)]
    const outcome = await changeCredentials(realm, user, { set, sessions: 'end', mails })
    return outcome === 'changed' ? user : null
  })
  const told = { client, userId: user.id }
  emit(realm, 'passwordReset', { ...told, details: {} })
  if (user.emailVerifiedAt === null) emit(realm, 'emailVerify', { ...told, details: { password: 'discarded' } })
}

function resetOptions({ options }: Realm) {
  if (!options.passwordReset) throw new TypeError('fastify-accounts: "passwordReset" is off')
  return options.passwordReset
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
    async run({ body, client, place }) {
      await resetPassword(realm, body, client, place)
      return { message: 'Password has been reset successfully.' }
    },
  })
}
