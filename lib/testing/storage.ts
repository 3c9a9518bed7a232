import type { Storage } from '../contracts.ts'
import { credentialRaceContract } from './credential-races.ts'
import { credentialContract } from './credentials.ts'
import { deletionContract } from './deletions.ts'
import { eventContract } from './events.ts'
import { outboxContract } from './outbox.ts'
import { profileContract } from './profiles.ts'
import { purgeContract } from './purge.ts'
import { refreshContract } from './refresh.ts'
import { registrationContract } from './registrations.ts'
import { sessionEndContract } from './session-ends.ts'
import { sessionContract } from './sessions.ts'
import { userContract } from './users.ts'

/**
 * What every `Storage` must do, for any test runner: each case rejects when the subject breaks it. Cases use names of
 * their own, so the suite may run again and again on one store; but one after another, and never on a store in use,
 * since they claim mails, end sessions and purge rows, of any user. A database needs at least 10 connections, or
 * nothing races.
 */
export const storageContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  ...userContract,
  ...registrationContract,
  ...profileContract,
  ...credentialContract,
  ...credentialRaceContract,
  ...deletionContract,
  ...sessionContract,
  ...sessionEndContract,
  ...refreshContract,
  ...outboxContract,
  ...eventContract,
  ...purgeContract,
]
