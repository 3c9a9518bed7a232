import { createHash, randomBytes, randomInt } from 'node:crypto'
import type { Cache, CodePurpose, CodeRef, NewCode, NewUser, User, UserId } from '../contracts.ts'
import { AccountsError, isRefusal, loggable } from '../errors.ts'
import type { Client } from './client.ts'
import { withoutTag } from './email-address.ts'
import { emit } from './events.ts'
import type { Realm } from './realm.ts'
import { mac, open, type SecretKeys, seal } from './secrets.ts'

/** Whom a code is for; null fields for an address without an account. */
export interface Subject {
  userId: UserId | null
  credentialVersion: number | null
  /** The canonical address of the account that the code was issued for. */
  address: string
  /** Of an e-mail change: the new address, the only one that the code can confirm. */
  email?: string
  /** Of a verification: what its registration brought, or `stored` for what the account has already. */
  registration?: Registered | 'stored'
  /** Whether that registration was of another account: it is carried for the size alone. */
  foreign?: true
}

/** What a registration that tells nothing brought; the account has it when its mailbox is proved. */
export type Registered = Pick<NewUser, 'passwordHash' | 'username' | 'usernameCanonical' | 'profile'>

/** What code is asked for. */
export interface CodeOrder {
  purpose: CodePurpose
  /** The canonical address. */
  address: string
  /** Null for a decoy. */
  user: Pick<User, 'id' | 'credentialVersion'> | null
  /** What the code stands for beside the account. */
  proof?: Pick<Subject, 'email' | 'registration' | 'foreign'>
  /** Whether a link is mailed too. */
  link: boolean
  digits: number
  /** Life of the code, in seconds. */
  ttl: number
  /** Guesses per token. */
  tries: number
}

/** A fresh code with its two tokens. */
export interface IssuedCode {
  code: string
  /** Answered to whoever asked; never mailed. */
  token: string
  /** For the mailed link; never answered. */
  linkToken: string | null
  /** What `putCode` needs to start its life. */
  draft: CodeDraft
}

/** A code whose life has not begun; holds no digit and no token. */
export interface CodeDraft extends Omit<NewCode, 'expiresAt' | 'grantMs'> {
  /** Seconds. */
  ttl: number
}

/** The code of a mail that proves a mailbox. */
export const proofLife = { verify: 86_400, change: 3600 } as const

/** A verified grant, borrowed: exactly one caller holds it at a time. */
export interface Grant {
  subject: Subject & { userId: UserId }
  /** Gives the grant back; the fifth refusal burns it. */
  giveBack(reason: 'refused' | 'outage'): Promise<void>
}

const grantMs = 600_000
const leaseMs = 30_000
const subjectBytes = 1024
const restBytes = 128

/**
 * Makes a one-time code for an address, and for the link in the mail a second record of the same code. A decoy (`user`
 * null) has the same shape and costs the same.
 */
export function newCode(
  realm: Realm,
  { purpose, address, user, proof, link, digits, ttl, tries }: CodeOrder,
): IssuedCode {
  const keys = realm.ring[0]
  const code = randomInt(10 ** digits)
    .toString()
    .padStart(digits, '0')
  const subject = { userId: user?.id ?? null, credentialVersion: user?.credentialVersion ?? null, address, ...proof }
  const account = accountKeys(keys, address)
  const tokens = Array.from({ length: link ? 2 : 1 }, () => `${account.tag}.${randomBytes(32).toString('base64url')}`)
  const records = tokens.map((token) => newRecord(realm, purpose, token, code, subject))
  const draft = { purpose, ...account, records, tries, ttl }
  return { code, token: tokens[0] as string, linkToken: tokens[1] ?? null, draft }
}

/**
 * Stores a code, whose life begins here, and answers its end. A code that is stored already stays as it is: its end is
 * that of its first life, 0 when it is dead.
 */
export async function putCode(realm: Realm, { ttl, ...code }: CodeDraft): Promise<number> {
  const now = realm.clock()
  return cacheOf(realm).put({ ...code, expiresAt: now + ttl * 1000, grantMs }, now)
}

function newRecord(realm: Realm, purpose: CodePurpose, token: string, code: string, subject: Subject) {
  const { tokenHash } = refOf(purpose, token)
  return {
    tokenHash,
    mac: codeMac(realm.ring[0], purpose, tokenHash, code),
    subject: seal(realm.ring, subjectContext(realm, purpose, tokenHash), subject, sizeOf(subject)),
  }
}

// Only what was asked decides: whose code it is, or that it is nobody's, takes at most `restBytes` more.
function sizeOf({ address, email, registration }: Subject): number {
  const asked = Buffer.byteLength(JSON.stringify({ address, email, registration }))
  return Math.ceil((asked + restBytes) / subjectBytes) * subjectBytes
}

/**
 * Checks a typed code; every try counts until it is right, and a right one may be repeated. `userId` is who types it,
 * where that is known.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID, the same whatever is wrong
 */
export async function checkCode(
  realm: Realm,
  { purpose, token, otp, userId }: { purpose: CodePurpose; token: string; otp: string; userId?: UserId },
  client: Client,
): Promise<void> {
  const ref = refOf(purpose, token)
  const code = otp.replaceAll(/\s/g, '')
  const macs = realm.ring.map((keys) => codeMac(keys, purpose, ref.tokenHash, code))
  const answer = await cacheOf(realm).guess(ref, macs, realm.clock())
  const told = { client, userId, identifier: ref.tag }
  if (answer === 'right') emit(realm, 'codeAccept', { ...told, details: { purpose } })
  else if (answer === 'exhausted') emit(realm, 'codeExhaust', { ...told, details: { purpose } })
  else emit(realm, 'codeFail', { ...told, details: { purpose, reason: answer } })
  if (answer !== 'right') throw new AccountsError('ACCOUNTS_CODE_INVALID')
}

/** What a token's code is for, while the cache knows it; null for any other token. */
export async function peekSubject(realm: Realm, purpose: CodePurpose, token: string): Promise<Subject | null> {
  const ref = refOf(purpose, token)
  const sealed = await cacheOf(realm).peek(ref, realm.clock())
  return sealed === null ? null : openSubject(realm, subjectContext(realm, purpose, ref.tokenHash), sealed)
}

/**
 * Borrows the grant of a code that was guessed right.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID when there is none, it is borrowed, used or a decoy's
 */
export async function borrowGrant(realm: Realm, purpose: CodePurpose, token: string): Promise<Grant> {
  const cache = cacheOf(realm)
  const ref = refOf(purpose, token)
  const leaseId = randomBytes(16).toString('base64url')
  const now = realm.clock()
  const sealed = await cache.lease(ref, leaseId, now + leaseMs, now).catch((error) => {
    // It may have been taken all the same, by a cache that answers too late: nobody would hold it.
    cache.giveBack(ref, leaseId, 'outage', now).catch(() => {})
    throw error
  })
  const subject = sealed && openSubject(realm, subjectContext(realm, purpose, ref.tokenHash), sealed)
  if (!subject || subject.userId === null) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  return {
    subject: { ...subject, userId: subject.userId },
    giveBack: (reason) => cache.giveBack(ref, leaseId, reason, realm.clock()),
  }
}

/**
 * Borrows a grant and does what it is for: the grant is given back when that is refused or breaks, and when `act`
 * answers null it was worth nothing.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID
 */
export async function withGrant<T>(
  realm: Realm,
  { purpose, token }: { purpose: CodePurpose; token: string },
  act: (subject: Subject & { userId: UserId }) => Promise<T | null>,
): Promise<T> {
  const grant = await borrowGrant(realm, purpose, token)
  const done = await act(grant.subject).catch(async (error) => {
    await grant.giveBack(refuses(error) ? 'refused' : 'outage').catch((fault) => {
      // The lease ends by itself.
      realm.log.warn({ err: loggable(fault) }, 'fastify-accounts: a grant was not given back')
    })
    throw error
  })
  // The storage's fence decides: another grant or a change of credentials came first.
  if (done === null) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  return done
}

function refuses(error: unknown): boolean {
  return isRefusal(error) && error.statusCode < 500
}

function openSubject({ ring, log }: Realm, context: string, sealed: string): Subject | null {
  try {
    const opened = open(ring, context, sealed)
    return opened === 'unknown_kid' ? null : (opened.value as Subject)
  } catch {
    log.error('fastify-accounts: a code in the cache was altered')
    return null
  }
}

/** Kills all codes of an address, under every secret of the ring. A fault is only logged: the fence has killed them. */
export async function burnCodes({ ring, cache, log }: Realm, address: string): Promise<void> {
  try {
    await Promise.all(ring.map((keys) => cache?.burn(accountKeys(keys, address))))
  } catch (error) {
    // What changed an account changed its credential version too, which every code of the account needs.
    log.warn({ err: loggable(error) }, 'fastify-accounts: used codes were not removed')
  }
}

/** Names an address in events without telling it; the same for all its `+tag`s. */
export function identifierOf({ ring }: Realm, address: string): string {
  return accountKeys(ring[0], address).tag
}

// One account may be written with many +tags: all its keys share one tag, and with it a slot and later a budget.
function accountKeys(keys: SecretKeys, address: string): { tag: string; account: string } {
  return {
    tag: mac(keys.key('tag'), withoutTag(address)).slice(0, 22),
    account: mac(keys.key('account'), address).slice(0, 22),
  }
}

function refOf(purpose: CodePurpose, token: string): CodeRef {
  if (!/^[\w-]{22}\.[\w-]{43}$/.test(token)) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  const tokenHash = createHash('sha256').update(token).digest('base64url')
  return { purpose, tag: token.slice(0, 22), tokenHash }
}

function codeMac(keys: SecretKeys, purpose: CodePurpose, tokenHash: string, code: string) {
  return { kid: keys.kid, mac: mac(keys.key('code'), purpose, tokenHash, code) }
}

function subjectContext({ options }: Realm, purpose: CodePurpose, tokenHash: string): string {
  return `${options.name} code ${purpose} ${tokenHash}`
}

function cacheOf({ cache }: Realm): Cache {
  if (!cache) throw new TypeError('fastify-accounts: codes need a cache')
  return cache
}
