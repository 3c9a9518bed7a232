import Type from 'typebox'
import type { CredentialChange, User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { checkCode, peekSubject, type Subject, withGrant } from '../core/codes.ts'
import { changeCredentials } from '../core/credentials.ts'
import { canonicalEmail } from '../core/email-address.ts'
import { emit } from '../core/events.ts'
import { post } from '../core/outbox.ts'
import type { Realm } from '../core/realm.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { CodeToken, Email, MessageAndToken, MessageBody, Otp } from '../http/schemas.ts'
import { proofOf } from '../mail/letters.ts'
import { codeDigits, mustVerify } from '../options/options.ts'

const ResendBody = Type.Object({ email: Email, token: Type.Optional(CodeToken) })

/**
 * Proves a mailbox with the code that was mailed to it. With the token of a registration its password is kept; with any
 * other the account is its owner's from now on: the password and the sessions of whoever registered it are gone.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID
 */
export async function verifyEmail(
  realm: Realm,
  { token, otp }: { token: string; otp: string },
  client: Client,
): Promise<void> {
  await checkCode(realm, { purpose: 'verify', token, otp }, client)
  const done = await withGrant(realm, { purpose: 'verify', token }, async (subject) => {
    const user = await realm.storage.findUserById(subject.userId)
    if (!user?.active || user.credentialVersion !== subject.credentialVersion) return null
    const outcome = await changeCredentials(realm, user, proved(subject, realm.clock()))
    return outcome === 'changed' ? { user, kept: broughtBy(subject) !== undefined } : null
  })
  const password = done.kept ? 'kept' : 'discarded'
  emit(realm, 'emailVerify', { client, userId: done.user.id, details: { password } })
}

// Whoever registered a stranger's address knows the stored password, and may have sessions.
function proved(subject: Subject, now: number): Pick<CredentialChange, 'set' | 'sessions'> {
  const registration = broughtBy(subject)
  if (registration === 'stored') return { set: { emailVerifiedAt: now }, sessions: 'keep' }
  const set = registration ?? { passwordHash: null }
  return { set: { emailVerifiedAt: now, ...set }, sessions: 'end' }
}

type Brought = Pick<Subject, 'registration' | 'foreign'>

function broughtBy({ registration, foreign }: Brought): Subject['registration'] {
  return foreign ? undefined : registration
}

/**
 * Mails a new code to an address that is not proved yet. Works and answers alike for every address. With the token that
 * a registration answered, the new token keeps its password too.
 */
export async function resendVerification(
  realm: Realm,
  { email, token }: { email: string; token?: string },
  client: Client,
): Promise<{ token: string }> {
  const address = canonicalEmail(email)
  if (address === null) throw new AccountsError('ACCOUNTS_VALIDATION')
  const found = await realm.storage.findUserByEmail(address)
  const user = found?.active && found.emailVerifiedAt === null ? found : null
  const proof = token === undefined ? {} : await registrationOf(realm, token, user)
  const brought = broughtBy(proof)
  const username = typeof brought === 'object' ? brought.username : (user?.username ?? null)
  const { token: fresh, draft } = proofOf(
    realm,
    {
      ...{ purpose: 'verify', address, user, proof, accountEnd: user?.expiresAt },
      ...{ to: user?.email ?? null, shown: { username, email: user?.email ?? address } },
    },
    client,
  )

  await post(realm, draft)

  const identifier = draft.code?.tag
  emit(realm, 'codeIssue', { client, userId: user?.id, identifier, details: { purpose: 'verify' } })
  return { token: fresh }
}

async function registrationOf(realm: Realm, token: string, user: User | null): Promise<Brought> {
  const subject = await peekSubject(realm, 'verify', token).catch((error) => {
    // A token of another shape is one that no registration answered.
    if (error instanceof AccountsError && error.code === 'ACCOUNTS_CODE_INVALID') return null
    throw error
  })
  const own = user && subject?.userId === user.id && subject.credentialVersion === user.credentialVersion
  // One of another account is worth nothing, but goes along: a smaller code would tell.
  return { registration: subject?.registration, foreign: own ? subject.foreign : true }
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
      response: [200, MessageAndToken],
      async run({ body, client }) {
        const { token } = await resendVerification(realm, body, client)
        return { message: 'Verification code sent to email.', token }
      },
    }),
  ]
}
