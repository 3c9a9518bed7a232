import type { Charge, Charged, Tally } from '../contracts.ts'
import { AccountsError, isOutage, isRefusal } from '../errors.ts'
import {
  accountCharge,
  acquaintances,
  changeCharge,
  hashedNetworks,
  networkCharges,
  noticeCharge,
  strangerMailCharge,
} from './charges.ts'
import { type Client, noClient } from './client.ts'
import { dayMs, identifierOf } from './codes.ts'
import { inTime } from './deadline.ts'
import { type EventInput, emit } from './events.ts'
import { reservations } from './hash-queue.ts'
import type { Attempted } from './hooks.ts'
import { networksOf } from './networks.ts'
import type { Realm } from './realm.ts'
import type { SecretKeys } from './secrets.ts'
import type { Tallies } from './tallies.ts'

const knownMs = 30 * dayMs
const localShare = 4
const hookMs = 2000

/** `undone` takes a try back, `wrong` keeps it counted. */
export type Outcome = 'undone' | 'wrong'

/**
 * Guesses an account's password, counted before it is compared; a right guess is taken back. A network from which
 * somebody has guessed right within 30 days has a budget of its own, so that no stranger uses it up; the others share
 * that of the account and that of their network. `welcome` makes the client's network a known one: for whoever was let
 * in, and has proved the mailbox where that is asked for.
 *
 * @throws {AccountsError} ACCOUNTS_TOO_MANY_REQUESTS, and then nothing was guessed
 */
export async function guessPassword<Guess extends { outcome: Outcome }>(
  realm: Realm,
  address: string,
  client: Client,
  guess: () => Promise<Guess>,
): Promise<Guess & { welcome(): void }> {
  const { throttle } = realm.options
  const chargesOf = (keys: SecretKeys) => {
    const networks = hashedNetworks(keys, client.network)
    return [...accountCharge(keys, throttle, address, networks[0]), ...networkCharges('network', throttle, networks)]
  }
  const { settle, known, fresh } = await count(realm, chargesOf, () => about(realm, 'password', client, address))
  const reservation = client.request && reservations.get(client.request)
  if (reservation) reservation.known = known
  const guessed = await guess().catch((error) => {
    settle('undone')
    throw error
  })
  settle(guessed.outcome)
  function welcome(): void {
    realm.familiar.set(nearest(client), true)
    if (!fresh) inBackground(realm, acquaint(realm, address, client))
  }
  return { ...guessed, welcome }
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

/** Counts a mail to an address that another account asks for. False when it has had enough of them. */
export async function hasRoomFor(realm: Realm, address: string): Promise<boolean> {
  const charges = realm.ring.flatMap((keys) => strangerMailCharge(keys, realm.options.throttle, address))
  return (await chargeMail(realm, charges)).room
}

/** A mail that was counted. */
export interface CountedMail {
  /** Whether the mailbox may have it. */
  room: boolean
  /** What is left to charge, where its code is stored. */
  charge?: Charge
  /** Takes back what was counted; a second call does nothing. */
  takeBack(): void
}

/** Counts a notice to the owner of an account; a decoy is sent to nobody. */
export function chargeNotice(realm: Realm, kind: string, address: string | null): Promise<CountedMail> {
  const { ring, options } = realm
  if (address === null) return chargeMail(realm, [])
  const charges = ring.flatMap((keys) => noticeCharge(keys, options.throttle, address, kind))
  return chargeMail(realm, charges)
}

/**
 * Counts a mail with a code under all secrets, so that replacing one forgets none; the first one's charge is returned,
 * since it is made where the code is stored. Where a secret knows the client, those alone count that do.
 */
export async function chargeCode(
  realm: Realm,
  { charge, others = [] }: { charge?: Charge | undefined; others?: Charge[] },
): Promise<CountedMail> {
  if (!charge || others.length === 0) return { room: true, takeBack() {}, ...(charge && { charge }) }
  const all = [charge, ...others]
  const asked = await chargeAll(realm, all.map(withoutTallies))
  const known = asked.some((result) => result.known)
  const decisive = all.filter((_, index) => asked[index]?.known === known)
  const mail = await chargeMail(
    realm,
    decisive.filter((each) => each !== charge),
  )
  return mail.room && decisive.includes(charge) ? { ...mail, charge } : mail
}

function withoutTallies({ slot, known }: Charge): Charge {
  return { slot, tallies: [], ...(known && { known: { ...known, tallies: [] } }) }
}

async function chargeMail(realm: Realm, charges: Charge[]): Promise<CountedMail> {
  const results = await chargeAll(realm, charges)
  const room = results.every(({ waitMs }) => waitMs === 0)
  // What is refused uses up nothing.
  if (!room) takeBack(realm, results.splice(0))
  return { room, takeBack: () => takeBack(realm, results.splice(0)) }
}

/** Refunds those of the results that were counted. */
function takeBack(realm: Realm, results: Result[]): void {
  const counted = results.filter(({ waitMs }) => waitMs === 0)
  const refunds = counted.map(({ counter, charge, known }) => counter.refund(charge, known, realm.clock()))
  inBackground(realm, refunds)
}

/**
 * Knows the network of a client who has set the password or the address, and no other one any more. Only who has
 * `proved` the mailbox takes the others' budgets of mails away: a password may be a thief's.
 */
export function knowOnly(realm: Realm, address: string, client: Client, { proved }: { proved: boolean }): void {
  inBackground(realm, acquaint(realm, address, client, proved ? ['guesses', 'mails'] : ['guesses']))
}

/** Knows no network any more: the address may be somebody else's from now on. */
export function knowNobody(realm: Realm, address: string): void {
  inBackground(realm, acquaint(realm, address, noClient, ['guesses', 'mails'], 0))
}

/** Whom and what a try is about. */
type About = EventInput<'throttle'> & { details: { act: Attempted } }

interface Counted {
  /** Whether the client is known to the account. */
  known: boolean
  /** Whether that need not be renewed today. */
  fresh: boolean
  settle(outcome: Outcome): void
}

async function count(realm: Realm, chargesOf: (keys: SecretKeys) => Charge[], event: () => About): Promise<Counted> {
  // Under every secret, so that replacing one forgets no try.
  const charges = realm.ring.flatMap(chargesOf)
  const results = await chargeNeeded(realm, charges)
  const known = results.some((result) => result.known)
  const decisive = results.filter((result) => result.known === known)
  const waitMs = Math.max(0, ...decisive.map((result) => result.waitMs))
  if (waitMs > 0) {
    takeBack(realm, results)
    emit(realm, 'throttle', event())
    throw tooMany(waitMs)
  }
  const share = Math.max(0, ...decisive.map((result) => result.share))
  await ask(realm, event, { share, known }).catch((error) => {
    takeBack(realm, results)
    throw error
  })
  return {
    known,
    fresh: known && isFresh(realm, charges),
    settle(outcome) {
      // What is done from a known network is charged to nobody else.
      takeBack(realm, outcome === 'wrong' ? results.filter((result) => result.known !== known) : results)
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
  counter: Tallies
}

/**
 * Whoever is known to the account is charged for nothing else. Where this process knows a client, it asks for that
 * alone, and for the rest only when the cache knows better.
 */
async function chargeNeeded(realm: Realm, charges: Charge[]): Promise<Result[]> {
  const now = realm.clock()
  const ofKnown = charges.filter((charge) => realm.tallies.knows(charge, now))
  const results = await chargeAll(realm, ofKnown)
  if (results.some(({ known }) => known)) return results
  const others = charges.filter((charge) => !ofKnown.includes(charge))
  return [...results, ...(await chargeAll(realm, others))]
}

async function chargeAll(realm: Realm, charges: Charge[]): Promise<Result[]> {
  const now = realm.clock()
  const run = (counter: Tallies, all: Charge[]) =>
    all.map(async (charge): Promise<Result> => ({ charge, counter, ...(await counter.charge(charge, now)) }))
  if (!realm.cache || charges.length === 0) return Promise.all(run(realm.tallies, charges))
  const outcomes = await Promise.allSettled(run(realm.cache, charges))
  const results = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? outcome.value : []))
  const failed = outcomes.find((outcome) => outcome.status === 'rejected')
  if (!failed) return results
  takeBack(realm, results)
  if (!isOutage(failed.reason)) throw failed.reason
  // Never unlimited: what an outage leaves is counted here, with less, since other processes do the same.
  return Promise.all(run(realm.tallies, charges.map(reduced)))
}

function reduced({ tallies, known, ...charge }: Charge): Charge {
  const less = (all: Tally[]) =>
    all.map((tally) => ({ ...tally, tries: Math.max(1, Math.floor(tally.tries / localShare)) }))
  return { ...charge, tallies: less(tallies), known: known && { ...known, tallies: less(known.tallies) } }
}

function isFresh({ tallies, clock }: Realm, charges: Charge[]): boolean {
  const end = clock() + knownMs - dayMs
  return charges.every((charge) => !charge.known || tallies.knows(charge, end))
}

// In this process too, for an outage of the cache.
function acquaint(
  { cache, tallies, clock, ring, options }: Realm,
  address: string,
  { network }: Client,
  alone: ('guesses' | 'mails')[] = [],
  forMs = knownMs,
): Promise<void>[] {
  const now = clock()
  const all = ring.flatMap((keys) => acquaintances(keys, options.throttle, address, network))
  return all.flatMap(({ of, ...known }) => {
    const acquaintance = { ...known, until: now + forMs, alone: alone.includes(of) }
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
