import type { Session, Storage } from '../../contracts.ts'
import { judgeToken } from '../../core/refresh-rule.ts'
import {
  endAll,
  keepSession,
  type MemoryState,
  openSessions,
  type StoredUser,
  shownSession,
  shownUser,
} from './state.ts'

/** The verbs about sessions. */
export function sessionVerbs(state: MemoryState) {
  return { ...lifeVerbs(state), ...endVerbs(state) } satisfies Partial<Storage>
}

function lifeVerbs(state: MemoryState) {
  const { users, sessions } = state
  return {
    async insertSession(session, most) {
      if (!sameCredentials(users.get(session.userId), session)) return null
      const surplus = openSessions(state, session.userId)
        .sort(lastUsedFirst)
        .slice(most - 1)
      keepSession(state, session)
      return endAll(surplus, session.createdAt)
    },

    async sessionActive(id, userId, now) {
      const session = sessions.get(id)
      if (!session || (userId !== null && session.userId !== userId)) return false
      return session.endedAt === null && now < session.expiresAt
    },

    async refreshSession(id, token, rule, now) {
      const session = sessions.get(id)
      const user = session && users.get(session.userId)
      if (!session || !user || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
      if (session.endedAt !== null || over(session, now) || !sameCredentials(user, session)) return { result: 'dead' }
      const replayed = token === session.counter
      const { result, set } = judgeToken(session, token, rule, now)
      Object.assign(session, set)
      if (result !== 'accepted') return { result, session: shownSession(session) }
      return { result, counter: token, replayed, session: shownSession(session), user: shownUser(user) }
    },

    async listSessions(userId, limit, now) {
      const current = openSessions(state, userId).filter((session) => !over(session, now))
      return current.sort(lastUsedFirst).slice(0, limit).map(shownSession)
    },
  } satisfies Partial<Storage>
}

function lastUsedFirst(one: Session, other: Session): number {
  return other.lastUsedAt - one.lastUsedAt
}

function over({ expiresAt, lastUsedAt, idleMs }: Session, now: number): boolean {
  return now >= expiresAt || now >= lastUsedAt + idleMs
}

function sameCredentials(user: StoredUser | undefined, session: Session): boolean {
  return user?.active === true && user.credentialVersion === session.credentialVersion
}

function endVerbs(state: MemoryState) {
  const { sessions } = state
  return {
    async endSession(id, userId, now) {
      const session = sessions.get(id)
      if (!session || (userId !== null && session.userId !== userId)) return null
      const ended = session.endedAt === null
      session.endedAt ??= now
      return { userId: session.userId, ended }
    },

    async endSessions(userId, now) {
      return endAll(openSessions(state, userId), now)
    },

    async endAnySessions(limit, now) {
      const open = [...sessions.values()].filter(({ endedAt }) => endedAt === null)
      return endAll(open.slice(0, limit), now)
    },

    async endedSince(time, usedSince) {
      return [...sessions.values()]
        .filter(({ lastUsedAt }) => lastUsedAt >= usedSince)
        .flatMap(({ id, endedAt }) => (endedAt !== null && endedAt >= time ? [{ id, endedAt }] : []))
    },
  } satisfies Partial<Storage>
}
