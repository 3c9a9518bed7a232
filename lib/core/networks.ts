import { isIPv6 } from 'node:net'

/**
 * The networks of an address, the nearest first: of an IPv6 address its /64, /56 and /48, of an IPv4 address (also one
 * that is mapped to IPv6) and of any other name itself.
 */
export function networksOf(address: string): [string, ...string[]] {
  const [bare = ''] = address.split('%')
  if (!isIPv6(bare)) return [address]
  const groups = groupsOf(bare)
  const [high = 0, low = 0] = groups.slice(6)
  if (groups.slice(0, 6).join() === '0,0,0,0,0,65535') return [[high >> 8, high & 255, low >> 8, low & 255].join('.')]
  const [a, b, c, d = 0] = groups
  const name = (bits: number, fourth: number) =>
    `${[a, b, c, fourth].map((group) => group!.toString(16)).join(':')}/${bits}`
  return [name(64, d), name(56, d & 0xff00), name(48, 0)]
}

function groupsOf(address: string): number[] {
  // Shortest form, in hexadecimal: RFC 5952, as the URL standard has it.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::')
  const numbers = (text = '') => (text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16)))
  const [before, after] = [numbers(head), numbers(tail)]
  return [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after]
}
