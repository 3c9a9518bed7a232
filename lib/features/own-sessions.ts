import Type from 'typebox'
import type { Session, UserId } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { emit } from '../core/events.ts'
import type { EventDetails } from '../core/hooks.ts'
import type { Realm } from '../core/realm.ts'
import { endSessions } from '../core/sessions.ts'
import type { Account } from '../core/tokens.ts'
import { AccountsError } from '../errors.ts'
import { bearerToken } from '../http/guards.ts'
import { type Route, route } from '../http/routes.ts'
import { mostSessions } from '../options/rules.ts'

const SessionBody = Type.Object({
  id: Type.String(),
  created_at: Type.String({ description: 'ISO 8601, UTC' }),
  last_used_at: Type.String({ description: 'Of the login or the last refresh' }),
  ip: Type.String(),
  user_agent: Type.String(),
  current: Type.Boolean({ description: 'Whether it is the one of this request' }),
})

// The example is what `/docs` sends unless it is edited: the access token is enough.
const LogoutBody = Type.Object({ refresh: Type.Optional(Type.String({ maxLength: 8192 })) }, { examples: [{}] })

/** Lists the sessions of a logged-in user that go on, the last used first; of more than 1,000 the rest is left out. */
export async function listSessions({ storage, clock }: Realm, account: Account) {
  const sessions = await storage.listSessions(account.id, mostSessions, clock())
  return sessions.map((session) => shownSession(session, account))
}

function shownSession({ id, createdAt, lastUsedAt, ip, userAgent }: Session, { sessionId }: Account) {
  const [created_at, last_used_at] = [createdAt, lastUsedAt].map((time) => new Date(time).toISOString())
  return { id, created_at, last_used_at, ip, user_agent: userAgent, current: id === sessionId }
}

/**
 * Ends a session, also for its access tokens that are out. One that has ended already is no fault.
 *
 * @throws {AccountsError} ACCOUNTS_NOT_FOUND when there is none of this id, or it is not the user's
 */
export async function endSession(
  realm: Realm,
  { id, userId }: { id: string; userId: UserId | null },
  client: Client,
  reason: EventDetails['sessionEnd']['reason'],
): Promise<void> {
  const outcome = await realm.storage.endSession(id, userId, realm.clock())
  if (!outcome) throw new AccountsError('ACCOUNTS_NOT_FOUND')
  realm.revocation.announce([id])
  if (!outcome.ended) return
  emit(realm, 'sessionEnd', { client, userId: outcome.userId, sessionId: id, details: { reason, count: 1 } })
}

/**
 * Ends the session of an access token, or of a refresh token of any age.
 *
 * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID, ACCOUNTS_TOKEN_EXPIRED
 */
export async function logout(
  realm: Realm,
  { authorization, refresh }: { authorization?: string; refresh?: string },
  client: Client,
): Promise<void> {
  const session =
    refresh === undefined ? accessSession(realm, authorization) : { id: realm.tokens.sessionOf(refresh), userId: null }
  await endSession(realm, session, client, 'logout').catch((error) => {
    // Its row has been purged: it ended long ago.
    if (!(error instanceof AccountsError && error.code === 'ACCOUNTS_NOT_FOUND')) throw error
  })
}

// Not by the guard, which refuses the token of a session that has ended: logging out twice is no fault.
function accessSession({ tokens }: Realm, authorization: string | undefined) {
  const { id, sessionId } = tokens.verifyAccess(bearerToken(authorization)).account
  return { id: sessionId, userId: id }
}

/** `POST /auth/logout/`, `POST /auth/logout_all/`, `GET /auth/sessions/` and `DELETE /auth/sessions/:id/`. */
export function sessionRoutes(realm: Realm): Route[] {
  return [
    logoutRoute(realm),
    route({
      name: 'logoutAll',
      method: 'POST',
      path: '/auth/logout_all/',
      summary: 'End all your sessions',
      response: [204, Type.Null()],
      guarded: true,
      endsLogin: true,
      async run({ account, client }) {
        await endSessions(realm, account.id, client, 'logout_all')
      },
    }),
    route({
      name: 'sessions',
      method: 'GET',
      path: '/auth/sessions/',
      summary: 'List your sessions',
      response: [200, Type.Array(SessionBody)],
      guarded: true,
      run: ({ account }) => listSessions(realm, account),
    }),
    route({
      name: 'sessions',
      method: 'DELETE',
      path: '/auth/sessions/',
      tail: ':id/',
      summary: 'End one of your sessions',
      response: [204, Type.Null()],
      refusals: ['ACCOUNTS_NOT_FOUND'],
      guarded: true,
      run: ({ account, client, params }) =>
        endSession(realm, { id: params.id as string, userId: account.id }, client, 'revoked'),
    }),
  ]
}

function logoutRoute(realm: Realm): Route {
  return route({
    name: 'logout',
    method: 'POST',
    path: '/auth/logout/',
    summary: 'End the session of the access token, or of the refresh token in the body',
    body: LogoutBody,
    bodyOptional: true,
    response: [204, Type.Null()],
    refusals: ['ACCOUNTS_TOKEN_INVALID', 'ACCOUNTS_TOKEN_EXPIRED'],
    readsToken: true,
    takesRefresh: true,
    endsLogin: true,
    run({ body: { refresh }, client, request }) {
      return logout(realm, { authorization: request.headers.authorization, refresh }, client)
    },
  })
}
