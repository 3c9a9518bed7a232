import { realmOf } from '../../lib/accounts.ts'
import type { User } from '../../lib/contracts.ts'
import { noClient } from '../../lib/core/client.ts'
import type { Realm } from '../../lib/core/realm.ts'
import { startSession } from '../../lib/core/sessions.ts'
import type { Accounts } from '../../lib/index.ts'
import { sampleUser } from '../../lib/testing/samples.ts'

/** A token pair of a fresh session, without a log-in and its hash. */
export async function sessionFor(accounts: Accounts | Realm, user: User) {
  const client = { ...noClient, ip: '127.0.0.1', userAgent: 'test', network: '127.0.0.1' }
  const realm = 'ring' in accounts ? accounts : realmOf(accounts)
  const pair = await startSession(realm, user, client)
  if (!pair) throw new Error('A new session was refused.')
  const { sid } = claimsOf(pair.access)
  return { access: pair.access, refresh: pair.refresh as string, sessionId: sid as string }
}

/** A user that no other test knows, logged in. */
export async function newMember(accounts: Accounts) {
  const stored = await realmOf(accounts).storage.insertUser(sampleUser())
  if (typeof stored === 'string') throw new Error(`A new user was refused: ${stored}`)
  const user = (await realmOf(accounts).storage.findUserById(stored.id)) as User
  return { user, ...(await sessionFor(accounts, user)) }
}

/** What a token says, unverified. */
export function claimsOf(token: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString())
}
