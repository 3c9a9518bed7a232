import type { IdKind, Storage } from '../../contracts.ts'
import { eventVerbs, outboxVerbs, purgeVerbs } from './outbox.ts'
import { passwordHashVerbs } from './password-hashes.ts'
import { sessionVerbs } from './sessions.ts'
import { emptyState, refuseProduction } from './state.ts'
import { userVerbs } from './users.ts'

export { memoryCache } from './cache.ts'
export { type MemoryMailer, memoryMailer, type SentMessage } from './mailer.ts'

export interface MemoryStorageOptions {
  /** @default 'integer' */
  ids?: IdKind
  /** Allows it with `NODE_ENV=production`: a restart forgets every account, and no second process sees them. */
  singleProcess?: boolean
}

/**
 * Keeps users, sessions, waiting mails and events in this process, for tests and trials. Every verb completes within
 * one tick, and stores copies that callers cannot reach.
 *
 * @throws {TypeError} with `NODE_ENV=production` unless `singleProcess` is true
 */
export function memoryStorage({ ids = 'integer', singleProcess = false }: MemoryStorageOptions = {}): Storage {
  refuseProduction(
    singleProcess,
    '"singleProcess" is not true: memoryStorage forgets all accounts at a restart; pass a database.',
  )
  const state = emptyState(ids)
  return {
    ids,
    ...userVerbs(state),
    ...passwordHashVerbs(state),
    ...sessionVerbs(state),
    ...outboxVerbs(state),
    ...eventVerbs(state),
    ...purgeVerbs(state),
    async ping() {
      return Date.now()
    },
  }
}
