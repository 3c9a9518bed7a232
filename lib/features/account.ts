import Type, { type Static } from 'typebox'
import type { User, UserId } from '../contracts.ts'
import type { Client } from '../core/client.ts'
import { addressOf, changeCredentials, deleteUser, provePassword, whileStale } from '../core/credentials.ts'
import { emit } from '../core/events.ts'
import { conflict, nameOf } from '../core/new-user.ts'
import type { Realm } from '../core/realm.ts'
import type { Account } from '../core/tokens.ts'
import { AccountsError } from '../errors.ts'
import { type Route, route } from '../http/routes.ts'
import { Password, shownUser, Username, userFields } from '../http/schemas.ts'
import { noticesOf } from '../mail/letters.ts'
import { changeableFields } from '../options/options.ts'

const DeleteBody = Type.Object({ password: Password })

/**
 * Reads one's own account.
 *
 * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID when the user is gone
 */
async function readAccount({ storage }: Realm, id: UserId): Promise<User> {
  const user = await storage.findUserById(id)
  if (!user?.active) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return user
}

/**
 * Changes the fields of one's own account that the option `account.fields` allows; every other member is ignored.
 *
 * @throws {AccountsError} ACCOUNTS_USERNAME_TAKEN, ACCOUNTS_VALIDATION, ACCOUNTS_TOKEN_INVALID when the user is gone
 */
async function updateAccount(
  realm: Realm,
  { id, sessionId }: Account,
  given: Record<string, unknown>,
  client: Client,
): Promise<User> {
  const fields = changeableFields(realm.options).filter((name) => Object.hasOwn(given, name))
  if (fields.length === 0) return readAccount(realm, id)
  const allowed = Object.fromEntries(fields.map((name) => [name, given[name]]))

  // Again, since a session that a change of credentials kept is refused while that change commits.
  const outcome = await whileStale(async () => (await update(realm, { id, sessionId }, allowed)) ?? 'stale')

  if (outcome === 'stale') throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  if (typeof outcome === 'string') throw conflict(outcome)
  emit(realm, 'accountUpdate', { client, userId: id, sessionId, details: { fields: fields.join(' ') } })
  return outcome
}

async function update(
  realm: Realm,
  { id, sessionId }: Pick<Account, 'id' | 'sessionId'>,
  allowed: Record<string, unknown>,
): Promise<User | 'username_taken' | 'invalid' | null> {
  const { name, emailCanonical } = await newName(realm, id, allowed.username as string | undefined)
  const profile = realm.cleanProfile(allowed) as Record<string, unknown>
  return realm.storage.updateUser({ id, ...name, profile, fence: { sessionId, emailCanonical } })
}

async function newName(realm: Realm, id: UserId, username: string | undefined) {
  if (username === undefined) return { name: {} }
  // Whose address it would have to be matters to the few names that look like one.
  if (!username.normalize('NFKC').includes('@')) return { name: nameOf(realm.options, username, '') }
  const emailCanonical = addressOf(await readAccount(realm, id))
  return { name: nameOf(realm.options, username, emailCanonical), emailCanonical }
}

/**
 * Deletes one's own account, or disables it, as the option `account.delete` says. All sessions end.
 *
 * @throws {AccountsError} ACCOUNTS_PASSWORD_WRONG, ACCOUNTS_ACCOUNT_IN_USE, ACCOUNTS_TOKEN_INVALID
 */
async function deleteAccount(
  realm: Realm,
  account: Account,
  { password }: Static<typeof DeleteBody>,
  client: Client,
): Promise<void> {
  const user = await provePassword(realm, account, password, client)
  await realm.hooks.before('beforeDelete', { user, client })
  const mode = realm.options.account.delete === 'deactivate' ? 'deactivate' : 'row'
  const mails = noticesOf(realm, 'account_deleted', user, client)
  const outcome =
    mode === 'row'
      ? await deleteUser(realm, user, mails)
      : await changeCredentials(realm, user, { set: { active: false }, sessions: 'end', mails })
  // The account changed since the password was proved, and with it ended the session that asked.
  if (outcome === 'stale') throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  const { sessionId } = account
  emit(realm, 'accountDelete', { client, userId: user.id, sessionId, details: { mode, by: 'user' } })
}

/** `GET`, `PATCH`, `PUT` and `DELETE /auth/user/`. */
export function accountRoutes(realm: Realm): Route[] {
  const { account } = realm.options
  return [
    readRoute(realm),
    updateRoute(realm, 'PATCH'),
    updateRoute(realm, 'PUT'),
    ...(account.delete === false ? [] : [deleteRoute(realm)]),
  ]
}

const start = { name: 'user', path: '/auth/user/', guarded: true } as const

function accountBody(realm: Realm) {
  return Type.Object({ ...userFields(realm), email_verified: Type.Boolean() })
}

function shown(realm: Realm, user: User) {
  return { ...shownUser(realm, user), email_verified: user.emailVerifiedAt !== null }
}

function readRoute(realm: Realm): Route {
  return route({
    ...start,
    method: 'GET',
    summary: 'Read your own account',
    response: [200, accountBody(realm)],
    run: async ({ account }) => shown(realm, await readAccount(realm, account.id)),
  })
}

function updateRoute(realm: Realm, method: 'PATCH' | 'PUT'): Route {
  return route({
    ...start,
    method,
    summary: 'Change fields of your own account; what is left out stays',
    body: Type.Partial(Type.Object(changeableSchemas(realm))),
    response: [200, accountBody(realm)],
    refusals: ['ACCOUNTS_USERNAME_TAKEN'],
    run: async ({ body, account, client }) => shown(realm, await updateAccount(realm, account, body, client)),
  })
}

function changeableSchemas({ options }: Realm) {
  const { registration } = options
  const schemas = { username: Username, ...(registration ? registration.profile.properties : {}) }
  return Object.fromEntries(Object.entries(schemas).filter(([name]) => changeableFields(options).includes(name)))
}

function deleteRoute(realm: Realm): Route {
  return route({
    ...start,
    method: 'DELETE',
    summary: 'Delete your own account',
    body: DeleteBody,
    response: [204, Type.Null()],
    refusals: ['ACCOUNTS_PASSWORD_WRONG', 'ACCOUNTS_ACCOUNT_IN_USE', 'ACCOUNTS_TOO_MANY_REQUESTS'],
    hashes: true,
    endsLogin: true,
    run: ({ body, account, client }) => deleteAccount(realm, account, body, client),
  })
}
