import Type from 'typebox'
import type { Realm } from '../core/realm.ts'
import { type Route, route } from '../http/routes.ts'

const member = (description: string) => Type.Optional(Type.String({ description }))

const JwksBody = Type.Object({
  keys: Type.Array(
    Type.Object({
      kty: Type.String({ examples: ['OKP', 'EC', 'RSA'] }),
      kid: Type.String({ description: 'As in the header of a token: the thumbprint by RFC 7638' }),
      alg: Type.String({ examples: ['EdDSA', 'ES256', 'RS256'] }),
      use: Type.String({ examples: ['sig'] }),
      crv: member('Of OKP and EC'),
      x: member('Of OKP and EC'),
      y: member('Of EC'),
      n: member('Of RSA'),
      e: member('Of RSA'),
    }),
  ),
})

/** `GET /.well-known/jwks.json`, where there are keys that other servers may verify access tokens by. */
export function jwksRoutes({ options: { tokens } }: Realm): Route[] {
  const keys = tokens.keys.reveal().flatMap((key) => (key === 'secret' ? [] : [key.jwk]))
  if (keys.length === 0) return []
  return [
    route({
      name: 'jwks',
      method: 'GET',
      path: '/.well-known/jwks.json',
      summary: 'The public keys that verify access tokens',
      response: [200, JwksBody],
      maxAge: 300,
      run: async () => ({ keys }),
    }),
  ]
}
