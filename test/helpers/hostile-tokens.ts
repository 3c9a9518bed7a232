import { readFileSync } from 'node:fs'

/** A token that somebody made to be let in, as templates of its parts. */
export interface Vector {
  id: string
  header: string
  payload: string
  sign: string
  mutate: string | null
  expect: string
}

export const vectors: Vector[] = JSON.parse(
  readFileSync(new URL('../vectors/jwt-hostile.json', import.meta.url), 'utf8'),
).tests

const mutations: Record<string, (token: string) => string> = {
  null: (token) => token,
  'append =': (token) => `${token}=`,
  'prefix space': (token) => ` ${token}`,
  'replace - with + and _ with /': (token) => token.replaceAll('-', '+').replaceAll('_', '/'),
  'drop the last segment': (token) => token.slice(0, token.lastIndexOf('.')),
  'append .x.y': (token) => `${token}.x.y`,
}

interface Filling {
  values: Record<string, string>
  /** Claims of ours: the templates know the registered ones alone, or all of them would fail for want of it. */
  own: string
  sign(header: string, payload: string): string
}

/** The token of a vector. */
export function hostileToken(vector: Vector, { values, own, sign }: Filling): string {
  const all: Record<string, string> = { ...values, $A65536: 'a'.repeat(65_536) }
  const fill = (text: string) => text.replace(/\$[A-Z0-9_]+/g, (name) => all[name] ?? name)
  const payload = fill(vector.payload).replace(/^\{(?=.)/, `{${own}`)
  const mutate = mutations[String(vector.mutate)] as (token: string) => string
  let token = mutate(sign(fill(vector.header), payload))
  // Every seventh signature or so has no character that differs in the other alphabet.
  for (let tries = 0; vector.id === 'enc-std-b64' && !/[+/]/.test(token); tries++) {
    token = mutate(sign(fill(vector.header), payload.replace('{', `{"try":${tries},`)))
  }
  return token
}

/** Whether an access token like this is let in. */
export function accepted({ id, expect }: Vector): boolean {
  // RFC 7519 allows fractions in NumericDate; [R-TOK-3] wants safe integers, and we never issue anything else.
  if (id === 'exp-float') return false
  // "reject, or no prototype effect": it is one more claim that nobody asked for.
  return id === 'proto-payload' || expect === 'accept'
}
