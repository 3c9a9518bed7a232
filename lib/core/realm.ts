import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Accounts } from '../accounts.ts'
import type { Storage, UserId } from '../contracts.ts'
import { AccountsError } from '../errors.ts'
import { createUsers } from '../features/users.ts'
import { createGuards } from '../http/guards.ts'
import type { ResolvedOptions } from '../options/options.ts'
import type { Ports } from '../ports.ts'
import { clientOf, noClient } from './client.ts'
import { bounded } from './deadline.ts'
import { createHooks } from './events.ts'
import { hashQueue } from './hash-queue.ts'
import { healthOf } from './health.ts'
import { createPasswords } from './passwords.ts'
import { createRevocation } from './revocation.ts'
import type { Ring } from './secrets.ts'
import { startSession, type TokenPair } from './sessions.ts'
import { createTokens } from './tokens.ts'

type Members = Omit<Accounts, 'users' | 'startSession' | 'using' | 'health'>

/** Builds what `app.accounts` is, over the ports of one realm. */
export async function createRealm(
  scope: FastifyInstance,
  options: ResolvedOptions,
  ring: Ring,
  { storage, cache, mailer }: Ports,
): Promise<Accounts> {
  const { log } = scope
  const { clock } = options
  const tokens = await createTokens(scope, ring, options, storage.ids)
  const passwords = createPasswords(options.passwords, hashQueue, log)
  const revocation = createRevocation({ options, storage, cache, log, clock })
  const guards = createGuards({ options, storage, tokens, revocation, clock })
  const hooks = createHooks(log)
  const ports = { storage, cache, mailer, joined: false, pending: new Set<Promise<void>>() }
  const parts = { options, ring, tokens, passwords, revocation, hooks, log, clock, addHook: hooks.add }
  return withUseCases({ ...ports, ...parts, ...guards })
}

function withUseCases(members: Members): Accounts {
  const accounts: Accounts = Object.freeze({
    ...members,
    get users() {
      return users
    },
    startSession: (userId, request) => startFor(accounts, userId, request),
    using: (storage) => joining(members, storage),
    health: () => healthOf(accounts),
  } satisfies Accounts)
  const users = createUsers(accounts)
  return accounts
}

function joining(members: Members, storage: Storage): Accounts {
  if (typeof storage?.insertUser !== 'function') {
    throw new TypeError('fastify-accounts: using() takes a storage adapter such as kyselyStorage(trx)')
  }
  if (storage.ids !== members.storage.ids) {
    throw new TypeError(`fastify-accounts: using() takes a storage with ids of this realm: '${members.storage.ids}'`)
  }
  // Nobody may hear of an end that is still to be rolled back: the polls find it once it has committed.
  const revocation = { ...members.revocation, announce() {} }
  return withUseCases({ ...members, storage: bounded(storage, members.log), revocation, joined: true })
}

async function startFor(accounts: Accounts, userId: UserId, request?: FastifyRequest): Promise<TokenPair> {
  const user = await accounts.storage.findUserById(userId)
  const client = request ? clientOf(accounts, request) : noClient
  const tokens = user?.active ? await startSession(accounts, user, client) : null
  if (!tokens) throw new AccountsError('ACCOUNTS_NOT_FOUND')
  return tokens
}
