import type { CredentialChange, Storage } from '../../contracts.ts'
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
  storedProfile,
  usernameTaken,
} from './state.ts'

/** The verbs that change credentials and end accounts. */
export function credentialVerbs(state: MemoryState) {
  return {
    async changeCredentials(change) {
      const user = state.users.get(change.userId)
      if (!user || user.credentialVersion !== change.fence) return 'stale'
      if (!user.active && change.set.active === undefined) return 'stale'
      if (change.seenUsername !== undefined && change.seenUsername !== user.username) return 'stale'
      if (emailTaken(state, change.set.emailCanonical, user.id)) return 'email_taken'
      keepUser(state, changed(state, user, change))
      const ended = moveSessions(state, change)
      if (change.start) keepSession(state, change.start)
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

/** The members that are not undefined: those are left out, and stay. */
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
