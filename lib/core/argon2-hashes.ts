import type { Argon2Cost } from '../options/rules.ts'

/** Longer ones are no hash of anybody's. */
export const longest = 512
// Some libraries, as node-argon2 of 2026, write the costs in another order.
const storedHash =
  /^\$argon2(id|i|d)\$(?:v=(16|19)\$)?([mtp]=\d{1,10},[mtp]=\d{1,10},[mtp]=\d{1,10})(?:\$[A-Za-z\d+/]{11,256}){2}$/
// PHC string format: the id of the pepper, in base64, after the last cost.
const keyIdParameter = /(?<=,p=\d{1,3}),keyid=([A-Za-z\d+/]{2,22})(?=\$)/

/** A pepper's id as it stands in hashes; empty without a pepper. */
export function keyIdOf(pepper: { id: string } | null | undefined): string {
  return base64(Buffer.from(pepper?.id ?? ''))
}

/** A pepper's id as it stands in hashes, for people; anybody who writes to the database may have chosen it. */
export function pepperName(keyId: string): string {
  return JSON.stringify(Buffer.from(keyId, 'base64').toString('ascii'))
}

/** The id of the pepper of an argon2 hash; empty without one. */
export function keyIdIn(stored: string): string {
  return keyIdParameter.exec(stored)?.[1] ?? ''
}

/** The hash with the id of its pepper. */
export function withKeyId(hash: string, keyId: string): string {
  return keyId === '' ? hash : hash.replace(/(?<=,p=\d{1,3})(?=\$)/, `,keyid=${keyId}`)
}

/** The hash as argon2 libraries read it. */
export function withoutKeyId(stored: string): string {
  return stored.replace(keyIdParameter, '')
}

/** Whether a stored hash is cheap enough to verify safely: a huge `m` would end the process. */
export function affordable(stored: string): boolean {
  if (stored.length > longest) return false
  const cost = costOf(stored)
  if (!cost) return false
  const { m, t, p } = cost
  return m <= 262_144 && t >= 1 && t <= 10 && p >= 1 && p <= 16 && m >= 8 * p
}

/** Whether a stored hash took less memory times passes than the configured cost, or is of another variant. */
export function weaker(stored: string, { memoryCost, timeCost }: Argon2Cost): boolean {
  const cost = costOf(stored)
  return cost?.variant !== 'id' || cost.version !== '19' || cost.m * cost.t < memoryCost * timeCost
}

function costOf(stored: string) {
  const [, variant, version, costs = ''] = storedHash.exec(withoutKeyId(stored)) ?? []
  if (variant === undefined) return null
  // One that is missing, since another stands twice, is 0: no hash is affordable by it.
  const given = { m: 0, t: 0, p: 0 }
  for (const cost of costs.split(',')) given[cost[0] as keyof typeof given] = Number(cost.slice(2))
  return { variant, version, ...given }
}

/** The PHC string of an argon2 hash; Django writes the name of its hasher before it. */
export function phcOf(stored: string): string {
  return stored.startsWith('argon2$') ? stored.slice('argon2'.length) : stored
}

/** Base64 without padding, as PHC strings have it. */
export function base64(bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('=', '')
}
