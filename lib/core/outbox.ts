import type { Message, OutboxMail } from '../contracts.ts'
import { noClient } from './client.ts'
import { type CodeDraft, identifierOf, putCode } from './codes.ts'
import { lookupForm } from './email-address.ts'
import { emit } from './events.ts'
import type { Realm } from './realm.ts'
import { open, seal } from './secrets.ts'
import { type CountedMail, chargeCode, chargeNotice } from './throttle.ts'

/** A mail that waits for its hand-over: the life of its code, if it has one, begins there. */
export interface Draft {
  message: Omit<Message, 'brand' | 'expiresAt' | 'minutes'>
  code: CodeDraft | null
  createdAt: number
  /** When handing it over is of no use any more. */
  expiresAt: number
  /** When the account goes unless it is proved before, and the code with it. Milliseconds. */
  accountEnd?: number | null
}

/** The request has so long to hand its mails over before the sweeper does. */
const patienceMs = 30_000
const sealedBytes = 2048
const batch = 100

/** The rows of mails, to be stored with the change that they belong to; none without a mailer. */
export function rowsOf({ mailer, joined, ring }: Realm, drafts: Draft[]): OutboxMail[] {
  if (!mailer) return []
  // Within a host's transaction only the sweeper knows that it has committed.
  const patience = joined ? 0 : patienceMs
  return drafts.map((draft) => {
    const { createdAt, expiresAt, message } = draft
    const sealed = seal(ring, ['outbox', message.id], draft, sealedBytes)
    return { id: message.id, sealed, createdAt, dueAt: createdAt + patience, expiresAt }
  })
}

/** Hands stored mails over after the change has committed. A fault is left to the sweeper. */
export async function handOver(realm: Realm, drafts: Draft[]): Promise<void> {
  if (!realm.mailer || realm.joined) return
  await Promise.all(drafts.map((draft) => deliver(realm, draft).catch(() => {})))
}

async function deliver(realm: Realm, draft: Draft): Promise<void> {
  const sent = await post(realm, draft)
  // Another instance cannot know that it was sent, and would send it again.
  if (!sent || mailerOf(realm).inProcess) await realm.storage.settleMails([draft.message.id])
}

/**
 * Begins the life of a mail's code and hands the mail to the mailer, in this order: whoever reads it finds the code
 * alive. False when its code has died since it was stored; then nothing is mailed.
 */
export async function post(realm: Realm, draft: Draft): Promise<boolean> {
  const { code, message } = draft
  const counted = code
    ? await chargeCode(realm, code)
    : await chargeNotice(realm, message.kind, message.to && lookupForm(message.to))
  return pass(realm, draft, counted).catch((error) => {
    // It will be tried again, and counted again but for what is charged where a code is stored.
    counted.takeBack()
    throw error
  })
}

async function pass(realm: Realm, draft: Draft, { room, charge, takeBack }: CountedMail): Promise<boolean> {
  const { code, message, expiresAt, accountEnd } = draft
  const { endsAt: end, decoy } = code
    ? await putCode(realm, { ...code, charge, ttl: lifeOf(realm, code, accountEnd) }, !room)
    : { endsAt: expiresAt, decoy: !room }
  if (decoy || end === 0) takeBack()
  if (end === 0) return false
  // Nobody notices what is too much for a mailbox: as much is done, and the worker drops it.
  const to = decoy ? null : message.to
  if (message.to !== null && to === null) {
    const identifier = identifierOf(realm, lookupForm(message.to))
    emit(realm, 'throttle', { client: noClient, identifier, details: { act: 'mailbox' } })
  }
  const minutes = message.code === null ? 0 : Math.round((end - realm.clock()) / 60_000)
  await mailerOf(realm).send({ ...message, to, minutes, brand: realm.options.mail.brand, expiresAt: end })
  return true
}

// An account whose end has passed is about to go, or to stay because it had a session.
function lifeOf({ clock }: Realm, { ttl }: CodeDraft, accountEnd: Draft['accountEnd']): number {
  const left = Math.ceil(((accountEnd ?? 0) - clock()) / 1000)
  return left > 0 ? Math.min(ttl, left) : ttl
}

/** The mailer, where a feature that needs it is on. */
function mailerOf({ mailer }: Realm) {
  if (!mailer) throw new TypeError('fastify-accounts: this needs a mailer')
  return mailer
}

/**
 * Goes through the mails that are due: settles those that the mailer is done with, and hands over those that it does
 * not know, be it that the request could not, or that a queue has lost them. Any number of instances may sweep at once.
 */
export async function sweepOutbox(realm: Realm): Promise<void> {
  const { storage, clock } = realm
  const now = clock()
  const mails = await storage.claimMails(now, now + patienceMs, batch)
  if (mails.length === 0) return
  const states = await mailerOf(realm).progress(mails.map(({ id }) => id))
  const done = mails.flatMap(({ id }, index) => (states[index] === 'done' ? id : []))
  const drafts: Draft[] = []
  for (const { id, sealed } of mails.filter((_, index) => states[index] === 'unknown')) {
    const opened = open<Draft>(realm.ring, ['outbox', id], sealed)
    if (typeof opened === 'object') drafts.push(opened.value)
    if (opened !== 'altered') continue
    realm.log.error('fastify-accounts: a mail in the outbox was altered')
    done.push(id)
  }
  if (done.length > 0) await storage.settleMails(done)
  await Promise.all(drafts.map((draft) => deliver(realm, draft)))
  if (mails.length === batch) await sweepOutbox(realm)
}
