import { randomBytes } from 'node:crypto'
import type { NewUser, User, UserId, UserWithPassword } from '../contracts.ts'
import { AccountsError } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'
import { canonicalEmail } from './email-address.ts'
import type { Realm } from './realm.ts'
import { canonicalUsername, usernameProblem } from './usernames.ts'

/** Who is to be registered. */
export interface Registration {
  username?: string | null
  email: string
  /** Members that the option `registration.profile` does not name are ignored. */
  profile?: Record<string, unknown>
}

/** A user as a registration makes it, without a password. */
export function newUser(
  { options, cleanProfile, clock }: Realm,
  registration: Registration,
): Omit<NewUser, 'passwordHash'> {
  const { email, profile = {} } = registration
  const emailCanonical = canonicalEmail(email)
  if (emailCanonical === null) throw invalid('email', 'must be an e-mail address')
  return {
    ...nameOf(options, registration.username ?? null, emailCanonical),
    email,
    emailCanonical,
    profile: cleanProfile(profile),
    ...beginning(clock()),
  }
}

/** What every new user begins with. */
export function beginning(now: number) {
  const credentialVersion = randomBytes(5).readUIntBE(0, 5)
  return { emailVerifiedAt: null, credentialVersion, role: null, createdAt: now, expiresAt: null }
}

/** A username with its canonical form, as the account of an address may have it. */
export function nameOf({ registration }: ResolvedOptions, username: string | null, emailCanonical: string) {
  const name = (registration && registration.username === false) || username === null ? null : username.normalize('NFC')
  // A username that reads like somebody's address could be taken for that account.
  if (name?.normalize('NFKC').includes('@') && canonicalEmail(name) !== emailCanonical) {
    throw invalid('username', 'must not have an "@"')
  }
  if (name !== null && usernameProblem(name)) throw invalid('username', usernameProblem(name) as string)
  return { username: name, usernameCanonical: name === null ? null : canonicalUsername(name) }
}

/** The refusal of one field. */
export function invalid(field: string, message: string): AccountsError {
  return new AccountsError('ACCOUNTS_VALIDATION', { errors: [{ field, message }] })
}

const conflicts = {
  email_taken: 'ACCOUNTS_EMAIL_TAKEN',
  username_taken: 'ACCOUNTS_USERNAME_TAKEN',
  in_use: 'ACCOUNTS_ACCOUNT_IN_USE',
} as const

/** The refusal that a storage's word for a conflict stands for. */
export function conflict(word: keyof typeof conflicts | 'invalid'): AccountsError {
  return word === 'invalid' ? invalid('', 'has a value that cannot be stored') : new AccountsError(conflicts[word])
}

/**
 * The id of a stored user.
 *
 * @throws {AccountsError} ACCOUNTS_EMAIL_TAKEN, ACCOUNTS_USERNAME_TAKEN, ACCOUNTS_VALIDATION
 */
export function storedId(stored: Awaited<ReturnType<Realm['storage']['insertUser']>>): UserId {
  if (typeof stored === 'string') throw conflict(stored)
  return stored.id
}

/** A new user as it is once it has its id. */
export function userOf(user: Omit<NewUser, 'passwordHash'>, id: UserId): User {
  const { usernameCanonical, emailCanonical, ...shown } = user
  return { ...shown, id, active: true }
}

/** A user as hooks and hosts may see it. */
export function withoutPassword({ passwordHash: _hidden, ...user }: UserWithPassword): User {
  return user
}
