import { randomBytes } from 'node:crypto'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import { realmOf } from '../accounts.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../adapters/memory/index.ts'
import type { MemoryMailer } from '../adapters/memory/mailer.ts'
import type { User, UserId } from '../contracts.ts'
import { noClient } from '../core/client.ts'
import type { Realm } from '../core/realm.ts'
import { startSessionOf } from '../core/sessions.ts'
import { inputValidators, createUser as storeUser, type UserToCreate } from '../features/users.ts'
import { brandOf, render } from '../mail/render.ts'

export { cacheContract } from './cache.ts'
export { mailerContract } from './mailer.ts'
export { storageContract } from './storage.ts'

/** Options for the tests of a host: memory ports, a fresh secret, no limits. */
export function testOptions() {
  return {
    secret: randomBytes(32).toString('base64url'),
    storage: memoryStorage(),
    cache: memoryCache(),
    mailer: memoryMailer(),
    throttle: false as const,
  }
}

/** What `createUser` takes: everything has a default but the profile fields that your schema requires. */
export interface TestUser extends Partial<UserToCreate> {
  /** The realm. @default 'accounts' */
  name?: string
}

/**
 * Stores a user without the registration route, validated as `users.create` does. Without a `password` nobody can log
 * in by one.
 *
 * @throws {AccountsError} as `users.create` does
 */
export async function createUser(app: FastifyInstance, { name, ...given }: TestUser = {}): Promise<User> {
  const realm = realmIn(app, name)
  const unique = randomBytes(6).toString('hex')
  const usernames = realm.options.registration && realm.options.registration.username !== false
  const user = { ...(usernames && { username: `user-${unique}` }), email: `${unique}@example.org`, ...given }
  return storeUser(realm, inputValidators(realm).created(user), randomHash())
}

/** Starts a session for a user and returns the headers for `app.inject`; hashes nothing. */
export async function loginAs(
  app: FastifyInstance,
  userOrId: User | UserId,
  { name }: { name?: string } = {},
): Promise<{ authorization: string }> {
  const id = typeof userOrId === 'object' ? userOrId.id : userOrId
  const client = { ...noClient, ip: '127.0.0.1', userAgent: 'loginAs', network: '127.0.0.1' }
  const { access } = await startSessionOf(realmIn(app, name), id, client).catch((cause) => {
    throw new Error(problems[cause.code] ? `loginAs: user ${id} ${problems[cause.code]}` : cause.message, { cause })
  })
  return { authorization: `Bearer ${access}` }
}

const problems: Record<string, string> = {
  ACCOUNTS_NOT_FOUND: 'does not exist or is disabled',
  ACCOUNTS_EMAIL_UNVERIFIED: 'has not proved the address, as this realm asks: createUser(app, { verified: true })',
}

// Of the right shape, but of no password.
function randomHash(): string {
  const text = (bytes: number) => randomBytes(bytes).toString('base64').replaceAll('=', '')
  return `$argon2id$v=19$m=19456,t=2,p=1$${text(16)}$${text(32)}`
}

/**
 * Serves the mails of a `memoryMailer()` at `GET /dev/mailbox`, newest last: `[{ to, subject, text, html }]`.
 *
 * @throws {Error} with NODE_ENV=production, since anybody could read the codes there
 */
export const mailbox: FastifyPluginAsync<{ mailer: MemoryMailer }> = async (app, { mailer }) => {
  if (process.env.NODE_ENV === 'production') throw new Error('mailbox: not with NODE_ENV=production')
  app.get('/dev/mailbox', { schema: { response: {} } }, async () =>
    mailer.sent.map((message) => {
      const { subject, text, html } = render(message, brandOf(message.brand, 'Accounts'), {}, app.log)
      return { to: message.to, subject, text, html }
    }),
  )
}

function realmIn(app: FastifyInstance, name = 'accounts'): Realm {
  const accounts = (app as unknown as Record<string, object | undefined>)[name]
  if (!accounts) throw new TypeError(`fastify-accounts is not registered under the name "${name}"`)
  return realmOf(accounts)
}
