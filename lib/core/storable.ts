import type { IdKind, NewUser, UserId } from '../contracts.ts'

/**
 * Whether every text, key and number in a value, however deep, can be stored and comes back the same: no UTF-8 column
 * holds NUL or a lone surrogate, and JSON has no infinite number.
 */
export function storable(value: unknown): boolean {
  const pending = [value]
  while (pending.length > 0) {
    const next = pending.pop()
    if (typeof next === 'string' && (!next.isWellFormed() || next.includes('\0'))) return false
    if (typeof next === 'number' && !Number.isFinite(next)) return false
    if (typeof next === 'object' && next !== null) pending.push(...Object.keys(next), ...Object.values(next))
  }
  return true
}

/** Whether every text and number of the user, its profile included, can be stored and comes back the same. */
export function storableUser(user: NewUser): boolean {
  const { credentialVersion, createdAt, emailVerifiedAt, expiresAt } = user
  return (
    [credentialVersion, createdAt, emailVerifiedAt ?? 0, expiresAt ?? 0].every(Number.isSafeInteger) && storable(user)
  )
}

const longestId = 255
const uuid = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/

/** Whether the store can have given this id out. */
export function isValidId(ids: IdKind, id: UserId): boolean {
  if (ids === 'integer') return Number.isSafeInteger(id)
  if (typeof id !== 'string') return false
  return ids === 'uuid' ? uuid.test(id) : id !== '' && id.length <= longestId && storable(id)
}
