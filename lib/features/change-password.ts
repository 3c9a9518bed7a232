import Type, { type Static } from 'typebox'
import type { Client } from '../core/client.ts'
import { changeCredentials, checkPolicy, nextVersion, provePassword } from '../core/credentials.ts'
import { emit } from '../core/events.ts'
import type { Place } from '../core/hash-queue.ts'
import type { Realm } from '../core/realm.ts'
import { firstTokens, newSession, type TokenPair } from '../core/sessions.ts'
import type { Account } from '../core/tokens.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { Password, TokenPairBody } from '../http/schemas.ts'
import { noticeOf } from '../mail/letters.ts'

const ChangePasswordBody = Type.Object({ current_password: Password, new_password: Password })

/**
 * Changes the password of a logged-in user and answers the token pair of a new session. Every older session ends with
 * the change, the one that asked for it too, so that no older token works any more.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_WRONG, ACCOUNTS_PASSWORD_REFUSED, ACCOUNTS_TOKEN_INVALID
 */
export async function changePassword(
  realm: Realm,
  account: Account,
  { current_password: password, new_password: newPassword }: Static<typeof ChangePasswordBody>,
  client: Client,
  place?: Place,
): Promise<TokenPair> {
  checkPolicy(realm, newPassword)
  const user = await provePassword(realm, account, { password, client, place })
  await realm.hooks.before('beforePasswordChange', { user, by: 'user', client })
  const passwordHash = await realm.passwords.hash(newPassword)
  // RFC 6749 10.4 by analogy: who proves himself anew gets a session of a new id.
  const start = { ...newSession(realm, user, client), credentialVersion: nextVersion(user) }
  const mails = [noticeOf(realm, 'password_changed', user, client)]

  const outcome = await changeCredentials(realm, user, { set: { passwordHash }, sessions: 'end', start, mails })

  // The password that was proved is not the password any more, and the session that asked has ended.
  if (outcome !== 'changed') throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  emit(realm, 'passwordChange', { client, userId: user.id, sessionId: start.id, details: { by: 'user' } })
  return firstTokens(realm, start, user)
}

/** `POST /auth/change_password/`. */
export function changePasswordRoutes(realm: Realm): Route[] {
  return [
    route({
      name: 'changePassword',
      method: 'POST',
      path: '/auth/change_password/',
      summary: 'Change your password; every other session ends',
      body: ChangePasswordBody,
      response: [200, Type.Object({ message: Type.String(), ...TokenPairBody.properties })],
      refusals: ['ACCOUNTS_PASSWORD_WRONG', 'ACCOUNTS_PASSWORD_REFUSED'],
      guarded: true,
      hashes: true,
      async run({ body, account, client, place }) {
        const tokens = await changePassword(realm, account, body, client, place)
        return { message: 'Password has been changed successfully.', ...tokens }
      },
    }),
  ]
}
