/** A method of a port. */
export type Call = (...args: unknown[]) => Promise<unknown>

/**
 * A plain object with the members of a port, each method as `wrap` makes it. The port may be an instance of a class:
 * its methods keep their `this`.
 */
export function withEachMethod<Port extends object>(port: Port, wrap: (name: string, call: Call) => Call): Port {
  const members = memberNames(port).map((name) => {
    const member: unknown = port[name as keyof Port]
    return [name, typeof member === 'function' ? wrap(name, member.bind(port)) : member]
  })
  return Object.fromEntries(members)
}

function memberNames(port: object): string[] {
  const names = new Set<string>()
  for (let level = port; level && level !== Object.prototype; level = Object.getPrototypeOf(level)) {
    for (const name of Object.getOwnPropertyNames(level)) names.add(name)
  }
  names.delete('constructor')
  return [...names]
}
