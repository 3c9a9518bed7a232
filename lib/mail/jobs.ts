import type { Message } from '../contracts.ts'
import { createRing, open, type Ring, seal } from '../core/secrets.ts'

import { secrets } from '../options/secrets.ts'
import { builtInMails } from './texts.ts'

// Room for any usual name, address and link: one that did not fit would show that the mail is no decoy.
const sealedBytes = 2048

/** Name of the BullMQ queue. */
export const queueName = 'mail'

/** A secret, the current and the previous one, or a ring made of them. */
export type MailSecret = string | readonly [string, string] | Ring

/** A message as it lies in Redis: how long it may wait is readable, its kind and what it says are not. */
export interface MailJob {
  /** Version of this shape. */
  v: 2
  /** End of the message's life in milliseconds; what counts is the same field of the sealed message. */
  expiresAt: number
  sealed: string
}

/** Key prefix of the queue; the braces keep all keys of a realm in one slot of a Redis cluster. */
export function queuePrefix(name: string): string {
  return `{${name}}`
}

/** The id of a message's job: BullMQ refuses colons and whole numbers. */
export function jobId(messageId: string): string {
  return `mail-${encodeURIComponent(messageId)}`
}

/** Checks a secret and derives its ring; a ring is passed through. */
export function ringOf(name: string, secret: MailSecret): Ring {
  if (Array.isArray(secret) && typeof secret[0]?.key === 'function') return secret as unknown as Ring
  return createRing(name, secrets('secret', secret).reveal())
}

/**
 * Seals a message for the queue, padded so that mails of all kinds and decoys are of one size. The seal is bound to the
 * realm and the job id: a job whose data was altered or taken from another job does not open.
 */
export function sealJob(ring: Ring, message: Message): MailJob {
  // The worker has a brand of its own.
  const sealed = seal(ring, ['mail', jobId(message.id)], { ...message, brand: {} }, sealedBytes)
  return { v: 2, expiresAt: message.expiresAt, sealed }
}

/**
 * Opens a job. `unknown` when a newer program or another secret made it, `altered` when the seal does not fit.
 */
export function openJob(ring: Ring, id: string, job: MailJob | null): Message | 'unknown' | 'altered' {
  if (job?.v !== 2) return 'unknown'
  const opened = open<Message>(ring, ['mail', id], job.sealed)
  if (typeof opened === 'string') return opened
  return kinds.has(opened.value.kind) ? opened.value : 'unknown'
}

const kinds: ReadonlySet<string> = new Set(Object.keys(builtInMails))
