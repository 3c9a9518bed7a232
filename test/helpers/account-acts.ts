import { hash } from '@node-rs/argon2'
import type { FastifyInstance, InjectOptions } from 'fastify'
import { realmOf } from '../../lib/accounts.ts'

import type { MemoryMailer } from '../../lib/adapters/memory/index.ts'
import type { User, UserId } from '../../lib/contracts.ts'
import type { AnyKysely } from '../../lib/options/ports.ts'
import {
  type Answer,
  accountsOf,
  bearer,
  memoryApp,
  newPassword,
  password,
  passwords,
  realApp,
  requestsBy,
} from './app.ts'
import { noPostgres, stores, uniqueName } from './helper.ts'
import { sessionFor } from './members.ts'
import { resetActs } from './reset-flow.ts'

export { newPassword, password, passwords }

/** Where the account routes are tried. */
export const backends = stores([
  { on: 'memory', open: memoryApp, skip: false as const },
  { on: 'PostgreSQL and Redis', open: realApp, skip: noPostgres },
])

export interface Host {
  app: FastifyInstance
  name?: string
  mailer: MemoryMailer
  db?: AnyKysely
  send(request: InjectOptions): Promise<Answer>
}

export interface Tokens {
  access: string
  refresh: string
}

/** Of `password`, hashed once for all members. */
const passwordHash = hash(password, passwords.argon2)

/** The acts of logged-in users on their accounts, by `inject`. */
export function accountActs(host: Host) {
  const accounts = accountsOf(host)
  const { post, login, refresh, ask, check, reset } = resetActs(requestsBy(host.send), host.mailer.sent)

  /** A user with `password` and a verified address, without a hash of its own. */
  async function newUser(given: { email?: string; username?: string; profile?: Record<string, unknown> } = {}) {
    const { email = `${uniqueName()}@example.org`, username = uniqueName(), profile = {} } = given
    const user = { email, username, profile, passwordHash: await passwordHash, verified: true }
    const [stored] = await accounts.users.import([user])
    if (!stored || 'refused' in stored) throw new Error(`A new user was refused: ${JSON.stringify(stored)}`)
    return (await realmOf(accounts).storage.findUserById(stored.id)) as User
  }
  /** A further session of a user, without a log-in. */
  const newSession = async (id: UserId) => actsOf(host, await sessionFor(accounts, await userOf(id)))
  async function userOf(id: UserId): Promise<User> {
    const user = await realmOf(accounts).storage.findUserById(id)
    if (!user) throw new Error(`There is no user ${id}.`)
    return user
  }
  return {
    accounts,
    newUser,
    newSession,
    userOf,
    /** A new user, logged in. */
    async member(given: Parameters<typeof newUser>[0] = {}) {
      const user = await newUser(given)
      return { id: user.id, email: user.email, username: user.username as string, ...(await newSession(user.id)) }
    },
    /** All that is stored of a user itself, null when there is no row. */
    rowOf: (id: UserId): Promise<Record<string, unknown> | null> => (host.db ? rowIn(host.db, id) : memoryRow(id)),
    login,
    refresh,
    post,
    check,
    reset,
    askReset: ask,
    /** Kinds of the mails that went to an address. */
    mailsTo: (email: string) => kindsTo(host, email),
  }

  async function memoryRow(id: UserId) {
    const user = await realmOf(accounts).storage.findUserWithPassword(id)
    return user && { ...user }
  }
}

async function rowIn(db: AnyKysely, id: UserId) {
  const row = await db.selectFrom('accounts_users').selectAll().where('id', '=', id).executeTakeFirst()
  return row ?? null
}

/** What one session can do. */
function actsOf(host: Host, { access, refresh, sessionId }: Tokens & { sessionId: string }) {
  const headers = bearer(access)
  const asked = (method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE', url: string, payload?: unknown) =>
    host.send({ method, url, headers, payload: payload as object })
  return {
    ...{ access, refresh, sessionId, asked },
    read: () => asked('GET', '/auth/user/'),
    patch: (body: unknown) => asked('PATCH', '/auth/user/', body),
    put: (body: unknown) => asked('PUT', '/auth/user/', body),
    remove: (typed = password) => asked('DELETE', '/auth/user/', { password: typed }),
    changePassword: (typed = password, next = newPassword) =>
      asked('POST', '/auth/change_password/', { current_password: typed, new_password: next }),
    changeEmail: (email: string, typed = password) => asked('POST', '/auth/change_email/', { email, password: typed }),
    /** Asks for another address and answers the code with its token. */
    async askEmail(email: string) {
      const { status, body } = await asked('POST', '/auth/change_email/', { email, password })
      if (status !== 200) throw new Error(`change_email answered ${status}`)
      return { token: body.token as string, code: lastCode(host, email) }
    },
    confirmEmail: ({ token, code }: { token: string; code: string }) =>
      asked('POST', '/auth/confirm_email/', { token, otp: code }),
  }
}

/** The code in the last mail to an address; no code of eight digits when there is none. */
function lastCode({ mailer }: Host, email: string): string {
  return mailer.sent.findLast(({ to, code }) => to === email && code !== null)?.code ?? '00000000'
}

/** The kinds of the mails that went to an address. */
export function kindsTo({ mailer }: Pick<Host, 'mailer'>, email: string): string[] {
  return mailer.sent.filter(({ to }) => to === email).map(({ kind }) => kind)
}

/** The status and the code of an answer. */
export function told({ status, body }: Answer): string {
  return body?.code ? `${status} ${body.code.replace('ACCOUNTS_', '')}` : String(status)
}

/** How often each kind of answer came. */
export function counted(answers: Answer[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const answer of answers) counts[told(answer)] = (counts[told(answer)] ?? 0) + 1
  return counts
}

/**
 * What becomes of a session's tokens: `[guarded route, refresh]`. The route is one that does not read the user, so that
 * the guard alone decides.
 */
export async function fateOf(host: Host, { access, refresh }: Tokens): Promise<[string, string]> {
  const { get, post } = requestsBy(host.send)
  return [told(await get('/auth/sessions/', access)), told(await post('/auth/refresh/', { refresh }))]
}

export const dead = ['401 TOKEN_INVALID', '401 TOKEN_INVALID']
export const alive = ['200', '200']
