import { domainToASCII, domainToUnicode } from 'node:url'

// RFC 5321 4.5.3.1.1 and 4.5.3.1.3: 64 octets before the @, and 256 in a path with its angle brackets.
const maxLocalLength = 64
const maxLength = 254

// RFC 5322 3.2.3 dot-atom, ASCII only: no quotes, no comments, nothing that a mail library could read as a list.
const dotAtom = /^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*$/
const asciiLabel = /^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/
const unicodeLabel = /^(?!-)(?=.*\p{L})[\p{L}\p{M}\p{Nd}-]+(?<!-)$/u

/**
 * The one spelling under which an e-mail address is stored and looked up, or null when the address is refused. Two
 * addresses are the same account exactly when their canonical forms are equal bytewise. A canonical form is its own
 * canonical form. It is an identity, never a destination: mail goes to the address as it was stored.
 */
export function canonicalEmail(address: string): string | null {
  if (address.length > maxLength) return null
  const at = address.lastIndexOf('@')
  if (at < 1 || at > maxLocalLength) return null
  const local = address.slice(0, at)
  const domain = canonicalDomain(address.slice(at + 1))
  if (!dotAtom.test(local) || domain === null) return null
  const canonical = `${local.toLowerCase()}@${domain}`
  return canonical.length <= maxLength ? canonical : null
}

/**
 * The form under which an address is looked up: the canonical one, or that of a stored address that registration would
 * refuse, which differs in the case of ASCII letters at most.
 */
export function lookupForm(address: string): string {
  return canonicalEmail(address) ?? address.replace(/[A-Z]+/g, (letters) => letters.toLowerCase())
}

/** A canonical address without the `+tag` of its local part, so that one mailbox counts once whatever its tags. */
export function withoutTag(canonical: string): string {
  return canonical.replace(/^([^+@]+)\+[^@]*/, '$1')
}

// The raw labels are judged first: `domainToASCII` deletes tabs and soft hyphens, decodes `%65`, reads full-width dots
// and turns numbers into IP addresses.
function canonicalDomain(raw: string): string | null {
  const labels = raw.split('.')
  if (labels.length < 2 || !labels.every((label) => asciiLabel.test(label) || unicodeLabel.test(label))) return null
  // RFC 3696 2: no top-level domain is all digits, so this is an IPv4 address.
  if (/^\d+$/.test(labels.at(-1)!)) return null
  const converted = domainToASCII(raw).split('.')
  const same = converted.length === labels.length && labels.every((label, i) => sameLabel(label, converted[i]!))
  return same ? converted.join('.') : null
}

// A label is refused when it is another name than it looks: full-width or Kelvin letters that become plain ASCII,
// decomposed letters (mail libraries encode them as they are), and punycode of what needs none.
function sameLabel(raw: string, converted: string): boolean {
  const lower = raw.toLowerCase()
  if (!asciiLabel.test(converted)) return false
  if (!converted.startsWith('xn--')) return asciiLabel.test(raw) && converted === lower
  const unicode = domainToUnicode(converted)
  // Node 24 passes punycode that decodes to nothing on as it is.
  return unicode !== converted && (lower === converted || lower === unicode)
}
