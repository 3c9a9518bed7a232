import type { RefreshOutcome, Session, User, UserId } from '../contracts.ts'
import { AccountsError, callHost } from '../errors.ts'
import { mustVerify } from '../options/options.ts'
import type { SessionLife } from '../options/rules.ts'
import { type Client, noClient } from './client.ts'
import { whileStale } from './credentials.ts'
import { emit } from './events.ts'
import type { EventDetails } from './hooks.ts'
import { randomBytes } from './random.ts'
import type { Realm } from './realm.ts'

type Lives = Pick<SessionLife, 'idle' | 'absolute'>

const endBatch = 500

/** The token pair of a session. */
export interface TokenPair {
  access: string
  refresh: string
}

/**
 * Starts a session of a user whom somebody else has proved.
 *
 * @throws {AccountsError} ACCOUNTS_NOT_FOUND when there is no such active user, ACCOUNTS_EMAIL_UNVERIFIED where an
 * address has to be proved first
 */
export async function startSessionOf(realm: Realm, userId: UserId, client: Client): Promise<TokenPair> {
  // The password may change after the user is read: this proof does not depend on it.
  const tokens = await whileStale(async () => {
    const user = await realm.storage.findUserById(userId)
    if (!user?.active) return null
    if (mustVerify(realm.options) && user.emailVerifiedAt === null) throw new AccountsError('ACCOUNTS_EMAIL_UNVERIFIED')
    return (await startSession(realm, user, client)) ?? 'stale'
  })
  if (tokens === null || tokens === 'stale') throw new AccountsError('ACCOUNTS_NOT_FOUND')
  return tokens
}

/**
 * Starts a session and returns its first token pair; null when the user's credentials have changed or the user was
 * disabled since `user` was read.
 */
export async function startSession(realm: Realm, user: User, client: Client): Promise<TokenPair | null> {
  const life = lifeOf(realm, client)
  const session = newSession(realm, user, client, life)
  const displaced = await realm.storage.insertSession(session, life.perUser)
  if (!displaced) return null
  if (displaced.length > 0) await tellEnd(realm, user.id, displaced, client, 'displaced')
  await emit(realm, 'login', { client, userId: user.id, sessionId: session.id, details: {} })
  return firstTokens(realm, session, user)
}

/** The first token pair of a session. */
export async function firstTokens({ tokens, joined }: Realm, session: Session, user: User): Promise<TokenPair> {
  return { access: await tokens.signAccess(session, user, joined), refresh: tokens.signRefresh(session, 0) }
}

/** Makes a session for a user in the place of another one, and as long-lived; the storage has to take it. */
export function renewedSession(realm: Realm, user: User, client: Client, replaced: Session | undefined): Session {
  return newSession(realm, user, client, replaced ? livesOf(replaced) : lifeOf(realm, client))
}

function newSession(realm: Realm, user: User, { ip, userAgent }: Client, { idle, absolute }: Lives): Session {
  const now = realm.clock()
  return {
    id: randomBytes(16).toString('base64url'),
    userId: user.id,
    credentialVersion: user.credentialVersion,
    createdAt: now,
    authTime: now,
    lastUsedAt: now,
    idleMs: idle * 1000,
    expiresAt: now + absolute * 1000,
    ip,
    userAgent,
  }
}

function lifeOf({ options }: Realm, { request }: Client): SessionLife {
  return callHost(() => options.session(request))
}

function livesOf({ idleMs, createdAt, expiresAt }: Session): Lives {
  return { idle: idleMs / 1000, absolute: (expiresAt - createdAt) / 1000 }
}

/**
 * Exchanges a refresh token for a new pair, or for an access token alone with `rotate: false`. RFC 9700 4.14.2: a token
 * that comes back after it was replaced ends its session; the newest may come back, since responses get lost and tabs
 * race.
 *
 * @throws {AccountsError} ACCOUNTS_REFRESH_REUSED when this very call ended the session, ACCOUNTS_TOKEN_INVALID
 */
export async function continueSession(
  realm: Realm,
  refreshToken: string,
  client: Client,
): Promise<Pick<TokenPair, 'access'> & Partial<TokenPair>> {
  const { tokens, storage, options, clock, revocation } = realm
  const { sessionId, counter } = tokens.verifyRefresh(refreshToken)
  const { rotate, graceSeconds, lateReplays } = options.refresh
  const rule = { rotate, graceMs: graceSeconds * 1000, lateReplays }

  const outcome = await storage.refreshSession(sessionId, counter, rule, clock())

  if (outcome.result === 'reused') {
    revocation.announce([sessionId])
    emit(realm, 'refreshReuse', { client, userId: outcome.session.userId, sessionId, details: {} })
    throw new AccountsError('ACCOUNTS_REFRESH_REUSED')
  }
  const reason = refusal(realm, outcome)
  if (outcome.result !== 'accepted' || reason) {
    const userId = outcome.result === 'dead' ? null : outcome.session.userId
    emit(realm, 'refreshFail', { client, userId, sessionId, details: { reason: reason ?? 'dead' } })
    throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  }
  const { session, user, replayed } = outcome
  const access = await tokens.signAccess(session, user)
  emit(realm, replayed ? 'refreshReplay' : 'refresh', { client, userId: user.id, sessionId, details: {} })
  return rotate ? { access, refresh: tokens.signRefresh(session, outcome.counter + 1) } : { access }
}

function refusal({ options }: Realm, outcome: RefreshOutcome): EventDetails['refreshFail']['reason'] | null {
  if (outcome.result === 'accepted') {
    return mustVerify(options) && outcome.user.emailVerifiedAt === null ? 'unverified' : null
  }
  return outcome.result === 'reused' ? null : outcome.result
}

/** Ends all sessions of a user, also for the access tokens that are out. */
export async function endSessions(
  realm: Realm,
  userId: UserId,
  client: Client,
  reason: EventDetails['sessionEnd']['reason'],
): Promise<void> {
  await tellEnd(realm, userId, await realm.storage.endSessions(userId, realm.clock()), client, reason)
}

async function tellEnd(
  realm: Realm,
  userId: UserId,
  sessionIds: string[],
  client: Client,
  reason: EventDetails['sessionEnd']['reason'],
): Promise<void> {
  realm.revocation.announce(sessionIds)
  await emit(realm, 'sessionEnd', { client, userId, details: { reason, count: sessionIds.length } })
}

/** Ends all sessions of everybody, also for the access tokens that are out, and returns how many they were. */
export async function endEverySession(realm: Realm): Promise<number> {
  const count = await endInBatches(realm)
  await emit(realm, 'sessionEnd', { client: noClient, details: { reason: 'admin', count } })
  return count
}

async function endInBatches(realm: Realm, count = 0): Promise<number> {
  const { storage, revocation, clock } = realm
  const ended = await storage.endAnySessions(endBatch, clock())
  if (ended.length === 0) return count
  revocation.announce(ended)
  return endInBatches(realm, count + ended.length)
}
