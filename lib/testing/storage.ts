import type { Storage } from '../contracts.ts'
import { refreshContract } from './refresh.ts'
import { sessionContract } from './sessions.ts'
import { userContract } from './users.ts'

/**
 * What every `Storage` must do, for any test runner: each case rejects when the subject breaks it. Cases use names of
 * their own, so the suite may run again and again on one store. A database needs at least 10 connections, or no race is
 * a race.
 */
export const storageContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  ...userContract,
  ...sessionContract,
  ...refreshContract,
]
