import type { CredentialChange, User, UserId, UserWithPassword } from '../contracts.ts'
import { AccountsError, loggable } from '../errors.ts'
import { mustVerify } from '../options/options.ts'
import type { Client } from './client.ts'
import { burnCodes, identifierOf } from './codes.ts'
import { canonicalEmail, lookupForm } from './email-address.ts'
import { emit } from './events.ts'
import { conflict, invalid, withoutPassword } from './new-user.ts'
import { type Draft, handOver, rowsOf } from './outbox.ts'
import type { Owner } from './password-policy.ts'
import type { Realm } from './realm.ts'
import { guessPassword, knowNobody, type Outcome } from './throttle.ts'
import type { Account } from './tokens.ts'

/** What is to be changed. */
export interface Change extends Pick<CredentialChange, 'set' | 'sessions' | 'seenUsername'> {
  start?: CredentialChange['start']
  mails?: Draft[]
}

/**
 * Changes credentials of a user as it was read, ends sessions, queues the mails and burns the account's codes. The
 * version of the user as it was read is the fence.
 */
export async function changeCredentials(
  realm: Realm,
  user: User,
  { start = null, mails = [], ...change }: Change,
): Promise<'changed' | 'stale' | 'email_taken'> {
  const outcome = await realm.storage.changeCredentials({
    userId: user.id,
    fence: user.credentialVersion,
    credentialVersion: user.credentialVersion + 1,
    now: realm.clock(),
    ...change,
    start,
    mails: rowsOf(realm, mails),
  })
  if (typeof outcome === 'string') return outcome
  await settle(realm, user, outcome.ended, mails)
  return 'changed'
}

/**
 * Deletes a user's row, ends its sessions, queues the mails and burns its codes.
 *
 * @throws {AccountsError} ACCOUNTS_ACCOUNT_IN_USE
 */
export async function deleteUser(realm: Realm, user: User, mails: Draft[]): Promise<'deleted' | 'stale'> {
  const outcome = await realm.storage.deleteUser({
    userId: user.id,
    fence: user.credentialVersion,
    now: realm.clock(),
    mails: rowsOf(realm, mails),
  })
  if (outcome === 'in_use') throw conflict(outcome)
  if (outcome === 'stale') return outcome
  await settle(realm, user, outcome.ended, mails)
  if (!realm.joined) knowNobody(realm, addressOf(user))
  return 'deleted'
}

async function settle(realm: Realm, user: User, ended: string[], mails: Draft[]): Promise<void> {
  realm.revocation.announce(ended)
  // Within a host's transaction the codes outlive a roll-back; after a commit the fence has killed them.
  if (realm.joined) return
  await Promise.all([burnCodes(realm, addressOf(user)), handOver(realm, mails)])
}

/** The canonical form of a stored address. */
export function addressOf({ email }: User): string {
  return lookupForm(email)
}

const mostTries = 5

/** Does it again, as often as it is worth it, while it finds that what it had read has changed meanwhile. */
export async function whileStale<Outcome>(act: () => Promise<Outcome | 'stale'>): Promise<Outcome | 'stale'> {
  for (let tries = 1; ; tries++) {
    const outcome = await act()
    if (outcome !== 'stale' || tries === mostTries) return outcome
  }
}

/**
 * Asks a logged-in user for the password again.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_WRONG, ACCOUNTS_TOKEN_INVALID when the user is gone,
 * ACCOUNTS_TOO_MANY_REQUESTS
 */
export async function provePassword(
  realm: Realm,
  { id, sessionId }: Account,
  password: string,
  client: Client,
): Promise<User> {
  const found = await realm.storage.findUserWithPassword(id)
  if (!found?.active) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  if (await guessOf(realm, found, addressOf(found), password, client)) return withoutPassword(found)
  emit(realm, 'passwordFail', { client, userId: id, sessionId, details: {} })
  throw new AccountsError('ACCOUNTS_PASSWORD_WRONG')
}

/**
 * Whether a password is that of the user, who may be unknown, counted under the address.
 *
 * @throws {AccountsError} ACCOUNTS_TOO_MANY_REQUESTS
 */
export async function guessOf(
  realm: Realm,
  user: UserWithPassword | null,
  address: string,
  password: string,
  client: Client,
): Promise<boolean> {
  const stored = user?.active ? user.passwordHash : null
  const { right, welcome } = await guessPassword(realm, address, client, async () => {
    const right = await realm.passwords.verify(stored, password, client.request, address)
    const outcome: Outcome = right ? 'undone' : 'wrong'
    return { right, outcome }
  })
  // Who has not proved the mailbox is no friend of its owner yet.
  if (right && !(user && unproved(realm, user))) welcome()
  return right
}

function unproved({ options }: Realm, { emailVerifiedAt }: User): boolean {
  return mustVerify(options) && emailVerifiedAt === null
}

/** As the schemas of the routes have it. */
const longestPassword = 1024

/**
 * Whether a password is a user's, for a host that asks for it itself. As much work as a login, also for a user who is
 * unknown or disabled; a hash that is not the best is replaced.
 *
 * @throws {AccountsError} ACCOUNTS_TOO_MANY_REQUESTS, ACCOUNTS_VALIDATION, and ACCOUNTS_EMAIL_UNVERIFIED when it is
 * right but the address has to be proved first
 */
export async function verifyPassword(realm: Realm, id: UserId, password: string, client: Client): Promise<boolean> {
  if (typeof password !== 'string') throw new TypeError('fastify-accounts: a password must be a text')
  if (password.length > longestPassword) throw invalid('password', `must have at most ${longestPassword} characters`)
  const user = await realm.storage.findUserWithPassword(id)
  const right = await guessOf(realm, user, user ? addressOf(user) : String(id), password, client)
  if (!right) emit(realm, 'passwordFail', { client, userId: user?.id ?? null, details: {} })
  if (!right || !user) return false
  if (unproved(realm, user)) throw new AccountsError('ACCOUNTS_EMAIL_UNVERIFIED')
  await upgradeHash(realm, user, password)
  return true
}

/** Replaces a hash that is not the best by a better one of the password that has just been verified. */
export async function upgradeHash({ passwords, storage, log }: Realm, user: UserWithPassword, password: string) {
  if (user.passwordHash === null || !passwords.outdated(user.passwordHash, password)) return
  try {
    await storage.replacePasswordHash(user.id, user.passwordHash, await passwords.hash(password))
  } catch (error) {
    // The login is done; the next one tries again.
    log.warn({ err: loggable(error) }, 'fastify-accounts: an old password hash was not upgraded')
  }
}

/**
 * Refuses a new password that breaks the policy.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_REFUSED
 */
export async function checkPolicy(realm: Realm, password: string, owner: Owner, client: Client): Promise<void> {
  const reasons = await realm.policy.refusals(password, owner, (fault) => {
    const address = canonicalEmail(owner.email ?? '')
    const identifier = address === null ? null : identifierOf(realm, address)
    emit(realm, 'breachCheckFail', { client, identifier, details: { error: loggable(fault).message } })
  })
  if (reasons.length > 0) throw new AccountsError('ACCOUNTS_PASSWORD_REFUSED', { reasons })
}
