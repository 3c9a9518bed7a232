import Type, { type Static } from 'typebox'
import { clientOf } from '../core/client.ts'
import type { Realm } from '../core/realm.ts'
import { continueSession } from '../core/sessions.ts'
import type { Route } from '../http/routes.ts'
import { TokenPairBody } from '../http/schemas.ts'

const RefreshBody = Type.Object({ refresh: Type.String({ maxLength: 8192, description: 'The newest refresh token' }) })

/** `POST /auth/refresh/`; the rule is `continueSession`'s. */
export function refreshRoutes(realm: Realm): Route[] {
  return [
    {
      name: 'refresh',
      method: 'POST',
      path: '/auth/refresh/',
      summary: 'Exchange a refresh token for a new token pair',
      body: RefreshBody,
      answer: [200, TokenPairBody],
      refusals: ['ACCOUNTS_TOKEN_INVALID', 'ACCOUNTS_REFRESH_REUSED'],
      handler(request) {
        const { refresh } = request.body as Static<typeof RefreshBody>
        return continueSession(realm, refresh, clientOf(realm, request))
      },
    },
  ]
}
