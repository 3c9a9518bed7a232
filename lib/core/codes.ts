import { createHash, randomInt } from 'node:crypto'
import type {
  Cache,
  Charge,
  CodeMac,
  CodePurpose,
  CodeRef,
  NewCode,
  NewUser,
  StoredCode,
  User,
  UserId,
} from '../contracts.ts'
import { AccountsError, isRefusal, loggable } from '../errors.ts'
import { codeDigits } from '../options/options.ts'
import { accountKeys, mailCharge } from './charges.ts'
import type { Client } from './client.ts'
import { emit } from './events.ts'
import { withoutPassword } from './new-user.ts'
import { randomBytes } from './random.ts'
import type { Realm } from './realm.ts'
import { mac, open, type SecretKeys, seal } from './secrets.ts'

/** What a code stands for. */
export interface Subject {
  /** The canonical address of the account that the code was issued for, or of the account to be. */
  address: string
  /** The account's, which the code dies with; null for a decoy, and where there is no account yet. */
  credentialVersion: number | null
  /** Of an e-mail change: the new address, the only one that the code can confirm. */
  email?: string
  /** Of a verification: what its registration brought, or `stored` for what the account has already. */
  registration?: Registered | 'stored'
}

/** A registration that is not stored yet; the account has it when its mailbox is proved. */
export type Registered = Pick<NewUser, 'email' | 'passwordHash' | 'username' | 'usernameCanonical' | 'profile'>

/** A fresh code with its two tokens. */
export interface IssuedCode {
  code: string
  /** Returned to whoever asked; never mailed. */
  token: string
  /** For the mailed link; never returned. Null where none is mailed. */
  linkToken: string | null
  /** What `putCode` needs to start its life. */
  draft: CodeDraft
}

/** A code whose life has not begun; holds no digit and no token. */
export interface CodeDraft extends Omit<NewCode, 'expiresAt' | 'grantMs'> {
  /** Seconds. */
  ttl: number
  /** What the mail is charged to under the other secrets. */
  others?: Charge[]
}

/** A verified grant, borrowed: exactly one caller holds it at a time. */
export interface Grant {
  subject: Subject
  /** Gives the grant back; the fifth refusal burns it. */
  giveBack(reason: 'refused' | 'outage'): Promise<void>
}

/** A day in milliseconds: how long an account may wait for its proof, and a notice of one kind for the next. */
export const dayMs = 86_400_000
const grantMs = 600_000
const leaseMs = 30_000
const subjectBytes = 1024
const restBytes = 128

/**
 * Makes a one-time code, and for the link in a reset mail a second record of the same code. A decoy has the same shape
 * and costs the same.
 */
export function newCode(
  realm: Realm,
  purpose: CodePurpose,
  subject: Subject,
  { network, mailed }: { network: string; mailed: boolean },
): IssuedCode {
  const { link, ttl, tries } = limitsOf(realm, purpose)
  const digits = codeDigits(realm.options)
  const keys = realm.ring[0]
  const code = randomInt(10 ** digits)
    .toString()
    .padStart(digits, '0')
  const account = accountKeys(keys, subject.address)
  const tokens = Array.from({ length: link ? 2 : 1 }, () => `${account.tag}.${randomBytes(32).toString('base64url')}`)
  const records = tokens.map((token) => newRecord(realm, purpose, token, code, subject))
  const [charge, ...others] = realm.ring.flatMap(
    (each) => mailCharge(each, realm.options.throttle, { address: subject.address, network, mailed }) ?? [],
  )
  const draft = { purpose, ...account, records, tries, ttl, charge, others }
  return { code, token: tokens[0] as string, linkToken: tokens[1] ?? null, draft }
}

function limitsOf({ options }: Realm, purpose: CodePurpose): { link: boolean; ttl: number; tries: number } {
  if (purpose !== 'reset') return { link: false, ttl: purpose === 'verify' ? dayMs / 1000 : 3600, tries: 5 }
  if (!options.passwordReset) throw new TypeError('fastify-accounts: "passwordReset" is off')
  const { url, ttl, tries } = options.passwordReset
  return { link: url !== undefined, ttl, tries }
}

/**
 * Stores a code, whose life begins here, or a decoy of it. A code that is stored already stays as it is: its end is
 * that of its first life.
 */
export async function putCode(realm: Realm, { ttl, others, ...code }: CodeDraft, decoy: boolean): Promise<StoredCode> {
  const now = realm.clock()
  const records = decoy ? code.records.map(withoutCode) : code.records
  const stored = await cacheOf(realm).put({ ...code, records, expiresAt: now + ttl * 1000, grantMs }, now)
  return { ...stored, decoy: stored.decoy || decoy }
}

/** A record that no guess fits. */
function withoutCode<Part extends { mac: CodeMac }>(record: Part): Part {
  return { ...record, mac: { kid: '', mac: randomBytes(32).toString('base64url') } }
}

function newRecord(realm: Realm, purpose: CodePurpose, token: string, code: string, subject: Subject) {
  const { tokenHash } = refOf(purpose, token)
  return {
    tokenHash,
    mac: codeMac(realm.ring[0], purpose, tokenHash, code),
    subject: seal(realm.ring, ['code', purpose, tokenHash], subject, sizeOf(subject)),
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
  const outcome = await cacheOf(realm).guess(ref, macs, realm.clock())
  const about = { client, userId, identifier: ref.tag }
  if (outcome === 'right') emit(realm, 'codeAccept', { ...about, details: { purpose } })
  else if (outcome === 'exhausted') emit(realm, 'codeExhaust', { ...about, details: { purpose } })
  else emit(realm, 'codeFail', { ...about, details: { purpose, reason: outcome } })
  if (outcome !== 'right') throw new AccountsError('ACCOUNTS_CODE_INVALID')
}

/** What a token's code is for, while the cache knows it; null for any other token. */
export async function peekSubject(realm: Realm, purpose: CodePurpose, token: string): Promise<Subject | null> {
  if (!tokenShape.test(token)) return null
  const ref = refOf(purpose, token)
  return openSubject(realm, ref, await cacheOf(realm).peek(ref, realm.clock()))
}

/**
 * Borrows the grant of a code that was guessed right.
 *
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID when there is none, it is borrowed or used
 */
export async function borrowGrant(realm: Realm, purpose: CodePurpose, token: string): Promise<Grant> {
  const cache = cacheOf(realm)
  const ref = refOf(purpose, token)
  const leaseId = randomBytes(16).toString('base64url')
  const now = realm.clock()
  const sealed = await cache.lease(ref, leaseId, now + leaseMs, now).catch((error) => {
    // A cache that was only too slow may have lent it all the same: nobody would hold it.
    cache.giveBack(ref, leaseId, 'outage', now).catch(() => {})
    throw error
  })
  const subject = openSubject(realm, ref, sealed)
  if (!subject) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  return { subject, giveBack: (reason) => cache.giveBack(ref, leaseId, reason, realm.clock()) }
}

/**
 * Borrows a grant and does what it is for, with the user that it was issued for: active and of the same credentials.
 * The grant is given back when that is refused or breaks; a null from `act` means that it was worth nothing.
 *
 * @param enrol does it where nobody has the address; left out, the grant is worth nothing there
 * @throws {AccountsError} ACCOUNTS_CODE_INVALID
 */
export async function withGrant<T>(
  realm: Realm,
  { purpose, token }: { purpose: CodePurpose; token: string },
  act: (user: User, subject: Subject) => Promise<T | null>,
  enrol: (subject: Subject) => Promise<T | null> = async () => null,
): Promise<T> {
  const { subject, giveBack } = await borrowGrant(realm, purpose, token)
  async function spend(): Promise<T | null> {
    const user = await realm.storage.findUserByEmail(subject.address)
    if (!user) return enrol(subject)
    // The version decides: another grant or a change of credentials came first.
    if (!user.active || user.credentialVersion !== subject.credentialVersion) return null
    return act(withoutPassword(user), subject)
  }
  const done = await spend().catch(async (error) => {
    await giveBack(isRefusal(error) && error.statusCode < 500 ? 'refused' : 'outage').catch((fault) => {
      // The lease ends by itself.
      realm.log.warn({ err: loggable(fault) }, 'fastify-accounts: a grant was not given back')
    })
    throw error
  })
  if (done === null) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  return done
}

function openSubject({ ring, log }: Realm, { purpose, tokenHash }: CodeRef, sealed: string | null): Subject | null {
  const opened = sealed === null ? 'unknown' : open<Subject>(ring, ['code', purpose, tokenHash], sealed)
  if (typeof opened === 'object') return opened.value
  if (opened === 'altered') log.error('fastify-accounts: a code in the cache was altered')
  return null
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

/** Names an address in events without showing it; the same for all its `+tag`s. */
export function identifierOf({ ring }: Realm, address: string): string {
  return accountKeys(ring[0], address).tag
}

const tokenShape = /^[\w-]{22}\.[\w-]{43}$/

function refOf(purpose: CodePurpose, token: string): CodeRef {
  if (!tokenShape.test(token)) throw new AccountsError('ACCOUNTS_CODE_INVALID')
  const tokenHash = createHash('sha256').update(token).digest('base64url')
  return { purpose, tag: token.slice(0, 22), tokenHash }
}

function codeMac(keys: SecretKeys, purpose: CodePurpose, tokenHash: string, code: string) {
  return { kid: keys.kid, mac: mac(keys.key('code'), purpose, tokenHash, code) }
}

function cacheOf({ cache }: Realm): Cache {
  if (!cache) throw new TypeError('fastify-accounts: codes need a cache')
  return cache
}
