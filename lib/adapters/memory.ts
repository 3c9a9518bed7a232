import { randomBytes } from 'node:crypto'
import type { NewUser, RefreshRule, Session, Storage, User, UserId } from '../contracts.ts'
import { possibleId, storableUser } from '../storable.ts'
import { refuseProduction } from './single-process.ts'

export { memoryCache } from './memory-cache.ts'
export { type MemoryMailer, memoryMailer, type SentMessage } from './memory-mailer.ts'

export interface MemoryStorageOptions {
  /** @default 'integer' */
  ids?: 'integer' | 'uuid'
  /** Allows it with `NODE_ENV=production`: a restart forgets every account, and no second process sees them. */
  singleProcess?: boolean
}

interface StoredUser extends User {
  usernameCanonical: string | null
  emailCanonical: string
  passwordHash: string | null
}

interface StoredSession extends Session {
  /** The newest token presented. */
  counter: number
  advancedAt: number
  lateReplays: number
  lastLateAt: number
  endedAt: number | null
}

/**
 * Keeps users and sessions in this process, for tests and trials. Every verb is done within one tick, and what is
 * stored is a copy: callers cannot reach it.
 *
 * @throws {TypeError} with `NODE_ENV=production` unless `singleProcess` is true
 */
export function memoryStorage({ ids = 'integer', singleProcess = false }: MemoryStorageOptions = {}): Storage {
  refuseProduction(
    singleProcess,
    '"singleProcess" is not true: memoryStorage forgets all accounts at a restart; pass a database.',
  )
  const users = new Map<UserId, StoredUser>()
  const sessions = new Map<string, StoredSession>()
  return { ids, ...userVerbs(ids, users, sessions), ...sessionVerbs(users, sessions), async ping() {} }
}

function userVerbs(ids: 'integer' | 'uuid', users: Map<UserId, StoredUser>, sessions: Map<string, StoredSession>) {
  const byEmail = new Map<string, StoredUser>()
  const byUsername = new Map<string, StoredUser>()
  return {
    async insertUser(user) {
      if (!storableUser(user)) return 'invalid'
      if (byEmail.has(user.emailCanonical)) return 'email_taken'
      if (user.usernameCanonical !== null && byUsername.has(user.usernameCanonical)) return 'username_taken'
      const stored = storedUser(user, (ids === 'uuid' ? newUuid() : users.size + 1) as UserId)
      users.set(stored.id, stored)
      byEmail.set(stored.emailCanonical, stored)
      if (stored.usernameCanonical !== null) byUsername.set(stored.usernameCanonical, stored)
      return { id: stored.id }
    },

    async findUserById(id) {
      const user = possibleId(ids, id) ? users.get(id) : undefined
      return user ? withoutPassword(user) : null
    },

    async findUserByEmail(emailCanonical) {
      const user = byEmail.get(emailCanonical)
      return user ? { ...withoutPassword(user), passwordHash: user.passwordHash } : null
    },

    async replacePasswordHash(id, oldHash, newHash) {
      const user = users.get(id)
      if (user?.passwordHash !== oldHash) return false
      user.passwordHash = newHash
      return true
    },

    async changePassword({ userId, fence, passwordHash, credentialVersion, now }) {
      const user = users.get(userId)
      if (!user?.active || user.credentialVersion !== fence) return false
      Object.assign(user, { passwordHash, credentialVersion })
      for (const session of sessions.values()) {
        if (session.userId === userId) session.endedAt ??= now
      }
      return true
    },
  } satisfies Partial<Storage>
}

function newUuid(): string {
  return randomBytes(16)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

function storedUser(user: NewUser, id: UserId): StoredUser {
  // Through JSON, as a database keeps it.
  const profile = JSON.parse(JSON.stringify(user.profile))
  return { ...user, id, emailVerifiedAt: null, active: true, profile }
}

function withoutPassword(user: StoredUser): User {
  const { id, username, email, emailVerifiedAt, credentialVersion, active, profile, createdAt } = user
  return structuredClone({ id, username, email, emailVerifiedAt, credentialVersion, active, profile, createdAt })
}

function sessionVerbs(users: Map<UserId, StoredUser>, sessions: Map<string, StoredSession>) {
  return {
    async insertSession(session) {
      if (!sameCredentials(users.get(session.userId), session)) return false
      const fresh = { counter: -1, advancedAt: -Infinity, lateReplays: 0, lastLateAt: -Infinity, endedAt: null }
      sessions.set(session.id, { ...withoutState(session), ...fresh })
      return true
    },

    async sessionActive(id, userId, now) {
      const session = sessions.get(id)
      return session !== undefined && session.userId === userId && session.endedAt === null && now < session.expiresAt
    },

    async refreshSession(id, token, rule, now) {
      const session = sessions.get(id)
      const user = session && users.get(session.userId)
      if (!session || !user || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
      if (session.endedAt !== null || now >= session.expiresAt || now >= session.lastUsedAt + session.idleMs) {
        return { result: 'dead' }
      }
      if (!sameCredentials(user, session)) return { result: 'dead' }
      const result = takeStep(session, token, rule, now)
      if (result !== 'accepted') return { result, session: withoutState(session) }
      return { result, counter: token, session: withoutState(session), user: withoutPassword(user) }
    },
  } satisfies Partial<Storage>
}

function sameCredentials(user: StoredUser | undefined, session: Session): boolean {
  return user?.active === true && user.credentialVersion === session.credentialVersion
}

function withoutState(session: Session): Session {
  const { id, userId, credentialVersion, createdAt, authTime, lastUsedAt, idleMs, expiresAt, ip, userAgent } = session
  return { id, userId, credentialVersion, createdAt, authTime, lastUsedAt, idleMs, expiresAt, ip, userAgent }
}

type Step = 'advance' | 'replay' | 'late replay' | 'stale' | 'reused' | 'ahead'

function takeStep(session: StoredSession, token: number, rule: RefreshRule, now: number) {
  const step = judge(session, token, rule, now)
  if (step === 'stale' || step === 'ahead') return step
  if (step === 'reused') {
    session.endedAt = now
    return step
  }
  if (step === 'advance') Object.assign(session, { counter: token, advancedAt: now })
  if (step === 'late replay') Object.assign(session, { lateReplays: session.lateReplays + 1, lastLateAt: now })
  session.lastUsedAt = now
  return 'accepted'
}

// The rule of `Storage.refreshSession`.
function judge(session: StoredSession, token: number, rule: RefreshRule, now: number): Step {
  const { counter, advancedAt, lateReplays, lastLateAt } = session
  const late = Math.max(advancedAt, lastLateAt) < now - rule.graceMs
  if (token > counter + 1) return 'ahead'
  if (token === counter + 1) return rule.rotate ? 'advance' : 'replay'
  if (token < counter) return late ? 'reused' : 'stale'
  const exempt = !rule.rotate || (token === 0 && rule.lateReplays > 0)
  if (!late || exempt) return 'replay'
  return lateReplays < rule.lateReplays ? 'late replay' : 'reused'
}
