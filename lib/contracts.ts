/**
 * The outside world on one page: what the core asks of a database, a cache and a mail transport.
 *
 * Every verb is one atomic step. Expected outcomes are return values. A verb throws when the dependency cannot be used:
 * an `AccountsError` `ACCOUNTS_UNAVAILABLE`, or an error with a code of Node's network (`ECONNREFUSED` and the like) in
 * its chain of causes, is an outage and becomes 503; whatever else is thrown is a bug and becomes 500. The core waits a
 * second for a verb, but longer for work in batches: `importUsers`, `endAnySessions`, `purge`, `claimMails`,
 * `countPasswordHashes` and `samplePasswordHashes`. Times are absolute milliseconds of the core's clock. Adapters hold
 * no policy: ids of sessions, clocks, hashes, limits and canonical forms come from the core.
 *
 * Tokens, routes and hosts bring ids and texts that no row can have: a number past the column's range, an id of another
 * type, a text with NUL or a lone surrogate. They find nobody: the verb returns what it returns for a missing user,
 * session or mail, and never throws. Numbers are integers up to 2^53 unless said otherwise; texts have as many UTF-16
 * code units as said at them, or no limit.
 */

import type { FastifyRequest } from 'fastify'

/**
 * Types of the host, filled once by declaration merging. A realm with others has an interface of its own with the same
 * members, which is the type argument of `Accounts`, `defineAccounts` and what comes from them.
 *
 * @example
 * declare module 'fastify-accounts' {
 *   interface Register { id: number; profile: { company: string }; claims: { plan: string } }
 * }
 */
// biome-ignore lint/suspicious/noEmptyInterface: it is there to be merged into
export interface Register {}

/** The kind of a storage's user ids: numbers, UUIDs in lower case, or any text of at most 255 characters. */
export type IdKind = 'integer' | 'uuid' | 'text'

/** The type of a user's id: what the storage uses, `number` or `string` unless `Register` narrows it. */
export type UserId<Types extends object = Register> = Types extends { id: infer Id extends number | string }
  ? Id
  : number | string
/** The host's own profile fields. */
export type Profile<Types extends object = Register> = Types extends { profile: infer P } ? P : Record<string, unknown>
/** The host's own claims in access tokens. */
export type Claims<Types extends object = Register> = Types extends { claims: infer C } ? C : Record<string, unknown>

/** A user as profiles show it. Never holds a password hash. */
export interface User<Types extends object = Register> {
  id: UserId<Types>
  /** NFC, at most 128; null when `registration.username` is not required and none was given. */
  username: string | null
  /** The address as it was written, at most 254; mail goes here. */
  email: string
  /** Milliseconds, or null while the mailbox is not proved. */
  emailVerifiedAt: number | null
  /** Changes with every change of a credential; starts at a random 40-bit number. */
  credentialVersion: number
  /** False while the account is disabled. */
  active: boolean
  /** As `users.setRole` left it; the option `roles` says what it may do. */
  role: string | null
  /** A JSON object of the host's; a member named `__proto__` may be left out. */
  profile: Profile<Types>
  /** Milliseconds. */
  createdAt: number
  /** When an account is purged that was never verified and never had a session; null for never. Milliseconds. */
  expiresAt: number | null
}

/** A user as a login needs it. */
export interface UserWithPassword extends User {
  /** A PHC string or the form of older software, at most 512; null when the account has no password. */
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
  emailVerifiedAt: number | null
  passwordHash: string | null
  credentialVersion: number
  role: string | null
  profile: Profile
  createdAt: number
  /** When `purge` removes the account, as in `User`. */
  expiresAt: number | null
}

/** What `importUsers` stores. */
export interface ImportedUser extends NewUser {
  /** Taken as it is; numbers that the storage chooses later are greater. Left out, the storage chooses one. */
  id?: UserId
  /** @default true */
  active?: boolean
}

/** One line of refresh tokens: a login on one device. */
export interface Session {
  /** Chosen by the core, 22 characters. */
  id: string
  userId: UserId
  /** The user's credential version at the login. */
  credentialVersion: number
  createdAt: number
  /** When the user last proved a credential, in milliseconds. */
  authTime: number
  /** Time of the login or of the last accepted refresh. */
  lastUsedAt: number
  /** A session unused for this many milliseconds is over. */
  idleMs: number
  /** The absolute end in milliseconds; never extended. */
  expiresAt: number
  /** At most 64. */
  ip: string
  /** At most 256. */
  userAgent: string
}

/** How a presented refresh token is judged; all times in milliseconds. */
export interface RefreshRule {
  /** False: the newest token and its successor are accepted and the counter stays. */
  rotate: boolean
  /** Within this window replays of the newest token are free, and older tokens end nothing. */
  graceMs: number
  /** How often the newest token may come back after the window; 0 also takes the first token's exemption away. */
  lateReplays: number
}

/**
 * What became of a presented refresh token.
 *
 * - `accepted`: the next token is the one at `counter + 1`. `replayed` when this one had been presented before, as far
 *   as the clock can show it: of a race within one millisecond every caller may count as the first.
 * - `stale`: older than the newest, within the window; the session is kept.
 * - `ahead`: newer than any that was given out (a restored database); the session is kept.
 * - `reused`: this call, and no other, ended the session.
 * - `dead`: no such session, ended, idle or past its end, or the user is disabled, deleted or has other credentials.
 */
export type RefreshOutcome =
  | { result: 'accepted'; counter: number; replayed: boolean; session: Session; user: User }
  | { result: 'stale' | 'ahead' | 'reused'; session: Session }
  | { result: 'dead' }

/** A mail that belongs to a change in the database and is stored with it. */
export interface OutboxMail {
  /** Chosen by the core, 22 characters. Storing an id again changes nothing, also after it was settled. */
  id: string
  /** Sealed by the core; opaque here. ASCII, some thousand characters. */
  sealed: string
  createdAt: number
  /** When `claimMails` begins to return it. */
  dueAt: number
  /** When the mail is of no use any more. */
  expiresAt: number
}

/** A change of what users prove their identity with, or of whether they may log in. */
export interface CredentialChange {
  userId: UserId
  /** The credential version that the caller saw. */
  fence: number
  /** The new one, for the user and for every session that is kept. */
  credentialVersion: number
  now: number
  /** What is set; what is left out stays. */
  set: {
    passwordHash?: string | null
    email?: string
    emailCanonical?: string
    /** Setting it also clears `expiresAt`. */
    emailVerifiedAt?: number
    active?: boolean
    /** With its canonical form. A name that another user has is left out, and the rest is set. */
    username?: string | null
    usernameCanonical?: string | null
    /** Replaces the whole profile. */
    profile?: Profile
  }
  /** The username that the caller saw, where the change depends on it: `stale` when it is another one now. */
  seenUsername?: string | null
  /** What becomes of the user's sessions: all end, all stay, or all but one end. */
  sessions: 'end' | 'keep' | { keep: string }
  /** A session of the user that starts with the change; the adapter gives it the user's id and the new version. */
  start: Omit<Session, 'userId' | 'credentialVersion'> | null
  mails: OutboxMail[]
}

/** A security event, as `eventLog` keeps it. */
export interface AccountEvent<Types extends object = Register> {
  /** What happened. */
  name: string
  /** Milliseconds. */
  at: number
  /** Null when no account is known. */
  userId: UserId<Types> | null
  /** Keyed hash of the e-mail address, so that attempts at an unknown address can be grouped; null without one. */
  identifier: string | null
  sessionId: string | null
  requestId: string | null
  ip: string
  network: string
  userAgent: string
  /** Never a secret, a code or an address. */
  details: Record<string, string | number | boolean | null>
}

/** Names a stored event; chosen by the storage. */
export type EventId = number

/** A security event as it is listed. */
export interface StoredEvent extends AccountEvent {
  id: EventId
}

/** The database. */
export interface Storage {
  /** The type of user ids: the core reads `integer` from a token as a number, `uuid` as a string. */
  readonly ids: IdKind
  /**
   * Stores a user with its mails, in one step, and returns its id; when the user is refused, the mails are not stored.
   * The unique indexes decide, so exactly one of N callers with the same e-mail or username succeeds; of both
   * `email_taken` is reported. `invalid` means that the store cannot hold a value and give it back as it was: out of a
   * column's range, a refused check, a text with NUL or a lone surrogate also within the profile, a time that is no
   * integer. `request` is the one that asks for the user, if there is one, for an adapter that needs to know more.
   */
  insertUser(
    user: NewUser,
    mails?: OutboxMail[],
    request?: FastifyRequest | null,
  ): Promise<{ id: UserId } | 'email_taken' | 'username_taken' | 'invalid'>
  /**
   * Stores many users, each as `insertUser` would, and returns the outcomes in the same order. Of two with the same
   * e-mail address or username the first is stored. Not one step: of a call that throws, some users may be stored. May
   * take longer than other verbs; the caller bounds the batch.
   */
  importUsers(
    users: ImportedUser[],
  ): Promise<({ id: UserId } | 'email_taken' | 'username_taken' | 'id_taken' | 'invalid')[]>
  /** Finds a user by id; null when there is none. Never reads the password hash. */
  findUserById(id: UserId): Promise<User | null>
  /** Finds a user by the canonical form of an e-mail address, with the password hash; null when there is none. */
  findUserByEmail(emailCanonical: string): Promise<UserWithPassword | null>
  /**
   * Finds who has an address or a username, by their canonical forms: two users at most. Whatever it finds, it must do
   * the same work.
   */
  findHolders(emailCanonical: string, usernameCanonical: string | null): Promise<User[]>
  /** Finds a user by id with the password hash; null when there is none. */
  findUserWithPassword(id: UserId): Promise<UserWithPassword | null>
  /** Lists users by ascending id, those after the id `after` when it is given. */
  listUsers(page: { after?: UserId; limit: number }): Promise<User[]>
  /**
   * Changes the given fields of an active user and returns the user as it is afterwards; null when there is none.
   * Members of `profile` replace those of the same name and leave the others alone, so that two callers who change
   * different members both succeed.
   */
  updateUser(change: {
    id: UserId
    /** With its canonical form. */
    username?: string | null
    usernameCanonical?: string | null
    profile: Record<string, unknown>
    /**
     * The session that asks: the result is null, and nothing is changed, unless the session is the user's, has not
     * ended and is of the current credential version, and the account has this address if one is given; also when a
     * change of credentials commits while this call runs. May be null for a session that such a change keeps.
     */
    fence?: { sessionId: string; emailCanonical?: string }
  }): Promise<User | 'username_taken' | 'invalid' | null>
  /** Sets a user's role; false when there is no such user. */
  setRole(id: UserId, role: string | null): Promise<boolean>
  /**
   * Replaces a password hash by a better hash of the same password and ends no session. False when the stored hash is
   * no longer `oldHash`: exactly one of N callers with the same old hash succeeds.
   */
  replacePasswordHash(id: UserId, oldHash: string, newHash: string): Promise<boolean>
  /**
   * Counts the password hashes of all users by the parameter `keyid`, as it stands in them; null counts those without
   * one. For the command line alone: it may read every row, and the core waits ten minutes for it.
   */
  countPasswordHashes(): Promise<{ keyId: string | null; count: number }[]>
  /**
   * The password hashes of at most `most` users, chosen at random among those who have one. It may read every row; the
   * core asks at most once a day, and only where hashes are not all of the same kind.
   */
  samplePasswordHashes(most: number): Promise<string[]>
  /**
   * Changes credentials in one step: what `set` names, the new credential version, the sessions and the mails. Returns
   * the ids of the sessions that it ended. `stale`, and nothing changed, when the user's credential version is not
   * `fence` any more, or the user is disabled and `set` has no `active`: exactly one of N callers with the same fence
   * succeeds. `email_taken`, and nothing changed, when another account has the address.
   */
  changeCredentials(change: CredentialChange): Promise<{ ended: string[] } | 'stale' | 'email_taken'>
  /**
   * Deletes a user, ends its sessions, whose rows stay, and stores the mails, in one step; returns the ids of the ended
   * sessions. `stale` when the credential version is no longer `fence`, `in_use` when other rows refer to the user:
   * then nothing has changed.
   */
  deleteUser(deletion: {
    userId: UserId
    fence: number
    now: number
    mails: OutboxMail[]
  }): Promise<{ ended: string[] } | 'stale' | 'in_use'>
  /**
   * Stores a session, fenced by the credential version in it: null, and nothing done, when the user is disabled or its
   * version has changed, also when that change commits while this call runs. Of more than `most` sessions the user's
   * least recently used end at `createdAt`, and their ids are returned; a call may leave some of very many, and those
   * that were stored while it ran, to the next call.
   */
  insertSession(session: Session, most: number): Promise<string[] | null>
  /**
   * Whether the session exists, is the user's (anybody's when that is null), has not ended and is not past its end: one
   * primary-key read.
   */
  sessionActive(id: string, userId: UserId | null, now: number): Promise<boolean>
  /**
   * Judges refresh token number `token` (0 is the first) and takes the session's step, in one step. `judgeToken` of
   * `fastify-accounts/adapter` is this rule, for a store that locks the session and judges its row. With the counter
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
   * accepted outcome equals `token`. An end is durable before the promise settles. A session that a racing change of
   * credentials keeps is not `dead`.
   */
  refreshSession(id: string, token: number, rule: RefreshRule, now: number): Promise<RefreshOutcome>
  /** Lists the user's sessions that go on, not idle nor past their end; at most `limit`, the last used first. */
  listSessions(userId: UserId, limit: number, now: number): Promise<Session[]>
  /**
   * Ends a session; returns whose it was, and whether this call ended it: exactly one of N callers does. Null when
   * there is no such session, or it is not `userId`'s; with a null `userId` it may be anybody's.
   */
  endSession(id: string, userId: UserId | null, now: number): Promise<{ userId: UserId; ended: boolean } | null>
  /** Ends all sessions of a user and returns the ids of those that this call ended. */
  endSessions(userId: UserId, now: number): Promise<string[]>
  /**
   * Ends at most `limit` sessions of any users and returns the ids of those that this call ended. May take longer than
   * other verbs; the caller bounds the batch.
   */
  endAnySessions(limit: number, now: number): Promise<string[]>
  /**
   * Lists the sessions that ended at `time` or later, of those that were last used at `usedSince` or later: older ones
   * have no access token left.
   */
  endedSince(time: number, usedSince: number): Promise<{ id: string; endedAt: number }[]>
  /** Stores mails that belong to no other change. */
  addMails(mails: OutboxMail[]): Promise<void>
  /**
   * Returns at most `limit` mails that are due, neither settled nor past their end, and sets their `dueAt` to `until`:
   * of N callers exactly one gets a mail.
   */
  claimMails(now: number, until: number, limit: number): Promise<OutboxMail[]>
  /** Marks mails as done: `claimMails` never returns them again, and what was sealed is deleted. */
  settleMails(ids: string[]): Promise<void>
  /** Stores an event. */
  addEvent(event: AccountEvent): Promise<void>
  /**
   * Lists at most `limit` events of a user, the last stored first whatever their times are; only those stored before
   * the event `before` when it is given, which may have been purged since.
   */
  listEvents(userId: UserId, page: { before?: EventId; limit: number }): Promise<StoredEvent[]>
  /**
   * Removes at most `limit` rows of each kind that nobody needs: sessions whose `expiresAt` is more than a day ago,
   * mails past their end, settled or not, events before `eventsBefore`, and users past their `expiresAt` whose address
   * is not verified. A user who has or had a session, or whom other rows refer to, stays, and its `expiresAt` becomes
   * null: here, or already where its first session is stored, if its sessions would be removed before. Returns how many
   * rows it removed or changed, each counted by one caller. May take longer than other verbs; the caller bounds the
   * batch.
   */
  purge(limits: { now: number; eventsBefore: number; limit: number }): Promise<number>
  /** Returns the store's own time in milliseconds; for the health checks of the host. */
  ping(): Promise<number>
  /**
   * Names the place of the users, the same for all adapters that share them; null when there is no telling. By it an
   * app refuses two realms over one table; without it only those of one adapter.
   */
  place?(): Promise<string | null>
}

/** What a one-time code is for. Codes of one purpose never work for another. */
export type CodePurpose = 'reset' | 'verify' | 'change'

/** Names one record: the slot tag and the SHA-256 of the token (base64url), never the token itself. */
export interface CodeRef {
  purpose: CodePurpose
  /** Keyed hash of the address without its `+tag`; all records of an address share it, and with it a cluster slot. */
  tag: string
  tokenHash: string
}

/** A code's HMAC under the key named `kid`; with an empty one a decoy's, which no guess fits. */
export interface CodeMac {
  kid: string
  mac: string
}

/** The records of one code: that of the token in the response and, when a link is mailed, that of the link's token. */
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
  /** In the slot of the tag. */
  charge?: Charge
}

/** What `put` left. */
export interface StoredCode {
  /** When the life of the first record ends; 0 when it is dead. */
  endsAt: number
  /** Whether no guess of it is right, since the charge had to wait. */
  decoy: boolean
}

/**
 * A counter of tries: so many within a window, then one at a time, after a pause that doubles from a window divided by
 * `tries` up to 15 minutes. It is forgotten a window after the first try, or after the last pause. Where the pause is
 * that long from the start, all are alike, and it is forgotten a window after the last try: no window has more than
 * twice as many.
 */
export interface Tally {
  /** Keyed hash of what is counted. */
  name: string
  tries: number
  windowMs: number
}

/** Tallies that are charged together, all or none. */
export interface Charge {
  /** Keyed hash; what has the same one shares a cluster slot. */
  slot: string
  tallies: Tally[]
  /** Charged instead of the others when the client is one of those that the list knows; may be none. */
  known?: { list: string; client: string; tallies: Tally[] }
}

/** What became of a charge; it was charged when there is nothing to wait for. */
export interface Charged {
  /** How long to wait for the next try; 0 when this one was counted. */
  waitMs: number
  /** Whether the client is known, and `known.tallies` were charged instead of the others. */
  known: boolean
  /** How much of the fullest tally is used up with this try; 1 at its limit. */
  share: number
}

/** A client that a list is to know. */
export interface Acquaintance {
  slot: string
  list: string
  client: string
  until: number
  /** Whether the list forgets all others. */
  alone: boolean
}

/** The cache: Redis, or memory for tests and trials. No key is ever without a lifetime. */
export interface Cache {
  /**
   * Charges a new code and stores its records and the account's index, in one step. Where the charge has to wait, what
   * is stored looks the same and no guess is right. Never overwrites: a record that exists, alive or dead, stays as it
   * is, and is not charged again.
   */
  put(code: NewCode, now: number): Promise<StoredCode>
  /**
   * Guesses a code. In state `issued` the try is counted first, then compared: of N parallel guesses exactly `tries`
   * are compared, and a record without tries left is dead. A right guess moves the record to `verified`, where
   * comparing counts nothing. `dead` means that nothing was compared: missing, expired, exhausted, leased, used or
   * burnt. Exactly one caller gets `exhausted`, the first whose guess is past the last try.
   *
   * @param macs the guess under each known key; the record's `kid` chooses
   */
  guess(ref: CodeRef, macs: CodeMac[], now: number): Promise<'right' | 'wrong' | 'exhausted' | 'dead'>
  /**
   * Leases a verified grant until `until` and returns its sealed subject; null when there is none, or it is leased.
   * Exactly one of N parallel callers gets it; a lease past its end may be taken over.
   */
  lease(ref: CodeRef, leaseId: string, until: number, now: number): Promise<string | null>
  /**
   * Gives a leased grant back; does nothing unless `leaseId` is the current lease. The grant's end stays. The fifth
   * `refused` burns the grant, an `outage` does not count.
   */
  giveBack(ref: CodeRef, leaseId: string, reason: 'refused' | 'outage', now: number): Promise<void>
  /** Kills all records of an account, in one step. They stay as tombstones until their end. */
  burn(account: { tag: string; account: string }): Promise<void>
  /**
   * Returns a record's sealed subject and changes nothing. Null when the record is missing, burnt or past its end; an
   * exhausted one still has its subject.
   */
  peek(ref: CodeRef, now: number): Promise<string | null>
  /**
   * Counts a try, or says how long to wait for it. Of N parallel calls exactly as many are counted as the tallies
   * allow, also when their clocks differ by a minute. A clock that is set back or forward by more may forget tries,
   * and lets nobody wait longer.
   */
  charge(charge: Charge, now: number): Promise<Charged>
  /** Takes a counted try back; `known` says from which tallies. */
  refund(charge: Charge, known: boolean, now: number): Promise<void>
  /**
   * Puts a client on a list until then. A list has room for 32: a newer one is not put on it. With `alone`, and an end
   * that has passed, the list is empty.
   */
  acquaint(client: Acquaintance, now: number): Promise<void>
  /** Sends a text to the listeners of this realm, in this process and in others; throws when the cache is down. */
  publish(text: string): Promise<void>
  /**
   * Calls `listener` with every text published from now on, at most once each; texts published while the connection is
   * down are lost. Never rejects because the cache is down: listening begins, and begins again, when it is up.
   *
   * @param restarted called each time that listening begins: texts may have been lost before
   */
  subscribe(listener: (text: string) => void, restarted?: () => void): Promise<void>
  /** Returns the cache's own time in milliseconds; for the health checks of the host. */
  ping(): Promise<number>
  /** Closes what the adapter opened itself. */
  close(): Promise<void>
}

/**
 * Which mail is sent: a code (`reset`, `verify`, `change`), a notice of what was done (`password_changed`,
 * `email_changed` to the old address, `account_deleted`), or the reason why a registration failed (`account_exists`,
 * `username_taken`).
 */
export type MessageKind =
  | 'reset'
  | 'verify'
  | 'change'
  | 'password_changed'
  | 'email_changed'
  | 'account_deleted'
  | 'account_exists'
  | 'username_taken'

/** How mails look. */
export interface Brand {
  /** Who sends the mails. */
  name: string
  /** An https address of a picture, about 40 px high. */
  logoUrl: string
  /** Colour of the button and the code, `#rgb` or `#rrggbb`. */
  color: string
  /** Where users can ask for help. */
  supportEmail: string
}

/** A mail to be written. */
export interface Message {
  /** Unique; the same in every copy of the mail. */
  id: string
  kind: MessageKind
  /** The stored address, or null for a decoy: as much work as a mail, but nothing is sent. */
  to: string | null
  user: { username: string | null; email: string }
  /** The digits that the user types; null in a notice. */
  code: string | null
  /** The link's own token and address; null without `passwordReset.url`. */
  token: string | null
  url: string | null
  /** How many minutes the code lives; 0 in a notice. */
  minutes: number
  /** When it was asked for, or done. */
  requestedAt: number
  /** From which network it was asked for, or done; empty when the app itself did it. */
  network: string
  /** The first language of the request's `Accept-Language`, or null. */
  locale: string | null
  /** The option `mail.brand`, for mailers inside the app; the queue's worker has its own. */
  brand: Partial<Brand>
  /** When the mail is of no use any more: a code's end. */
  expiresAt: number
}

/** The mail transport. */
export interface Mailer {
  /** True when only its own process knows its messages: what it has accepted counts as done. */
  readonly inProcess?: boolean
  /**
   * Accepts a message for delivery. Settles alike, and after the same work, for mails and decoys; that a mail could not
   * be delivered later is not reported here. Until its `expiresAt` a message is accepted once: another one of the same
   * id changes nothing. A mailer within the process may remember fewer, the last 10,000 at least.
   */
  send(message: Message): Promise<void>
  /**
   * Returns what became of messages, by id and in the same order: `done` was delivered or given up for good, `pending`
   * was accepted and is on its way, `unknown` was never accepted or is forgotten.
   */
  progress(ids: string[]): Promise<('done' | 'pending' | 'unknown')[]>
  /** Resolves while messages can be accepted; for the health checks of the host. */
  ping(): Promise<void>
  /** Finishes what was accepted and closes what the adapter opened itself. */
  close(): Promise<void>
}
