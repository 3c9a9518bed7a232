import type { RefreshRule, Session, Storage } from '../../contracts.ts'
import {
  endAll,
  keepSession,
  type MemoryState,
  openSessions,
  type StoredSession,
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
    async insertSession(session) {
      if (!sameCredentials(users.get(session.userId), session)) return false
      keepSession(state, session)
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
      if (session.endedAt !== null || over(session, now) || !sameCredentials(user, session)) return { result: 'dead' }
      const replayed = token === session.counter
      const result = takeStep(session, token, rule, now)
      if (result !== 'accepted') return { result, session: shownSession(session) }
      return { result, counter: token, replayed, session: shownSession(session), user: shownUser(user) }
    },

    async listSessions(userId, now) {
      return openSessions(state, userId)
        .filter((session) => !over(session, now))
        .sort((one, other) => other.lastUsedAt - one.lastUsedAt)
        .map(shownSession)
    },
  } satisfies Partial<Storage>
}

function over({ expiresAt, lastUsedAt, idleMs }: Session, now: number): boolean {
  return now >= expiresAt || now >= lastUsedAt + idleMs
}

function sameCredentials(user: StoredUser | undefined, session: Session): boolean {
  return user?.active === true && user.credentialVersion === session.credentialVersion
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
