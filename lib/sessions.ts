import { randomBytes } from 'node:crypto'
import type { Accounts } from './accounts.ts'
import type { Session, User } from './contracts.ts'
import { AccountsError } from './errors.ts'

/** The token pair of a log-in or a refresh; no `refresh` with `refresh: { rotate: false }`. */
export interface TokenPair {
  access: string
  refresh?: string
}

/** Where a request comes from, as sessions and mails show it. */
export interface Client {
  ip: string
  userAgent: string
  /** As the option `network` names it. */
  network: string
}

/**
 * Starts a session and answers its first token pair; null when the user's credentials have changed or the user was
 * disabled since `user` was read.
 */
export async function startSession(accounts: Accounts, user: User, client: Client): Promise<TokenPair | null> {
  const session = newSession(accounts, user, client)
  if (!(await accounts.storage.insertSession(session))) return null
  return {
    access: await accounts.tokens.signAccess(session, user),
    refresh: accounts.tokens.signRefresh(session, 0),
  }
}

function newSession({ options, clock }: Accounts, user: User, { ip, userAgent }: Client): Session {
  const now = clock()
  return {
    id: randomBytes(16).toString('base64url'),
    userId: user.id,
    credentialVersion: user.credentialVersion,
    createdAt: now,
    authTime: now,
    lastUsedAt: now,
    idleMs: options.session.idle * 1000,
    expiresAt: now + options.session.absolute * 1000,
    ip,
    userAgent,
  }
}

/**
 * Exchanges a refresh token for a new pair. RFC 9700 4.14.2: a token that comes back after it was replaced ends its
 * session; the newest may come back, since answers get lost and tabs race.
 *
 * @throws {AccountsError} ACCOUNTS_REFRESH_REUSED when this very call ended the session, ACCOUNTS_TOKEN_INVALID
 */
export async function continueSession(accounts: Accounts, refreshToken: string): Promise<TokenPair> {
  const { tokens, storage, options, clock, log } = accounts
  const { sessionId, counter } = tokens.verifyRefresh(refreshToken)
  const { rotate, graceSeconds, lateReplays } = options.refresh
  const rule = { rotate, graceMs: graceSeconds * 1000, lateReplays }

  const outcome = await storage.refreshSession(sessionId, counter, rule, clock())

  if (outcome.result === 'reused') {
    log.warn({ userId: outcome.session.userId }, 'fastify-accounts: a refresh token was reused; its session has ended')
    throw new AccountsError('ACCOUNTS_REFRESH_REUSED')
  }
  if (outcome.result === 'ahead') {
    log.warn({ userId: outcome.session.userId }, 'fastify-accounts: a refresh token is ahead of its session')
  }
  if (outcome.result !== 'accepted') throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  const access = await tokens.signAccess(outcome.session, outcome.user)
  return rotate ? { access, refresh: tokens.signRefresh(outcome.session, outcome.counter + 1) } : { access }
}
