import Type from 'typebox'
import type { CredentialChange, NewUser, User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { burnCodes, checkCode, identifierOf, peekSubject, type Subject, withGrant } from '../core/codes.ts'
import { changeCredentials } from '../core/credentials.ts'
import { canonicalEmail } from '../core/email-address.ts'
import { emit } from '../core/events.ts'
import { beginning, storedId } from '../core/new-user.ts'
import { post } from '../core/outbox.ts'
import type { Realm } from '../core/realm.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { CodeToken, Email, MessageAndToken, MessageBody, Otp } from '../http/schemas.ts'
import { mailRegistration, proofOf } from '../mail/letters.ts'
import { codeDigits, mustVerify } from '../options/options.ts'

const ResendBody = Type.Object({ email: Email, token: Type.Optional(CodeToken) })

/**
 * Proves a mailbox with the code that was mailed to it. With the token of a registration its password is kept; with any
 * other the account is its owner's from now on: the password and the sessions of whoever registered it are gone. A
 * registration that nothing was stored of becomes an account here, unless the address has one by now.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID
 */
export async function verifyEmail(
  realm: Realm,
  { token, otp }: { token: string; otp: string },
  client: Client,
): Promise<void> {
  await checkCode(realm, { purpose: 'verify', token, otp }, client)
  const { userId, password } = await withGrant(
    realm,
    { purpose: 'verify', token },
    (user, subject) => prove(realm, user, subject),
    (subject) => enrol(realm, subject, client),
  )
  emit(realm, 'emailVerify', { client, userId, details: { password } })
}

// Whoever registered a stranger's address knows the stored password, and may have sessions.
async function prove(realm: Realm, user: User, { registration }: Subject) {
  const { email, ...brought } = typeof registration === 'object' ? registration : { email: null, passwordHash: null }
  const emailVerifiedAt = realm.clock()
  const change: Pick<CredentialChange, 'set' | 'sessions'> =
    registration === 'stored'
      ? { set: { emailVerifiedAt }, sessions: 'keep' }
      : { set: { emailVerifiedAt, ...brought }, sessions: 'end' }
  const outcome = await changeCredentials(realm, user, change)
  return outcome === 'changed' ? ({ userId: user.id, password: registration ? 'kept' : 'discarded' } as const) : null
}

async function enrol(realm: Realm, { address, registration }: Subject, client: Client) {
  if (typeof registration !== 'object') return null
  const now = realm.clock()
  const user: NewUser = { ...registration, emailCanonical: address, ...beginning(now), emailVerifiedAt: now }
  let stored = await realm.storage.insertUser(user, [], client.request)
  // Somebody has taken the name since it was asked for.
  if (stored === 'username_taken') {
    const unnamed = { ...user, username: null, usernameCanonical: null }
    stored = await realm.storage.insertUser(unnamed, [], client.request)
  }
  if (stored === 'email_taken') return null
  const userId = storedId(stored)
  await burnCodes(realm, address)
  emit(realm, 'register', { client, userId, details: {} })
  return { userId, password: 'kept' } as const
}

/**
 * Mails a new code to an address that is not proved yet. Does the same work, and returns the same, for every address.
 * With the token of a registration, the new token keeps its password too.
 */
export async function resendVerification(
  realm: Realm,
  { email, token }: { email: string; token?: string },
  client: Client,
): Promise<{ token: string }> {
  const address = canonicalEmail(email)
  if (address === null) throw new AccountsError('ACCOUNTS_VALIDATION')
  const before = token === undefined ? null : await peekSubject(realm, 'verify', token)
  const brought = before?.address === address ? before : null
  if (typeof brought?.registration === 'object') {
    return { token: await mailRegistration(realm, address, brought.registration, client) }
  }
  const found = await realm.storage.findUserByEmail(address)
  const user = found?.active && found.emailVerifiedAt === null ? found : null
  const credentialVersion = user?.credentialVersion ?? null
  const kept = brought?.credentialVersion === credentialVersion ? brought.registration : undefined
  const { token: fresh, draft } = proofOf(
    realm,
    {
      purpose: 'verify',
      subject: { address, credentialVersion, registration: kept },
      to: user?.email ?? null,
      shown: { username: user?.username ?? null, email: user?.email ?? address },
      accountEnd: user?.expiresAt,
    },
    client,
  )

  await post(realm, draft)

  const identifier = identifierOf(realm, address)
  emit(realm, 'codeIssue', { client, userId: user?.id, identifier, details: { purpose: 'verify' } })
  return { token: fresh }
}

/** `POST /auth/verify_email/` and `/auth/resend_verification/`; none without `verifyEmail`. */
export function emailVerificationRoutes(realm: Realm): Route[] {
  if (!mustVerify(realm.options)) return []
  const VerifyBody = Type.Object({ token: CodeToken, otp: Otp(codeDigits(realm.options)) })
  return [
    route({
      name: 'verifyEmail',
      method: 'POST',
      path: '/auth/verify_email/',
      summary: 'Prove an e-mail address with the code that was mailed to it',
      body: VerifyBody,
      response: [200, MessageBody],
      refusals: ['ACCOUNTS_CODE_INVALID'],
      async run({ body, client }) {
        await verifyEmail(realm, body, client)
        return { message: 'E-mail address has been verified.' }
      },
    }),
    route({
      name: 'resendVerification',
      method: 'POST',
      path: '/auth/resend_verification/',
      summary: 'Ask for a new verification code by e-mail',
      body: ResendBody,
      limited: 'mail',
      response: [200, MessageAndToken],
      async run({ body, client }) {
        const { token } = await resendVerification(realm, body, client)
        return { message: 'Verification code sent to email.', token }
      },
    }),
  ]
}
