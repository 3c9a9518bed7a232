import type { IdKind, OutboxMail, Session, StoredEvent, User, UserId } from '../../contracts.ts'

/** A user as the memory storage keeps it; always replaced as a whole. */
export interface StoredUser extends User {
  usernameCanonical: string | null
  emailCanonical: string
  passwordHash: string | null
  expiresAt: number | null
}

/** A session as the memory storage keeps it. */
export interface StoredSession extends Session {
  /** The newest token presented. */
  counter: number
  advancedAt: number
  lateReplays: number
  lastLateAt: number
  endedAt: number | null
}

/** Everything that a memory storage holds. */
export interface MemoryState {
  readonly ids: IdKind
  /** Of integers; an id is never given out again. */
  newestId: number
  readonly users: Map<UserId, StoredUser>
  /** By canonical form, as a database has its unique indexes. */
  readonly byEmail: Map<string, UserId>
  readonly byUsername: Map<string, UserId>
  readonly sessions: Map<string, StoredSession>
  readonly mails: Map<string, OutboxMail & { settled: boolean }>
  /** By id, which is the number of the event. */
  readonly events: Map<number, StoredEvent>
  newestEvent: number
}

/**
 * Refuses production for a part that lives in one process's memory.
 *
 * @throws {TypeError} with `NODE_ENV=production`, unless `singleProcess` is true
 */
export function refuseProduction(singleProcess: boolean | undefined, message: string): void {
  if (process.env.NODE_ENV === 'production' && !singleProcess) throw new TypeError(message)
}

/** An empty state. */
export function emptyState(ids: IdKind): MemoryState {
  return {
    ids,
    newestId: 0,
    users: new Map(),
    byEmail: new Map(),
    byUsername: new Map(),
    sessions: new Map(),
    mails: new Map(),
    events: new Map(),
    newestEvent: 0,
  }
}

/** Stores a user in the place of the one with the same id. */
export function keepUser(state: MemoryState, user: StoredUser): void {
  dropUser(state, user.id)
  state.users.set(user.id, user)
  if (typeof user.id === 'number') state.newestId = Math.max(state.newestId, user.id)
  state.byEmail.set(user.emailCanonical, user.id)
  if (user.usernameCanonical !== null) state.byUsername.set(user.usernameCanonical, user.id)
}

/** Removes a user, but none of its sessions. */
export function dropUser(state: MemoryState, id: UserId): void {
  const user = state.users.get(id)
  if (!user) return
  state.users.delete(id)
  state.byEmail.delete(user.emailCanonical)
  if (user.usernameCanonical !== null) state.byUsername.delete(user.usernameCanonical)
}

/** Whether somebody other than `id` has the address. */
export function emailTaken(state: MemoryState, emailCanonical: string | undefined, id?: UserId): boolean {
  const owner = emailCanonical === undefined ? undefined : state.byEmail.get(emailCanonical)
  return owner !== undefined && owner !== id
}

/** Whether somebody other than `id` has the name. */
export function usernameTaken(state: MemoryState, canonical: string | null | undefined, id?: UserId): boolean {
  const owner = typeof canonical === 'string' ? state.byUsername.get(canonical) : undefined
  return owner !== undefined && owner !== id
}

/** A copy of a user as profiles show it. */
export function shownUser({ usernameCanonical, emailCanonical, passwordHash, ...user }: StoredUser): User {
  return structuredClone(user)
}

/** A copy of a profile, through JSON, as a database keeps it. */
export function storedProfile<T>(profile: T): T {
  return JSON.parse(JSON.stringify(profile))
}

/** The sessions of a user that were not ended, also those past their `expiresAt`. */
export function openSessions({ sessions }: MemoryState, userId: UserId): StoredSession[] {
  return [...sessions.values()].filter((session) => session.userId === userId && session.endedAt === null)
}

/** Ends sessions and returns their ids. */
export function endAll(sessions: StoredSession[], now: number): string[] {
  for (const session of sessions) session.endedAt = now
  return sessions.map(({ id }) => id)
}

/** Stores a session that has not been refreshed yet. */
export function keepSession(state: MemoryState, session: Session): void {
  const fresh = { counter: -1, advancedAt: -Infinity, lateReplays: 0, lastLateAt: -Infinity, endedAt: null }
  state.sessions.set(session.id, { ...shownSession(session), ...fresh })
}

/** A copy of a session without the state of its refresh. */
export function shownSession(session: Session): Session {
  const { id, userId, credentialVersion, createdAt, authTime, lastUsedAt, idleMs, expiresAt, ip, userAgent } = session
  return { id, userId, credentialVersion, createdAt, authTime, lastUsedAt, idleMs, expiresAt, ip, userAgent }
}

/** Stores mails, except those whose id is known. */
export function keepMails({ mails }: MemoryState, added: OutboxMail[]): void {
  for (const { id, sealed, createdAt, dueAt, expiresAt } of added) {
    if (!mails.has(id)) mails.set(id, { id, sealed, createdAt, dueAt, expiresAt, settled: false })
  }
}
