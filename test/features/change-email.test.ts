import t from 'tap'
import { memoryMailer } from '../../lib/adapters/memory/index.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import {
  accountActs,
  alive,
  backends,
  counted,
  dead,
  fateOf,
  type Host,
  newPassword,
  password,
  passwords,
  told,
} from '../helpers/account-acts.ts'
import { memoryApp, realApp, settableClock } from '../helpers/app.ts'
import { noPostgres, noRedis, startRedis, uniqueName, until } from '../helpers/helper.ts'
import { catchMails } from '../helpers/mail-catch.ts'
import { traceRedis } from '../helpers/redis-trace.ts'
import { wrong } from '../helpers/reset-flow.ts'

const address = () => `${uniqueName()}@example.org`

for (const { on, open, skip } of backends) {
  t.test(`changing one's e-mail address, on ${on}`, { skip }, async (t) => {
    const clock = settableClock()
    const host = await open(t, { passwords, clock })
    const acts = accountActs(host)
    const { member, newSession, rowOf, login, mailsTo, askReset, check, reset, userOf, post } = acts

    await t.test('[R-SES-7] [R-SES-9] a code goes to the new address, a notice to the old one', async (t) => {
      const [user, bystander] = [await member(), await member()]
      const second = await newSession(user.id)
      const before = await userOf(user.id)
      const email = `Ada.${address()}`

      const asked = await user.changeEmail(email)
      const mail = host.mailer.sent.at(-1)

      t.equal(asked.status, 200)
      t.strictSame(Object.keys(asked.body).sort(), ['message', 'token'])
      t.match(mail, { kind: 'change', to: email, code: /^\d{8}$/, token: null, url: null })
      t.notOk(JSON.stringify(mail).includes(asked.body.token), 'the token is not mailed')
      t.notOk(JSON.stringify(asked.body).includes(mail?.code ?? ''), 'the code is not answered')
      t.strictSame(await userOf(user.id), before, 'the address stays until it is confirmed')
      t.strictSame(mailsTo(user.email), [])
      t.strictSame(await fateOf(host, second), alive, 'and so does every session')

      clock.pass(1000)
      const confirmed = await user.confirmEmail({ token: asked.body.token, code: mail?.code ?? '' })

      t.strictSame([confirmed.status, Object.keys(confirmed.body)], [200, ['message']])
      const credentialVersion = before.credentialVersion + 1
      t.strictSame(await userOf(user.id), { ...before, email, credentialVersion, emailVerifiedAt: clock() })
      t.match((await user.read()).body, { email, email_verified: true })
      t.strictSame(mailsTo(user.email), ['email_changed'])
      t.strictSame(mailsTo(email), ['change'])
      t.strictSame(await fateOf(host, second), dead, 'every other session ended')
      t.strictSame(await fateOf(host, user), alive, 'the one that confirmed goes on')
      t.strictSame(await fateOf(host, bystander), alive)
      t.equal(told(await login(user.email)), '401 CREDENTIALS_INVALID')
      t.equal(told(await login(email.toUpperCase())), '200')
    })

    await t.test('[R-REG-2] a username that was the old address goes with it, another one stays', async (t) => {
      const [short, long] = [address().toUpperCase(), `${'x'.repeat(60)}@example.org`]
      for (const [email, expected] of [
        [short, short],
        [long, null],
      ] as const) {
        const [named, other] = [await member(), await member()]
        await named.patch({ username: named.email.toUpperCase() })
        const { username } = await userOf(other.id)

        t.equal(told(await named.confirmEmail(await named.askEmail(email))), '200')
        t.equal(told(await other.confirmEmail(await other.askEmail(address()))), '200')

        t.equal((await named.read()).body.username, expected)
        t.equal((await userOf(other.id)).username, username)
        const next = { username: named.email, email: named.email, password }
        t.equal(told(await post('/api/register/', next)), '201', 'whoever has the address next has the name')
      }
    })

    await t.test('the session that confirmed goes on through its refreshes', async (t) => {
      const user = await member()
      const first = await acts.refresh(user.refresh)
      const change = await user.askEmail(address())
      t.equal(told(await user.confirmEmail(change)), '200')

      const second = await acts.refresh(first.body.refresh)
      const third = await acts.refresh(second.body.refresh)

      t.strictSame([told(second), told(third)], ['200', '200'])
      t.strictSame(await fateOf(host, third.body), alive)
    })

    await t.test('another session of the user may confirm, and is then the one that stays', async (t) => {
      const user = await member()
      const second = await newSession(user.id)
      const change = await user.askEmail(address())

      t.equal(told(await second.confirmEmail(change)), '200')

      t.strictSame(await fateOf(host, second), alive)
      t.strictSame(await fateOf(host, user), dead)
    })

    await t.test('[R-SES-6] [R-SES-9] without the password nothing is asked for, ended or mailed', async (t) => {
      const user = await member()
      const [before, sent, email] = [await rowOf(user.id), host.mailer.sent.length, address()]

      t.equal(told(await user.changeEmail(email, 'a wrong password')), '403 PASSWORD_WRONG')
      for (const body of [undefined, {}, { email }, { email, password: null }, { new_email: email, password }]) {
        t.equal(told(await user.asked('POST', '/auth/change_email/', body)), '400 VALIDATION')
      }
      t.equal(told(await post('/auth/change_email/', { email, password })), '401 TOKEN_INVALID')

      t.equal(host.mailer.sent.length, sent)
      t.strictSame(await rowOf(user.id), before)
      t.strictSame(await fateOf(host, user), alive)
    })

    await t.test('[R-REG-5] what is no address is refused, and nothing is mailed', async (t) => {
      const user = await member()
      const sent = host.mailer.sent.length

      for (const email of ['a', 'a@b', '', '"a"@example.org', 'a@x.test, b@y.test', 'a@[127.0.0.1]', 7, null]) {
        const answer = await user.asked('POST', '/auth/change_email/', { email, password })
        t.equal(told(answer), '400 VALIDATION', String(email))
        t.match(answer.body.errors, [{ field: 'email' }])
      }

      t.equal(host.mailer.sent.length, sent)
    })

    await t.test('one’s own address may be respelled', async (t) => {
      const user = await member()
      const spelling = user.email.toUpperCase()

      t.equal(told(await user.confirmEmail(await user.askEmail(spelling))), '200')

      t.equal((await user.read()).body.email, spelling)
      t.strictSame(await fateOf(host, user), alive)
    })

    await t.test('[R-REG-4] of two changes each confirms its own address alone, in every order', async (t) => {
      for (const order of [
        ['a', 'b'],
        ['b', 'a'],
      ] as const) {
        for (const first of ['a', 'b'] as const) {
          const user = await member()
          const emails = { a: address(), b: address() }
          const asked = { [order[0]]: await user.askEmail(emails[order[0]]) } as Record<'a' | 'b', Change>
          asked[order[1]] = await user.askEmail(emails[order[1]])
          const last = first === 'a' ? 'b' : 'a'

          const crossed = await user.confirmEmail({ token: asked[first].token, code: asked[last].code })
          const back = await user.confirmEmail({ token: asked[last].token, code: asked[first].code })
          t.strictSame([told(crossed), told(back)], ['400 CODE_INVALID', '400 CODE_INVALID'])
          t.equal((await userOf(user.id)).email, user.email)

          t.equal(told(await user.confirmEmail(asked[first])), '200')
          t.equal((await userOf(user.id)).email, emails[first])
          for (const change of [asked[last], asked[first]]) {
            t.equal(told(await user.confirmEmail(change)), '400 CODE_INVALID', 'the other one died with it')
          }
          t.equal((await userOf(user.id)).email, emails[first])
        }
      }
    })

    await t.test('[R-REG-4] of two changes that are confirmed at once exactly one happens', async (t) => {
      for (let round = 0; round < 10; round++) {
        const user = await member()
        const emails = [address(), address()]
        const asked = [await user.askEmail(emails[0]!), await user.askEmail(emails[1]!)]
        const { credentialVersion } = await userOf(user.id)

        const answers = await Promise.all([...asked, ...asked].map((change) => user.confirmEmail(change)))

        const winner = answers.findIndex(({ status }) => status === 200) % 2
        t.strictSame(counted(answers), { 200: 1, '400 CODE_INVALID': 3 })
        const after = await userOf(user.id)
        t.strictSame([after.email, after.credentialVersion], [emails[winner], credentialVersion + 1])
        t.strictSame(mailsTo(user.email), ['email_changed'])
        t.strictSame(await fateOf(host, user), alive)
      }
    })

    await t.test('[R-ENUM-6] a taken address answers as a free one, and nobody is mailed', async (t) => {
      const [user, owner] = [await member(), await member()]
      const [before, sent] = [await rowOf(owner.id), host.mailer.sent.length]

      const taken = await user.changeEmail(owner.email.toUpperCase())
      const mailed = host.mailer.sent.length
      const free = await user.changeEmail(address())

      t.equal(mailed, sent)
      t.strictSame(plain(taken), plain(free))
      t.match(taken.body.token, /^[\w-]{22}\.[\w-]{43}$/)
      t.not(taken.body.token, free.body.token)
      t.equal(told(await user.confirmEmail({ token: taken.body.token, code: '12345678' })), '400 CODE_INVALID')
      t.strictSame(await rowOf(owner.id), before)
      t.strictSame(await fateOf(host, owner), alive)
    })

    await t.test('of two users who confirm one address exactly one gets it, the other is told', async (t) => {
      for (let round = 0; round < 10; round++) {
        const email = address()
        const both = [await member(), await member()]
        const asked = [await both[0]!.askEmail(email), await both[1]!.askEmail(email.toUpperCase())]
        const rows = [await rowOf(both[0]!.id), await rowOf(both[1]!.id)]

        const answers = await Promise.all(both.map((user, n) => user.confirmEmail(asked[n]!)))

        t.strictSame(counted(answers), { 200: 1, '409 EMAIL_TAKEN': 1 })
        const loser = answers.findIndex(({ status }) => status === 409)
        t.strictSame(await rowOf(both[loser]!.id), rows[loser])
        t.strictSame(mailsTo(both[loser]!.email), [])
        for (const user of both) t.strictSame(await fateOf(host, user), alive)
      }
    })

    await t.test(
      'an address that was registered meanwhile is refused, and the code outlives the refusal',
      async (t) => {
        const [user, email] = [await member(), address()]
        const change = await user.askEmail(email)
        const rival = await member({ email })

        t.equal(told(await user.confirmEmail(change)), '409 EMAIL_TAKEN')
        t.equal((await userOf(user.id)).email, user.email)
        t.equal(told(await rival.remove()), '204')

        t.equal(told(await user.confirmEmail(change)), '200')
      },
    )

    await t.test('[R-SES-4] another user’s token and code are no good, and stay good for their owner', async (t) => {
      const [user, thief] = [await member(), await member()]
      const before = await rowOf(thief.id)
      const change = await user.askEmail(address())

      t.equal(told(await thief.confirmEmail(change)), '400 CODE_INVALID')

      t.strictSame(await rowOf(thief.id), before)
      t.equal((await userOf(user.id)).email, user.email)
      t.equal(told(await post('/auth/confirm_email/', { token: change.token, otp: change.code })), '401 TOKEN_INVALID')
      t.equal(told(await user.confirmEmail(change)), '200')
    })

    await t.test('[R-OTP-3] after five wrong codes the right one is refused', async (t) => {
      const user = await member()
      const { token, code } = await user.askEmail(address())

      for (let guess = 0; guess < 5; guess++) {
        t.equal(told(await user.confirmEmail({ token, code: wrong(code) })), '400 CODE_INVALID')
      }

      t.equal(told(await user.confirmEmail({ token, code })), '400 CODE_INVALID')
      t.equal((await userOf(user.id)).email, user.email)
    })

    await t.test('[R-OTP-4] a code for a change lives an hour', async (t) => {
      // docs: "an hour (a change of address)"
      const [early, late] = [await member(), await member()]
      const [first, second] = [await early.askEmail(address()), await late.askEmail(address())]

      clock.pass(3_599_000)
      t.equal(told(await (await newSession(early.id)).confirmEmail(first)), '200')
      clock.pass(1000)
      t.equal(told(await (await newSession(late.id)).confirmEmail(second)), '400 CODE_INVALID')
    })

    await t.test('[R-SES-7] a pending change dies with a password reset', async (t) => {
      const user = await member()
      const change = await user.askEmail(address())
      const { token, code } = await askReset(user.email)
      t.strictSame([told(await check(token, code)), told(await reset(token))], ['200', '200'])
      const session = await newSession(user.id)

      t.equal(told(await session.confirmEmail(change)), '400 CODE_INVALID')
      t.equal((await userOf(user.id)).email, user.email)
    })

    await t.test('[R-OTP-6] no reset code or grant from before an e-mail change works after it', async (t) => {
      const user = await member()
      const [code, grant] = [await askReset(user.email), await askReset(user.email)]
      t.equal(told(await check(grant.token, grant.code)), '200')
      t.equal(told(await user.confirmEmail(await user.askEmail(address()))), '200')

      t.equal(told(await check(code.token, code.code)), '400 CODE_INVALID')
      for (const { token } of [code, grant]) t.equal(told(await reset(token)), '400 CODE_INVALID')
      t.strictSame(await fateOf(host, user), alive)
    })

    await t.test('[R-SES-1] of a confirmation and a password change at once, neither undoes the other', async (t) => {
      for (let round = 0; round < 10; round++) {
        const user = await member()
        const [second, email] = [await newSession(user.id), address()]
        const change = await user.askEmail(email)

        const [confirmed, changed] = await Promise.all([user.confirmEmail(change), second.changePassword()])

        const { email: stored } = await userOf(user.id)
        t.equal(stored, confirmed.status === 200 ? email : user.email)
        t.equal(told(await login(stored, changed.status === 200 ? newPassword : password)), '200')
        t.equal(told(await login(stored, changed.status === 200 ? password : newPassword)), '401 CREDENTIALS_INVALID')
        t.ok(['200', '400 CODE_INVALID', '401 TOKEN_INVALID'].includes(told(confirmed)), told(confirmed))
        t.ok(['200', '401 TOKEN_INVALID'].includes(told(changed)), told(changed))
        t.ok([confirmed, changed].some(({ status }) => status === 200))
        if (changed.status === 200) t.strictSame(await fateOf(host, user), dead)
      }
    })
  })

  t.test(`[R-OTP-7] no code or token works at another's door, on ${on}`, { skip }, async (t) => {
    const host = await open(t, { passwords, registration: { verifyEmail: true } })
    const purposes = ['reset', 'verify', 'change'] as const

    for (const purpose of purposes) {
      for (const door of purposes.filter((other) => other !== purpose)) {
        await t.test(`${purpose} at the door of ${door}`, async (t) => {
          const { codes, doors, stored, acts } = await pendingEverything(host)
          const before = await stored()

          const enter = doors[door]
          t.equal(told(await enter(codes[purpose])), '400 CODE_INVALID', 'its token and its code')
          const mixed = { token: codes[door].token, code: codes[purpose].code }
          t.equal(told(await enter(mixed)), '400 CODE_INVALID', 'its code with the right token')
          const turned = { token: codes[purpose].token, code: codes[door].code }
          t.equal(told(await enter(turned)), '400 CODE_INVALID', 'its token with the right code')
          t.equal(told(await acts.reset(codes[purpose].token)), '400 CODE_INVALID', 'before it is checked')
          t.strictSame(await stored(), before)

          t.equal(told(await doors[purpose](codes[purpose])), '200', 'at its own door it works all the same')
          t.equal(told(await enter(codes[purpose])), '400 CODE_INVALID', 'and at no other one afterwards')
          if (purpose !== 'reset') return
          t.equal(told(await acts.reset(codes.reset.token)), '200')
        })
      }
    }
  })
}

interface Change {
  token: string
  code: string
}

/** A user with one code of every purpose, and the doors that take them. */
async function pendingEverything(host: Host) {
  const acts = accountActs(host)
  const [email, next] = [address(), address()]
  const { body } = await acts.post('/api/register/', { username: uniqueName(), email, password })
  const verify = { token: body.token, code: host.mailer.sent.findLast(({ to }) => to === email)?.code ?? '' }
  const session = await acts.newSession(body.id)
  const codes = { verify, reset: await acts.askReset(email), change: await session.askEmail(next) }
  const doors = {
    reset: ({ token, code }: Change) => acts.check(token, code),
    verify: ({ token, code }: Change) => acts.post('/auth/verify_email/', { token, otp: code }),
    change: (change: Change) => session.confirmEmail(change),
  }
  return { acts, codes, doors, stored: () => acts.rowOf(body.id) }
}

/** An answer without what differs in every one. */
function plain({ status, headers: { date, ...headers }, body: { token, ...body } }: Awaited<ReturnType<Host['send']>>) {
  return { status, headers, body }
}

t.test('[R-SES-7] no option lets an address change before it is confirmed', async (t) => {
  const every: Partial<AccountsOptions>[] = [
    { registration: { verifyEmail: true } },
    { registration: { concealExisting: true } },
    { registration: false },
    { registration: { username: false } },
    { passwordReset: false },
    { refresh: { rotate: false } },
    { account: { fields: [], delete: 'deactivate' } },
    { account: { delete: false } },
    { revocation: 'storage' },
    { revocation: 'none' },
    { routes: { verifyEmail: false, resendVerification: false, user: false } },
    { eventLog: {} },
  ]

  for (const options of every) {
    await t.test(JSON.stringify(options), async (t) => {
      const host = await memoryApp(t, { passwords, ...options })
      const { member, userOf } = accountActs(host)
      const user = await member()
      const before = await userOf(user.id)
      const email = address()

      const change = await user.askEmail(email)

      t.strictSame(await userOf(user.id), before)
      t.equal(told(await user.confirmEmail({ ...change, code: wrong(change.code) })), '400 CODE_INVALID')
      t.strictSame(await userOf(user.id), before)
      t.equal(told(await user.confirmEmail(change)), '200')
      t.equal((await userOf(user.id)).email, email)
    })
  }
})

t.test('the work for a free and a taken address', { skip: noPostgres || noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const commands = await traceRedis(t, server.url)
  const clock = settableClock()
  const host = await realApp(t, { passwords, clock, redis: server.url, mailer: undefined })
  const { member } = accountActs({ ...host, mailer: memoryMailer() })
  const [user, owner] = [await member(), await member()]
  const free = address()
  // The first request counts the waiting jobs, which is done at most once a second.
  t.equal(told(await user.changeEmail(address())), '200')

  await t.test('[R-ENUM-6] it is alike: statements, commands and jobs, to the byte', async (t) => {
    const traces = []
    for (const email of [free, owner.email]) {
      host.statements.length = 0
      const { seen, result } = await commands(() => user.changeEmail(email))
      traces.push({ answer: told(result), seen, statements: [...host.statements] })
    }

    t.match(traces[0], {
      answer: '200',
      statements: [/accounts_users/, /accounts_users/, /^insert into "accounts_outbox"/],
    })
    t.ok(traces[0]?.seen.some((line) => line.startsWith('evalsha')))
    t.strictSame(traces[1], traces[0])
  })

  await t.test('[R-ENUM-6] only the free one gets a mail', async (t) => {
    const last = address()
    await user.changeEmail(last)
    const sent = catchMails(t, { redis: server.url, name: host.name })

    await until(() => sent.some(({ to }) => to === last))
    t.ok(sent.some(({ to }) => to === free))
    t.notOk(sent.some(({ to }) => to === owner.email))
  })
})
