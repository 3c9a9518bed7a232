import { randomBytes } from 'node:crypto'
import type { Accounts } from '../accounts.ts'
import type { CodePurpose, Message, MessageKind, OutboxMail, User } from '../contracts.ts'
import { loggable } from '../errors.ts'
import { codeDigits } from '../http/schemas.ts'
import type { Client } from './client.ts'
import { type CodeDraft, newCode, proofLife, putCode, type Subject } from './codes.ts'
import { open, seal } from './secrets.ts'

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
const noticeLifeMs = 3 * 86_400_000
const sealedBytes = 2048
const batch = 100

/** Writes a notice of something that was done. */
export function noticeOf(accounts: Accounts, kind: MessageKind, user: Addressee, client: Client): Draft {
  const now = accounts.clock()
  const id = randomBytes(16).toString('base64url')
  const message = {
    ...addressed(user),
    id,
    kind,
    code: null,
    token: null,
    url: null,
    ...asked(client, now),
  }
  return { message, code: null, createdAt: now, expiresAt: now + noticeLifeMs }
}

/** Whom a notice goes to. */
type Addressee = Pick<User, 'username' | 'email'>

/** What a mail with a code is written from. */
export interface Proof {
  purpose: Exclude<CodePurpose, 'reset'>
  /** The canonical address of the account. */
  address: string
  /** Null for a decoy. */
  user: Pick<User, 'id' | 'credentialVersion'> | null
  proof?: Pick<Subject, 'email' | 'registration' | 'foreign'>
  accountEnd?: Draft['accountEnd']
  /** Whom the mail goes to; null for a decoy. */
  to: string | null
  shown: Message['user']
}

/** Writes a mail with a code that proves a mailbox, and makes the token that goes with it. */
export function proofOf(accounts: Accounts, given: Proof, client: Client): { token: string; draft: Draft } {
  const { purpose, address, user, proof, accountEnd, to, shown } = given
  const now = accounts.clock()
  const ttl = proofLife[purpose]
  const digits = codeDigits(accounts.options)
  const { code, token, draft } = newCode(accounts, {
    purpose,
    address,
    user,
    proof,
    link: false,
    digits,
    ttl,
    tries: 5,
  })
  const id = randomBytes(16).toString('base64url')
  const message = {
    ...{ id, kind: purpose, to, user: shown, code, token: null, url: null },
    ...asked(client, now),
  }
  return { token, draft: { message, code: draft, createdAt: now, expiresAt: now + ttl * 1000, accountEnd } }
}

function addressed({ username, email }: Addressee) {
  return { to: email, user: { username, email } }
}

/** When, from where and in which language a mail is asked for. */
export function asked({ network, request }: Client, now: number) {
  return { requestedAt: now, network, locale: firstLanguage(request?.headers['accept-language']) }
}

/** The first language of an `Accept-Language` header. */
function firstLanguage(header: string | undefined): string | null {
  return /^ *([a-z]{2,3}(?:-[a-z0-9]{2,8}){0,2})(?=[ ,;]|$)/i.exec(header ?? '')?.[1] ?? null
}

/**
 * The rows of mails, to be stored with the change that they belong to; none without a mailer.
 *
 * @param by who hands them over first; within a host's transaction only the sweeper knows that it has committed
 */
export function rowsOf(accounts: Accounts, drafts: Draft[], by: 'request' | 'sweeper' = 'request'): OutboxMail[] {
  const { mailer, joined, ring, options } = accounts
  if (!mailer) return []
  const patience = joined || by === 'sweeper' ? 0 : patienceMs
  return drafts.map((draft) => {
    const { createdAt, expiresAt, message } = draft
    const sealed = seal(ring, context(options.name, message.id), draft, sealedBytes)
    return { id: message.id, sealed, createdAt, dueAt: createdAt + patience, expiresAt }
  })
}

function context(name: string, id: string): string {
  return ['outbox 1', name, id].join('\n')
}

/** Hands stored mails over after the change has committed. A fault is left to the sweeper. */
export async function handOver(accounts: Accounts, drafts: Draft[]): Promise<void> {
  if (!accounts.mailer || accounts.joined) return
  await Promise.all(drafts.map((draft) => deliver(accounts, draft).catch(() => {})))
}

async function deliver(accounts: Accounts, draft: Draft): Promise<void> {
  const sent = await post(accounts, draft)
  // Another instance could not tell that it was sent, and would send it again.
  if (!sent || mailerOf(accounts).inProcess) await accounts.storage.settleMails([draft.message.id])
}

/**
 * Begins the life of a mail's code and hands the mail to the mailer, in this order: whoever reads it finds the code
 * alive. False when its code has died since it was stored; then nothing is mailed.
 */
export async function post(accounts: Accounts, draft: Draft): Promise<boolean> {
  const { code, message, expiresAt, accountEnd } = draft
  const end = code ? await putCode(accounts, { ...code, ttl: lifeOf(accounts, code, accountEnd) }) : expiresAt
  if (end === 0) return false
  const minutes = code ? Math.round((end - accounts.clock()) / 60_000) : 0
  await mailerOf(accounts).send({ ...message, minutes, brand: accounts.options.mail.brand, expiresAt: end })
  return true
}

// An account whose end has passed is about to go, or to stay because it had a session.
function lifeOf({ clock }: Accounts, { ttl }: CodeDraft, accountEnd: Draft['accountEnd']): number {
  const left = Math.ceil(((accountEnd ?? 0) - clock()) / 1000)
  return left > 0 ? Math.min(ttl, left) : ttl
}

/** The mailer, where a feature that needs it is on. */
export function mailerOf({ mailer }: Accounts) {
  if (!mailer) throw new TypeError('fastify-accounts: this needs a mailer')
  return mailer
}

/**
 * Goes through the mails that are due: settles those that the mailer is done with, and hands over those that it does
 * not know, be it that the request could not, or that a queue has lost them. Any number of instances may sweep at once.
 */
export async function sweepOutbox(accounts: Accounts): Promise<void> {
  const { storage, clock } = accounts
  const now = clock()
  const mails = await storage.claimMails(now, now + patienceMs, batch)
  if (mails.length === 0) return
  const states = await mailerOf(accounts).progress(mails.map(({ id }) => id))
  const unknown = mails.filter((_, index) => states[index] === 'unknown')
  const opened = unknown.map((mail) => ({ mail, draft: openDraft(accounts, mail) }))
  const unreadable = opened.filter(({ draft }) => draft === 'altered').map(({ mail }) => mail.id)
  const done = mails.filter((_, index) => states[index] === 'done').map(({ id }) => id)
  if (done.length + unreadable.length > 0) await storage.settleMails([...done, ...unreadable])
  await Promise.all(opened.map(({ draft }) => (typeof draft === 'string' ? undefined : deliver(accounts, draft))))
  if (mails.length === batch) await sweepOutbox(accounts)
}

function openDraft({ ring, options, log }: Accounts, { id, sealed }: OutboxMail): Draft | 'unknown' | 'altered' {
  try {
    const opened = open(ring, context(options.name, id), sealed)
    // Sealed under a secret that this instance does not have (yet, or any more).
    return opened === 'unknown_kid' ? 'unknown' : (opened.value as Draft)
  } catch (error) {
    log.error({ err: loggable(error) }, 'fastify-accounts: a mail in the outbox was altered')
    return 'altered'
  }
}
