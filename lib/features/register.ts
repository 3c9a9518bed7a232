import { randomBytes } from 'node:crypto'
import Type from 'typebox'
import { Value } from 'typebox/value'
import type { Accounts } from '../accounts.ts'
import { placeOf } from '../admission.ts'
import type { Profile, User } from '../contracts.ts'
import { canonicalEmail } from '../email-address.ts'
import { AccountsError } from '../errors.ts'
import type { Place } from '../hash-queue.ts'
import { canonicalUsername, Email, Password, shownUser, Username, userFields } from '../schemas.ts'
import type { Route } from '../scope.ts'

/** What a registration needs. */
export interface Registration {
  username?: string | null
  email: string
  password: string
  /** Members that the option `registration.profile` does not name are ignored. */
  profile: Record<string, unknown>
}

/**
 * Registers a user and answers it.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_REFUSED, ACCOUNTS_EMAIL_TAKEN, ACCOUNTS_USERNAME_TAKEN, ACCOUNTS_VALIDATION
 */
export async function register(accounts: Accounts, registration: Registration, place?: Place): Promise<User> {
  const reasons = accounts.passwords.refusals(registration.password)
  if (reasons.length > 0) throw new AccountsError('ACCOUNTS_PASSWORD_REFUSED', { reasons })
  const user = newUser(accounts, registration)
  const passwordHash = await accounts.passwords.hash(registration.password, place)

  const stored = await accounts.storage.insertUser({ ...user, passwordHash })

  if (stored === 'email_taken') throw new AccountsError('ACCOUNTS_EMAIL_TAKEN')
  if (stored === 'username_taken') throw new AccountsError('ACCOUNTS_USERNAME_TAKEN')
  if (stored === 'invalid') throw refused('', 'has a value that cannot be stored')
  const { usernameCanonical, emailCanonical, ...shown } = user
  return { ...shown, id: stored.id, emailVerifiedAt: null, active: true }
}

function newUser({ options, clock }: Accounts, { username, email, profile }: Registration) {
  const emailCanonical = canonicalEmail(email)
  if (emailCanonical === null) throw refused('email', 'must be an e-mail address')
  const name = registrationOf(options).username === false ? null : (username?.normalize('NFC') ?? null)
  // A username that reads like somebody's address could be taken for that account.
  if (name?.normalize('NFKC').includes('@') && canonicalEmail(name) !== emailCanonical)
    throw refused('username', 'must not have an "@"')
  return {
    username: name,
    usernameCanonical: name === null ? null : canonicalUsername(name),
    email,
    emailCanonical,
    credentialVersion: randomBytes(5).readUIntBE(0, 5),
    profile: profileFields(options, profile),
    createdAt: clock(),
  }
}

function profileFields(options: Accounts['options'], given: Record<string, unknown>): Profile {
  const { profile } = registrationOf(options)
  const named = Object.keys(profile.properties).filter((name) => Object.hasOwn(given, name))
  const picked = Object.fromEntries(named.map((name) => [name, given[name]]))
  return Value.Clean(profile, structuredClone(picked)) as Profile
}

function registrationOf({ registration }: Accounts['options']) {
  if (!registration) throw new TypeError('fastify-accounts: "registration" is off')
  return registration
}

function refused(field: string, message: string): AccountsError {
  return new AccountsError('ACCOUNTS_VALIDATION', { errors: [{ field, message }] })
}

/** `POST /api/register/`; none with `registration: false`. */
export function registerRoutes(accounts: Accounts): Route[] {
  const { registration } = accounts.options
  if (!registration) return []
  const name = { required: { username: Username }, optional: { username: Type.Optional(Username) }, false: {} }
  const body = Type.Object({
    ...registration.profile.properties,
    ...name[String(registration.username) as keyof typeof name],
    email: Email,
    password: Password,
  })
  return [
    {
      name: 'register',
      method: 'POST',
      path: '/api/register/',
      summary: 'Register an account',
      body,
      answer: [201, Type.Object(userFields(accounts))],
      refusals: ['ACCOUNTS_PASSWORD_REFUSED', 'ACCOUNTS_EMAIL_TAKEN', 'ACCOUNTS_USERNAME_TAKEN'],
      hashes: true,
      async handler(request) {
        const { username, email, password, ...profile } = request.body as RegisterBody
        const user = await register(accounts, { username, email, password, profile }, placeOf(request))
        return shownUser(accounts, user)
      },
    },
  ]
}

type RegisterBody = { username?: string; email: string; password: string } & Record<string, unknown>
