import Fastify from 'fastify'
import { memoryMailer } from '../../lib/adapters/memory/index.ts'
import plugin, { type Accounts, type AccountsOptions } from '../../lib/index.ts'
import { type Answer, clientOf, passwords, secret, type Teardown } from './app.ts'
import { uniqueName } from './helper.ts'

export const password = 'the old password'
export const newPassword = 'the new password'

interface Requests {
  post(url: string, body: unknown, headers?: Record<string, string>): Promise<Answer>
  get(url: string, access?: string): Promise<Answer>
}

interface Sent {
  to: string
  code: string | null
  token: string | null
}

/** The acts of a user on the way to a new password, over any client; codes are read from `sent`. */
export function resetActs({ post, get }: Requests, sent: readonly Sent[]) {
  const check = (token: unknown, otp: unknown) => post('/auth/check_otp/', { token, otp })
  async function ask(email: string) {
    const { status, body } = await post('/auth/email_request/', { email })
    if (status !== 200) throw new Error(`email_request answered ${status}`)
    const mail = sent.findLast(({ to, code }) => code !== null && to.toLowerCase() === email.toLowerCase())
    return { token: body.token as string, code: mail?.code ?? '', linkToken: mail?.token ?? null }
  }
  return {
    post,
    get,
    check,
    ask,
    /** Registers a user and answers the address. */
    async enrol(email = `${uniqueName()}@example.com`) {
      const { status, body } = await post('/api/register/', { username: uniqueName(), email, password })
      if (status !== 201) throw new Error(`register answered ${status}`)
      return { id: body.id as number, email }
    },
    /** Asks for a code, types it and answers the token that now may reset. */
    async grant(email: string) {
      const { token, code } = await ask(email)
      const { status } = await check(token, code)
      if (status !== 200) throw new Error(`check_otp answered ${status}`)
      return { token, code }
    },
    reset: (token: unknown, new_password: unknown = newPassword) =>
      post('/auth/reset_password/', { token, new_password }),
    login: (email: string, typed = password) => post('/api/login/', { email, password: typed }),
    refresh: (refresh: string) => post('/auth/refresh/', { refresh }),
  }
}

/** An instance of a host with the parts that are given; mails are kept unless a mailer is given. */
export async function instance(t: Teardown, options: Partial<AccountsOptions>) {
  const mailer = memoryMailer()
  const app = Fastify()
  await app.register(plugin, { secret, passwords, mailer, ...options } as AccountsOptions)
  t.teardown(() => app.close())
  const accounts = (app as unknown as Record<string, Accounts>)[options.name ?? 'accounts']!
  return { app, accounts, mailer, ...resetActs(clientOf(app), mailer.sent) }
}

/** A code that differs from the given one in its last digit. */
export function wrong(code: string): string {
  return code.slice(0, -1) + ((Number(code.at(-1)) + 1) % 10)
}
