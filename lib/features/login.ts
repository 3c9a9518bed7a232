import Type, { type Static } from 'typebox'
import type { Accounts } from '../accounts.ts'
import type { UserWithPassword } from '../contracts.ts'
import { type Client, clientOf } from '../core/client.ts'
import { identifierOf } from '../core/codes.ts'
import { withoutPassword } from '../core/credentials.ts'
import { canonicalEmail } from '../core/email-address.ts'
import { type EventDetails, emit } from '../core/events.ts'
import type { Place } from '../core/hash-queue.ts'
import { startSession, type TokenPair } from '../core/sessions.ts'
import { AccountsError, loggable } from '../errors.ts'
import { placeOf } from '../http/admission.ts'
import type { Route } from '../http/routes.ts'
import { Password, TokenPairBody } from '../http/schemas.ts'
import { conceals, mustVerify } from '../options/options.ts'

// Any text may be looked up: the address rule holds where an address is set.
const LoginBody = Type.Object({
  email: Type.String({ maxLength: 1024, examples: ['ada@example.org'] }),
  password: Password,
})

/**
 * Exchanges an e-mail address and a password for a token pair. An unknown account, a wrong password and a disabled user
 * are refused alike, after the same work; with `concealExisting` an unverified one too.
 *
 * @throws {AccountsError} ACCOUNTS_CREDENTIALS_INVALID, ACCOUNTS_EMAIL_UNVERIFIED
 */
export async function login(
  accounts: Accounts,
  { email, password }: Static<typeof LoginBody>,
  client: Client,
  place?: Place,
): Promise<TokenPair> {
  // What is no address finds nobody, after the same statement.
  const address = canonicalEmail(email) ?? email
  const user = await accounts.storage.findUserByEmail(address)
  // Without a hash to compare with, it costs one all the same.
  const right = await accounts.passwords.verify(user?.active ? user.passwordHash : null, password, place)
  const reason = failure(accounts, user, right)
  if (!user || reason) throw refusal(accounts, address, user, reason ?? 'unknown', client)
  await accounts.hooks.before('beforeLogin', { user: withoutPassword(user), client })

  const tokens = await startSession(accounts, user, client)

  // The password was changed while it was being verified: the storage refuses a session of older credentials.
  if (!tokens) throw refusal(accounts, address, user, 'stale', client)
  await upgradeHash(accounts, user, password)
  return tokens
}

type Reason = EventDetails['loginFail']['reason']

function failure({ options }: Accounts, user: UserWithPassword | null, right: boolean): Reason | null {
  if (!user) return 'unknown'
  if (!user.active) return 'disabled'
  if (!right) return 'password'
  return mustVerify(options) && user.emailVerifiedAt === null ? 'unverified' : null
}

function refusal(
  accounts: Accounts,
  address: string,
  user: UserWithPassword | null,
  reason: Reason,
  client: Client,
): AccountsError {
  const identifier = identifierOf(accounts, address)
  emit(accounts, 'loginFail', { client, userId: user?.id, identifier, details: { reason } })
  // Only who knows the password learns of it.
  const tells = reason === 'unverified' && !conceals(accounts.options)
  return new AccountsError(tells ? 'ACCOUNTS_EMAIL_UNVERIFIED' : 'ACCOUNTS_CREDENTIALS_INVALID')
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
      refusals: ['ACCOUNTS_CREDENTIALS_INVALID', ...unverifiedRefusal(accounts)],
      hashes: true,
      handler: (request) =>
        login(accounts, request.body as Static<typeof LoginBody>, clientOf(accounts, request), placeOf(request)),
    },
  ]
}

function unverifiedRefusal({ options }: Accounts): Route['refusals'] {
  return mustVerify(options) && !conceals(options) ? ['ACCOUNTS_EMAIL_UNVERIFIED'] : []
}
