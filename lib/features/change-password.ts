import Type, { type Static } from 'typebox'
import type { User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { addressOf, changeCredentials, checkPolicy, provePassword } from '../core/credentials.ts'
import { emit } from '../core/events.ts'
import type { Realm } from '../core/realm.ts'
import { firstTokens, renewedSession, type TokenPair } from '../core/sessions.ts'
import { changeOf, knowOnly } from '../core/throttle.ts'
import type { Account } from '../core/tokens.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { Password, TokenPairBody } from '../http/schemas.ts'
import { noticesOf } from '../mail/letters.ts'
import { mostSessions } from '../options/rules.ts'

const ChangePasswordBody = Type.Object({ current_password: Password, new_password: Password })

/**
 * Changes the password of a logged-in user and returns the token pair of a new session, which lives as long as the one
 * that asked for it. Every older session ends with the change, that one too, so that no older token works any more.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_WRONG, ACCOUNTS_PASSWORD_REFUSED, ACCOUNTS_TOKEN_INVALID,
 * ACCOUNTS_TOO_MANY_REQUESTS
 */
export async function changePassword(
  realm: Realm,
  account: Account,
  { current_password: password, new_password: newPassword }: Static<typeof ChangePasswordBody>,
  client: Client,
): Promise<TokenPair> {
  const user = await provePassword(realm, account, password, client)
  await checkPolicy(realm, newPassword, user, client)
  return changeOf(realm, addressOf(user), client, () => change(realm, account, { user, newPassword }, client))
}

async function change(
  realm: Realm,
  account: Account,
  { user, newPassword }: { user: User; newPassword: string },
  client: Client,
): Promise<TokenPair> {
  await realm.hooks.before('beforePasswordChange', { user, by: 'user', client })
  const passwordHash = await realm.passwords.hash(newPassword, client.request)
  const sessions = await realm.storage.listSessions(user.id, mostSessions, realm.clock())
  const current = sessions.find(({ id }) => id === account.sessionId)
  // RFC 6749 10.4 by analogy: who proves a credential anew gets a session of a new id.
  const start = renewedSession(realm, user, client, current)
  const mails = noticesOf(realm, 'password_changed', user, client)

  const outcome = await changeCredentials(realm, user, { set: { passwordHash }, sessions: 'end', start, mails })

  // The password that was proved is not the password any more, and the session that asked has ended.
  if (outcome !== 'changed') throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  knowOnly(realm, addressOf(user), client, { proved: false })
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
      refusals: ['ACCOUNTS_PASSWORD_WRONG', 'ACCOUNTS_PASSWORD_REFUSED', 'ACCOUNTS_TOO_MANY_REQUESTS'],
      guarded: true,
      hashes: true,
      async run({ body, account, client }) {
        const tokens = await changePassword(realm, account, body, client)
        return { message: 'Password has been changed successfully.', ...tokens }
      },
    }),
  ]
}
