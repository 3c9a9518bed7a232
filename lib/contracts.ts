/**
 * The outside world on one page: what the core asks of a database, a cache and a mail transport.
 *
 * Every verb is one atomic step. Expected outcomes are return values; a throw means the dependency is out of order and
 * becomes 503. Times are absolute milliseconds of the core's clock. Adapters hold no policy: ids of sessions, clocks,
 * hashes, limits and canonical forms come from the core.
 */

/**
 * Types of the host, filled once by declaration merging.
 *
 * @example
 * declare module 'fastify-accounts' {
 *   interface Register { id: number; profile: { company: string }; claims: { plan: string } }
 * }
 */
// biome-ignore lint/suspicious/noEmptyInterface: it is there to be merged into
export interface Register {}

/** The type of a user's id: what the storage uses, `number` or `string` unless `Register` narrows it. */
export type UserId = Register extends { id: infer Id extends number | string } ? Id : number | string
/** The host's own profile fields. */
export type Profile = Register extends { profile: infer P } ? P : Record<string, unknown>
/** The host's own claims in access tokens. */
export type Claims = Register extends { claims: infer C } ? C : Record<string, unknown>

/** A user as profiles show it. Never holds a password hash. */
export interface User {
  id: UserId
  /** NFC; null when `registration.username` is not required and none was given. */
  username: string | null
  /** The address as it was written; mail goes here. */
  email: string
  /** Milliseconds, or null while the mailbox is not proved. */
  emailVerifiedAt: number | null
  /** Changes with every change of a credential; starts at a random 40-bit number. */
  credentialVersion: number
  /** False while the account is disabled. */
  active: boolean
  profile: Profile
  /** Milliseconds. */
  createdAt: number
}

/** A user as a log-in needs it. */
export interface UserWithPassword extends User {
  /** A PHC string, or null when the account has no password. */
  passwordHash: string | null
}

/** What `insertUser` stores. */
export interface NewUser {
  username: string | null
  /** Lower-case NFC form of `username`, unique bytewise; null when there is none. */
  usernameCanonical: string | null
  email: string
  /** Canonical form of `email`, unique bytewise. */
  emailCanonical: string
  passwordHash: string
  credentialVersion: number
  profile: Profile
  createdAt: number
}

/** One line of refresh tokens: a log-in on one device. */
export interface Session {
  /** Chosen by the core. */
  id: string
  userId: UserId
  /** The user's credential version at log-in. */
  credentialVersion: number
  createdAt: number
  /** When the user last proved a credential, in milliseconds. */
  authTime: number
  /** Time of the log-in or of the last answered refresh. */
  lastUsedAt: number
  /** A session unused for this many milliseconds is over. */
  idleMs: number
  /** The absolute end in milliseconds; never extended. */
  expiresAt: number
  ip: string
  userAgent: string
}

/** How a presented refresh token is judged; all times in milliseconds. */
export interface RefreshRule {
  /** False: the newest token and its successor are accepted and the counter stays. */
  rotate: boolean
  /** Replays of the newest token within this window are free, older tokens within it end nothing. */
  graceMs: number
  /** How often the newest token may come back after the window; 0 also takes the first token's exemption away. */
  lateReplays: number
}

/**
 * What became of a presented refresh token.
 *
 * - `accepted`: answer the token at `counter + 1`.
 * - `stale`: older than the newest, within the window; the session is kept.
 * - `ahead`: newer than any answered (a restored database); the session is kept.
 * - `reused`: this call, and no other, ended the session.
 * - `dead`: no such session, ended, idle or past its end, or the user is disabled, deleted or has other credentials.
 */
export type RefreshOutcome =
  | { result: 'accepted'; counter: number; session: Session; user: User }
  | { result: 'stale' | 'ahead' | 'reused'; session: Session }
  | { result: 'dead' }

/** The database. */
export interface Storage {
  /** How the core reads a user's id in a token: `integer` as a number, `uuid` as a string. */
  readonly ids: 'integer' | 'uuid'
  /**
   * Stores a user and answers its id. The unique indexes decide, so exactly one of N callers with the same e-mail or
   * username succeeds. `invalid` means that the store cannot hold a value (out of a column's range, a refused check).
   */
  insertUser(user: NewUser): Promise<{ id: UserId } | 'email_taken' | 'username_taken' | 'invalid'>
  /** Finds a user by id; null when there is none. Never reads the password hash. */
  findUserById(id: UserId): Promise<User | null>
  /** Finds a user by the canonical form of an e-mail address, with the password hash; null when there is none. */
  findUserByEmail(emailCanonical: string): Promise<UserWithPassword | null>
  /**
   * Replaces a password hash by a better hash of the same password and ends no session. False when the stored hash is
   * no longer `oldHash`: exactly one of N callers with the same old hash succeeds.
   */
  replacePasswordHash(id: UserId, oldHash: string, newHash: string): Promise<boolean>
  /**
   * Sets a new password: hash, new credential version and the end of all sessions of the user, in one step. False
   * when the user's credential version is no longer `fence` or the user is disabled: exactly one of N callers with
   * the same fence succeeds.
   */
  changePassword(change: {
    userId: UserId
    /** The credential version that the caller saw. */
    fence: number
    passwordHash: string
    credentialVersion: number
    now: number
  }): Promise<boolean>
  /**
   * Stores a session, fenced by the credential version in it: false, and nothing stored, when the user is disabled or
   * its version has changed, also when that change commits while this call runs.
   */
  insertSession(session: Session): Promise<boolean>
  /** Whether the session exists, is the user's, has not ended and is not past its end: one primary-key read. */
  sessionActive(id: string, userId: UserId, now: number): Promise<boolean>
  /**
   * Judges refresh token number `token` (0 is the first) and takes the session's step, in one step. With the counter
   * n, -1 at the start, being the newest token presented:
   *
   * - `token` = n + 1 advances n and the window. With `rotate: false` n and the window stay.
   * - `token` = n is accepted: free within the window, which reaches `graceMs` past the last advance or the last
   *   *counted* late replay; free and uncounted for token 0 unless `lateReplays` is 0, and always with
   *   `rotate: false`; later at most `lateReplays` times a session, each counted. One more ends the session.
   * - `token` < n is `stale` within the window and ends the session after it.
   * - `token` > n + 1 is `ahead`.
   *
   * Of N callers with the same fresh token, exactly one advances and all are accepted with the same counter. Of N
   * callers that reuse a token, exactly one is `reused`. Only `accepted` moves `lastUsedAt`. The counter in an
   * accepted outcome equals `token`. An end is durable before the promise settles.
   */
  refreshSession(id: string, token: number, rule: RefreshRule, now: number): Promise<RefreshOutcome>
  /** Answers when the store does; for health checks of the host. */
  ping(): Promise<void>
}

/** What a one-time code is for. Codes of one purpose never work for another. */
export type CodePurpose = 'reset'

/** Names one record: the slot tag and the SHA-256 of the token (base64url), never the token itself. */
export interface CodeRef {
  purpose: CodePurpose
  /** Keyed hash of the address without its `+tag`; all records of an address share it, and with it a cluster slot. */
  tag: string
  tokenHash: string
}

/** A code's HMAC under the key named `kid`. */
export interface CodeMac {
  kid: string
  mac: string
}

/** The records of one code: the answered token's and, when a link is mailed, the link token's. */
export interface NewCode {
  purpose: CodePurpose
  tag: string
  /** Keyed hash of the full canonical address: the index by which `burn` finds the account's records. */
  account: string
  records: {
    tokenHash: string
    mac: CodeMac
    /** Sealed by the core; opaque here. */
    subject: string
  }[]
  /** Tries per record. */
  tries: number
  expiresAt: number
  /** How long a grant lives from the moment its code was guessed. */
  grantMs: number
}

/** The cache: Redis, or memory for tests and trials. No key is ever without a lifetime. */
export interface Cache {
  /**
   * Stores all records of one code and the account's index in one step. Never overwrites: a record that exists, alive
   * or dead, stays as it is.
   */
  put(code: NewCode, now: number): Promise<void>
  /**
   * Guesses a code. In state `issued` the try is counted first, then compared: of N parallel guesses exactly `tries`
   * are compared, and a record whose tries are used up is dead. A right guess moves the record to `verified`, where
   * comparing counts nothing. `dead` means that nothing was compared: missing, expired, exhausted, leased, used or
   * burnt.
   *
   * @param macs the guess under each known key; the record's `kid` chooses
   */
  guess(ref: CodeRef, macs: CodeMac[], now: number): Promise<'right' | 'wrong' | 'dead'>
  /**
   * Borrows a verified grant until `until` and answers its sealed subject, null when there is none to borrow. Exactly
   * one of N parallel callers gets it; a lease past its end may be taken over.
   */
  lease(ref: CodeRef, leaseId: string, until: number, now: number): Promise<string | null>
  /**
   * Gives a leased grant back; does nothing unless `leaseId` is the current lease. The grant's end stays. The fifth
   * `refused` burns the grant, an `outage` does not count.
   */
  giveBack(ref: CodeRef, leaseId: string, reason: 'refused' | 'outage', now: number): Promise<void>
  /** Kills all records of an account, in one step. They stay as tombstones until their end. */
  burn(account: { tag: string; account: string }): Promise<void>
  /** Answers when the cache does; for health checks of the host. */
  ping(): Promise<void>
  /** Closes what the adapter opened itself. */
  close(): Promise<void>
}

/** Which mail is sent. */
export type MessageKind = 'reset'

/** How mails look. */
export interface Brand {
  /** Who writes. */
  name: string
  /** An https address of a picture, about 40 px high. */
  logoUrl: string
  /** Colour of the button and the code, `#rgb` or `#rrggbb`. */
  color: string
  /** Where users may ask. */
  supportEmail: string
}

/** A mail to be written. */
export interface Message {
  /** Unique; the same in every copy of the mail. */
  id: string
  kind: MessageKind
  /** The stored address, or null for a decoy: as much work as a mail, but nobody gets one. */
  to: string | null
  user: { username: string | null; email: string }
  /** The digits that the user types. */
  code: string
  /** The link's own token and address; null without `passwordReset.url`. */
  token: string | null
  url: string | null
  /** How many minutes the code lives. */
  minutes: number
  requestedAt: number
  /** From which network the mail was asked for. */
  network: string
  /** The first language of the request's `Accept-Language`, or null. */
  locale: string | null
  /** The option `mail.brand`, for mailers inside the app; the queue's worker has its own. */
  brand: Partial<Brand>
  /** When the code ends; the mail is of no use afterwards. */
  expiresAt: number
}

/** The mail transport. */
export interface Mailer {
  /**
   * Accepts a message for delivery. Settles alike, and after the same work, for mails and decoys; a mail that cannot be
   * delivered later is not told here.
   */
  send(message: Message): Promise<void>
  /** Answers when messages can be accepted; for health checks of the host. */
  ping(): Promise<void>
  /** Finishes what was accepted and closes what the adapter opened itself. */
  close(): Promise<void>
}
