import { createRequire } from 'node:module'

/** The cost of one call of argon2. */
export interface Work {
  memoryCost: number
  timeCost: number
}

/** The calls of argon2 in this process, while the list is there to be read. */
export const calls: Work[] = []

type Argon2 = typeof import('@node-rs/argon2')
// A CommonJS module gives its exports to importers when the first of them is evaluated: import this file before.
const argon2 = createRequire(import.meta.url)('@node-rs/argon2') as { -readonly [Name in keyof Argon2]: Argon2[Name] }
const { hash, verify } = argon2

argon2.hash = (password, options, signal) => {
  calls.push({ memoryCost: options?.memoryCost ?? Number.NaN, timeCost: options?.timeCost ?? Number.NaN })
  return hash(password, options, signal)
}
argon2.verify = (stored, password, options, signal) => {
  const [, memoryCost, timeCost] = (/m=(\d+),t=(\d+)/.exec(String(stored)) ?? []).map(Number)
  calls.push({ memoryCost: memoryCost ?? Number.NaN, timeCost: timeCost ?? Number.NaN })
  return verify(stored, password, options, signal)
}
