import { execFile } from 'node:child_process'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { createLocalJWKSet, createRemoteJWKSet, type JSONWebKeySet, jwtVerify } from 'jose'
import t from 'tap'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { accountsOf, memoryApp } from '../helpers/app.ts'
import { hostApp } from '../helpers/host-app.ts'
import { algorithms, jwkOf, newKey, pemOf, publicJwkOf, publicPemOf } from '../helpers/keys.ts'
import { newMember } from '../helpers/members.ts'
import { snippets } from '../helpers/pages.ts'
import { findPyJwt } from '../servers.js'

const path = '/.well-known/jwks.json'
const keys = { EdDSA: newKey('EdDSA'), ES256: newKey('ES256'), RS256: newKey('RS256') }
const issuer = 'https://id.example.com'
const audience = 'https://api.example.com'

const publicMembers = ['alg', 'crv', 'e', 'kid', 'kty', 'n', 'use', 'x', 'y']

t.test('[R-TOK-7] the JWKS has the public half of each key, and no other member', async (t) => {
  const old = newKey('ES256')
  const ring = [pemOf(keys.EdDSA), { ...jwkOf(keys.RS256), use: 'sig' }, jwkOf(keys.ES256), publicPemOf(old), 'secret']
  const { send } = await memoryApp(t, { tokens: { keys: ring } })

  const { status, headers, body } = await send({ url: path })

  t.equal(status, 200)
  t.match(headers, {
    'content-type': 'application/json; charset=utf-8',
    'cache-control': 'public, max-age=300',
    'x-content-type-options': 'nosniff',
  })
  t.strictSame(Object.keys(body), ['keys'])
  t.strictSame(
    body.keys.map(({ kid: _, ...rest }: { kid: string }) => rest),
    [
      { ...publicJwkOf(keys.EdDSA), alg: 'EdDSA', use: 'sig' },
      { ...publicJwkOf(keys.RS256), alg: 'RS256', use: 'sig' },
      { ...publicJwkOf(keys.ES256), alg: 'ES256', use: 'sig' },
      { ...publicJwkOf(old), alg: 'ES256', use: 'sig' },
    ],
  )
  for (const key of body.keys) {
    t.strictSame(
      Object.keys(key).filter((name) => !publicMembers.includes(name)),
      [],
    )
  }
  t.equal(new Set(body.keys.map(({ kid }: { kid: string }) => kid)).size, 4)
})

t.test('the route is there with keys alone, moves with prefix and routes, and can be switched off', async (t) => {
  const tokens = { keys: pemOf(keys.EdDSA) }
  const statusOf = async (options: Partial<AccountsOptions>, url: string) =>
    (await (await memoryApp(t, options)).send({ url })).status

  t.equal(await statusOf({}, path), 404)
  t.equal(await statusOf({ tokens: { keys: ['secret'] } }, path), 404)
  t.equal(await statusOf({ tokens }, `${path}/`), 200)
  t.equal(await statusOf({ tokens, prefix: '/v1' }, `/v1${path}`), 200)
  t.equal(await statusOf({ tokens, prefix: '/v1' }, path), 404)
  t.equal(await statusOf({ tokens, routes: { jwks: '/keys' } }, '/keys'), 200)
  t.equal(await statusOf({ tokens, routes: { jwks: false } }, path), 404)
  await t.rejects(
    hostApp(t, { options: { tokens }, before: (app) => app.get(path, () => ({})) }),
    /move ours with the option "prefix" or "routes\.jwks"/,
  )
})

t.test('only the keys themselves may be kept: no refusal is', async (t) => {
  const onRequest = async (request: { headers: Record<string, unknown> }) => {
    if (request.headers['x-refuse']) throw Object.assign(new Error('busy'), { statusCode: 429 })
  }
  const { send, app } = await memoryApp(t, { tokens: { keys: pemOf(keys.EdDSA) }, routes: { jwks: { onRequest } } })

  const refused = await send({ url: path, headers: { 'x-refuse': '1' } })
  t.match(refused, { status: 429, headers: { 'cache-control': 'no-store' } })
  const head = await app.inject({ method: 'HEAD', url: path })
  t.match(head, { statusCode: 200, body: '', headers: { 'cache-control': 'public, max-age=300' } })
})

/** An app that listens, its address, and how often its keys were fetched. */
async function listening(t: Parameters<typeof memoryApp>[0], options: Partial<AccountsOptions>) {
  let fetched = 0
  const onRequest = async () => void fetched++
  const { app } = await memoryApp(t, { ...options, routes: { jwks: { onRequest } } })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const { access } = await newMember(accountsOf({ app }))
  return { app, url: new URL(path, `http://127.0.0.1:${port}`), access, fetched: () => fetched }
}

const tokens = (given: NonNullable<AccountsOptions['tokens']>['keys']) => ({
  tokens: { issuer, audience, keys: given },
})

t.test('[R-TOK-8] jose verifies access tokens from the JWKS alone, before and after a rotation', async (t) => {
  for (const alg of algorithms) {
    const storage = memoryStorage()
    const [old, young] = [pemOf(newKey(alg)), pemOf(keys[alg])]
    const second = await listening(t, { storage, ...tokens([old, young]) })
    const third = await listening(t, { storage, ...tokens([young, old]) })
    const remote = createRemoteJWKSet(second.url)
    const verified = (token: string) =>
      jwtVerify(token, remote, { algorithms: [alg], typ: 'at+jwt', issuer, audience, requiredClaims: ['sid', 'jti'] })

    const { payload, protectedHeader } = await verified(second.access)
    t.match(payload, { iss: issuer, aud: audience, sub: /^\d+$/, client_id: 'accounts', iat: Number, exp: Number })
    t.match(protectedHeader, { alg, typ: 'at+jwt', kid: /^[\w-]{43}$/ })
    t.match((await verified(third.access)).payload, { iss: issuer })
    t.equal(second.fetched(), 1, 'the new key was published before it signed')

    const [header, claims, signature = ''] = second.access.split('.')
    const forged = Buffer.from(JSON.stringify({ ...payload, sub: '2' })).toString('base64url')
    const bent = Buffer.from(signature, 'base64url')
    bent[9]! ^= 1
    for (const token of [`${header}.${forged}.${signature}`, `${header}.${claims}.${bent.toString('base64url')}`])
      await t.rejects(verified(token), { code: 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED' })

    const last = await listening(t, { storage, ...tokens(young) })
    const fresh = (await (await fetch(last.url)).json()) as JSONWebKeySet
    await t.rejects(jwtVerify(second.access, createLocalJWKSet(fresh)), { code: 'ERR_JWKS_NO_MATCHING_KEY' })
    t.match(await jwtVerify(third.access, createLocalJWKSet(fresh)), { payload: { iss: issuer } })
  }
})

const python = findPyJwt()
if (!python && process.env.TEST_REQUIRE_REAL === '1') throw new Error('TEST_REQUIRE_REAL=1, but there is no PyJWT')

/** The snippet of the documentation over a list of tokens: what each says, or why it is refused. */
async function verifiedByPython(url: URL, alg: string, list: string[]): Promise<Record<string, string>[]> {
  const [snippet] = snippets('python')
  const program = `${snippet!.code.replace(`${issuer}${path}`, url.href).replace('"EdDSA"', `"${alg}"`)}
import json, sys
def result(token):
    try:
        return verify(token)
    except jwt.PyJWTError as error:
        return {"error": type(error).__name__}
print(json.dumps([result(token) for token in sys.argv[1:]]))
`
  const { stdout } = await promisify(execFile)(python!, ['-c', program, ...list])
  return JSON.parse(stdout)
}

t.test(
  '[R-TOK-8] PyJWT verifies access tokens from the JWKS alone, before and after a rotation',
  { skip: !python && 'no Python with PyJWT on this machine' },
  async (t) => {
    for (const alg of algorithms) {
      const storage = memoryStorage()
      const [old, young] = [pemOf(newKey(alg)), pemOf(keys[alg])]
      const second = await listening(t, { storage, ...tokens([old, young]) })
      const third = await listening(t, { storage, ...tokens([young, old]) })
      const other = await memoryApp(t, { storage, tokens: { issuer, audience: 'other', keys: young } })
      const stranger = await memoryApp(t, { storage, ...tokens(pemOf(newKey(alg))) })
      const { refresh } = await newMember(third.app.accounts)
      const bent = second.access.replace(/\.(..)(.*)\./, (_, first, rest) => `.${first}${rest.toUpperCase()}.`)

      const results = await verifiedByPython(second.url, alg, [
        second.access,
        third.access,
        (await newMember(other.accounts)).access,
        (await newMember(stranger.accounts)).access,
        refresh,
        bent,
      ])

      t.match(results.slice(0, 2), [
        { iss: issuer, aud: audience, sub: /^\d+$/, client_id: 'accounts' },
        { iss: issuer, aud: audience, sub: /^\d+$/, client_id: 'accounts' },
      ])
      t.match(results.slice(2), [
        { error: 'InvalidAudienceError' },
        { error: 'PyJWKClientError' },
        { error: 'InvalidTokenError' },
        { error: /Error$/ },
      ])
    }
  },
)
