import type { AccountsOptions } from '../../lib/index.ts'
import { type Answer, newPassword, openApp, password, type Teardown } from './app.ts'
import { despiteLoad, uniqueName } from './helper.ts'

export { newPassword, password }

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
  /** Asks for a code and returns it with its token; a code of zeros when there is no mail. */
  async function ask(email: string) {
    const { body } = await despiteLoad(async () => {
      const answer = await post('/auth/email_request/', { email })
      if (answer.status === 200) return answer
      throw Object.assign(new Error(`email_request answered ${answer.status}`), { code: answer.body.code })
    })
    const mail = sent.findLast(({ to, code }) => code !== null && to.toLowerCase() === email.toLowerCase())
    return { token: body.token as string, code: mail?.code ?? '00000000', linkToken: mail?.token ?? null }
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

/** An app with the parts that are given, and the acts of its users. */
export async function instance(t: Teardown, options: Partial<AccountsOptions>) {
  const opened = await openApp(t, options)
  return { ...opened, ...resetActs(opened, opened.mailer.sent) }
}

/** A code that differs from the given one in its last digit. */
export function wrong(code: string): string {
  return code.slice(0, -1) + ((Number(code.at(-1)) + 1) % 10)
}
