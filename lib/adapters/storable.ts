import type { NewUser, UserId } from '../contracts.ts'

// JSON writes NUL and lone surrogates, which no UTF-8 column can hold, as escapes.
const unstorable = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/
const uuid = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/

/** Whether the text holds neither NUL nor a lone surrogate. */
export function storableText(text: string): boolean {
  return !unstorable.test(JSON.stringify(text))
}

/** Whether every text and number of the user, its profile included, can be stored and comes back the same. */
export function storableUser(user: NewUser): boolean {
  const integers = [user.credentialVersion, user.createdAt]
  return integers.every(Number.isSafeInteger) && !unstorable.test(JSON.stringify(user))
}

/** Whether the store can have given this id out. */
export function possibleId(ids: 'integer' | 'uuid', id: UserId): boolean {
  return ids === 'uuid' ? typeof id === 'string' && uuid.test(id) : Number.isSafeInteger(id)
}
