import type { Session, Storage } from '../../contracts.ts'
import { isValidId } from '../../core/storable.ts'
import { dropUser, keepMails, keepUser, type MemoryState } from './state.ts'

/** The verbs about mails that wait. */
export function outboxVerbs(state: MemoryState) {
  const { mails } = state
  return {
    async addMails(added) {
      keepMails(state, added)
    },

    async claimMails(now, until, limit) {
      const due = [...mails.values()].filter((mail) => !mail.settled && mail.dueAt <= now && now < mail.expiresAt)
      return due.slice(0, limit).map((mail) => {
        mail.dueAt = until
        const { settled, ...claimed } = mail
        return claimed
      })
    },

    async settleMails(ids) {
      for (const id of ids) {
        const mail = mails.get(id)
        if (mail) mails.set(id, { ...mail, sealed: '', settled: true })
      }
    },
  } satisfies Partial<Storage>
}

/** The verbs about security events. */
export function eventVerbs(state: MemoryState) {
  const { ids, events } = state
  return {
    async addEvent(event) {
      const id = ++state.newestEvent
      events.set(id, { ...structuredClone(event), id })
    },

    async listEvents(userId, { before = Number.POSITIVE_INFINITY, limit }) {
      // Null is nobody, not the user of events without one.
      if (!isValidId(ids, userId)) return []
      return [...events.values()]
        .filter((event) => event.userId === userId && event.id < before)
        .slice(-limit)
        .reverse()
        .map((event) => structuredClone(event))
    },
  } satisfies Partial<Storage>
}

const dayMs = 86_400_000

/** The verb that removes what nobody needs. */
export function purgeVerbs(state: MemoryState) {
  const { sessions, mails, events } = state
  return {
    async purge({ now, eventsBefore, limit }) {
      // Users first: a session that is removed now still shows that its account was used.
      return (
        expireUsers(state, now, limit) +
        removeFrom(sessions, ([, session]) => session.expiresAt < now - dayMs && !showsUse(state, session), limit) +
        removeFrom(mails, ([, { expiresAt }]) => expiresAt <= now, limit) +
        removeFrom(events, ([, { at }]) => at < eventsBefore, limit)
      )
    },
  } satisfies Partial<Storage>
}

function expireUsers(state: MemoryState, now: number, limit: number): number {
  const known = new Set([...state.sessions.values()].map(({ userId }) => userId))
  const expired = [...state.users.values()]
    .filter(({ expiresAt, emailVerifiedAt }) => expiresAt !== null && expiresAt <= now && emailVerifiedAt === null)
    .slice(0, limit)
  for (const user of expired) {
    if (known.has(user.id)) keepUser(state, { ...user, expiresAt: null })
    else dropUser(state, user.id)
  }
  return expired.length
}

// The sessions of an account show whether it was ever used: they are kept until it can no longer expire.
function showsUse({ users }: MemoryState, { userId }: Session): boolean {
  const user = users.get(userId)
  return user !== undefined && user.expiresAt !== null && user.emailVerifiedAt === null
}

function removeFrom<K, V>(rows: Map<K, V>, unneeded: (row: [K, V]) => boolean, limit: number): number {
  const gone = [...rows].filter(unneeded).slice(0, limit)
  for (const [id] of gone) rows.delete(id)
  return gone.length
}
