import { randomBytes } from 'node:crypto'
import type { CodePurpose, Message, MessageKind, User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { newCode, proofLife, type Subject } from '../core/codes.ts'
import type { Draft } from '../core/outbox.ts'
import type { Realm } from '../core/realm.ts'
import { codeDigits } from '../options/options.ts'

const noticeLifeMs = 3 * 86_400_000

/** Writes a notice of something that was done. */
export function noticeOf(realm: Realm, kind: MessageKind, user: Addressee, client: Client): Draft {
  const now = realm.clock()
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
export function proofOf(realm: Realm, given: Proof, client: Client): { token: string; draft: Draft } {
  const { purpose, address, user, proof, accountEnd, to, shown } = given
  const now = realm.clock()
  const ttl = proofLife[purpose]
  const digits = codeDigits(realm.options)
  const { code, token, draft } = newCode(realm, {
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
