import { createHmac, createPublicKey, type KeyObject, randomBytes, sign as signWith } from 'node:crypto'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import { createRing } from '../../lib/core/secrets.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import type { AccessKey } from '../../lib/options/keys.ts'
import { createUser, loginAs } from '../../lib/testing/index.ts'
import { type Answer, accountsOf, memoryApp, secret, settableClock, type Teardown } from '../helpers/app.ts'
import { hostApp, memoryParts } from '../helpers/host-app.ts'
import { accepted, hostileToken, vectors } from '../helpers/hostile-tokens.ts'
import { type Algorithm, algorithms, jwkOf, newKey, pemOf, publicJwkOf, publicPemOf } from '../helpers/keys.ts'
import { claimsOf, newMember, sessionFor } from '../helpers/members.ts'

type Keys = NonNullable<AccountsOptions['tokens']>['keys']

const start = 1_800_000_000_000
const now = start / 1000
const keys = { EdDSA: newKey('EdDSA'), ES256: newKey('ES256'), RS256: newKey('RS256') }
const other = { EdDSA: newKey('EdDSA'), ES256: newKey('ES256'), RS256: newKey('RS256') }
const [secretKeys] = createRing('accounts', [secret])

/** An app on the memory parts whose clock stands, and a member of it. */
async function realm(t: Teardown, given: Keys, options: Partial<AccountsOptions> = {}) {
  const clock = settableClock(start)
  const opened = await memoryApp(t, { clock, ...options, tokens: { ...options.tokens, keys: given } })
  const member = await newMember(opened.accounts)
  return { ...opened, clock, member, open: (token: string) => opened.get('/auth/user/', token) }
}

function headerOf(token: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(token.split('.')[0] as string, 'base64url').toString())
}

type Sign = (text: string) => Buffer

const digests = { EdDSA: null, ES256: 'sha256', RS256: 'sha256' }

function signer(alg: Algorithm, key: KeyObject, digest: string | null = digests[alg]): Sign {
  return (text) => signWith(digest, Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
}

function hmac(key: string | Buffer): Sign {
  return (text) => createHmac('sha256', key).update(text).digest()
}

function joined(header: string | object, payload: string | object, sign: Sign): string {
  const parts = [header, payload].map((part) => (typeof part === 'string' ? part : JSON.stringify(part)))
  const text = parts.map((part) => Buffer.from(part).toString('base64url')).join('.')
  return `${text}.${sign(text).toString('base64url')}`
}

function refused(t: Test, answer: Answer, what: string, code = 'ACCOUNTS_TOKEN_INVALID'): void {
  t.equal(answer.status, 401, `${what}: 401`)
  t.equal(answer.body.code, code, `${what}: ${code}`)
}

for (const alg of algorithms) {
  t.test(`[R-TOK-1] [R-TOK-2] [R-TOK-3] hostile tokens of the vectors are refused under ${alg}`, async (t) => {
    // Only the session's row says whose a session is.
    const { open, member, accounts } = await realm(t, pemOf(keys[alg]), { revocation: 'storage' })
    const stranger = await newMember(accounts)
    const { kid } = headerOf(member.access) as { kid: string }
    const good = claimsOf(member.access) as Record<string, string>
    const signs: Record<string, Sign> = {
      'right-key': signer(alg, keys[alg]),
      'right-key@frozen-clock': signer(alg, keys[alg]),
      'right-key-sha512': signer(alg, keys[alg], alg === 'EdDSA' ? null : 'sha512'),
      'hmac-with-public-jwk-json': hmac(JSON.stringify(publicJwkOf(keys[alg]))),
      'other-key': signer(alg, other[alg]),
      'evil-key': signer(alg, other[alg]),
      empty: () => Buffer.alloc(0),
    }

    for (const vector of vectors) {
      const token = hostileToken(vector, {
        values: {
          ...{ $TYP: 'at+jwt', $OTHER_TYP: 'rt+jwt', $KID: kid, $ISS: good.iss!, $AUD: good.aud!, $SUB: good.sub! },
          ...{ $SID: member.sessionId, $OTHER_USERS_SID: stranger.sessionId, $JTI: good.jti! },
          ...{ $NOW: String(now), $EXP: String(good.exp) },
        },
        own: `"auth_time":${now},`,
        sign: (header, payload) => joined(header.replace('"HS256"', `"${alg}"`), payload, signs[vector.sign]!),
      })
      const answer = await open(token)
      if (accepted(vector)) t.equal(answer.status, 200, vector.id)
      else refused(t, answer, vector.id, vector.id.startsWith('exp-') ? answer.body.code : undefined)
    }
    t.equal(({} as { role?: string }).role, undefined, 'no prototype is touched')
  })

  t.test(`[R-TOK-1] a token that is HS256 under what everybody knows of a key is refused, of ${alg}`, async (t) => {
    const { open, member, get } = await realm(t, [pemOf(keys[alg]), 'secret'])
    const header = headerOf(member.access)
    const claims = claimsOf(member.access)
    const jwks = (await get('/.well-known/jwks.json')).body
    const der = createPublicKey(keys[alg]).export({ type: 'spki', format: 'der' })
    const known: [string, string | Buffer][] = [
      ['the PEM', publicPemOf(keys[alg])],
      ['the PEM without its last line end', publicPemOf(keys[alg]).trimEnd()],
      ['the DER', der],
      ['the JWKS', JSON.stringify(jwks)],
      ['its JWK', JSON.stringify(jwks.keys[0])],
      ['x or n', Buffer.from(jwks.keys[0].x ?? jwks.keys[0].n, 'base64url')],
      ['the kid', String(header.kid)],
      ['an empty key', ''],
    ]

    for (const [what, key] of known) {
      for (const given of [
        { ...header, alg: 'HS256' },
        { ...header, alg: 'HS256', kid: secretKeys.kid },
        { ...header },
      ])
        refused(t, await open(joined(given, claims, hmac(key))), `${what}, ${JSON.stringify(given)}`)
    }
    t.equal((await open(joined(header, claims, signer(alg, keys[alg])))).status, 200)
  })
}

t.test('[R-TOK-1] each kid has one key and one algorithm', async (t) => {
  const ring = [keys.EdDSA, keys.ES256, keys.RS256]
  const { open, member } = await realm(t, [...ring.map(pemOf), 'secret'])
  const claims = claimsOf(member.access)
  const kids = realmOf(accountsOf(await realm(t, ring.map(pemOf)))).options.tokens.keys.reveal() as readonly AccessKey[]
  const signs = { ...Object.fromEntries(algorithms.map((alg) => [alg, signer(alg, keys[alg])])) }
  const all = [...algorithms.map((alg, index) => ({ alg, kid: kids[index]!.kid, sign: signs[alg]! }))]
  const entries = [...all, { alg: 'HS256', kid: secretKeys.kid, sign: hmac(secretKeys.key('jwt access')) }]

  for (const { alg } of entries) {
    for (const { kid, alg: ofKid } of entries) {
      for (const { sign, alg: signedBy } of entries) {
        const answer = await open(joined({ alg, typ: 'at+jwt', kid }, claims, sign))
        if (alg === ofKid && alg === signedBy) t.equal(answer.status, 200, `${alg} is taken`)
        else refused(t, answer, `alg ${alg}, kid of ${ofKid}, signed by ${signedBy}`)
      }
    }
  }
  // RFC 8725 3.1: other algorithms of the same keys.
  const rsa = { typ: 'at+jwt', kid: kids[2]!.kid }
  const pss = (text: string) => signWith('sha256', Buffer.from(text), { key: keys.RS256, padding: 6, saltLength: 32 })
  refused(t, await open(joined({ alg: 'PS256', ...rsa }, claims, pss)), 'PS256')
  refused(t, await open(joined({ alg: 'RS256', ...rsa }, claims, pss)), 'PSS that says RS256')
  refused(t, await open(joined({ alg: 'RS512', ...rsa }, claims, signer('RS256', keys.RS256, 'sha512'))), 'RS512')
  refused(t, await open(joined({ alg: 'Ed25519', typ: 'at+jwt', kid: kids[0]!.kid }, claims, signs.EdDSA!)), 'Ed25519')
  const withKey = { alg: 'EdDSA', typ: 'at+jwt', kid: kids[0]!.kid, jwk: publicJwkOf(other.EdDSA) }
  refused(t, await open(joined(withKey, claims, signer('EdDSA', other.EdDSA))), 'a key in the header')
})

t.test('[R-TOK-4] an access key opens no refresh, and with keys the secret no guarded route', async (t) => {
  const { open, post, member } = await realm(t, pemOf(keys.EdDSA))
  const refreshClaims = claimsOf(member.refresh)
  const { kid } = headerOf(member.access)
  const hs256 = { alg: 'HS256', typ: 'at+jwt', kid: secretKeys.kid }

  t.match(headerOf(member.refresh), { alg: 'HS256', typ: 'rt+jwt', kid: secretKeys.kid })
  const refresh = joined({ alg: 'EdDSA', typ: 'rt+jwt', kid }, refreshClaims, signer('EdDSA', keys.EdDSA))
  refused(t, await post('/auth/refresh/', { refresh }), 'a refresh token under the access key')
  for (const purpose of ['jwt access', 'jwt refresh']) {
    const token = joined(hs256, claimsOf(member.access), hmac(secretKeys.key(purpose)))
    refused(t, await open(token), `an access token under the secret's ${purpose}`)
  }
  refused(t, await open(member.refresh), 'a refresh token')
  t.equal((await post('/auth/refresh/', { refresh: member.refresh })).status, 200)
})

t.test('[R-TOK-5] each spelling of a signature is the same token, and ends with its session', async (t) => {
  const order = BigInt('0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551')
  // Whoever has (r, s) has (r, n - s).
  const mirrored = (signature: Buffer) => {
    const s = BigInt(`0x${signature.subarray(32).toString('hex')}`)
    const mirror = (order - s).toString(16).padStart(64, '0')
    return Buffer.concat([signature.subarray(0, 32), Buffer.from(mirror, 'hex')])
  }
  for (const alg of algorithms) {
    const { open, post, member } = await realm(t, pemOf(keys[alg]))
    const [header, payload, signature] = member.access.split('.') as [string, string, string]
    const bytes = Buffer.from(signature, 'base64url')
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    const flipped = signature.slice(0, -1) + alphabet[alphabet.indexOf(signature.at(-1)!) ^ 1]
    const spellings = [flipped, ...(alg === 'ES256' ? [mirrored(bytes).toString('base64url')] : [])]
    const tokens = [member.access, ...spellings.map((spelling) => `${header}.${payload}.${spelling}`)]

    const opened = await Promise.all(tokens.map(async (token) => (await open(token)).status))
    t.equal(opened[0], 200)
    t.notOk(opened.some((status) => ![200, 401].includes(status)))
    if (alg === 'ES256') t.equal(opened[2], 200, 'the mirrored signature is right, too')
    await post('/auth/logout/', undefined, { authorization: `Bearer ${tokens.at(-1)}` })
    await post('/auth/logout/', undefined, { authorization: `Bearer ${member.access}` })
    for (const token of tokens) refused(t, await open(token), 'of the ended session')
  }
})

t.test('[R-TOK-10] signatures of every shape are 401', async (t) => {
  for (const alg of algorithms) {
    const { open, member } = await realm(t, pemOf(keys[alg]))
    const [header, payload, signature] = member.access.split('.') as [string, string, string]
    const right = Buffer.from(signature, 'base64url')
    const bytes = [
      ...[0, 1, 31, 32, 63, 64, 65, 255, 256, 257, 1000].map((size) => Buffer.alloc(size)),
      ...[64, 256].map((size) => Buffer.alloc(size, 255)),
      Buffer.concat([Buffer.alloc(right.length - 1), Buffer.from([1])]),
      right.subarray(1),
      right.subarray(0, -1),
      Buffer.concat([right, Buffer.alloc(1)]),
      Buffer.concat([Buffer.alloc(1), right]),
      Buffer.from(right).fill(0, 0, right.length / 2),
      Buffer.from(right).fill(0, right.length / 2),
      Buffer.from(right).reverse(),
      signWith(digests[alg], Buffer.from(`${header}.${payload}`), keys[alg]).subarray(0, alg === 'ES256' ? 99 : 9),
    ]
    for (const each of bytes) {
      const answer = await open(`${header}.${payload}.${each.toString('base64url')}`)
      refused(t, answer, `${alg}: ${each.length} bytes`)
    }
  }
})

t.test('[R-TOK-8] access tokens go on while a key is replaced, by one of another algorithm too', async (t) => {
  const storage = memoryStorage()
  const clock = settableClock(start)
  const deploy = (given: Keys) => memoryApp(t, { storage, clock, tokens: { keys: given } })
  const [old, young] = [pemOf(keys.RS256), pemOf(keys.EdDSA)]
  const first = await deploy(old)
  const { access, refresh } = await newMember(first.accounts)
  const next = async (from: Awaited<ReturnType<typeof deploy>>, token: string) =>
    (await from.post('/auth/refresh/', { refresh: token })).body

  // Instances of a deploy and of the one before it run at the same time.
  const second = await deploy([old, young])
  const ofSecond = await next(second, refresh)
  const third = await deploy([young, publicPemOf(keys.RS256)])
  const ofThird = await next(third, ofSecond.refresh)
  for (const app of [first, second, third]) t.equal((await app.get('/auth/user/', ofSecond.access)).status, 200)
  for (const app of [second, third]) {
    for (const token of [access, ofSecond.access, ofThird.access])
      t.equal((await app.get('/auth/user/', token)).status, 200)
  }
  t.match([access, ofSecond.access, ofThird.access].map(headerOf), [
    { alg: 'RS256' },
    { alg: 'RS256' },
    { alg: 'EdDSA' },
  ])

  const last = await deploy(young)
  t.equal((await last.get('/auth/user/', ofThird.access)).status, 200)
  refused(t, await last.get('/auth/user/', ofSecond.access), 'a token of the removed key')
  t.match(await next(last, ofThird.refresh), { access: String })
})

t.test('[R-TOK-8] from the secret to keys and back without a single 401', async (t) => {
  const storage = memoryStorage()
  const clock = settableClock(start)
  const key = pemOf(keys.ES256)
  const deploys: Keys[] = [undefined, ['secret', key], [key, 'secret'], key, [key, 'secret'], ['secret', key], 'secret']
  const algs = ['HS256', 'HS256', 'ES256', 'ES256', 'ES256', 'HS256', 'HS256']
  const apps = []
  for (const given of deploys) apps.push(await memoryApp(t, { storage, clock, tokens: { keys: given } }))
  let { refresh } = await newMember(apps[0]!.accounts)

  for (const [index, app] of apps.entries()) {
    const answer = await app.post('/auth/refresh/', { refresh })
    refresh = answer.body.refresh
    t.equal(headerOf(answer.body.access).alg, algs[index])
    t.equal(headerOf(refresh).alg, 'HS256')
    for (const neighbour of apps.slice(Math.max(0, index - 1), index + 2)) {
      t.equal((await neighbour.get('/auth/user/', answer.body.access)).status, 200, 'on both sides of a deploy')
    }
    clock.pass(60_000)
  }
})

t.test('access tokens have what RFC 9068 asks for, and the host’s claims stand for none of it', async (t) => {
  const claims = () => ({ client_id: 'evil', iss: 'evil', sub: '9', jti: 'x', plan: 'gold' }) as never
  const tokens = { issuer: 'https://id.example.org', audience: 'https://api.example.org', claims }
  for (const alg of algorithms) {
    const { member, accounts } = await realm(t, pemOf(keys[alg]), { tokens })
    const found = claimsOf(member.access)

    t.strictSame(Object.keys(headerOf(member.access)), ['alg', 'typ', 'kid'])
    t.match(headerOf(member.access), { alg, typ: 'at+jwt' })
    t.match(found, {
      ...{ iss: 'https://id.example.org', aud: 'https://api.example.org', sub: String(member.user.id) },
      ...{ client_id: 'accounts', iat: now, exp: now + 300, jti: /^[\w-]{22}$/, auth_time: now, plan: 'gold' },
    })
    t.strictSame((await accounts.verifyToken(member.access)).claims, { plan: 'gold' })
  }
  const { member } = await realm(t, 'secret')
  t.notOk('client_id' in claimsOf(member.access))
})

t.test('[R-TOK-4] realms of one key, one issuer and one audience open nothing of each other', async (t) => {
  const tokens = { issuer: 'https://example.org', audience: 'api', keys: jwkOf(keys.EdDSA) }
  const parts = { ...memoryParts(), tokens }
  const { default: plugin } = await import('../../lib/index.ts')
  const { app, get } = await hostApp(t, {
    options: { ...parts, prefix: '/shop' },
    after(app) {
      // A copy, or it would be refused.
      const own = { ...parts, storage: { ...parts.storage }, name: 'staff', prefix: '/staff' }
      return app.register(plugin, own as AccountsOptions)
    },
  })
  const user = await createUser(app)
  const customer = (await sessionFor(accountsOf({ app }), user)).access
  const staff = (await sessionFor(accountsOf({ app, name: 'staff' }), user)).access

  t.equal((await get('/shop/auth/user/', customer)).status, 200)
  t.equal((await get('/staff/auth/user/', staff)).status, 200)
  refused(t, await get('/staff/auth/user/', customer), 'a customer at the staff’s')
  refused(t, await get('/shop/auth/user/', staff), 'staff at the shop')
  t.strictSame((await get('/shop/.well-known/jwks.json')).body, (await get('/staff/.well-known/jwks.json')).body)
})

t.test('a session of the host’s own kind, verifyToken and the helpers of tests work with keys', async (t) => {
  for (const alg of algorithms) {
    const { app, accounts, send } = await memoryApp(t, { tokens: { keys: pemOf(keys[alg]) } })
    const user = await createUser(app)
    const { access } = await accounts.startSession(user.id)

    t.match(await accounts.verifyToken(access), { id: user.id, sessionId: /^[\w-]{22}$/, claims: {} })
    t.equal((await send({ url: '/auth/user/', headers: await loginAs(app, user) })).status, 200)
    await t.rejects(accounts.verifyToken(`${access.slice(0, -8)}AAAAAAAA`), { code: 'ACCOUNTS_TOKEN_INVALID' })
  }
})

t.test('[R-TOK-6] a token under a key is verified once, and forged ones push it out never', async (t) => {
  const claims = () => ({ roles: ['user'] }) as never
  const { accounts, member } = await realm(t, pemOf(keys.RS256), { tokens: { claims } })
  const { tokens } = realmOf(accounts)
  const roles = () => (tokens.verifyAccess(member.access).account.claims as { roles: string[] }).roles
  const remembered = roles()
  const unsigned = member.access.slice(0, member.access.lastIndexOf('.') + 1)

  for (let sent = 0; sent < 6000; sent++)
    t.throws(() => tokens.verifyAccess(unsigned + randomBytes(256).toString('base64url')), {
      code: 'ACCOUNTS_TOKEN_INVALID',
    })

  // Parsed anew it would be an equal list, not this one.
  t.equal(roles(), remembered)
})
