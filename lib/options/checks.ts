import { inspect } from 'node:util'

/** Checks one option: returns the value to use, or throws a TypeError that names the option and the fix. */
export type Check<T> = (path: string, given: unknown) => T

/** The TypeError of a wrong option: the option in quotes, what was given, the fix. */
export function wrongOption(path: string, fix: string, given?: string): TypeError {
  const got = given === undefined ? '' : `, but ${given} was given`
  return new TypeError(`fastify-accounts: option "${path}" ${fix}${got}`)
}

/** A value that never shows in logs or errors. */
export interface Hidden<T> {
  reveal(): T
}

/** Hides a value from logs and errors. */
export function hidden<T>(value: T): Hidden<T> {
  const shownAs = () => '[redacted]'
  return Object.freeze(
    Object.defineProperties({} as Hidden<T>, {
      reveal: { value: () => value },
      toJSON: { value: shownAs },
      [inspect.custom]: { value: shownAs },
    }),
  )
}

/** Prints a value for an error message, short and on one line. */
export function shown(given: unknown): string {
  const text = inspect(given, { depth: 0, breakLength: Number.POSITIVE_INFINITY })
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

/** A whole number within bounds. */
export function integer(min: number, max: number, fallback: number): Check<number> {
  return (path, given = fallback) => {
    if (Number.isSafeInteger(given) && (given as number) >= min && (given as number) <= max) return given as number
    throw wrongOption(path, `must be a whole number from ${min} to ${max}`, shown(given))
  }
}

/** True or false. */
export function boolean(fallback: boolean): Check<boolean> {
  return (path, given = fallback) => {
    if (typeof given === 'boolean') return given
    throw wrongOption(path, 'must be true or false', shown(given))
  }
}

/** One of a few values. */
export function oneOf<const T>(values: readonly T[], fallback: T): Check<T> {
  return (path, given = fallback) => {
    if (values.includes(given as T)) return given as T
    throw wrongOption(path, `must be ${values.map((value) => shown(value)).join(' or ')}`, shown(given))
  }
}

/** A function; the fallback when it is left out. */
export function fn<T>(shape: string, fallback: T): Check<T> {
  return (path, given = fallback) => {
    if (given === fallback || typeof given === 'function') return given as T
    throw wrongOption(path, `must be a function ${shape}`, shown(given))
  }
}

/** A text that matches a pattern. */
export function text(pattern: RegExp, fix: string, fallback: string): Check<string> {
  return (path, given = fallback) => {
    if (typeof given === 'string' && pattern.test(given)) return given
    throw wrongOption(path, fix, shown(given))
  }
}

/** A text that matches a pattern, or undefined. */
export function optionalText(pattern: RegExp, fix: string): Check<string | undefined> {
  return (path, given) => (given === undefined ? undefined : text(pattern, fix, '')(path, given))
}

/** An https address, or http on this machine; null for anything else. */
export function webAddress(given: unknown): URL | null {
  const url = typeof given === 'string' && URL.canParse(given) ? new URL(given) : null
  const loopback = url && ['localhost', '127.0.0.1', '[::1]'].includes(url.hostname)
  return url?.protocol === 'https:' || (url?.protocol === 'http:' && loopback) ? url : null
}

/** Anything: it is checked where it is used. */
export function anything<T>(): Check<T> {
  return (_path, given) => given as T
}

/** An object that has all the named methods, or undefined. */
export function port<T>(methods: readonly string[], makers: string): Check<T | undefined> {
  return (path, given) => {
    if (given === undefined) return undefined
    const missing = methods.filter((name) => typeof (given as Record<string, unknown> | null)?.[name] !== 'function')
    if (missing.length === 0) return given as T
    throw wrongOption(path, `must be ${makers} or have the same methods (missing: ${missing.join(', ')})`, shown(given))
  }
}

/** A group of options; refuses unknown keys. */
export function section<T>(checks: { [K in keyof T]: Check<T[K]> }, shape = 'an object'): Check<Readonly<T>> {
  const names = Object.keys(checks) as (keyof T & string)[]
  return (path, given = {}) => {
    // A promise has no keys of its own, so it would be taken for an object without any.
    if (typeof given !== 'object' || given === null || Array.isArray(given) || given instanceof Promise) {
      throw wrongOption(path, `must be ${shape} with ${names.join(', ')}`, shown(given))
    }
    const at = (name: string) => (path ? `${path}.${name}` : name)
    for (const name of Object.keys(given)) {
      if (!Object.hasOwn(checks, name)) throw wrongOption(at(name), `is unknown; the names are ${names.join(', ')}`)
    }
    const read = names.map((name) => [name, checks[name](at(name), (given as Record<string, unknown>)[name])] as const)
    return Object.freeze(Object.fromEntries(read)) as Readonly<T>
  }
}

/** A group of options that can be switched off as a whole. */
export function sectionOrOff<T>(
  checks: { [K in keyof T]: Check<T[K]> },
  shape = 'false or an object',
): Check<Readonly<T> | false> {
  const on = section<T>(checks, shape)
  return (path, given) => (given === false ? false : on(path, given))
}
