import { createCipheriv, createDecipheriv, createHmac, hkdfSync } from 'node:crypto'
import { createMemory } from './memory.ts'
import { randomBytes } from './random.ts'

/** The keys that one secret of the ring stands for; every key is bound to a realm and a purpose. */
export interface SecretKeys {
  /** Names the secret in tokens, seals and codes; derived from it, and useless for finding it. */
  kid: string
  /** A key of 32 bytes for one purpose. RFC 5869. */
  key(purpose: string): Buffer
  /** 22 characters that stand for a text and show nothing of it. */
  name(purpose: 'tag' | 'account' | 'network', text: string): string
}

/** Names that each secret remembers: one request asks for the same ones several times. */
const rememberedNames = 1000

/** The first secret signs, seals and tags; all of them verify. */
export type Ring = readonly [SecretKeys, ...SecretKeys[]]

/** Derives the ring of a realm from its secrets, newest first. */
export function createRing(name: string, secrets: readonly string[]): Ring {
  return secrets.map((secret) => secretKeys(name, secret)) as unknown as Ring
}

function secretKeys(name: string, secret: string): SecretKeys {
  const derived = new Map<string, Buffer>()
  function key(purpose: string): Buffer {
    const known = derived.get(purpose)
    if (known) return known
    const fresh = Buffer.from(hkdfSync('sha256', secret, 'fastify-accounts', `${name}\n${purpose}`, 32))
    derived.set(purpose, fresh)
    return fresh
  }
  const names = createMemory<string>(rememberedNames)
  return {
    kid: key('kid').toString('base64url').slice(0, 12),
    key,
    name(purpose, text) {
      const id = `${purpose} ${text}`
      const known = names.get(id)
      if (known) return known
      const made = mac(key(purpose), text).slice(0, 22)
      names.set(id, made)
      return made
    },
  }
}

/** HMAC-SHA-256 of the parts under a key, in base64url. Parts are length-prefixed: none runs into the next. */
export function mac(key: Buffer, ...parts: string[]): string {
  const hmac = createHmac('sha256', key)
  for (const part of parts) hmac.update(`${Buffer.byteLength(part)}:${part}`)
  return hmac.digest('base64url')
}

/** What a sealed value belongs to: its kind, and which one of that kind. The realm is in the keys. */
export type SealContext = readonly [kind: 'code' | 'outbox' | 'mail', ...which: string[]]

/**
 * Encrypts a JSON value with AES-256-GCM under the first secret, padded with spaces to a multiple of `padTo` bytes so
 * that its size shows nothing. Shape: `kid.base64url(nonce, ciphertext, tag)`.
 */
export function seal(ring: Ring, context: SealContext, value: unknown, padTo: number): string {
  const plain = Buffer.from(JSON.stringify(value))
  const padded = Buffer.alloc(Math.ceil(plain.length / padTo) * padTo, 0x20)
  plain.copy(padded)
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', ring[0].key('seal'), nonce).setAAD(bytesOf(context))
  const sealed = Buffer.concat([nonce, cipher.update(padded), cipher.final(), cipher.getAuthTag()])
  return `${ring[0].kid}.${sealed.toString('base64url')}`
}

/**
 * Opens what `seal` made. `unknown` when no secret of the ring made it, such as one that this instance does not have
 * yet or any more; `altered` when it was changed, or belongs to something else.
 */
export function open<Value>(
  ring: Ring,
  context: SealContext,
  sealed: string,
): { value: Value } | 'unknown' | 'altered' {
  try {
    const [kid, text = ''] = sealed.split('.', 2)
    const keys = ring.find((candidate) => candidate.kid === kid)
    if (!keys) return 'unknown'
    const bytes = Buffer.from(text, 'base64url')
    const decipher = createDecipheriv('aes-256-gcm', keys.key('seal'), bytes.subarray(0, 12), { authTagLength: 16 })
    decipher.setAAD(bytesOf(context)).setAuthTag(bytes.subarray(-16))
    const plain = Buffer.concat([decipher.update(bytes.subarray(12, -16)), decipher.final()])
    return { value: JSON.parse(plain.toString()) }
  } catch {
    return 'altered'
  }
}

function bytesOf(context: SealContext): Buffer {
  return Buffer.from(context.join('\n'))
}
