import { randomBytes } from 'node:crypto'
import type { CredentialChange, NewUser, OutboxMail, RefreshRule, Session, Storage, UserId } from '../contracts.ts'

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
    emailVerifiedAt: null,
    passwordHash: '$argon2id$old',
    credentialVersion: 2 ** 40 - 1,
    role: null,
    profile: {} as NewUser['profile'],
    createdAt: start,
    expiresAt: null,
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
  if (!(await subject.insertSession(session, 1000))) throw new Error('A new session was refused.')
  return session
}

/** Runs 50 callers at once. */
export function race<T>(caller: (index: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: 50 }, (_, index) => caller(index)))
}

/** Texts with a meaning to some database, driver or language, which a store must treat like any other text. */
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

/** Ids that no user has. */
export const impossibleIds = [
  ...hostileTexts,
  '1',
  'null',
  '00000000-0000-0000-0000-000000000000',
  Number.NaN,
  1.5,
  -1,
  0,
  2 ** 31,
  -(2 ** 31) - 1,
  2 ** 50,
  2 ** 63,
  1e300,
  Number.POSITIVE_INFINITY,
  [1],
  {},
  null,
] as UserId[]

/** An id that a user might have, also where the column has 32 bits, but none has. */
export function missingId(subject: Storage): UserId {
  return (subject.ids === 'integer' ? 2 ** 31 - 1 : '12345678-1234-1234-1234-123456789012') as UserId
}

/** Those of `hostileTexts` that a UTF-8 column can hold. */
export const storableTexts = hostileTexts.filter((text) => text.isWellFormed() && !text.includes('\0'))

/** An object whose one member has this name, but for a name that some drivers lose. */
export function memberNamed(name: string): Record<string, string> {
  return name === '__proto__' ? {} : { [name]: name }
}

/** A change of a user's password, as the core asks for it: every session ends. */
export function passwordChange(
  user: { id: UserId; credentialVersion: number },
  change: Partial<CredentialChange> = {},
): CredentialChange {
  return {
    userId: user.id,
    fence: user.credentialVersion,
    credentialVersion: user.credentialVersion + 1,
    now: start,
    set: { passwordHash: '$argon2id$new' },
    sessions: 'end',
    start: null,
    mails: [],
    ...change,
  }
}

/** A deletion of a user, as the core asks for it. */
export function sampleDeletion(user: { id: UserId; credentialVersion: number }, mails: OutboxMail[] = []) {
  return { userId: user.id, fence: user.credentialVersion, now: start, mails }
}

/** A mail that no other case uses, due at `start` and of use for an hour. */
export function sampleMail(change: Partial<OutboxMail> = {}): OutboxMail {
  return { id: uniqueName(), sealed: 'sealed', createdAt: start, dueAt: start, expiresAt: start + hour, ...change }
}

/** Claims everything that is due, for a minute, and returns those of the given mails that were among it. */
export async function claimedOf(subject: Storage, mails: OutboxMail[], now = start): Promise<OutboxMail[]> {
  const claimed: OutboxMail[] = []
  for (;;) {
    const batch = await subject.claimMails(now, now + minute, 100)
    if (batch.length === 0) return claimed.filter(({ id }) => mails.some((mail) => mail.id === id))
    claimed.push(...batch)
  }
}

/** The ids of things, sorted, to compare what comes in any order. */
export function idsOf(things: { id: string }[]): string[] {
  return things.map(({ id }) => id).sort()
}
