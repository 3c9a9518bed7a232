import { createHash, randomBytes, randomInt } from 'node:crypto'
import type { Accounts } from './accounts.ts'
import type { Cache, CodePurpose, CodeRef, User, UserId } from './contracts.ts'
import { withoutTag } from './email-address.ts'
import { AccountsError } from './errors.ts'
import { mac, open, type SecretKeys, seal } from './secrets.ts'

/** Whom a code is for; null fields for an address without an account. */
export interface Subject {
  userId: UserId | null
  credentialVersion: number | null
  /** The canonical address that the code was issued for. */
  address: string
}

/** What code is asked for. */
export interface CodeOrder {
  purpose: CodePurpose
  /** The canonical address. */
  address: string
  /** Null for an address without an account. */
  user: User | null
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
  expiresAt: number
}

/** A verified grant, borrowed: exactly one caller holds it at a time. */
export interface Grant {
  subject: Subject
  /** Gives the grant back; the fifth refusal burns it. */
  giveBack(reason: 'refused' | 'outage'): Promise<void>
}

const grantMs = 600_000
const leaseMs = 30_000
const subjectBytes = 512

/**
 * Issues a one-time code for an address, and for the link in the mail a second record of the same code. An address
 * without an account (`user` null) gets a decoy of the same shape and cost.
 */
export async function issueCode(
  accounts: Accounts,
  { purpose, address, user, link, digits, ttl, tries }: CodeOrder,
): Promise<IssuedCode> {
  const now = accounts.clock()
  const keys = accounts.ring[0]
  const code = randomInt(10 ** digits)
    .toString()
    .padStart(digits, '0')
  const subject = { userId: user?.id ?? null, credentialVersion: user?.credentialVersion ?? null, address }
  const account = accountKeys(keys, address)
  const tokens = Array.from({ length: link ? 2 : 1 }, () => `${account.tag}.${randomBytes(32).toString('base64url')}`)
  const records = tokens.map((token) => newRecord(accounts, purpose, token, code, subject))
  const expiresAt = now + ttl * 1000

  await cacheOf(accounts).put({ purpose, ...account, records, tries, expiresAt, grantMs }, now)

  return { code, token: tokens[0] as string, linkToken: tokens[1] ?? null, expiresAt }
}

function newRecord(accounts: Accounts, purpose: CodePurpose, token: string, code: string, subject: Subject) {
  const { tokenHash } = refOf(purpose, token)
  return {
    tokenHash,
    mac: codeMac(accounts.ring[0], purpose, tokenHash, code),
    subject: seal(accounts.ring, subjectContext(accounts, purpose, tokenHash), subject, subjectBytes),
  }
}

/**
 * Checks a typed code; every try counts until it is right, and a right one may be repeated.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID, the same whatever is wrong
 */
export async function checkCode(accounts: Accounts, purpose: CodePurpose, token: string, typed: string): Promise<void> {
  const ref = refOf(purpose, token)
  const code = typed.replaceAll(/\s/g, '')
  const macs = accounts.ring.map((keys) => codeMac(keys, purpose, ref.tokenHash, code))
  const answer = await cacheOf(accounts).guess(ref, macs, accounts.clock())
  if (answer !== 'right') throw new AccountsError('ACCOUNTS_CODE_INVALID')
}

/**
 * Borrows the grant of a code that was guessed right.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID when there is none, it is borrowed, used or a decoy's
 */
export async function borrowGrant(accounts: Accounts, purpose: CodePurpose, token: string): Promise<Grant> {
  const cache = cacheOf(accounts)
  const ref = refOf(purpose, token)
  const leaseId = randomBytes(16).toString('base64url')
  const now = accounts.clock()
  const sealed = await cache.lease(ref, leaseId, now + leaseMs, now).catch((error) => {
    // It may have been taken all the same, by a cache that answers too late: nobody would hold it.
    cache.giveBack(ref, leaseId, 'outage', now).catch(() => {})
    throw error
  })
  const subject = sealed && openSubject(accounts, subjectContext(accounts, purpose, ref.tokenHash), sealed)
  if (!subject || subject.userId === null) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  return { subject, giveBack: (reason) => cache.giveBack(ref, leaseId, reason, accounts.clock()) }
}

function openSubject({ ring, log }: Accounts, context: string, sealed: string): Subject | null {
  try {
    const opened = open(ring, context, sealed)
    return opened === 'unknown_kid' ? null : (opened.value as Subject)
  } catch {
    log.error('fastify-accounts: a code in the cache was altered')
    return null
  }
}

/** Kills all codes of an address, under every secret of the ring. */
export async function burnCodes(accounts: Accounts, address: string): Promise<void> {
  await Promise.all(accounts.ring.map((keys) => cacheOf(accounts).burn(accountKeys(keys, address))))
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

function subjectContext({ options }: Accounts, purpose: CodePurpose, tokenHash: string): string {
  return `${options.name} code ${purpose} ${tokenHash}`
}

function cacheOf({ cache }: Accounts): Cache {
  if (!cache) throw new TypeError('fastify-accounts: codes need a cache')
  return cache
}
