import type { CodePurpose, Message, MessageKind, User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { dayMs, identifierOf, newCode, type Registered, type Subject } from '../core/codes.ts'
import { addressOf } from '../core/credentials.ts'
import { emit } from '../core/events.ts'
import { type Draft, post } from '../core/outbox.ts'
import { randomBytes } from '../core/random.ts'
import type { Realm } from '../core/realm.ts'
import { mac } from '../core/secrets.ts'
import { mustVerify } from '../options/options.ts'

const noticeLifeMs = 3 * dayMs

/**
 * Writes the notice of something that was done to an account; none where addresses are verified and nobody has proved
 * this one, since its mailbox may be a stranger's.
 */
export function noticesOf(realm: Realm, kind: MessageKind, user: User, client: Client): Draft[] {
  if (mustVerify(realm.options) && user.emailVerifiedAt === null) return []
  const message = { ...written(realm, kind, addressed(user), client), code: null, token: null, url: null }
  const { requestedAt: createdAt } = message
  return [{ message, code: null, createdAt, expiresAt: createdAt + noticeLifeMs }]
}

/** What a mail with a code is written from. */
export interface Proof {
  purpose: CodePurpose
  subject: Subject
  /** Whom the mail goes to; null for a decoy. */
  to: string | null
  shown: Message['user']
  accountEnd?: Draft['accountEnd']
}

/** Writes a mail with a code that proves a mailbox, and makes the token that goes with it. */
export function proofOf(realm: Realm, proof: Proof, client: Client): { token: string; draft: Draft } {
  const { purpose, subject, to, shown, accountEnd } = proof
  // A change to an address that somebody has is charged like any other, or it would show in the next reset.
  const charged = { network: client.network, mailed: to !== null || purpose === 'change' }
  const { code, token, linkToken, draft } = newCode(realm, purpose, subject, charged)
  const { passwordReset } = realm.options
  // In the fragment, which no server and no proxy sees.
  const url = passwordReset && linkToken ? `${passwordReset.url}#token=${linkToken}` : null
  const message = { ...written(realm, purpose, { to, user: shown }, client), code, token: linkToken, url }
  const { requestedAt: createdAt } = message
  return { token, draft: { message, code: draft, createdAt, expiresAt: createdAt + draft.ttl * 1000, accountEnd } }
}

/**
 * Mails whoever registers without showing what exists, and returns the token that goes with the mail: one look-up, one
 * code and one mail, whatever the registration meets. It is stored nowhere but in the sealed subject of the code. The
 * owner of a proved account gets a notice at most once a day; a username that somebody has is refused by mail.
 */
export async function mailRegistration(
  realm: Realm,
  address: string,
  registration: Registered,
  client: Client,
): Promise<string> {
  const holders = await realm.storage.findHolders(address, registration.usernameCanonical)
  const owner = holders.find((user) => addressOf(user) === address)
  const reason = refusalOf(owner, holders)
  // Who proves the mailbox of an account that nobody has proved yet gets it with what he registered himself.
  const subject = { address, credentialVersion: reason || !owner ? null : owner.credentialVersion, registration }
  const { username, email } = registration
  const to = owner?.email ?? email
  const proof = { purpose: 'verify', subject, to, shown: { username, email: to } } as const
  const { token, draft } = proofOf(realm, proof, client)
  const reply = reason && { ...replyTo(realm, reason, owner, email), code: null }

  await post(realm, { ...draft, message: { ...draft.message, ...reply } })

  // One event whatever it is: with `eventLog` each is a statement.
  const about = { client, userId: reason ? null : owner?.id, identifier: identifierOf(realm, address) }
  if (reason) emit(realm, 'registerFail', { ...about, details: { reason } })
  else emit(realm, 'codeIssue', { ...about, details: { purpose: 'verify' } })
  return token
}

function refusalOf(owner: User | undefined, holders: User[]): 'email_taken' | 'username_taken' | null {
  if (owner) return owner.active && owner.emailVerifiedAt === null ? null : 'email_taken'
  return holders.length > 0 ? 'username_taken' : null
}

// In place of a code; a disabled account gets no mail at all.
function replyTo(realm: Realm, reason: 'email_taken' | 'username_taken', owner: User | undefined, email: string) {
  if (reason === 'username_taken') return { kind: reason, to: email }
  if (!owner?.active) return { to: null }
  // Once a day: a mailer accepts a message of one id once.
  const day = String(Math.floor(realm.clock() / dayMs))
  const id = mac(realm.ring[0].key('account'), 'exists', addressOf(owner), day).slice(0, 22)
  return { kind: 'account_exists' as const, id, ...addressed(owner) }
}

function addressed({ username, email }: Pick<User, 'username' | 'email'>) {
  return { to: email, user: { username, email } }
}

/** What all mails have in common: when, from where and in which language they were asked for. */
function written<Kind extends MessageKind>(
  realm: Realm,
  kind: Kind,
  { to, user }: Pick<Message, 'to' | 'user'>,
  { network, request }: Client,
) {
  const locale = firstLanguage(request?.headers['accept-language'])
  return { id: randomBytes(16).toString('base64url'), kind, to, user, requestedAt: realm.clock(), network, locale }
}

/** The first language of an `Accept-Language` header. */
function firstLanguage(header: string | undefined): string | null {
  return /^ *([a-z]{2,3}(?:-[a-z0-9]{2,8}){0,2})(?=[ ,;]|$)/i.exec(header ?? '')?.[1] ?? null
}
