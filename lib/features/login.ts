import Type, { type Static } from 'typebox'
import type { User, UserWithPassword } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { identifierOf } from '../core/codes.ts'
import { upgradeHash } from '../core/credentials.ts'
import { lookupForm } from '../core/email-address.ts'
import { emit } from '../core/events.ts'
import type { EventDetails } from '../core/hooks.ts'
import { withoutPassword } from '../core/new-user.ts'
import type { Realm } from '../core/realm.ts'
import { startSession, type TokenPair } from '../core/sessions.ts'
import { guessPassword, type Outcome } from '../core/throttle.ts'
import { AccountsError, type AccountsErrorCode } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { Password, TokenPairBody } from '../http/schemas.ts'
import { conceals, mustVerify } from '../options/options.ts'

/** Any text may be looked up: the address rule holds where an address is set. */
export const LoginBody = Type.Object({
  email: Type.String({ maxLength: 1024, examples: ['ada@example.org'] }),
  password: Password,
})

/** What a user logs in with: any spelling of the address, and the password, of at most 1,024 characters each. */
export type Credentials = Static<typeof LoginBody>

/**
 * Exchanges an e-mail address and a password for a token pair. An unknown account, a wrong password and a disabled user
 * are refused alike, after the same work; with `concealExisting` an unverified one too.
 *
 * @throws {AccountsError} ACCOUNTS_CREDENTIALS_INVALID, ACCOUNTS_EMAIL_UNVERIFIED, ACCOUNTS_TOO_MANY_REQUESTS
 */
export async function login(
  realm: Realm,
  { email, password }: Credentials,
  client: Client,
): Promise<TokenPair & { user: User }> {
  // What is no address finds nobody, after the same statement.
  const address = lookupForm(email)
  const guessed = await guessPassword(realm, address, client, () => guess(realm, { address, password }, client))
  const { user, reason, welcome } = guessed
  if (!user || reason) throw refusal(realm, address, user, reason ?? 'unknown', client)
  await realm.hooks.before('beforeLogin', { user: withoutPassword(user), client })

  const tokens = await startSession(realm, user, client)

  // The password was changed while it was being verified: the storage refuses a session of older credentials.
  if (!tokens) throw refusal(realm, address, user, 'stale', client)
  welcome()
  await upgradeHash(realm, user, password)
  return { ...tokens, user: withoutPassword(user) }
}

async function guess(realm: Realm, { address, password }: { address: string; password: string }, client: Client) {
  const user = await realm.storage.findUserByEmail(address)
  // Without a hash to compare with, it costs one all the same.
  const stored = user?.active ? user.passwordHash : null
  const right = await realm.passwords.verify(stored, password, client.request, address)
  const reason = failure(realm, user, right)
  const outcome: Outcome = right ? 'undone' : 'wrong'
  return { user, reason, outcome }
}

type Reason = EventDetails['loginFail']['reason']

function failure({ options }: Realm, user: UserWithPassword | null, right: boolean): Reason | null {
  if (!user) return 'unknown'
  if (!user.active) return 'disabled'
  if (!right) return 'password'
  return mustVerify(options) && user.emailVerifiedAt === null ? 'unverified' : null
}

function refusal(
  realm: Realm,
  address: string,
  user: UserWithPassword | null,
  reason: Reason,
  client: Client,
): AccountsError {
  const identifier = identifierOf(realm, address)
  emit(realm, 'loginFail', { client, userId: user?.id, identifier, details: { reason } })
  // Only who knows the password learns of it.
  const shown = reason === 'unverified' && !conceals(realm.options)
  return new AccountsError(shown ? 'ACCOUNTS_EMAIL_UNVERIFIED' : 'ACCOUNTS_CREDENTIALS_INVALID')
}

/** `POST /api/login/`. */
export function loginRoutes(realm: Realm): Route[] {
  return [
    route({
      name: 'login',
      method: 'POST',
      path: '/api/login/',
      summary: 'Log in with e-mail address and password',
      body: LoginBody,
      response: [200, TokenPairBody],
      refusals: ['ACCOUNTS_CREDENTIALS_INVALID', 'ACCOUNTS_TOO_MANY_REQUESTS', ...unverifiedRefusal(realm)],
      hashes: true,
      async run({ body, client }) {
        const { access, refresh } = await login(realm, body, client)
        return { access, refresh }
      },
    }),
  ]
}

function unverifiedRefusal({ options }: Realm): AccountsErrorCode[] {
  return mustVerify(options) && !conceals(options) ? ['ACCOUNTS_EMAIL_UNVERIFIED'] : []
}
