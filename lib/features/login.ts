import Type, { type Static } from 'typebox'
import type { Accounts } from '../accounts.ts'
import { placeOf } from '../admission.ts'
import type { UserWithPassword } from '../contracts.ts'
import { canonicalEmail } from '../email-address.ts'
import { AccountsError, loggable } from '../errors.ts'
import type { Place } from '../hash-queue.ts'
import { Password, TokenPairBody } from '../schemas.ts'
import { clientOf, type Route } from '../scope.ts'
import { type Client, startSession, type TokenPair } from '../sessions.ts'

// Any text may be looked up: the address rule holds where an address is set.
const LoginBody = Type.Object({
  email: Type.String({ maxLength: 1024, examples: ['ada@example.org'] }),
  password: Password,
})

/**
 * Exchanges an e-mail address and a password for a token pair. An unknown account, a wrong password and a disabled user
 * are refused alike, after the same work.
 *
 * @throws {AccountsError} ACCOUNTS_CREDENTIALS_INVALID
 */
export async function login(
  accounts: Accounts,
  { email, password }: Static<typeof LoginBody>,
  client: Client,
  place?: Place,
): Promise<TokenPair> {
  // What is no address finds nobody, after the same statement.
  const user = await accounts.storage.findUserByEmail(canonicalEmail(email) ?? email)
  // Without a hash to compare with, it costs one all the same.
  const right = await accounts.passwords.verify(user?.active ? user.passwordHash : null, password, place)
  if (!user || !right) throw new AccountsError('ACCOUNTS_CREDENTIALS_INVALID')

  const tokens = await startSession(accounts, user, client)

  // The password was changed while it was being verified: the storage refuses a session of older credentials.
  if (!tokens) throw new AccountsError('ACCOUNTS_CREDENTIALS_INVALID')
  await upgradeHash(accounts, user, password)
  return tokens
}

async function upgradeHash({ passwords, storage, log }: Accounts, user: UserWithPassword, password: string) {
  if (user.passwordHash === null || !passwords.outdated(user.passwordHash)) return
  try {
    await storage.replacePasswordHash(user.id, user.passwordHash, await passwords.hash(password))
  } catch (error) {
    // The log-in is done; the next one tries again.
    log.warn({ err: loggable(error) }, 'fastify-accounts: an old password hash was not upgraded')
  }
}

/** `POST /api/login/`. */
export function loginRoutes(accounts: Accounts): Route[] {
  return [
    {
      name: 'login',
      method: 'POST',
      path: '/api/login/',
      summary: 'Log in with e-mail address and password',
      body: LoginBody,
      answer: [200, TokenPairBody],
      refusals: ['ACCOUNTS_CREDENTIALS_INVALID'],
      hashes: true,
      handler: (request) =>
        login(accounts, request.body as Static<typeof LoginBody>, clientOf(accounts, request), placeOf(request)),
    },
  ]
}
