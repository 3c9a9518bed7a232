import type { Cache, Mailer, Storage } from '../contracts.ts'
import { port } from './checks.ts'

const storageVerbs = [
  'insertUser',
  'importUsers',
  'findUserById',
  'findUserByEmail',
  'findUserWithPassword',
  'listUsers',
  'updateUser',
  'setRole',
  'replacePasswordHash',
  'changeCredentials',
  'deleteUser',
  'insertSession',
  'sessionActive',
  'refreshSession',
  'listSessions',
  'endSession',
  'endSessions',
  'endAnySessions',
  'endedSince',
  'addMails',
  'claimMails',
  'settleMails',
  'addEvent',
  'listEvents',
  'purge',
  'ping',
] as const satisfies (keyof Storage)[]

const cacheVerbs = [
  'put',
  'guess',
  'lease',
  'giveBack',
  'burn',
  'peek',
  'publish',
  'subscribe',
  'ping',
  'close',
] as const satisfies (keyof Cache)[]

const mailerVerbs = ['send', 'progress', 'ping', 'close'] as const satisfies (keyof Mailer)[]

/** A storage with every verb of the contract, or undefined. */
export const storage = port<Storage>(storageVerbs, 'a storage adapter such as kyselyStorage(db)')

/** A cache with every verb of the contract, or undefined. */
export const cache = port<Cache>(cacheVerbs, 'a cache adapter such as redisCache({ redis })')

/** A mailer with every verb of the contract, or undefined. */
export const mailer = port<Mailer>(mailerVerbs, 'a mailer such as smtpMailer({ transport, from })')
