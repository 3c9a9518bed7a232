import type { CredentialChange, User } from '../contracts.ts'
import { AccountsError, loggable } from '../errors.ts'
import type { Client } from './client.ts'
import { burnCodes, identifierOf } from './codes.ts'
import { canonicalEmail } from './email-address.ts'
import { emit } from './events.ts'
import { conflict, withoutPassword } from './new-user.ts'
import { type Draft, handOver, rowsOf } from './outbox.ts'
import type { Owner } from './password-policy.ts'
import type { Realm } from './realm.ts'
import { guessPassword } from './throttle.ts'
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
  return canonicalEmail(email) ?? email
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
  const { outcome } = await guessPassword(realm, addressOf(found), client, async () => {
    const right = await realm.passwords.verify(found.passwordHash, password, client.request)
    return { outcome: right ? 'right' : 'wrong' } as const
  })
  if (outcome === 'right') return withoutPassword(found)
  emit(realm, 'passwordFail', { client, userId: id, sessionId, details: {} })
  throw new AccountsError('ACCOUNTS_PASSWORD_WRONG')
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
