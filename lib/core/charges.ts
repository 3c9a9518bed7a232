import type { Charge, Tally } from '../contracts.ts'
import type { Limit, Throttle } from '../options/throttle.ts'
import { withoutTag } from './email-address.ts'
import { networksOf } from './networks.ts'
import { mac, type SecretKeys } from './secrets.ts'

/** An IPv6 network of a customer has 64 bits; a /56 and a /48, which some have, get more room. */
const widerShare = 4
/** All known networks of a mailbox together have so much more than one. */
const knownMailboxShare = 4

/** Keyed hashes of an address: one of all its spellings with a `+tag`, which chooses the slot, and its own. */
export function accountKeys(keys: SecretKeys, address: string): { tag: string; account: string } {
  return {
    tag: mac(keys.key('tag'), withoutTag(address)).slice(0, 22),
    account: mac(keys.key('account'), address).slice(0, 22),
  }
}

/** Guesses of an account's password: of a known network its own, of the others also the account's. */
export function accountCharge(keys: SecretKeys, throttle: Throttle, address: string, client: string): Charge[] {
  const { login, account } = throttle
  const { slot, name, list } = knownOf(keys, address)
  const tallies = [...tallyOf(`pair-${name}-${client}`, login), ...tallyOf(`account-${name}`, account)]
  if (tallies.length === 0) return []
  return [{ slot, tallies, known: { list, client, tallies: tallyOf(`known-${name}-${client}`, login) } }]
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
 * Mails with a code about an account: each known network has its own, all others one for all spellings with a `+tag`,
 * and so have the known ones of all of these together, since nobody need have proved the mailbox.
 */
export function mailCharge(
  keys: SecretKeys,
  { mailbox }: Throttle,
  address: string,
  network: string,
): Charge | undefined {
  if (!mailbox) return undefined
  const { slot, name, list } = knownOf(keys, address)
  const [client] = hashedNetworks(keys, network)
  const known = [
    ...tallyOf(`mailbox-${name}-${client}`, mailbox),
    ...tallyOf('mailbox-known', mailbox, knownMailboxShare),
  ]
  return { slot, tallies: tallyOf('mailbox', mailbox), known: { list, client, tallies: known } }
}

/** Mails to an address that are asked for by other accounts, or that nobody asked for. */
export function strangerMailCharge(keys: SecretKeys, { mailbox }: Throttle, address: string): Charge[] {
  return mailbox ? [{ slot: accountKeys(keys, address).tag, tallies: tallyOf('mailbox-unasked', mailbox, 2) }] : []
}

function knownOf(keys: SecretKeys, address: string) {
  const { tag: slot, account: name } = accountKeys(keys, address)
  return { slot, name, list: `known-${name}` }
}

/** Keyed hashes of a client's networks, the nearest first, which names the client. */
export function hashedNetworks(keys: SecretKeys, network: string): [string, ...string[]] {
  const [nearest, ...wider] = networksOf(network)
  const hashed = (each: string) => mac(keys.key('network'), each).slice(0, 22)
  return [hashed(nearest), ...wider.map(hashed)]
}

function tallyOf(name: string, limit: Limit | false, share = 1): Tally[] {
  return limit ? [{ name, tries: limit.tries * share, windowMs: limit.seconds * 1000 }] : []
}
