import Type, { type TProperties } from 'typebox'
import type { Insertion, NewUser, OutboxMail, User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { identifierOf, type Subject } from '../core/codes.ts'
import { addressOf, checkPolicy } from '../core/credentials.ts'
import { emit } from '../core/events.ts'
import type { Place } from '../core/hash-queue.ts'
import { newUser, type Registration, storedId, userOf } from '../core/new-user.ts'
import { type Draft, handOver, rowsOf } from '../core/outbox.ts'
import type { Realm } from '../core/realm.ts'
import { mac } from '../core/secrets.ts'
import { type Route, route } from '../http/routes.ts'
import { Email, MessageAndToken, Password, shownUser, Username, userFields } from '../http/schemas.ts'
import { noticeOf, type Proof, proofOf } from '../mail/letters.ts'
import { mustVerify } from '../options/options.ts'

const unverifiedLifeMs = 86_400_000
const dayMs = 86_400_000
/** What a mail takes in the outbox at most, without its code. */
const mailBytes = 2048

/**
 * Registers a user and answers it; with `verifyEmail` a code is mailed, and `token` goes with it.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_REFUSED, ACCOUNTS_EMAIL_TAKEN, ACCOUNTS_USERNAME_TAKEN, ACCOUNTS_VALIDATION
 */
export async function register(
  realm: Realm,
  registration: Registration & { password: string },
  client: Client,
  place?: Place,
): Promise<{ user: User; token?: string }> {
  const user = await prepare(realm, registration, client, place)
  if (!mustVerify(realm.options)) return { user: await store(realm, user, client) }
  const letters = letterWriter((insertion) =>
    insertion.result === 'stored'
      ? proofLetters(realm, verification(user, { ...user, id: insertion.id }, 'stored'), client)
      : noLetters,
  )
  const stored = await store(realm, user, client, letters.write)
  return { user: stored, token: await send(realm, letters.written(), client) }
}

/**
 * Registers a user and tells nothing: not whether the address or the username is known, not even by the work that it
 * takes. The owner of the mailbox learns the rest from the mail; the answered token goes with the code in it. The
 * username is taken when the mailbox is proved, if nobody has it by then.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_REFUSED, ACCOUNTS_VALIDATION
 */
export async function registerConcealed(
  realm: Realm,
  registration: Registration & { password: string },
  client: Client,
  place?: Place,
): Promise<{ token: string }> {
  const user = await prepare(realm, registration, client, place)
  const letters = letterWriter((insertion) => concealedLetters(realm, user, insertion, client))
  // A name that is stored now would tell everybody who asks for it that the address had no account.
  const nameless = { ...user, username: null, usernameCanonical: null, wantedUsername: user.usernameCanonical }
  const outcome = await realm.storage.insertUser(nameless, letters.write)
  if (outcome === 'email_taken' || outcome === 'username_taken') {
    const identifier = identifierOf(realm, user.emailCanonical)
    emit(realm, 'registerFail', { client, identifier, details: { reason: outcome } })
  } else {
    emit(realm, 'register', { client, userId: storedId(outcome), details: {} })
  }
  return { token: await send(realm, letters.written(), client) }
}

async function prepare(
  realm: Realm,
  { password, ...registration }: Registration & { password: string },
  client: Client,
  place?: Place,
): Promise<NewUser> {
  checkPolicy(realm, password)
  const user = newUser(realm, registration)
  const { username, email, profile } = user
  await realm.hooks.before('beforeRegister', { username, email, profile: { ...profile }, client })
  const passwordHash = await realm.passwords.hash(password, place)
  const expiresAt = mustVerify(realm.options) ? realm.clock() + unverifiedLifeMs : null
  return { ...user, passwordHash, expiresAt }
}

async function store(realm: Realm, user: NewUser, client: Client, write?: (_: Insertion) => OutboxMail[]) {
  const id = storedId(await realm.storage.insertUser(user, write))
  emit(realm, 'register', { client, userId: id, details: {} })
  const { passwordHash, ...shown } = user
  return userOf(shown, id)
}

/** Whoever proves the mailbox has this account. */
type Owner = Pick<User, 'id' | 'credentialVersion' | 'email' | 'expiresAt'>

function verification(
  user: NewUser,
  owner: Owner | null,
  registration: Subject['registration'],
): Omit<Proof, 'purpose'> {
  return {
    address: user.emailCanonical,
    user: owner,
    proof: { registration },
    accountEnd: owner?.expiresAt,
    to: owner?.email ?? null,
    shown: { username: user.username, email: user.email },
  }
}

/** The mails of a registration: those that are stored with it, and those that the request hands over. */
interface Letters {
  token: string
  /** Whose code they hold; null for a decoy. */
  userId: User['id'] | null
  stored: OutboxMail[]
  handed: Draft[]
}

const noLetters: Letters = { token: '', userId: null, stored: [], handed: [] }

// The storage may ask more than once; what it asked for last is what it stored.
function letterWriter(lettersFor: (insertion: Insertion) => Letters) {
  const last = { letters: noLetters }
  return {
    written: () => last.letters,
    write(insertion: Insertion): OutboxMail[] {
      last.letters = lettersFor(insertion)
      return last.letters.stored
    },
  }
}

function proofLetters(
  realm: Realm,
  proof: Omit<Proof, 'purpose'>,
  client: Client,
  rowsFor = (draft: Draft) => rowsOf(realm, [draft]),
): Letters {
  const { token, draft } = proofOf(realm, { purpose: 'verify', ...proof }, client)
  return { token, userId: proof.user?.id ?? null, stored: rowsFor(draft), handed: [draft] }
}

// A decoy is told too: with `eventLog` each event is a statement.
async function send(realm: Realm, { token, userId, handed }: Letters, client: Client): Promise<string> {
  await handOver(realm, handed)
  const identifier = handed[0]?.code?.tag
  emit(realm, 'codeIssue', { client, userId, identifier, details: { purpose: 'verify' } })
  return token
}

// Whoever is refused gets as much of everything, and as large: one stored mail, one code, one mail handed over. What is
// stored in place of the decoy leaves with the sweeper.
function concealedLetters(realm: Realm, user: NewUser, insertion: Insertion, client: Client): Letters {
  const { passwordHash, username, usernameCanonical, profile } = user
  const owner = ownerOf(user, insertion)
  const registration = { passwordHash, username, usernameCanonical, profile }
  const notice = owner ? null : refusalNotice(realm, user, insertion, client)
  return proofLetters(realm, verification(user, owner, registration), client, (proof) =>
    rowsOf(realm, [weighted(notice ?? proof, proof.code)], notice ? 'sweeper' : 'request'),
  )
}

function weighted(draft: Draft, code: Draft['code']): Draft & { weight: string } {
  const missing = bytesOf(code) + mailBytes - bytesOf(draft)
  return { ...draft, weight: ' '.repeat(Math.max(0, missing)) }
}

function bytesOf(value: unknown): number {
  return Buffer.byteLength(JSON.stringify(value))
}

// Who proves the mailbox of an account that nobody has proved yet gets it with what he registered himself.
function ownerOf(user: NewUser, insertion: Insertion): Owner | null {
  if (insertion.result === 'stored') return { ...user, id: insertion.id }
  if (insertion.result === 'username_taken') return null
  const { user: existing } = insertion
  return existing.emailVerifiedAt === null && existing.active ? existing : null
}

function refusalNotice(realm: Realm, user: NewUser, insertion: Insertion, client: Client): Draft | null {
  if (insertion.result === 'username_taken') return noticeOf(realm, 'username_taken', user, client)
  if (insertion.result !== 'email_taken' || !insertion.user.active) return null
  const draft = noticeOf(realm, 'account_exists', insertion.user, client)
  // One a day: the outbox stores an id once.
  const owner = mac(realm.ring[0].key('account'), addressOf(insertion.user)).slice(0, 22)
  const id = `exists-${owner}-${Math.floor(realm.clock() / dayMs)}`
  return { ...draft, message: { ...draft.message, id } }
}

/** `POST /api/register/`; none with `registration: false`. */
export function registerRoutes(realm: Realm): Route[] {
  const { registration } = realm.options
  if (!registration) return []
  const name = { required: { username: Username }, optional: { username: Type.Optional(Username) }, false: {} }
  const body = Type.Object({
    ...registration.profile.properties,
    ...name[String(registration.username) as keyof typeof name],
    email: Email,
    password: Password,
  })
  const start = { name: 'register', method: 'POST', path: '/api/register/', body, hashes: true } as const
  return [registration.concealExisting ? concealedRoute(realm, start) : openRoute(realm, start)]
}

type RouteStart = Pick<Route, 'name' | 'method' | 'path' | 'body' | 'hashes'>

function openRoute(realm: Realm, start: RouteStart): Route {
  const token: TProperties = mustVerify(realm.options) ? { token: MessageAndToken.properties.token } : {}
  return route({
    ...start,
    summary: 'Register an account',
    response: [201, Type.Object({ ...userFields(realm), ...token })],
    refusals: ['ACCOUNTS_PASSWORD_REFUSED', 'ACCOUNTS_EMAIL_TAKEN', 'ACCOUNTS_USERNAME_TAKEN'],
    async run({ body, client, place }) {
      const { user, token } = await register(realm, registrationIn(body), client, place)
      return { ...shownUser(realm, user), ...(token === undefined ? {} : { token }) }
    },
  })
}

function concealedRoute(realm: Realm, start: RouteStart): Route {
  return route({
    ...start,
    summary: 'Register an account; the rest goes by e-mail',
    response: [202, MessageAndToken],
    refusals: ['ACCOUNTS_PASSWORD_REFUSED'],
    async run({ body, client, place }) {
      const { token } = await registerConcealed(realm, registrationIn(body), client, place)
      return { message: 'Check your e-mail to go on.', token }
    },
  })
}

type RegisterBody = { username?: string; email: string; password: string } & Record<string, unknown>

function registrationIn(body: unknown): Registration & { password: string } {
  const { username, email, password, ...profile } = body as RegisterBody
  return { username, email, password, profile }
}
