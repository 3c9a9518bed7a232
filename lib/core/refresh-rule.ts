import type { RefreshRule } from '../contracts.ts'

/** What a session remembers of its refresh tokens; times in milliseconds, `-Infinity` for never. */
export interface TokenState {
  /** The newest token presented. */
  counter: number
  advancedAt: number
  lateReplays: number
  lastLateAt: number
}

/** What a presented token leads to, and what it sets in the session. */
export interface Judgement {
  result: 'accepted' | 'stale' | 'ahead' | 'reused'
  set: Partial<TokenState & { lastUsedAt: number; endedAt: number }>
}

/** Whether the newest token may come back at any time. */
export function isExempt(token: number, { rotate, lateReplays }: RefreshRule): boolean {
  // RFC 9700 4.14.2 would end the session; a client that keeps its first token is served unless the host is strict.
  return !rotate || (token === 0 && lateReplays > 0)
}

/** The rule of `Storage.refreshSession`, for stores that lock the session first and do not judge in SQL. */
export function judgeToken(state: TokenState, token: number, rule: RefreshRule, now: number): Judgement {
  const { counter, advancedAt, lateReplays, lastLateAt } = state
  if (token > counter + 1) return { result: 'ahead', set: {} }
  const accepted = (set: Judgement['set'] = {}) => ({ result: 'accepted', set: { ...set, lastUsedAt: now } }) as const
  if (token === counter + 1) return accepted(rule.rotate ? { counter: token, advancedAt: now } : {})
  const late = Math.max(advancedAt, lastLateAt) < now - rule.graceMs
  const reused = { result: 'reused', set: { endedAt: now } } as const
  if (token < counter) return late ? reused : { result: 'stale', set: {} }
  if (!late || isExempt(token, rule)) return accepted()
  return lateReplays < rule.lateReplays ? accepted({ lateReplays: lateReplays + 1, lastLateAt: now }) : reused
}
