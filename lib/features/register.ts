import Type, { type TProperties } from 'typebox'
import type { NewUser, User } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { dayMs, identifierOf } from '../core/codes.ts'
import { checkPolicy } from '../core/credentials.ts'
import { emit } from '../core/events.ts'
import { newUser, type Registration, storedId, userOf } from '../core/new-user.ts'
import { type Draft, handOver, rowsOf } from '../core/outbox.ts'
import { newProfileFields, withDefaults } from '../core/profiles.ts'
import type { Realm } from '../core/realm.ts'
import { type Route, route } from '../http/routes.ts'
import { Email, MessageAndToken, Password, shownUser, Username, userFields } from '../http/schemas.ts'
import { mailRegistration, proofOf } from '../mail/letters.ts'
import { mustVerify } from '../options/options.ts'

/**
 * Registers a user and returns it; with `verifyEmail` a code is mailed, and `token` goes with it.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_REFUSED, ACCOUNTS_EMAIL_TAKEN, ACCOUNTS_USERNAME_TAKEN, ACCOUNTS_VALIDATION
 */
export async function register(
  realm: Realm,
  registration: Registration & { password: string },
  client: Client,
): Promise<{ user: User; token?: string }> {
  const prepared = await prepare(realm, registration, client)
  if (!mustVerify(realm.options)) return { user: await store(realm, prepared, client) }
  const user = { ...prepared, expiresAt: prepared.createdAt + dayMs }
  const { emailCanonical: address, email, username, credentialVersion, expiresAt: accountEnd } = user
  const subject = { address, credentialVersion, registration: 'stored' } as const
  const proof = { purpose: 'verify', subject, to: email, shown: { username, email }, accountEnd } as const
  const { token, draft } = proofOf(realm, proof, client)

  const stored = await store(realm, user, client, [draft])
  await handOver(realm, [draft])

  const identifier = identifierOf(realm, address)
  emit(realm, 'codeIssue', { client, userId: stored.id, identifier, details: { purpose: 'verify' } })
  return { user: stored, token }
}

/**
 * Registers a user without showing anything: not whether the address or the username is known, not even by the work
 * that it takes. Nothing is stored before `verifyEmail` proves the mailbox, whose owner learns the rest from the mail;
 * the returned token goes with the code in it. A username that somebody has by then is left out.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_REFUSED, ACCOUNTS_VALIDATION
 */
async function registerConcealed(
  realm: Realm,
  registration: Registration & { password: string },
  client: Client,
): Promise<{ token: string }> {
  const user = await prepare(realm, registration, client)
  const { emailCanonical, email, passwordHash, username, usernameCanonical, profile } = user
  const registered = { email, passwordHash, username, usernameCanonical, profile }
  return { token: await mailRegistration(realm, emailCanonical, registered, client) }
}

async function prepare(
  realm: Realm,
  { password, ...given }: Registration & { password: string },
  client: Client,
): Promise<NewUser> {
  await checkPolicy(realm, password, given, client)
  const user = newUser(realm, { ...given, profile: withDefaults(realm.options, given.profile) })
  const { username, email, profile } = user
  await realm.hooks.before('beforeRegister', { username, email, profile: { ...profile }, client })
  return { ...user, passwordHash: await realm.passwords.hash(password, client.request) }
}

async function store(realm: Realm, user: NewUser, client: Client, mails: Draft[] = []): Promise<User> {
  const stored = await realm.storage.insertUser(user, rowsOf(realm, mails), client.request)
  if (stored === 'email_taken' || stored === 'username_taken') {
    const identifier = identifierOf(realm, user.emailCanonical)
    emit(realm, 'registerFail', { client, identifier, details: { reason: stored } })
  }
  const id = storedId(stored)
  emit(realm, 'register', { client, userId: id, details: {} })
  const { passwordHash, ...shown } = user
  return userOf(shown, id)
}

/** `POST /api/register/`; none with `registration: false`. */
export function registerRoutes(realm: Realm): Route[] {
  const { registration } = realm.options
  if (!registration) return []
  const name = { required: { username: Username }, optional: { username: Type.Optional(Username) }, false: {} }
  const body = Type.Object({
    ...newProfileFields(registration.profile),
    ...name[String(registration.username) as keyof typeof name],
    email: Email,
    password: Password,
  })
  const start = {
    name: 'register',
    method: 'POST',
    path: '/api/register/',
    body,
    hashes: true,
    limited: 'register',
  } as const
  return [registration.concealExisting ? concealedRoute(realm, start) : openRoute(realm, start)]
}

type RouteStart = Pick<Route, 'name' | 'method' | 'path' | 'body' | 'hashes' | 'limited'>

function openRoute(realm: Realm, start: RouteStart): Route {
  const token: TProperties = mustVerify(realm.options) ? { token: MessageAndToken.properties.token } : {}
  return route({
    ...start,
    summary: 'Register an account',
    response: [201, Type.Object({ ...userFields(realm), ...token })],
    refusals: ['ACCOUNTS_PASSWORD_REFUSED', 'ACCOUNTS_EMAIL_TAKEN', 'ACCOUNTS_USERNAME_TAKEN'],
    async run({ body, client }) {
      const { user, token } = await register(realm, registrationIn(body), client)
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
    async run({ body, client }) {
      const { token } = await registerConcealed(realm, registrationIn(body), client)
      return { message: 'Check your e-mail to go on.', token }
    },
  })
}

type RegisterBody = { username?: string; email: string; password: string } & Record<string, unknown>

function registrationIn(body: unknown): Registration & { password: string } {
  const { username, email, password, ...profile } = body as RegisterBody
  return { username, email, password, profile }
}
