import { randomBytes } from 'node:crypto'
import type { NewUser, RefreshRule, Session, Storage, UserId } from '../contracts.ts'

/** The time at which sample users and sessions begin. */
export const start = 1_800_000_000_000
export const minute = 60_000
export const hour = 60 * minute
export const day = 24 * hour

/** The default rule of refresh tokens. */
export const rule: RefreshRule = { rotate: true, graceMs: 30_000, lateReplays: 3 }

/** A name that no other case uses. */
export function uniqueName(): string {
  return `t${randomBytes(9).toString('hex')}`
}

/** A user that no other case knows. */
export function sampleUser(change: Partial<NewUser> = {}): NewUser {
  const name = uniqueName()
  return {
    username: name.toUpperCase(),
    usernameCanonical: name,
    email: `${name}@Example.org`,
    emailCanonical: `${name}@example.org`,
    passwordHash: '$argon2id$old',
    credentialVersion: 2 ** 40 - 1,
    profile: {} as NewUser['profile'],
    createdAt: start,
    ...change,
  }
}

/** A stored user and its id. */
export async function storedUser(subject: Storage, change: Partial<NewUser> = {}): Promise<NewUser & { id: UserId }> {
  const user = sampleUser(change)
  const result = await subject.insertUser(user)
  if (typeof result === 'string') throw new Error(`A new user was refused: ${result}`)
  return { ...user, id: result.id }
}

/** A session of a user that no other case knows; idle for 10 days, at most 30. */
export function sampleSession(user: { id: UserId; credentialVersion: number }, change: Partial<Session> = {}): Session {
  return {
    id: uniqueName(),
    userId: user.id,
    credentialVersion: user.credentialVersion,
    createdAt: start,
    authTime: start - 1,
    lastUsedAt: start,
    idleMs: 10 * day,
    expiresAt: start + 30 * day,
    ip: '2001:db8::1',
    userAgent: 'Mozilla/5.0 (contract)',
    ...change,
  }
}

/** A stored session of a user, a new one unless given. */
export async function storedSession(
  subject: Storage,
  change: Partial<Session> = {},
  user?: { id: UserId; credentialVersion: number },
): Promise<Session> {
  const session = sampleSession(user ?? (await storedUser(subject)), change)
  if (!(await subject.insertSession(session))) throw new Error('A new session was refused.')
  return session
}

/** Runs 50 callers at once. */
export function race<T>(caller: (index: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: 50 }, (_, index) => caller(index)))
}

/** Texts that mean something to a database, a driver or a language, and should mean nothing to a store. */
export const hostileTexts = [
  '',
  "' or '1'='1",
  "'); drop table accounts_users; --",
  '%',
  '_',
  '\\',
  '$1',
  '\0',
  '\ud800',
  '__proto__',
  'constructor',
]

/** A change of a user's password, as the core asks for it. */
export function passwordChange(user: { id: UserId; credentialVersion: number }) {
  const { id: userId, credentialVersion: fence } = user
  return { userId, fence, passwordHash: '$argon2id$new', credentialVersion: fence + 1, now: start }
}
