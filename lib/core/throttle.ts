import type { Charge, Charged, Tally } from '../contracts.ts'
import { AccountsError, isOutage, isRefusal } from '../errors.ts'
import { accountCharge, changeCharge, hashedNetworks, networkCharges, strangerMailCharge } from './charges.ts'
import type { Client } from './client.ts'
import { identifierOf } from './codes.ts'
import { inTime } from './deadline.ts'
import { type EventInput, emit } from './events.ts'
import { reservations } from './hash-queue.ts'
import type { Attempted } from './hooks.ts'
import { networksOf } from './networks.ts'
import type { Realm } from './realm.ts'
import type { SecretKeys } from './secrets.ts'
import type { Tallies } from './tallies.ts'

const knownMs = 30 * 86_400_000
const localShare = 4
const hookMs = 2000

/** `right` and `undone` take a try back, and a right one makes the client's network known; `wrong` keeps it counted. */
export type Outcome = 'right' | 'wrong' | 'undone'

/**
 * Guesses an account's password, counted before it is compared; a right guess is taken back. A network from which
 * somebody has guessed right within 30 days has a budget of its own, so that no stranger uses it up; the others share
 * that of the account and that of their network.
 *
 * @throws {AccountsError} ACCOUNTS_TOO_MANY_REQUESTS, and then nothing was guessed
 */
export async function guessPassword<Guess extends { outcome: Outcome }>(
  realm: Realm,
  address: string,
  client: Client,
  guess: () => Promise<Guess>,
): Promise<Guess> {
  const { throttle } = realm.options
  const chargesOf = (keys: SecretKeys) => {
    const networks = hashedNetworks(keys, client.network)
    return [...accountCharge(keys, throttle, address, networks[0]), ...networkCharges('network', throttle, networks)]
  }
  const { settle, known } = await count(realm, chargesOf, () => about(realm, 'password', client, address))
  const reservation = client.request && reservations.get(client.request)
  if (reservation) reservation.known = known
  const guessed = await guess().catch((error) => {
    settle('undone')
    throw error
  })
  settle(guessed.outcome)
  if (guessed.outcome === 'right') realm.familiar.set(nearest(client), true)
  return guessed
}

/** Whether somebody has logged in to this process from the client's network. */
export function isFamiliar(realm: Realm, client: Client): boolean {
  return realm.familiar.get(nearest(client)) === true
}

function nearest({ network }: Client): string {
  return networksOf(network)[0]
}

/**
 * Does what a network may do so often; an outage is taken back.
 *
 * @throws {AccountsError} ACCOUNTS_TOO_MANY_REQUESTS, and then nothing was done
 */
export function doFrom<T>(realm: Realm, act: 'register' | 'mail', client: Client, run: () => Promise<T>): Promise<T> {
  const chargesOf = (keys: SecretKeys) =>
    networkCharges(act, realm.options.throttle, hashedNetworks(keys, client.network))
  return countedRun(realm, chargesOf, () => ({ client, details: { act } }), run)
}

/**
 * Does what may be done to an account so often by whoever has its password; an outage is taken back.
 *
 * @throws {AccountsError} ACCOUNTS_TOO_MANY_REQUESTS, and then nothing was done
 */
export function changeOf<T>(realm: Realm, address: string, client: Client, run: () => Promise<T>): Promise<T> {
  const chargesOf = (keys: SecretKeys) => changeCharge(keys, realm.options.throttle, address)
  return countedRun(realm, chargesOf, () => about(realm, 'change', client, address), run)
}

async function countedRun<T>(
  realm: Realm,
  chargesOf: (keys: SecretKeys) => Charge[],
  event: () => About,
  run: () => Promise<T>,
): Promise<T> {
  const { settle } = await count(realm, chargesOf, event)
  return run().catch((error) => {
    if (!isRefusal(error) || error.statusCode >= 500) settle('undone')
    throw error
  })
}

function about(realm: Realm, act: 'password' | 'change', client: Client, address: string): About {
  return { client, identifier: identifierOf(realm, address), details: { act } }
}

/** Counts a mail to an address whose owner need not have asked for it. False when it has had enough of them. */
export async function hasRoomFor(realm: Realm, address: string): Promise<boolean> {
  const charges = realm.ring.flatMap((keys) => strangerMailCharge(keys, realm.options.throttle, address))
  const { results } = await chargeAll(realm, charges)
  return results.every(({ waitMs }) => waitMs === 0)
}

/** Knows the network of a client who has set the password or the address, and no other one any more. */
export function knowOnly(realm: Realm, address: string, client: Client): void {
  const charges = realm.ring.flatMap((keys) =>
    accountCharge(keys, realm.options.throttle, address, hashedNetworks(keys, client.network)[0]),
  )
  inBackground(realm, acquaint(realm, charges, true))
}

/** Whom and what a try is about. */
type About = EventInput<'throttle'> & { details: { act: Attempted } }

interface Counted {
  /** Whether the client is known to the account. */
  known: boolean
  settle(outcome: Outcome): void
}

async function count(realm: Realm, chargesOf: (keys: SecretKeys) => Charge[], event: () => About): Promise<Counted> {
  // Under every secret, so that replacing one forgets no try.
  const charges = realm.ring.flatMap(chargesOf)
  const { counter, results } = await chargeAll(realm, charges)
  const known = results.some((result) => result.known)
  const decisive = results.filter((result) => result.known === known)
  const waitMs = Math.max(0, ...decisive.map((result) => result.waitMs))
  const counted = results.filter((result) => result.waitMs === 0)
  function takeBack(some: Result[], further: Promise<void>[] = []): void {
    const refunds = some.map((result) => counter.refund(result.charge, result.known, realm.clock()))
    inBackground(realm, [...refunds, ...further])
  }
  if (waitMs > 0) {
    takeBack(counted)
    emit(realm, 'throttle', event())
    throw tooMany(waitMs)
  }
  const share = Math.max(0, ...decisive.map((result) => result.share))
  await ask(realm, event, { share, known }).catch((error) => {
    takeBack(counted)
    throw error
  })
  return {
    known,
    settle(outcome) {
      // What is done from a known network is charged to nobody else.
      if (outcome === 'wrong') takeBack(counted.filter((result) => result.known !== known))
      else takeBack(counted, outcome === 'right' ? acquaint(realm, charges) : [])
    },
  }
}

/** Asks the host's hooks, which may refuse. Not to answer is to refuse: they may be all that stands before a robot. */
async function ask({ hooks }: Realm, event: () => About, counted: { share: number; known: boolean }): Promise<void> {
  if (!hooks.has('beforeAttempt')) return
  const { client, identifier = null, details } = event()
  const context = { act: details.act, ...counted, identifier, client }
  await inTime(hookMs, () => hooks.before('beforeAttempt', context)).catch((error) => {
    if (isRefusal(error) || !isOutage(error)) throw error
    throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: error })
  })
}

interface Result extends Charged {
  charge: Charge
}

async function chargeAll(realm: Realm, charges: Charge[]): Promise<{ counter: Tallies; results: Result[] }> {
  const now = realm.clock()
  const run = async (counter: Tallies, all: Charge[]) => ({
    counter,
    results: await Promise.all(all.map(async (charge) => ({ charge, ...(await counter.charge(charge, now)) }))),
  })
  if (!realm.cache || charges.length === 0) return run(realm.tallies, charges)
  try {
    return await run(realm.cache, charges)
  } catch (error) {
    if (!isOutage(error)) throw error
    // Never unlimited: what an outage leaves is counted here, with less, since other processes do the same.
    return run(realm.tallies, charges.map(reduced))
  }
}

function reduced({ tallies, known, ...charge }: Charge): Charge {
  const less = (all: Tally[]) =>
    all.map((tally) => ({ ...tally, tries: Math.max(1, Math.floor(tally.tries / localShare)) }))
  return { ...charge, tallies: less(tallies), known: known && { ...known, tallies: less(known.tallies) } }
}

// In this process too, for an outage of the cache.
function acquaint({ cache, tallies, clock }: Realm, charges: Charge[], alone = false): Promise<void>[] {
  const now = clock()
  return charges.flatMap(({ slot, known }) => {
    if (!known) return []
    const { list, client } = known
    const acquaintance = { slot, list, client, until: now + knownMs, alone }
    return [cache?.acquaint(acquaintance, now) ?? [], tallies.acquaint(acquaintance, now)].flat()
  })
}

// The response does not wait for it; closing does. The port logs the fault, and a tally forgets by itself.
function inBackground({ pending }: Realm, work: Promise<void>[]): void {
  const done = Promise.allSettled(work).then(() => {
    pending.delete(done)
  })
  pending.add(done)
}

function tooMany(waitMs: number): AccountsError {
  const error = new AccountsError('ACCOUNTS_TOO_MANY_REQUESTS')
  error.headers['retry-after'] = String(Math.ceil(waitMs / 1000))
  return error
}
