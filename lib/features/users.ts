import type { FastifyRequest } from 'fastify'
import Type, { type TProperties } from 'typebox'
import type { EventId, NewUser, Profile, Register, User, UserId } from '../contracts.ts'
import { clientOf, noClient } from '../core/client.ts'
import { changeCredentials, checkPolicy, deleteUser, verifyPassword, whileStale } from '../core/credentials.ts'
import { lookupForm } from '../core/email-address.ts'
import { emit } from '../core/events.ts'
import type { SecurityEvent } from '../core/hooks.ts'
import { invalid, newUser, type Registration, storedId, userOf, withoutPassword } from '../core/new-user.ts'
import { newProfileFields, withDefaults } from '../core/profiles.ts'
import type { Realm } from '../core/realm.ts'
import { endSessions } from '../core/sessions.ts'
import { isValidId } from '../core/storable.ts'
import { AccountsError } from '../errors.ts'
import { Email, Password, Username } from '../http/schemas.ts'
import { validatorCompiler } from '../http/validation.ts'
import { noticesOf } from '../mail/letters.ts'

/** The profile of a new user, which may be left out where no field is required. */
export type NewProfile<Types extends object = Register> =
  Record<never, never> extends Profile<Types> ? { profile?: Profile<Types> } : { profile: Profile<Types> }

/** What `users.create` takes. Members of `profile` that the option `registration.profile` does not name are ignored. */
export type UserToCreate<Types extends object = Register> = Omit<Registration, 'profile'> &
  NewProfile<Types> &
  Credentials

interface Credentials {
  /** Left out, nobody can log in before a password reset. */
  password?: string
  role?: string | null
  /** Whether the address is known to be the user's. @default false */
  verified?: boolean
}

/** What `users.import` takes. */
export interface UserToImport<Types extends object = Register>
  extends Omit<Registration, 'profile'>,
    Omit<Credentials, 'password'> {
  /** Users of yesterday may lack a field that is required today; members that no field names are ignored. */
  profile?: Partial<Profile<Types>>
  /** Chosen by the storage when it is left out; one that is given stays free of later users. */
  id?: UserId<Types>
  /** False for a disabled account. @default true */
  active?: boolean
  /** A hash of any form that logs in; left out, nobody can log in before a password reset. */
  passwordHash?: string | null
  /** Milliseconds. @default now */
  createdAt?: number
}

/** Why a user was not imported; after `unavailable` it may be there all the same, so find it or import it again. */
export type ImportRefusal = 'email_taken' | 'username_taken' | 'id_taken' | 'invalid' | 'hash_unusable' | 'unavailable'

/** What became of an imported user. */
export type Imported<Types extends object = Register> =
  | { id: UserId<Types> }
  | { refused: ImportRefusal; message?: string }

/** Use cases of administrators and scripts. Ids that do not exist are `ACCOUNTS_NOT_FOUND`. */
export interface Users<Types extends object = Register> {
  /**
   * Creates a user; mails nothing.
   *
   * @throws {AccountsError} ACCOUNTS_EMAIL_TAKEN, ACCOUNTS_USERNAME_TAKEN, ACCOUNTS_PASSWORD_REFUSED,
   * ACCOUNTS_VALIDATION
   */
  create(user: UserToCreate<Types>): Promise<User<Types>>
  /** Finds a user by id or by any spelling of the address. */
  find(by: { id: UserId<Types> } | { email: string }): Promise<User<Types> | null>
  /** Lists users by ascending id. @param page at most 1,000 at a time, 100 unless given */
  list(page?: { after?: UserId<Types>; limit?: number }): Promise<User<Types>[]>
  /** Imports users with their hashes, in batches, and returns what became of each, in the same order. */
  import(users: readonly UserToImport<Types>[]): Promise<Imported<Types>[]>
  /**
   * Sets a password, ends all sessions and mails a notice, unless the address has yet to be proved.
   *
   * @param options `notice: false` mails nothing, where you tell the user yourself
   */
  setPassword(id: UserId<Types>, password: string, options?: { notice?: boolean }): Promise<void>
  /**
   * Whether a password is the user's, where you ask for it yourself: counted against the limits of logins, in the line
   * of hashes, with as much work for a user who is unknown or disabled. It starts no session.
   *
   * @param request where the guess comes from; guesses without one count as those of one network
   * @throws {AccountsError} ACCOUNTS_TOO_MANY_REQUESTS, ACCOUNTS_OVERLOADED, and ACCOUNTS_EMAIL_UNVERIFIED when it is
   * right but the address has to be proved first
   */
  verifyPassword(id: UserId<Types>, password: string, request?: FastifyRequest): Promise<boolean>
  /** Sets the role that guards read; null for none. */
  setRole(id: UserId<Types>, role: string | null): Promise<void>
  /** Ends all sessions and refuses logins until `enable`. */
  disable(id: UserId<Types>): Promise<void>
  enable(id: UserId<Types>): Promise<void>
  endSessions(id: UserId<Types>): Promise<void>
  /**
   * Deletes the row, ends all sessions and mails a notice, unless the address has yet to be proved.
   *
   * @throws {AccountsError} ACCOUNTS_ACCOUNT_IN_USE when other rows refer to it
   */
  delete(id: UserId<Types>): Promise<void>
  /**
   * Lists a user's security events, the last stored first, as the option `eventLog` kept them.
   *
   * @param page at most `limit` events (100 unless given, 1,000 at most), those before the event with the id `before`:
   * the last one of the previous page
   */
  history(
    id: UserId<Types>,
    page?: { before?: EventId; limit?: number },
  ): Promise<(SecurityEvent<Types> & { id: EventId })[]>
}

const client = noClient
const importBatch = 500

/** Builds the use cases over the users of a realm. */
export function createUsers(realm: Realm): Users {
  const { storage } = realm
  const validate = inputValidators(realm)
  return {
    async create(given) {
      const user = await createUser(realm, validate.created(given))
      await emit(realm, 'register', { client, userId: user.id, details: {} })
      return user
    },
    find: async (by) => find(realm, by),
    list: async ({ after, limit } = {}) => storage.listUsers({ after, limit: pageSize(limit) }),
    import: (users) => importAll(realm, users, validate.imported),
    async setPassword(id, password, options) {
      if (typeof password !== 'string') throw new TypeError('fastify-accounts: a password must be a text')
      await checkPolicy(realm, password, (await storage.findUserById(id)) ?? {}, client)
      const passwordHash = await realm.passwords.hash(password)
      await change(realm, id, (user) =>
        changeCredentials(realm, user, {
          // As it is: a disabled account may get a new password before it is enabled again.
          set: { passwordHash, active: user.active },
          sessions: 'end',
          mails: options?.notice === false ? [] : noticesOf(realm, 'password_changed', user, client),
        }),
      )
      await emit(realm, 'passwordChange', { client, userId: id, details: { by: 'admin' } })
    },
    verifyPassword: async (id, password, request) =>
      verifyPassword(realm, id, password, request?.raw ? clientOf(realm, request) : client),
    setRole: (id, role) => setRole(realm, id, role),
    disable: (id) => setActive(realm, id, false),
    enable: (id) => setActive(realm, id, true),
    async endSessions(id) {
      await existing(realm, id)
      await endSessions(realm, id, client, 'admin')
    },
    async delete(id) {
      await change(realm, id, (user) => deleteUser(realm, user, noticesOf(realm, 'account_deleted', user, client)))
      await emit(realm, 'accountDelete', { client, userId: id, details: { mode: 'row', by: 'admin' } })
    },
    async history(id, { before, limit } = {}) {
      if (before !== undefined && !Number.isSafeInteger(before)) {
        throw new TypeError('fastify-accounts: "before" must be the id of an event')
      }
      const events = await storage.listEvents(id, { before, limit: pageSize(limit) })
      return events as (SecurityEvent & { id: EventId })[]
    },
  }
}

async function setRole(realm: Realm, id: UserId, role: string | null): Promise<void> {
  checkRole(realm, role)
  if (!(await realm.storage.setRole(id, role))) throw new AccountsError('ACCOUNTS_NOT_FOUND')
  await emit(realm, 'roleChange', { client, userId: id, details: { role } })
}

/**
 * Validates what users are made of: callers in plain JavaScript may pass anything, and a wrong word would be a wrong
 * account.
 */
export function inputValidators({ options: { registration } }: Realm) {
  const profile = registration ? registration.profile : Type.Object({})
  const members = {
    username: Type.Optional(Username),
    email: Email,
    role: Type.Optional(Type.String()),
    verified: Type.Optional(Type.Boolean()),
  }
  const created = { profile: Type.Object(newProfileFields(profile)), password: Type.Optional(Password) }
  // Users of yesterday may lack a field that is required today.
  const imported = {
    profile: Type.Partial(profile),
    passwordHash: Type.Optional(Type.String({ maxLength: 512 })),
    createdAt: Type.Optional(Type.Integer()),
    id: Type.Optional(Type.Union([Type.Integer(), Type.String()])),
    active: Type.Optional(Type.Boolean()),
  }
  return {
    created: inputValidator<UserToCreate>({ ...members, ...created }),
    imported: inputValidator<UserToImport>({ ...members, ...imported }),
  }
}

function inputValidator<Input extends object>(members: TProperties): (input: Input) => Input {
  const validateInput = validatorCompiler({ schema: Type.Object(members) } as never)
  return (input) => {
    if (typeof input !== 'object' || input === null) throw invalid('', 'must be an object')
    // Null is as good as left out.
    const given = Object.entries(input).filter(([, value]) => value !== null && value !== undefined)
    // A misspelt password hash would be a user without a password.
    const unknownField = given.find(([name]) => !Object.hasOwn(members, name))
    if (unknownField) throw invalid(unknownField[0], 'is unknown')
    const user = { profile: {}, ...Object.fromEntries(given) }
    const { error } = validateInput(user) as { error?: Error }
    if (error) throw error
    return user as unknown as Input
  }
}

function pageSize(limit = 100): number {
  if (Number.isSafeInteger(limit) && limit >= 1 && limit <= 1000) return limit
  throw new TypeError('fastify-accounts: "limit" must be a whole number from 1 to 1000')
}

function find(realm: Realm, by: { id: UserId } | { email: string }): Promise<User | null> {
  const { id, email } = Object(by) as { id?: UserId; email?: string }
  if (id !== undefined) return realm.storage.findUserById(id)
  if (typeof email === 'string') return findByEmail(realm, email)
  throw new TypeError('fastify-accounts: users.find() takes { id } or { email }')
}

/** Creates a user of validated input; `passwordHash` where there is no password. */
export async function createUser(
  realm: Realm,
  { password, role = null, verified = false, ...given }: UserToCreate,
  passwordHash: string | null = null,
): Promise<User> {
  checkRole(realm, role)
  if (password !== undefined) await checkPolicy(realm, password, given, client)
  const fresh = newUser(realm, { ...given, profile: withDefaults(realm.options, given.profile) })
  const user = { ...fresh, role, emailVerifiedAt: verified ? realm.clock() : null }
  const hash = password === undefined ? passwordHash : await realm.passwords.hash(password)
  return userOf(user, storedId(await realm.storage.insertUser({ ...user, passwordHash: hash })))
}

async function findByEmail({ storage }: Realm, email: string): Promise<User | null> {
  const found = await storage.findUserByEmail(lookupForm(email))
  return found && withoutPassword(found)
}

type ValidateImported = (user: UserToImport) => UserToImport

async function importAll(
  realm: Realm,
  users: readonly UserToImport[],
  validate: ValidateImported,
): Promise<Imported[]> {
  if (!Array.isArray(users)) throw new TypeError('fastify-accounts: users.import() takes an array of users')
  const outcomes: Imported[] = []
  for (let start = 0; start < users.length; start += importBatch) {
    const prepared = users.slice(start, start + importBatch).map((user) => prepare(realm, user, validate))
    outcomes.push(...(await importSome(realm, prepared)))
  }
  return outcomes
}

type Refused = Extract<Imported, { refused: unknown }>

async function importSome(realm: Realm, prepared: readonly (NewUser | Refused)[]): Promise<Imported[]> {
  const fit = prepared.filter((user): user is NewUser => !('refused' in user))
  const stored = fit.length > 0 ? await stores(realm, fit) : []
  const outcomes = stored.values()
  return prepared.map((user) => {
    if ('refused' in user) return user
    const outcome = outcomes.next().value as (typeof stored)[number]
    if (typeof outcome !== 'string') return outcome
    return { refused: outcome, ...(outcome === 'invalid' && { message: 'the database refuses a value, or lacks one' }) }
  })
}

// What became of the other batches must not be lost; within a host's transaction nothing of them is left.
async function stores({ storage, joined }: Realm, users: NewUser[]) {
  try {
    return await storage.importUsers(users)
  } catch (error) {
    if (joined) throw error
    return users.map(() => 'unavailable' as const)
  }
}

function prepare(realm: Realm, given: UserToImport, validate: ValidateImported): NewUser | Refused {
  try {
    const { passwordHash = null, role = null, verified = false, ...rest } = validate(given)
    const { createdAt = realm.clock(), id, active, ...registration } = rest
    if (id !== undefined && !importable(realm, id))
      throw invalid('id', `must be an id of the kind ${realm.storage.ids}`)
    if (passwordHash !== null && !realm.passwords.usable(passwordHash)) return { refused: 'hash_unusable' }
    checkRole(realm, role)
    const user = newUser(realm, registration)
    const kept = { ...(id !== undefined && { id }), ...(active !== undefined && { active }) }
    return { ...user, ...kept, passwordHash, role, createdAt, emailVerifiedAt: verified ? createdAt : null }
  } catch (error) {
    // One user that cannot be stored must not lose the others.
    const [problem] = error instanceof AccountsError ? (error.errors ?? []) : []
    return { refused: 'invalid', message: problem ? `${problem.field} ${problem.message}` : (error as Error).message }
  }
}

// From 2^52 on the ids that follow would soon be no exact numbers any more.
function importable({ storage }: Realm, id: UserId): boolean {
  return isValidId(storage.ids, id) && (typeof id === 'string' || (id >= 1 && id <= 2 ** 52))
}

function checkRole({ options: { roles } }: Realm, role: string | null): void {
  if (role === null || (typeof role === 'string' && (roles?.has(role) ?? /^[\w.:-]{1,64}$/.test(role)))) return
  const known = roles ? `one of the option "roles" (${[...roles.keys()].join(', ')})` : 'a short name'
  throw invalid('role', `must be ${known}`)
}

async function setActive(realm: Realm, id: UserId, active: boolean): Promise<void> {
  const user = await existing(realm, id)
  if (user.active === active) return
  await change(realm, id, async (found) =>
    // Somebody else has done it since.
    found.active === active ? 'changed' : changeCredentials(realm, found, { set: { active }, sessions: 'end' }),
  )
  await emit(realm, active ? 'accountEnable' : 'accountDisable', { client, userId: id, details: {} })
}

async function existing({ storage }: Realm, id: UserId): Promise<User> {
  const user = await storage.findUserById(id)
  if (!user) throw new AccountsError('ACCOUNTS_NOT_FOUND')
  return user
}

// For who decides over the user it does not matter that the user was quicker: what was read is read again.
async function change(realm: Realm, id: UserId, act: (user: User) => Promise<string>): Promise<void> {
  if ((await whileStale(async () => act(await existing(realm, id)))) !== 'stale') return
  throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause: new Error('the account changed again and again') })
}
