import type { Charge, Tally } from '../contracts.ts'
import type { Limit, Throttle } from '../options/throttle.ts'
import { withoutTag } from './email-address.ts'
import { networksOf } from './networks.ts'
import type { SecretKeys } from './secrets.ts'

/** An IPv6 network of a customer has 64 bits; a /56 and a /48, which some have, get more room. */
const widerShare = 4
/** All accounts with a `+tag` of a mailbox together have so much more than one. */
const taggedShare = 4
const dayMs = 86_400_000

/** Keyed hashes of an address: one of all its spellings with a `+tag`, which chooses the slot, and its own. */
export function accountKeys(keys: SecretKeys, address: string): { tag: string; account: string } {
  return { tag: keys.name('tag', withoutTag(address)), account: keys.name('account', address) }
}

/** Guesses of an account's password: of a known network its own, of the others also the account's. */
export function accountCharge(keys: SecretKeys, throttle: Throttle, address: string, client: string): Charge[] {
  const { login, account } = throttle
  const { slot, name, guessers: list } = listsOf(keys, address)
  const tallies = [...tallyOf(`pair-${name}-${client}`, login), ...tallyOf(`account-${name}`, account)]
  if (tallies.length === 0) return []
  const own = [...tallyOf(`known-${name}-${client}`, login), ...dailyOf(`known-day-${name}-${client}`, login, 5)]
  return [{ slot, tallies, known: { list, client, tallies: own } }]
}

/** What is done from a network: from an address, and with more room from the wider networks that it is in. */
export function networkCharges(
  act: 'network' | 'register' | 'mail',
  throttle: Throttle,
  networks: readonly string[],
): Charge[] {
  return networks.flatMap((slot, index) => {
    const tallies = tallyOf(act, throttle[act], widerShare ** index)
    return tallies.length > 0 ? [{ slot, tallies }] : []
  })
}

/** Changes of an account's credentials. */
export function changeCharge(keys: SecretKeys, { change }: Throttle, address: string): Charge[] {
  const { tag: slot, account } = accountKeys(keys, address)
  const tallies = tallyOf(`change-${account}`, change)
  return tallies.length > 0 ? [{ slot, tallies }] : []
}

/**
 * Mails with a code about an account: each known network has its own, all others one for all spellings with a `+tag`.
 * Nobody need have proved the mailbox of such a spelling: their known networks have one together, too.
 *
 * @param mailed false where nobody has the address: what is charged then keeps no mail from whoever registers it
 */
export function mailCharge(
  keys: SecretKeys,
  { mailbox }: Throttle,
  { address, network, mailed }: { address: string; network: string; mailed: boolean },
): Charge | undefined {
  if (!mailbox) return undefined
  const { slot, name, askers: list } = listsOf(keys, address)
  const [client] = hashedNetworks(keys, network)
  const what = mailed ? 'mailbox' : 'nobody'
  const own = tallyOf(`${what}-${name}-${client}`, mailbox)
  const known = isTagged(address) ? [...own, ...tallyOf(`${what}-tagged`, mailbox, taggedShare)] : own
  const tallies = [...tallyOf(what, mailbox), ...dailyOf(`${what}-day`, mailbox, 2)]
  return { slot, tallies, known: { list, client, tallies: known } }
}

/** Mails to an address that other accounts ask for. */
export function strangerMailCharge(keys: SecretKeys, { mailbox }: Throttle, address: string): Charge[] {
  return mailbox ? [{ slot: accountKeys(keys, address).tag, tallies: tallyOf('mailbox-unasked', mailbox, 2) }] : []
}

/** Notices of one kind about an account; nobody else uses them up but other accounts with a `+tag` of the mailbox. */
export function noticeCharge(keys: SecretKeys, { mailbox }: Throttle, address: string, kind: string): Charge[] {
  if (!mailbox) return []
  const { tag: slot, account } = accountKeys(keys, address)
  const own = tallyOf(`notice-${kind}-${account}`, mailbox, 2)
  const tagged = isTagged(address) ? tallyOf('notice-tagged', mailbox, 2 * taggedShare) : []
  return [{ slot, tallies: [...own, ...tagged] }]
}

/** What knows a client: whose guesses, and whose mails, are charged to nobody else; as far as they are counted. */
export function acquaintances(keys: SecretKeys, throttle: Throttle, address: string, network: string) {
  const { slot, guessers, askers } = listsOf(keys, address)
  const [client] = hashedNetworks(keys, network)
  return [
    ...(throttle.login || throttle.account ? [{ slot, list: guessers, client, of: 'guesses' as const }] : []),
    ...(throttle.mailbox ? [{ slot, list: askers, client, of: 'mails' as const }] : []),
  ]
}

function isTagged(address: string): boolean {
  return withoutTag(address) !== address
}

function listsOf(keys: SecretKeys, address: string) {
  const { tag: slot, account: name } = accountKeys(keys, address)
  return { slot, name, guessers: `known-${name}`, askers: `asker-${name}` }
}

/** Keyed hashes of a client's networks, the nearest first, which names the client. */
export function hashedNetworks(keys: SecretKeys, network: string): [string, ...string[]] {
  const [nearest, ...wider] = networksOf(network)
  const hashed = (each: string) => keys.name('network', each)
  return [hashed(nearest), ...wider.map(hashed)]
}

function tallyOf(name: string, limit: Limit | false, share = 1): Tally[] {
  return limit ? [{ name, tries: limit.tries * share, windowMs: limit.seconds * 1000 }] : []
}

/** So many times a limit in any day: half of them at once, the others spread evenly. */
function dailyOf(name: string, limit: Limit | false, times: number): Tally[] {
  if (!limit || limit.seconds * 1000 >= dayMs) return []
  return [{ name, tries: Math.ceil((limit.tries * times) / 2), windowMs: dayMs }]
}
