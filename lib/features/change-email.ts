import Type, { type Static } from 'typebox'
import type { User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { checkCode, identifierOf, withGrant } from '../core/codes.ts'
import { addressOf, changeCredentials, provePassword, whileStale } from '../core/credentials.ts'
import { canonicalEmail } from '../core/email-address.ts'
import { emit } from '../core/events.ts'
import { conflict, nameOf } from '../core/new-user.ts'
import { handOver, rowsOf } from '../core/outbox.ts'
import type { Realm } from '../core/realm.ts'
import { hasRoomFor, knowNobody, knowOnly } from '../core/throttle.ts'
import type { Account } from '../core/tokens.ts'
import { usernameProblem } from '../core/usernames.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { CodeToken, Email, MessageAndToken, MessageBody, Otp, Password } from '../http/schemas.ts'
import { noticesOf, proofOf } from '../mail/letters.ts'
import { codeDigits } from '../options/options.ts'

const ChangeEmailBody = Type.Object({ email: Email, password: Password })

/**
 * Mails a code to the new address of a logged-in user and returns the token that goes with it; the address stays until
 * `confirmEmail`. Does the same work, and returns the same, when the new address is somebody else's, who is mailed
 * nothing.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_WRONG
 */
export async function changeEmail(
  realm: Realm,
  account: Account,
  { email, password }: Static<typeof ChangeEmailBody>,
  client: Client,
): Promise<{ token: string }> {
  const wanted = canonicalEmail(email)
  if (wanted === null) throw new AccountsError('ACCOUNTS_VALIDATION')
  const user = await provePassword(realm, account, password, client)
  await realm.hooks.before('beforeEmailChange', { user, email, client })
  const owner = await realm.storage.findUserByEmail(wanted)
  // Nobody tells one who has had enough of such mails from one who has an account.
  const free = (await hasRoomFor(realm, wanted)) && (owner === null || owner.id === user.id)
  const address = addressOf(user)
  const subject = { address, credentialVersion: free ? user.credentialVersion : null, email }
  const shown = { username: user.username, email }
  const { token, draft } = proofOf(realm, { purpose: 'change', subject, to: free ? email : null, shown }, client)

  await realm.storage.addMails(rowsOf(realm, [draft]))
  await handOver(realm, [draft])

  const identifier = identifierOf(realm, address)
  emit(realm, 'codeIssue', { client, userId: user.id, identifier, details: { purpose: 'change' } })
  return { token }
}

/**
 * Changes the address to the one that the code was mailed to, exactly that one, and mails the old one a notice. Every
 * other session ends.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID, ACCOUNTS_EMAIL_TAKEN when somebody was quicker to take the address
 */
export async function confirmEmail(
  realm: Realm,
  account: Account,
  { token, otp }: { token: string; otp: string },
  client: Client,
): Promise<void> {
  await checkCode(realm, { purpose: 'change', token, otp, userId: account.id }, client)
  await withGrant(realm, { purpose: 'change', token }, async (user, { email }) => {
    // Thrown, so that the grant is given back to whose it is.
    if (user.id !== account.id) throw new AccountsError('ACCOUNTS_CODE_INVALID')
    const emailCanonical = canonicalEmail(email ?? '')
    if (email === undefined || emailCanonical === null) return null
    const outcome = await whileStale(async () => {
      // The username may be another one by now, which is no change of credentials.
      const found = await realm.storage.findUserById(user.id)
      if (!found?.active || found.credentialVersion !== user.credentialVersion) return null
      return takeAddress(realm, account, found, { email, emailCanonical }, client)
    })
    if (outcome === 'email_taken') throw conflict(outcome)
    if (outcome !== 'changed') return null
    if (addressOf(user) !== emailCanonical) knowNobody(realm, addressOf(user))
    knowOnly(realm, emailCanonical, client, { proved: true })
    return user
  })
  emit(realm, 'emailChange', { client, userId: account.id, sessionId: account.sessionId, details: {} })
}

/** An address as it was written, and its canonical form. */
interface Address {
  email: string
  emailCanonical: string
}

function takeAddress(realm: Realm, { sessionId }: Account, user: User, address: Address, client: Client) {
  return changeCredentials(realm, user, {
    set: { ...address, emailVerifiedAt: realm.clock(), ...nameAfter(realm, user, address) },
    sessions: { keep: sessionId },
    seenUsername: user.username,
    mails: noticesOf(realm, 'email_changed', user, client),
  })
}

// A username that was the old address would be somebody else's address from now on.
function nameAfter({ options }: Realm, user: User, { email, emailCanonical }: Address) {
  if (user.username === null || canonicalEmail(user.username) !== addressOf(user)) return {}
  return nameOf(options, usernameProblem(email) === null ? email : null, emailCanonical)
}

/** `POST /auth/change_email/` and `/auth/confirm_email/`. */
export function changeEmailRoutes(realm: Realm): Route[] {
  if (!realm.cache || !realm.mailer) return []
  const ConfirmEmailBody = Type.Object({ token: CodeToken, otp: Otp(codeDigits(realm.options)) })
  return [
    route({
      name: 'changeEmail',
      method: 'POST',
      path: '/auth/change_email/',
      summary: 'Ask for another e-mail address; a code is mailed to it',
      body: ChangeEmailBody,
      limited: 'mail',
      response: [200, MessageAndToken],
      refusals: ['ACCOUNTS_PASSWORD_WRONG'],
      guarded: true,
      hashes: true,
      async run({ body, account, client }) {
        const { token } = await changeEmail(realm, account, body, client)
        return { message: 'Confirmation code sent to the new email.', token }
      },
    }),
    route({
      name: 'confirmEmail',
      method: 'POST',
      path: '/auth/confirm_email/',
      summary: 'Change your e-mail address with the code that was mailed to the new one',
      body: ConfirmEmailBody,
      response: [200, MessageBody],
      refusals: ['ACCOUNTS_CODE_INVALID', 'ACCOUNTS_EMAIL_TAKEN'],
      guarded: true,
      async run({ body, account, client }) {
        await confirmEmail(realm, account, body, client)
        return { message: 'E-mail address has been changed successfully.' }
      },
    }),
  ]
}
