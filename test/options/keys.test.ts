import {
  createECDH,
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type JsonWebKey,
  type KeyObject,
} from 'node:crypto'
import { readFileSync } from 'node:fs'
import { inspect } from 'node:util'
import Fastify from 'fastify'
import { calculateJwkThumbprint, type JWK } from 'jose'
import t from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import accounts, { type AccountsOptions } from '../../lib/index.ts'
import type { AccessKey } from '../../lib/options/keys.ts'
import { resolveOptions } from '../../lib/options/options.ts'
import { secret } from '../helpers/app.ts'
import { algorithms, jwkOf, newKey, pemOf, publicJwkOf, publicPemOf } from '../helpers/keys.ts'

const storage = memoryStorage()

function resolve(keys: unknown) {
  return resolveOptions({ secret, storage, tokens: { keys } } as AccountsOptions)
}

function refusal(keys: unknown): string {
  try {
    resolve(keys)
    return ''
  } catch (error) {
    return error instanceof TypeError ? error.message : `not a TypeError: ${error}`
  }
}

/** The texts of a key that nobody may read: lines of its PEM, and private members of its JWK. */
function privateTexts(key: KeyObject): string[] {
  const { d, p, q, dp, dq, qi } = jwkOf(key)
  const lines = pemOf(key).split('\n').slice(1, -2)
  return [...lines, d, p, q, dp, dq, qi].filter((text): text is string => typeof text === 'string')
}

const ed = generateKeyPairSync('ed25519')
const p256 = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const [edJwk, p256Jwk, rsaJwk] = [ed, p256, rsa].map(({ privateKey }) => jwkOf(privateKey)) as [
  JsonWebKey,
  JsonWebKey,
  JsonWebKey,
]
const other = { ed: jwkOf(newKey('EdDSA')), p256: jwkOf(newKey('ES256')), rsa: jwkOf(newKey('RS256')) }

t.test('[R-TOK-7] keys of each algorithm are taken as PEM and as JWK, and named by their thumbprint', async (t) => {
  for (const alg of algorithms) {
    const key = newKey(alg)
    const kid = await calculateJwkThumbprint(publicJwkOf(key) as JWK)
    const { private: _, ...members } = { private: 0, ...publicJwkOf(key) }

    for (const given of [pemOf(key), `\n  ${pemOf(key)}\n`, jwkOf(key), { ...jwkOf(key), alg, kid, use: 'sig' }]) {
      const [found] = resolve(given).tokens.keys.reveal()
      t.match(found, { alg, kid, public: publicPemOf(key), private: pemOf(key) })
      t.strictSame((found as { jwk: object }).jwk, { ...members, alg, kid, use: 'sig' })
    }
  }
  const webCrypto = { key_ops: ['sign'], ext: true }
  t.equal(refusal({ ...edJwk, ...webCrypto, alg: 'Ed25519' }), '', 'as WebCrypto exports it')
  t.equal(refusal({ ...p256Jwk, ...webCrypto }), '')
  for (const type of ['sec1', 'pkcs1'] as const) {
    const key = type === 'sec1' ? p256.privateKey : rsa.privateKey
    t.equal(refusal(key.export({ type: type as 'sec1', format: 'pem' })), '', `openssl's older ${type}`)
  }
  const curve = '-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n'
  t.equal(refusal(curve + p256.privateKey.export({ type: 'sec1', format: 'pem' })), '', 'as openssl ecparam prints it')
})

t.test('[R-TOK-8] a ring mixes algorithms, and its older keys may be public ones', async (t) => {
  const key = newKey('RS256')
  const ring = [pemOf(newKey('EdDSA')), publicJwkOf(newKey('ES256')), publicPemOf(key), pemOf(newKey('ES256'))]

  const keys = resolve(ring).tokens.keys.reveal() as readonly AccessKey[]

  t.strictSame(
    keys.map(({ alg, private: own }) => [alg, own !== undefined]),
    [
      ['EdDSA', true],
      ['ES256', false],
      ['RS256', false],
      ['ES256', true],
    ],
  )
  t.strictSame(resolve(undefined).tokens.keys.reveal(), ['secret'])
  t.equal(refusal(['secret', pemOf(key)]), '')
  t.equal(refusal([pemOf(key), 'secret']), '')
  t.equal(refusal(Array.from({ length: 10 }, () => jwkOf(newKey('EdDSA')))), '')
})

t.test('[R-TOK-7] weak, wrong and mismatched keys are refused at boot, and never shown', async (t) => {
  const curve = (namedCurve: string) => generateKeyPairSync('ec', { namedCurve }).privateKey
  const make = (type: 'rsa', options: object) =>
    generateKeyPairSync(type, options as { modulusLength: number }).privateKey
  const encrypted = (cipher: string) =>
    ed.privateKey.export({ type: 'pkcs8', format: 'pem', cipher, passphrase: 'a passphrase' })
  const wrong: [given: unknown, says: RegExp][] = [
    [publicPemOf(ed.privateKey), /"tokens\.keys" must be a private key, since the first one signs, but a public key/],
    [[publicJwkOf(p256.privateKey), pemOf(ed.privateKey)], /"tokens\.keys\[0\]" must be a private key/],
    [[pemOf(make('rsa', { modulusLength: 1024 }))], /must have 2048 to 4096 bits .*one of 1024/],
    [['secret', publicPemOf(make('rsa', { modulusLength: 1024 }))], /"tokens\.keys\[1\]" must have 2048 to 4096/],
    [pemOf(make('rsa', { modulusLength: 2048, publicExponent: 3 })), /must have the exponent 65537 .*but 3 was given/],
    [pemOf(curve('P-384')), /one of secp384r1/],
    [jwkOf(curve('P-521')), /one of secp521r1/],
    [jwkOf(curve('secp256k1')), /one of secp256k1/],
    [pemOf(generateKeyPairSync('ed448').privateKey), /one of ed448/],
    [jwkOf(generateKeyPairSync('x25519').privateKey), /one of x25519/],
    [pemOf(generateKeyPairSync('rsa-pss', { modulusLength: 2048 }).privateKey), /one of rsa-pss/],
    [encrypted('aes-256-cbc'), /an encrypted one/],
    [pemOf(ed.privateKey).replaceAll('\n', '\\n'), /a PEM with \\n where its lines end/],
    [pemOf(ed.privateKey).replace('\nMC', '\nXX'), /a PEM that cannot be read/],
    [pemOf(rsa.privateKey).slice(0, 800), /a PEM that cannot be read|that is no PEM/],
    [JSON.stringify(edJwk), /that is no PEM/],
    ['', /a text of 0 characters that is no PEM/],
    [secret, /that is no PEM/],
    [Buffer.from(pemOf(ed.privateKey)), /type object/],
    [ed.privateKey, /type object/],
    [ed, /type object/],
    [{ keys: [edJwk] }, /type object/],
    [null, /type object/],
    [5, /type number/],
    [{ kty: 'oct', k: Buffer.from(secret).toString('base64url') }, /a JWK of kty 'oct'/],
    [{ kty: 'AKP', alg: 'ML-DSA-44' }, /a JWK of kty 'AKP'/],
    [{ ...p256Jwk, y: p256Jwk.x }, /cannot be read/],
    [{ ...rsaJwk, p: undefined }, /cannot be read/],
    // The halves of two keys.
    [{ ...edJwk, x: other.ed.x }, /halves do not belong together/],
    [{ ...p256Jwk, d: other.p256.d }, /halves do not belong together|cannot be read/],
    ...(['d', 'p', 'q', 'dp', 'dq', 'qi'] as const).map((part): [unknown, RegExp] => [
      { ...rsaJwk, [part]: other.rsa[part] },
      /halves do not belong together/,
    ]),
    [{ ...rsaJwk, n: other.rsa.n }, /halves do not belong together|cannot be read/],
    [{ ...rsaJwk, ...other.rsa, n: rsaJwk.n }, /halves do not belong together|cannot be read/],
    [['secret', { ...rsaJwk, d: undefined }], /"tokens\.keys\[1\]" must .* a JWK of private parts without "d"/],
    [{ ...publicJwkOf(rsa.privateKey), p: rsaJwk.p }, /a JWK of private parts without "d"/],
    // Two keys in one text.
    [pemOf(ed.privateKey) + pemOf(p256.privateKey), /a text of 2 PEM blocks/],
    [publicPemOf(p256.privateKey) + pemOf(p256.privateKey), /a text of 2 PEM blocks/],
    [['secret', publicPemOf(rsa.privateKey).repeat(3)], /\[1\]" must .* a text of 3 PEM blocks/],
    // What contradicts the key.
    [{ ...edJwk, alg: 'ES256' }, /"tokens\.keys\.alg" must be 'EdDSA' or left out, but 'ES256'/],
    [{ ...rsaJwk, alg: 'PS256' }, /\.alg" must be 'RS256' or left out/],
    [{ ...rsaJwk, alg: 'HS256' }, /\.alg" must be 'RS256' or left out/],
    [['secret', { ...p256Jwk, use: 'enc' }], /"tokens\.keys\[1\]\.use" must be 'sig' or left out, but 'enc'/],
    [{ ...p256Jwk, key_ops: ['deriveBits'] }, /\.key_ops" must have 'sign' or be left out/],
    [[edJwk, { ...publicJwkOf(p256.privateKey), key_ops: ['sign'] }], /\[1\]\.key_ops" must have 'verify'/],
    [{ ...p256Jwk, kid: '2026-01' }, /\.kid" must be '[\w-]{43}' or left out, but '2026-01'/],
    // The list.
    [[], /must be a key or a list of 1 to 10, but a list of 0/],
    [Array.from({ length: 11 }, () => pemOf(newKey('EdDSA'))), /a list of 11/],
    [[edJwk, p256Jwk, pemOf(ed.privateKey)], /"tokens\.keys\[2\]" must differ from tokens\.keys\[0\]/],
    [[edJwk, publicPemOf(ed.privateKey)], /"tokens\.keys\[1\]" must differ/],
    [['secret', 'secret'], /"tokens\.keys\[1\]" must differ/],
    [[edJwk, undefined], /"tokens\.keys\[1\]" must be a key of Ed25519, P-256 or RSA/],
    [[edJwk, [p256Jwk]], /"tokens\.keys\[1\]"/],
  ]
  const hidden = [ed, p256, rsa].flatMap(({ privateKey }) => privateTexts(privateKey))

  for (const [given, says] of wrong) {
    const message = refusal(given)
    t.match(message, /^fastify-accounts: option "tokens\.keys/, inspect(given).slice(0, 100))
    t.match(message, says)
    t.strictSame(
      hidden.filter((text) => message.includes(text.slice(0, 12))),
      [],
    )
  }
})

t.test('[R-TOK-7] examples of which everybody has the private half are refused', async (t) => {
  const published: { source: string; jwk: JsonWebKey }[] = JSON.parse(
    readFileSync(new URL('../vectors/jwk-published.json', import.meta.url), 'utf8'),
  )
  const rfc8037 = 'nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A'

  t.equal(published.length, 24)
  for (const { source, jwk } of published) {
    const pem = createPublicKey({ key: jwk, format: 'jwk' }).export({ type: 'spki', format: 'pem' })
    for (const given of [jwk, pem])
      t.match(refusal(['secret', given]), /\[1\]" must .* a published or trivial one/, source)
  }
  const ours = published.find(({ source }) => source.startsWith('RFC 8037'))
  t.match(refusal({ ...ours!.jwk, d: rfc8037 }), /a published or trivial one, which anybody can sign with/)
})

t.test('[R-TOK-7] keys of which everybody can guess the private half are refused', async (t) => {
  const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
  const seeds = [Buffer.alloc(32), Buffer.alloc(32, 255), Buffer.alloc(32, 'a seed')]
  const guessed = [...[1n, 2n, 65_537n, order - 1n].map(keyOfNumber), ...seeds.map(keyOfSeed)]
  const ofPublicHalf = [keyOfNumber(1n), keyOfNumber(order - 1n), keyOfSeed(Buffer.alloc(32))].map(publicJwkOf)

  for (const given of [...guessed.map(jwkOf), ...guessed.map(pemOf), ...ofPublicHalf]) {
    t.match(refusal(['secret', given]), /\[1\]" must .* a published or trivial one/, inspect(given))
  }
})

function keyOfNumber(number: bigint): KeyObject {
  const pair = createECDH('prime256v1')
  pair.setPrivateKey(number.toString(16).padStart(64, '0'), 'hex')
  const point = pair.getPublicKey()
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((half) => half.toString('base64url'))
  const d = pair.getPrivateKey('base64url')
  return createPrivateKey({ key: { kty: 'EC', crv: 'P-256', d, x: x!, y: y! }, format: 'jwk' })
}

function keyOfSeed(seed: Buffer): KeyObject {
  const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
}

t.test('[R-TOK-7] Ed25519 points of small order, by which everybody can forge, are refused', async (t) => {
  // Little-endian: 0, 1, -1, both also with p added, and the two of order 8. The OpenSSL of Node 20 and 22 takes one
  // signature under them for a good one of every few texts.
  const ys = [
    '00'.repeat(32),
    `01${'00'.repeat(31)}`,
    `ec${'ff'.repeat(30)}7f`,
    `ed${'ff'.repeat(30)}7f`,
    `ee${'ff'.repeat(30)}7f`,
    '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
    'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  ].map((y) => Buffer.from(y, 'hex'))

  for (const y of ys) {
    for (const sign of [0, 128]) {
      const x = Buffer.from([...y.subarray(0, 31), y[31]! | sign]).toString('base64url')
      const jwk = { kty: 'OKP', crv: 'Ed25519', x }
      const key = createPublicKey({ key: jwk, format: 'jwk' })
      for (const given of [jwk, key.export({ type: 'spki', format: 'pem' })]) {
        t.match(refusal([edJwk, given]), /\[1\]" must .* which anybody can sign with/, x)
      }
    }
  }
})

t.test('[R-LOG-6] printed options, accounts and apps show no key, and the host’s app.jwt has none', async (t) => {
  const keys = [pemOf(ed.privateKey), p256Jwk, rsaJwk]
  const app = Fastify()
  t.teardown(() => app.close())
  const parts = { storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
  await app.register(accounts, { secret, ...parts, tokens: { keys } } as AccountsOptions)
  const { options } = realmOf(app.accounts)

  const printed = [options, resolve(keys), app.accounts, app, realmOf(app.accounts)].map((value) =>
    inspect(value, { depth: 12, showHidden: true, maxStringLength: null }),
  )
  const texts = [...printed, JSON.stringify(options), String(options.tokens.keys)]

  t.match(inspect(options.tokens), /keys: \[redacted\]/)
  t.match(JSON.stringify(options), '"keys":"[redacted]"')
  t.notOk('jwt' in app)
  const hidden = [ed, p256, rsa].flatMap(({ privateKey }) => privateTexts(privateKey))
  t.ok(hidden.length > 30)
  for (const text of texts) {
    t.strictSame(
      hidden.filter((one) => text.includes(one)),
      [],
    )
  }
})

t.test('what a host gives is neither changed nor kept', async (t) => {
  const given = Object.freeze({ ...edJwk })
  const before = createHash('sha256').update(JSON.stringify(given)).digest('hex')
  const mutable = { ...p256Jwk }

  const keys = resolve([given, mutable]).tokens.keys.reveal()
  mutable.d = 'x'
  mutable.x = 'x'

  t.equal(createHash('sha256').update(JSON.stringify(given)).digest('hex'), before)
  t.match(keys[1], { private: pemOf(p256.privateKey), jwk: { x: p256Jwk.x } })
})
