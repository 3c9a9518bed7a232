import { randomBytes } from 'node:crypto'
import type {
  CredentialChange,
  ImportedUser,
  NewUser,
  OutboxMail,
  Storage,
  UserId,
  UserWithPassword,
} from '../../contracts.ts'
import { isValidId, storable, storableUser } from '../../core/storable.ts'
import {
  dropUser,
  emailTaken,
  endAll,
  keepMails,
  keepSession,
  keepUser,
  type MemoryState,
  openSessions,
  type StoredUser,
  shownUser,
  storedProfile,
  usernameTaken,
} from './state.ts'

type UserUpdate = Parameters<Storage['updateUser']>[0]

/** The verbs about users and their credentials. */
export function userVerbs(state: MemoryState) {
  return { ...profileVerbs(state), ...credentialVerbs(state) } satisfies Partial<Storage>
}

function profileVerbs(state: MemoryState) {
  const { ids, users, byEmail, byUsername } = state
  return {
    async insertUser(user, mails) {
      return insert(state, user, mails)
    },

    async importUsers(batch) {
      return batch.map((user) => insertImported(state, user))
    },

    async findUserById(id) {
      const user = users.get(id)
      return user ? shownUser(user) : null
    },

    async findUserByEmail(emailCanonical) {
      return withPassword(users.get(byEmail.get(emailCanonical) as UserId))
    },

    async findHolders(emailCanonical, usernameCanonical) {
      const found = new Set([byEmail.get(emailCanonical), byUsername.get(usernameCanonical as string)])
      return [...found].flatMap((id) => users.get(id as UserId) ?? []).map(shownUser)
    },

    async findUserWithPassword(id) {
      return withPassword(users.get(id))
    },

    async listUsers({ after, limit }) {
      if (after !== undefined && !isValidId(ids, after)) return []
      const listed = [...users.values()].filter(({ id }) => after === undefined || id > after)
      return listed
        .sort((one, other) => (one.id < other.id ? -1 : 1))
        .slice(0, limit)
        .map(shownUser)
    },

    async updateUser(change) {
      const user = users.get(change.id)
      if (!user?.active || !mayUpdate(state, user, change.fence)) return null
      return update(state, user, change)
    },

    async setRole(id, role) {
      const user = users.get(id)
      if (user) keepUser(state, { ...user, role })
      return user !== undefined
    },
  } satisfies Partial<Storage>
}

function insert(state: MemoryState, user: NewUser, mails: OutboxMail[] = []) {
  return refusalOf(state, user) ?? add(state, user, newId(state), mails)
}

function insertImported(state: MemoryState, user: ImportedUser) {
  const { id = newId(state), active } = user
  if (!isValidId(state.ids, id)) return 'invalid'
  return refusalOf(state, user) ?? (state.users.has(id) ? 'id_taken' : add(state, user, id, [], active))
}

function refusalOf(state: MemoryState, user: NewUser) {
  if (!storableUser(user)) return 'invalid'
  if (emailTaken(state, user.emailCanonical)) return 'email_taken'
  return usernameTaken(state, user.usernameCanonical) ? 'username_taken' : null
}

function add(state: MemoryState, user: NewUser, id: UserId, mails: OutboxMail[], active = true) {
  keepUser(state, { ...user, id, active, profile: storedProfile(user.profile) })
  keepMails(state, mails)
  return { id }
}

function newId(state: MemoryState): UserId {
  return (state.ids === 'integer' ? state.newestId + 1 : newUuid()) as UserId
}

function newUuid(): string {
  return randomBytes(16)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

function withPassword(user: StoredUser | undefined): UserWithPassword | null {
  return user ? { ...shownUser(user), passwordHash: user.passwordHash } : null
}

function mayUpdate({ sessions }: MemoryState, user: StoredUser, fence: UserUpdate['fence']): boolean {
  if (!fence) return true
  const { sessionId, emailCanonical = user.emailCanonical } = fence
  const session = sessions.get(sessionId)
  return (
    session?.userId === user.id &&
    session.endedAt === null &&
    session.credentialVersion === user.credentialVersion &&
    emailCanonical === user.emailCanonical
  )
}

function update(state: MemoryState, user: StoredUser, change: UserUpdate) {
  const { username = user.username, usernameCanonical = user.usernameCanonical } = change
  if (!storable([username, usernameCanonical, change.profile])) return 'invalid'
  if (usernameTaken(state, usernameCanonical, user.id)) return 'username_taken'
  const profile = { ...user.profile, ...storedProfile(change.profile) }
  const updated = { ...user, username, usernameCanonical, profile }
  keepUser(state, updated)
  return shownUser(updated)
}

function credentialVerbs(state: MemoryState) {
  return {
    async changeCredentials(change) {
      const user = state.users.get(change.userId)
      if (!user || user.credentialVersion !== change.fence) return 'stale'
      if (!user.active && change.set.active === undefined) return 'stale'
      if (change.seenUsername !== undefined && change.seenUsername !== user.username) return 'stale'
      if (emailTaken(state, change.set.emailCanonical, user.id)) return 'email_taken'
      keepUser(state, changed(state, user, change))
      const ended = moveSessions(state, change)
      const { userId, credentialVersion, start } = change
      if (start) keepSession(state, { ...start, userId, credentialVersion })
      keepMails(state, change.mails)
      return { ended }
    },

    // Nothing else refers to a user here, so it is never `in_use`.
    async deleteUser({ userId, fence, now, mails }) {
      const user = state.users.get(userId)
      if (!user || user.credentialVersion !== fence) return 'stale'
      dropUser(state, userId)
      keepMails(state, mails)
      return { ended: endAll(openSessions(state, userId), now) }
    },
  } satisfies Partial<Storage>
}

function changed(state: MemoryState, user: StoredUser, { set, credentialVersion }: CredentialChange): StoredUser {
  const { username, usernameCanonical, ...rest } = set
  const name = usernameTaken(state, usernameCanonical, user.id) ? {} : { username, usernameCanonical }
  const expiry = set.emailVerifiedAt === undefined ? {} : { expiresAt: null }
  const profile = storedProfile(set.profile ?? user.profile)
  return { ...user, ...given({ ...rest, ...name }), ...expiry, profile, credentialVersion }
}

/** The members that are not undefined. */
function given<T extends object>(members: T) {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> }
}

function moveSessions(state: MemoryState, { userId, sessions, credentialVersion, now }: CredentialChange): string[] {
  const open = openSessions(state, userId)
  const kept = open.filter(({ id }) => sessions === 'keep' || (sessions !== 'end' && sessions.keep === id))
  for (const session of kept) session.credentialVersion = credentialVersion
  return endAll(
    open.filter((session) => !kept.includes(session)),
    now,
  )
}
