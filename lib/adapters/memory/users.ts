import { randomBytes } from 'node:crypto'
import type { NewUser, OutboxMail, Storage, UserId, UserWithPassword } from '../../contracts.ts'
import { possibleId, storable, storableUser } from '../../core/storable.ts'
import {
  emailTaken,
  keepMails,
  keepUser,
  type MemoryState,
  type StoredUser,
  shownUser,
  storedProfile,
  usernameTaken,
} from './state.ts'

type UserUpdate = Parameters<Storage['updateUser']>[0]

/** The verbs about users, but for changes of credentials. */
export function userVerbs(state: MemoryState) {
  const { ids, users, byEmail, byUsername } = state
  return {
    async insertUser(user, mails) {
      return insert(state, user, mails)
    },

    async importUsers(batch) {
      return batch.map((user) => insert(state, user))
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
      if (after !== undefined && !possibleId(ids, after)) return []
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

    async replacePasswordHash(id, oldHash, newHash) {
      const user = users.get(id)
      if (user?.passwordHash !== oldHash) return false
      keepUser(state, { ...user, passwordHash: newHash })
      return true
    },
  } satisfies Partial<Storage>
}

function insert(state: MemoryState, user: NewUser, mails: OutboxMail[] = []) {
  if (!storableUser(user)) return 'invalid'
  if (emailTaken(state, user.emailCanonical)) return 'email_taken'
  if (usernameTaken(state, user.usernameCanonical)) return 'username_taken'
  const id = (state.ids === 'uuid' ? newUuid() : state.newestId + 1) as UserId
  keepUser(state, { ...user, id, active: true, profile: storedProfile(user.profile) })
  keepMails(state, mails)
  return { id }
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
