import type { Test } from 'tap'
import { createUser } from '../../lib/testing/index.ts'
import { type Host, kindsTo, passwords, type Tokens, told } from './account-acts.ts'
import { type Answer, accountsOf, bearer, requestsBy } from './app.ts'
import { uniqueName } from './helper.ts'
import { sessionFor } from './members.ts'

export { passwords }

/** Who registers. */
export interface Person {
  email: string
  password: string
  username?: string
  company?: string
}

/** What came of an act that may mail a code, which only who reads the mailbox knows. */
export interface Mailed {
  answer: Answer
  token: string
  code: string
}

export const newAddress = () => `${uniqueName()}@example.org`

/** The acts of those who register and prove addresses, by `inject`. */
export function verificationActs(host: Host) {
  const accounts = accountsOf(host)
  const requests = requestsBy(host.send)
  const post = (url: string, payload: object, access?: string) =>
    requests.post(url, payload, access ? bearer(access) : {})

  /** The answer of an act, with the code that it mailed to an address; one of zeros when there is none. */
  async function mailed(to: string, act: Promise<Answer>): Promise<Mailed> {
    const before = host.mailer.sent.length
    const answer = await act
    const mails = host.mailer.sent.slice(before).filter((mail) => mail.to.toLowerCase() === to.toLowerCase())
    return { answer, token: answer.body.token, code: mails.find(({ code }) => code !== null)?.code ?? '00000000' }
  }

  async function reset(email: string, new_password: string): Promise<Answer> {
    const { token, code } = await mailed(email, post('/auth/email_request/', { email }))
    await post('/auth/check_otp/', { token, otp: code })
    return post('/auth/reset_password/', { token, new_password })
  }

  return {
    accounts,
    post,
    reset,
    register: ({ username = uniqueName(), ...person }: Person) =>
      mailed(person.email, post('/api/register/', { username, ...person })),
    resend: (email: string, token?: string) => mailed(email, post('/auth/resend_verification/', { email, token })),
    verify: ({ token, code }: Pick<Mailed, 'token' | 'code'>) => post('/auth/verify_email/', { token, otp: code }),
    login: async (email: string, password: string) => told(await post('/api/login/', { email, password })),
    find: (email: string) => accounts.users.find({ email }),
    /** Tokens without a login; of a user who is not proved, as they are left of the days before `verifyEmail`. */
    async session(email: string): Promise<Tokens> {
      const user = await accounts.users.find({ email })
      if (!user) throw new Error('There is no such user.')
      const { access, refresh } = await sessionFor(accounts, user)
      return { access, refresh }
    },
    /** An account that nobody has proved, as it is left of the days before `concealExisting`. */
    unproved: ({ email, password, username = uniqueName() }: Omit<Person, 'company'>) =>
      createUser(host.app, { name: host.name ?? 'accounts', email, password, username }),
    /** Asks for another address of a logged-in user, whose mail goes to `to`. */
    askEmail: (to: string, access: string, password: string) =>
      mailed(to, post('/auth/change_email/', { email: to, password }, access)),
    confirmEmail: ({ token, code }: Mailed, access: string) =>
      post('/auth/confirm_email/', { token, otp: code }, access),
    mailsTo: (email: string) => kindsTo(host, email),
  }
}

/** Guesses wrong until the token's tries are used up. */
export async function exhaust(
  { verify }: Pick<ReturnType<typeof verificationActs>, 'verify'>,
  { token, code }: Mailed,
) {
  const wrong = code === '11111111' ? '22222222' : '11111111'
  for (let guess = 0; guess < 6; guess++) await verify({ token, code: wrong })
}

/**
 * An address that an attacker registers before its owner does, with everything that he can get hold of: `unproved`
 * where nothing is stored before the proof, and the account is an older one.
 */
export async function hijack(host: Host, how: 'registered' | 'unproved' = 'registered') {
  const { register, resend, session, askEmail, unproved } = verificationActs(host)
  const [email, own] = [newAddress(), `${uniqueName()}@evil.example`]
  const attacker = { email, password: 'what the attacker knows', username: uniqueName() }
  if (how === 'unproved') await unproved(attacker)
  const first = await register(attacker)
  const tokens = await session(email)
  const codes = [first, await resend(email, first.token), await resend(email)]
  const pending = await askEmail(own, tokens.access, attacker.password)
  return { ...attacker, own, tokens, codes, pending }
}

/** Checks that nothing an attacker got hold of works any more, in his sessions and in one of the owner. */
export async function lostAll(t: Test, host: Host, loot: Awaited<ReturnType<typeof hijack>>, owner: Tokens) {
  const { login, post, verify, confirmEmail, resend, find } = verificationActs(host)
  const { email, password, tokens, pending, codes } = loot
  t.equal(await login(email, password), '401 CREDENTIALS_INVALID', 'the password')
  t.equal((await host.send({ url: '/auth/user/', headers: bearer(tokens.access) })).status, 401, 'the access token')
  t.equal((await post('/auth/refresh/', { refresh: tokens.refresh })).status, 401, 'the refresh token')
  for (const { access } of [tokens, owner]) {
    t.not((await confirmEmail(pending, access)).status, 200, 'the pending e-mail change')
  }
  for (const code of codes) t.equal(told(await verify(code)), '400 CODE_INVALID', 'the code of each token')
  for (const code of codes) {
    const { code: digits } = await resend(email, code.token)
    t.equal(digits, '00000000', 'no token brings another code')
  }
  t.equal((await find(email))?.email, email)
  t.equal((await host.send({ url: '/auth/user/', headers: bearer(owner.access) })).status, 200, 'and the owner is in')
}
