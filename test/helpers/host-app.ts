import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { type MemoryMailer, memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import accounts, { type AccountsOptions } from '../../lib/index.ts'
import { clientOf, passwords, secret, type Teardown } from './app.ts'

/** The options of an app on the memory parts. */
export function memoryParts() {
  return { secret, passwords, storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
}

type Setup = (app: FastifyInstance) => unknown

/** A host that does things of its own before and after it registers the plugin, on the memory parts. */
export async function hostApp(
  t: Teardown,
  host: { before?: Setup; after?: Setup; options?: Partial<AccountsOptions>; server?: FastifyServerOptions },
) {
  const app = Fastify(host.server)
  t.teardown(() => app.close())
  const parts = memoryParts()
  await host.before?.(app)
  await app.register(accounts, { ...parts, ...host.options } as AccountsOptions)
  await host.after?.(app)
  await app.ready()
  return { app, mailer: parts.mailer, ...clientOf(app) }
}

type Host = ReturnType<typeof clientOf> & { mailer: MemoryMailer }

/** Calls the six routes and `GET /auth/user/`, each with its documented answer; answers the last token pair. */
export async function liveThrough(
  t: Test,
  { post, get, mailer }: Host,
  { email = 'ada@example.org', prefix = '' } = {},
): Promise<{ access: string; refresh: string }> {
  const [password, next] = ['correct horse', 'another horse']
  const registered = await post(`${prefix}/api/register/`, { username: email.split('@')[0], email, password })
  const first = await post(`${prefix}/api/login/`, { email, password })
  const second = await post(`${prefix}/auth/refresh/`, { refresh: first.body.refresh })
  const user = await get(`${prefix}/auth/user/`, second.body.access)
  const asked = await post(`${prefix}/auth/email_request/`, { email })
  const { token } = asked.body
  const checked = await post(`${prefix}/auth/check_otp/`, { token, otp: mailer.sent.at(-1)?.code })
  const reset = await post(`${prefix}/auth/reset_password/`, { token, new_password: next })
  const refused = await post(`${prefix}/api/login/`, { email, password })
  const last = await post(`${prefix}/api/login/`, { email, password: next })

  const id = user.body.id
  t.match(registered, { status: 201, body: { id, username: email.split('@')[0], email } })
  t.match(first, { status: 200, body: { access: String, refresh: String } })
  t.match(second, { status: 200, body: { access: String, refresh: String } })
  t.match(user, { status: 200, body: { id: Number, username: email.split('@')[0], email, email_verified: false } })
  t.match(asked, { status: 200, body: { message: 'Password reset link sent to email.', token: String } })
  t.match(checked, { status: 200, body: { message: 'OTP is valid.' } })
  t.match(reset, { status: 200, body: { message: 'Password has been reset successfully.' } })
  t.equal(refused.status, 401)
  t.equal(last.status, 200)
  return last.body
}
