import { randomBytes } from 'node:crypto'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import { realmOf } from '../accounts.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../adapters/memory/index.ts'
import type { MemoryMailer } from '../adapters/memory/mailer.ts'
import type { Profile, User, UserId } from '../contracts.ts'
import { noClient } from '../core/client.ts'
import { canonicalEmail } from '../core/email-address.ts'
import type { Realm } from '../core/realm.ts'
import { startSession } from '../core/sessions.ts'

import { canonicalUsername } from '../core/usernames.ts'
import { brandOf, render } from '../mail/render.ts'

export { cacheContract } from './cache.ts'
export { mailerContract } from './mailer.ts'
export { storageContract } from './storage.ts'

/** Options for the tests of a host: memory ports and a fresh secret. */
export function testOptions() {
  return {
    secret: randomBytes(32).toString('base64url'),
    storage: memoryStorage(),
    cache: memoryCache(),
    mailer: memoryMailer(),
  }
}

/** What `createUser` takes; everything has a default. */
export interface TestUser {
  username?: string
  email?: string
  /** Hashed when given; without it nobody can log in by password. */
  password?: string
  profile?: Profile
  role?: string
  /** Whether the address is proved. @default false */
  verified?: boolean
  /** The realm. @default 'accounts' */
  name?: string
}

/** Stores a user without the registration route. */
export async function createUser(app: FastifyInstance, given: TestUser = {}): Promise<User> {
  const { storage, passwords, clock } = realmIn(app, given.name)
  const unique = randomBytes(6).toString('hex')
  const { username = `user-${unique}`, email = `${unique}@example.org`, profile = {} as Profile } = given
  const emailCanonical = canonicalEmail(email)
  if (emailCanonical === null) throw new TypeError(`createUser: ${email} is not an e-mail address`)
  const now = clock()
  const user = {
    ...{ username, email, profile, credentialVersion: randomBytes(5).readUIntBE(0, 5), createdAt: now },
    ...{ emailVerifiedAt: given.verified ? now : null, role: given.role ?? null, expiresAt: null },
  }
  const stored = await storage.insertUser({
    ...user,
    usernameCanonical: canonicalUsername(username),
    emailCanonical,
    passwordHash: given.password === undefined ? randomHash() : await passwords.hash(given.password),
  })
  if (typeof stored === 'string') throw new Error(`createUser: ${stored}`)
  return { ...user, id: stored.id, active: true }
}

/** Starts a session for a user and answers the headers for `app.inject`; hashes nothing. */
export async function loginAs(
  app: FastifyInstance,
  userOrId: User | UserId,
  { name }: { name?: string } = {},
): Promise<{ authorization: string }> {
  const realm = realmIn(app, name)
  const id = typeof userOrId === 'object' ? userOrId.id : userOrId
  const user = await realm.storage.findUserById(id)
  const client = { ...noClient, ip: '127.0.0.1', userAgent: 'loginAs', network: '127.0.0.1' }
  const tokens = user && (await startSession(realm, user, client))
  if (!tokens) throw new Error(`loginAs: no active user ${id}`)
  return { authorization: `Bearer ${tokens.access}` }
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
