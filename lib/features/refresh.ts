import Type from 'typebox'
import type { Realm } from '../core/realm.ts'
import { continueSession } from '../core/sessions.ts'
import { type Route, route } from '../http/routes.ts'
import { TokenPairBody } from '../http/schemas.ts'

const RefreshBody = Type.Object({ refresh: Type.String({ maxLength: 8192, description: 'The newest refresh token' }) })

/** `POST /auth/refresh/`; the rule is `continueSession`'s. */
export function refreshRoutes(realm: Realm): Route[] {
  return [
    route({
      name: 'refresh',
      method: 'POST',
      path: '/auth/refresh/',
      summary: 'Exchange a refresh token for a new token pair',
      body: RefreshBody,
      response: [200, TokenPairBody],
      takesRefresh: true,
      refusals: ['ACCOUNTS_TOKEN_INVALID', 'ACCOUNTS_REFRESH_REUSED'],
      run: ({ body, client }) => continueSession(realm, body.refresh, client),
    }),
  ]
}
