import {
  createHash,
  createPrivateKey,
  createPublicKey,
  type JsonWebKey,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto'
import { type Check, type Hidden, hidden, shown, wrongOption } from './checks.ts'
import { knownKey } from './known-secrets.ts'

/** A private key in PEM or as a JWK; `'secret'` stands for HS256 under the option `secret`. */
export type TokenKey = string | JsonWebKey

/** A key that access tokens are signed with, or only verified. */
export interface AccessKey {
  readonly alg: 'EdDSA' | 'ES256' | 'RS256'
  /** RFC 7638. */
  readonly kid: string
  /** PEM. */
  readonly public: string
  /** PEM; undefined for a key that was given by its public half. */
  readonly private: string | undefined
  /** The public half for the JWKS. */
  readonly jwk: Readonly<Record<string, string>>
}

/** The first signs access tokens, all of them verify. */
export type AccessKeys = readonly ('secret' | AccessKey)[]

const mostKeys = 10

/** Keys of access tokens, newest first; hidden. */
export const accessKeys: Check<Hidden<AccessKeys>> = (path, given = 'secret') => {
  if (!Array.isArray(given)) return hidden(Object.freeze([signingKey(path, given)]))
  if (given.length < 1 || given.length > mostKeys) {
    throw wrongOption(path, `must be a key or a list of 1 to ${mostKeys}`, `a list of ${given.length}`)
  }
  const keys = given.map((one, index) => (index === 0 ? signingKey : entry)(`${path}[${index}]`, one))
  const names = keys.map((key) => (key === 'secret' ? key : key.kid))
  const again = names.findIndex((name, index) => names.indexOf(name) < index)
  if (again < 0) return hidden(Object.freeze(keys))
  throw wrongOption(
    `${path}[${again}]`,
    `must differ from ${path}[${names.indexOf(names[again]!)}], which is the same key`,
  )
}

function signingKey(path: string, given: unknown): 'secret' | AccessKey {
  const key = entry(path, given)
  if (key === 'secret' || key.private) return key
  throw wrongOption(path, 'must be a private key, since the first one signs', 'a public key')
}

function entry(path: string, given: unknown): 'secret' | AccessKey {
  if (given === 'secret') return given
  const key = isJwk(given) ? keyOfJwk(path, given) : keyOfPem(path, given)
  const alg = algorithmOf(path, key)
  const publicKey = key.type === 'private' ? createPublicKey(key) : key
  const members = publicMembers(publicKey)
  const kid = createHash('sha256').update(JSON.stringify(members)).digest('base64url')
  if (knownKey(kid) || repetitive(key)) throw wrongKey(path, 'a published or trivial one, which anybody can sign with')
  if (key.type === 'private' && !belong(key, publicKey, alg))
    throw wrongKey(path, 'one whose halves do not belong together')
  if (isJwk(given)) checkMembers(path, given, { ...members, alg, kid, type: key.type })
  return Object.freeze({
    alg,
    kid,
    public: publicKey.export({ type: 'spki', format: 'pem' }) as string,
    private: key.type === 'private' ? (key.export({ type: 'pkcs8', format: 'pem' }) as string) : undefined,
    jwk: Object.freeze({ ...members, kid, alg, use: 'sig' }),
  })
}

function wrongKey(path: string, given: string): TypeError {
  const make = 'make one with "npx fastify-accounts generate-key EdDSA"'
  return wrongOption(path, `must be a key of Ed25519, P-256 or RSA in PEM or as a JWK; ${make}`, given)
}

function isJwk(given: unknown): given is JsonWebKey {
  return typeof given === 'object' && given !== null && typeof (given as JsonWebKey).kty === 'string'
}

const privateParts = ['p', 'q', 'dp', 'dq', 'qi', 'oth']

function keyOfJwk(path: string, jwk: JsonWebKey): KeyObject {
  if (!['OKP', 'EC', 'RSA'].includes(jwk.kty!)) throw wrongKey(path, `a JWK of kty ${shown(jwk.kty)}`)
  if (jwk.d === undefined && privateParts.some((name) => jwk[name] !== undefined)) {
    throw wrongKey(path, 'a JWK of private parts without "d"')
  }
  try {
    const key = { key: jwk, format: 'jwk' } as const
    return jwk.d === undefined ? createPublicKey(key) : createPrivateKey(key)
  } catch {
    throw wrongKey(path, 'a JWK that cannot be read')
  }
}

function keyOfPem(path: string, text: unknown): KeyObject {
  if (typeof text !== 'string') throw wrongKey(path, `a value of type ${typeof text}`)
  if (!text.includes('-----BEGIN ')) throw wrongKey(path, `a text of ${text.length} characters that is no PEM`)
  if (text.includes('ENCRYPTED')) throw wrongKey(path, 'an encrypted one')
  // OpenSSL prints the name of a curve before its key.
  const blocks = text.match(/-----BEGIN (?!EC PARAMETERS)/g)?.length ?? 0
  if (blocks > 1) throw wrongKey(path, `a text of ${blocks} PEM blocks`)
  try {
    return (text.includes('PRIVATE KEY-----') ? createPrivateKey : createPublicKey)(text.trim())
  } catch {
    throw wrongKey(path, text.includes('\\n') ? 'a PEM with \\n where its lines end' : 'a PEM that cannot be read')
  }
}

function algorithmOf(path: string, { asymmetricKeyType, asymmetricKeyDetails = {} }: KeyObject): AccessKey['alg'] {
  const { namedCurve, modulusLength = 0, publicExponent } = asymmetricKeyDetails
  if (asymmetricKeyType === 'ed25519') return 'EdDSA'
  if (asymmetricKeyType === 'ec' && namedCurve === 'prime256v1') return 'ES256'
  if (asymmetricKeyType !== 'rsa') throw wrongKey(path, `one of ${namedCurve ?? asymmetricKeyType}`)
  // Longer ones would hold up the process at every login.
  if (modulusLength < 2048 || modulusLength > 4096) {
    throw wrongOption(path, 'must have 2048 to 4096 bits if it is an RSA key', `one of ${modulusLength}`)
  }
  if (publicExponent === 65537n) return 'RS256'
  throw wrongOption(path, 'must have the exponent 65537 if it is an RSA key', `${publicExponent}`)
}

// In the order of RFC 7638, which hashes exactly these.
const publicNames = ['crv', 'e', 'kty', 'n', 'x', 'y'] as const

function publicMembers(key: KeyObject): Record<string, string> {
  const jwk = key.export({ format: 'jwk' })
  return Object.fromEntries(publicNames.flatMap((name) => (jwk[name] === undefined ? [] : [[name, jwk[name]]])))
}

// As of a small number, or of a seed that was filled in for a test.
function repetitive(key: KeyObject): boolean {
  return key.type === 'private' && new Set(Buffer.from(key.export({ format: 'jwk' }).d!, 'base64url')).size < 10
}

function belong(privateKey: KeyObject, publicKey: KeyObject, alg: AccessKey['alg']): boolean {
  const [digest, text] = [alg === 'EdDSA' ? null : 'sha256', Buffer.from('fastify-accounts')]
  try {
    return (alg !== 'RS256' || fit(privateKey)) && verify(digest, text, publicKey, sign(digest, text, privateKey))
  } catch {
    return false
  }
}

// OpenSSL signs with those parts of an RSA key that fit, and does not report the others.
function fit(key: KeyObject): boolean {
  const jwk = key.export({ format: 'jwk' })
  const number = (part: string | undefined) => BigInt(`0x${Buffer.from(part!, 'base64url').toString('hex')}`)
  const [n, e, d, p, q] = [number(jwk.n), number(jwk.e), number(jwk.d), number(jwk.p), number(jwk.q)]
  const inverse = (d * e) % (p - 1n) === 1n && (d * e) % (q - 1n) === 1n && (q * number(jwk.qi)) % p === 1n
  return p * q === n && inverse && number(jwk.dp) === d % (p - 1n) && number(jwk.dq) === d % (q - 1n)
}

interface Known extends Record<string, string> {
  alg: AccessKey['alg']
  kid: string
  type: KeyObject['type']
}

// Node.js does not compare the halves of an Ed25519 key, and reads no member but those of the key itself.
function checkMembers(path: string, jwk: JsonWebKey, { alg, kid, type, ...members }: Known): void {
  if (Object.entries(members).some(([name, value]) => jwk[name] !== value)) {
    throw wrongKey(path, 'one whose halves do not belong together')
  }
  const operation = type === 'private' ? 'sign' : 'verify'
  const may: [string, readonly unknown[]][] = [
    ['alg', alg === 'EdDSA' ? [alg, 'Ed25519'] : [alg]],
    ['use', ['sig']],
    ['kid', [kid]],
  ]
  const wrong = may.find(([name, values]) => jwk[name] !== undefined && !values.includes(jwk[name]))
  if (wrong) throw wrongOption(`${path}.${wrong[0]}`, `must be ${shown(wrong[1][0])} or left out`, shown(jwk[wrong[0]]))
  if (jwk.key_ops === undefined || [jwk.key_ops].flat().includes(operation)) return
  throw wrongOption(`${path}.key_ops`, `must have ${shown(operation)} or be left out`, shown(jwk.key_ops))
}
