import fc from 'fast-check'
import t from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache } from '../../lib/adapters/memory/index.ts'
import { purge } from '../../lib/core/housekeeping.ts'
import { alive, backends, counted, dead, fateOf, told } from '../helpers/account-acts.ts'
import { memoryApp, settableClock } from '../helpers/app.ts'
import { rounds, uniqueName } from '../helpers/helper.ts'
import { exhaust, hijack, lostAll, newAddress, passwords, verificationActs } from '../helpers/verification-acts.ts'
import { type Act, actsOf, playOut } from '../helpers/verification-model.ts'

const password = 'a password of my own'
const later = 'another one of my own'
const hour = 3_600_000
const registration = { verifyEmail: true }

// Real hashes, on a machine that may be busy.
t.setTimeout(300_000)

for (const { on, open, skip } of backends) {
  t.test(`e-mail verification, on ${on}`, { skip }, async (t) => {
    const clock = settableClock()
    const host = await open(t, { passwords, clock, registration })
    const acts = verificationActs(host)
    const { register, verify, resend, reset, login, session, find, post, accounts } = acts

    await t.test('register answers a token, and the mail has the code alone', async (t) => {
      const email = newAddress()

      const { answer, token, code } = await register({ email, password })

      t.equal(answer.status, 201)
      t.strictSame(Object.keys(answer.body).sort(), ['email', 'id', 'token', 'username'])
      t.match(token, /^[\w-]{22}\.[\w-]{43}$/)
      const mails = host.mailer.sent.filter(({ to }) => to === email)
      t.strictSame(
        mails.map(({ kind, code, token, url, minutes }) => ({ kind, code, token, url, minutes })),
        [{ kind: 'verify', code, token: null, url: null, minutes: 1440 }],
      )
      t.match(code, /^\d{8}$/)
      t.notMatch(JSON.stringify(mails), token)
    })

    await t.test('[R-ENUM-9] before the proof only the right password learns that it is missing', async (t) => {
      const email = newAddress()
      await register({ email, password })

      t.equal(await login(email, password), '403 EMAIL_UNVERIFIED')
      t.equal(await login(email, later), '401 CREDENTIALS_INVALID')
    })

    await t.test('[R-REG-3] an honest proof keeps the password that came with the registration', async (t) => {
      const email = newAddress()
      const mine = await register({ email, password })
      const tokens = await session(email)

      const answer = await verify(mine)

      t.equal(answer.status, 200)
      t.strictSame(answer.body, { message: 'E-mail address has been verified.' })
      t.equal(await login(email, password), '200')
      t.strictSame(await fateOf(host, tokens), alive, 'as it keeps the sessions')
      t.equal((await find(email))?.emailVerifiedAt, clock())
      t.equal(told(await verify(mine)), '400 CODE_INVALID', 'a code works once')
    })

    await t.test('a resend with the token of the registration keeps the password, link by link', async (t) => {
      const email = newAddress()
      const first = await register({ email, password })
      await exhaust(acts, first)
      t.equal(told(await verify(first)), '400 CODE_INVALID', 'the first code is exhausted')
      const second = await resend(email.toUpperCase(), first.token)
      clock.pass(hour)
      const third = await resend(email, second.token)
      await exhaust(acts, third)
      const fourth = await resend(email, third.token)

      t.equal((await verify(fourth)).status, 200)

      t.equal(await login(email, password), '200')
      t.equal(new Set([first, second, third, fourth].map(({ token }) => token)).size, 4)
    })

    await t.test('a proof by an earlier code of a chain keeps the password, and kills the later ones', async (t) => {
      const email = newAddress()
      const first = await register({ email, password })
      const second = await resend(email, first.token)

      t.equal((await verify(first)).status, 200)

      t.equal(told(await verify(second)), '400 CODE_INVALID')
      t.equal(await login(email, password), '200')
    })

    await t.test('[R-REG-3] a proof by a resend without the token discards password and sessions', async (t) => {
      const email = newAddress()
      const first = await register({ email, password })
      const tokens = await session(email)

      const bare = await resend(email)
      t.equal(await login(email, password), '403 EMAIL_UNVERIFIED', 'to ask changes nothing')
      t.equal((await verify(bare)).status, 200)

      t.equal(await login(email, password), '401 CREDENTIALS_INVALID')
      t.equal(await login(email, ''), '401 CREDENTIALS_INVALID')
      t.strictSame(await fateOf(host, tokens), dead)
      t.equal(told(await verify(first)), '400 CODE_INVALID')
      t.equal((await reset(email, later)).status, 200)
      t.equal(await login(email, later), '200', 'a reset gets the owner in')
    })

    await t.test('[R-REG-3] a token that the registration did not answer keeps no password', async (t) => {
      const used = await register({ email: newAddress(), password })
      await verify(used)
      const reset = await post('/auth/email_request/', { email: newAddress() })
      const foreign = {
        others: (await register({ email: newAddress(), password })).token,
        used: used.token,
        decoys: (await resend(newAddress())).token,
        resets: reset.body.token as string,
        malformed: 'x',
        empty: '',
      }

      for (const [what, token] of Object.entries(foreign)) {
        const email = newAddress()
        await register({ email, password })
        const again = await resend(email, token)
        t.equal(again.answer.status, 200, what)
        t.equal((await verify(again)).status, 200, what)
        t.equal(await login(email, password), '401 CREDENTIALS_INVALID', what)
      }
    })

    await t.test('[R-REG-3] a chain of resends that began without the token keeps no password', async (t) => {
      const email = newAddress()
      await register({ email, password })
      const bare = await resend(email)

      t.equal((await verify(await resend(email, bare.token))).status, 200)

      t.equal(await login(email, password), '401 CREDENTIALS_INVALID')
    })

    await t.test('[R-OTP-7] a code for one thing proves no mailbox, and a proof resets no password', async (t) => {
      const email = newAddress()
      const mine = await register({ email, password })
      const { body } = await post('/auth/email_request/', { email })
      const code = host.mailer.sent.findLast(({ kind, to }) => kind === 'reset' && to === email)?.code as string

      t.equal(told(await verify({ token: body.token, code })), '400 CODE_INVALID')
      t.equal(told(await post('/auth/check_otp/', { token: mine.token, otp: mine.code })), '400 CODE_INVALID')
      t.equal(told(await post('/auth/reset_password/', { token: mine.token, new_password: later })), '400 CODE_INVALID')

      t.equal((await verify(mine)).status, 200, 'and the right one still works')
    })

    await t.test(
      '[R-REG-3] a reset by the owner takes everything from who registered the address before',
      async (t) => {
        const loot = await hijack(host)

        t.equal((await reset(loot.email, later)).status, 200)

        t.equal(await login(loot.email, later), '200')
        await lostAll(t, host, loot, await session(loot.email))
        t.equal(await login(loot.email, later), '200')
      },
    )

    await t.test('[R-REG-3] so does a proof by a resend of the owner', async (t) => {
      const loot = await hijack(host)

      t.equal((await verify(await resend(loot.email))).status, 200)
      t.equal((await reset(loot.email, later)).status, 200)

      await lostAll(t, host, loot, await session(loot.email))
      t.equal(await login(loot.email, later), '200')
    })

    await t.test('[R-REG-3] nothing that others ask for comes between a registration and its proof', async (t) => {
      const email = newAddress()
      const mine = await register({ email, password })

      for (let round = 0; round < 3; round++) {
        const { answer } = await register({ email, password: later })
        t.equal(told(answer), '409 EMAIL_TAKEN')
        const bare = await resend(email)
        await exhaust(acts, await resend(email, bare.token))
        await exhaust(acts, bare)
        await post('/auth/email_request/', { email })
      }

      t.equal((await verify(mine)).status, 200)
      t.equal(await login(email, password), '200')
      t.equal(await login(email, later), '401 CREDENTIALS_INVALID')
    })

    await t.test('of 20 parallel proofs, one by each token and many by one, exactly one is done', async (t) => {
      const email = newAddress()
      const mine = await register({ email, password })
      const [again, bare] = [await resend(email, mine.token), await resend(email)]

      const tokens = Array.from({ length: 20 }, (_, index) => [mine, again, bare][index % 3] as typeof mine)
      const answers = await Promise.all(tokens.map(verify))

      t.strictSame(counted(answers), { 200: 1, '400 CODE_INVALID': 19 })
      const winner = tokens[answers.findIndex(({ status }) => status === 200)]
      t.equal(await login(email, password), winner === bare ? '401 CREDENTIALS_INVALID' : '200')
    })

    await t.test('a proof that races a reset keeps one password at most, that of the winner', async (t) => {
      for (let round = 0; round < 5; round++) {
        const email = newAddress()
        const mine = await register({ email, password })

        const [proof, change] = await Promise.all([verify(mine), reset(email, later)])

        const won = change.status === 200
        t.equal(won || proof.status === 200, true)
        t.equal(await login(email, password), won ? '401 CREDENTIALS_INVALID' : '200')
        t.equal(await login(email, later), won ? '200' : '401 CREDENTIALS_INVALID')
      }
    })

    await t.test('[R-REF-5] a session of an address that is not proved is not refreshed, until it is', async (t) => {
      const email = newAddress()
      const mine = await register({ email, password })
      const tokens = await session(email)

      t.strictSame(await fateOf(host, tokens), ['200', '401 TOKEN_INVALID'])

      await verify(mine)
      t.strictSame(await fateOf(host, tokens), alive)
    })

    await t.test('a disabled account proves nothing', async (t) => {
      const email = newAddress()
      const mine = await register({ email, password })
      const user = await find(email)
      await accounts.users.disable(user!.id)

      t.equal(told(await verify(mine)), '400 CODE_INVALID')
      t.equal((await resend(email, mine.token)).code, '00000000', 'nor is it mailed a code')
      await accounts.users.enable(user!.id)
      t.equal(told(await verify(mine)), '400 CODE_INVALID', 'also later')
      t.equal((await find(email))?.emailVerifiedAt, null)
    })

    await t.test('a code lives 24 hours', async (t) => {
      // docs: "24 hours (a verification)"
      const [email, other] = [newAddress(), newAddress()]
      const [mine, late] = [await register({ email, password }), await register({ email: other, password })]

      clock.pass(24 * hour - 1)
      t.equal((await verify(mine)).status, 200)
      clock.pass(1)
      t.equal(told(await verify(late)), '400 CODE_INVALID')
    })

    await t.test(
      '[R-REG-3] an account that is not proved expires, and frees its address and its username',
      async (t) => {
        const person = { email: newAddress(), username: uniqueName(), password }
        const first = await register(person)
        // docs: "within 24 hours of its registration"
        const before = (await find(person.email))?.id
        clock.pass(24 * hour - 1)
        await purge(realmOf(accounts))
        t.equal((await find(person.email))?.id, before, 'not a moment before')

        clock.pass(1)
        await purge(realmOf(accounts))

        t.equal(await find(person.email), null)
        t.equal(await login(person.email, password), '401 CREDENTIALS_INVALID')
        const second = await register({ ...person, password: later })
        t.equal(second.answer.status, 201)
        const again = await resend(person.email, first.token)
        t.equal(told(await verify(first)), '400 CODE_INVALID', 'the code of the expired one')
        t.equal((await verify(second)).status, 200)
        t.equal(told(await verify(again)), '400 CODE_INVALID')
        t.equal(await login(person.email, later), '200')
      },
    )

    await t.test('[R-REG-3] a token of an expired account keeps nothing of the next one of that address', async (t) => {
      const email = newAddress()
      const first = await register({ email, password })
      clock.pass(12 * hour)
      const second = await resend(email, first.token)
      clock.pass(12 * hour)
      await purge(realmOf(accounts))
      await register({ email, password: later })

      const third = await resend(email, second.token)
      t.equal(told(await verify(second)), '400 CODE_INVALID')
      t.equal((await verify(third)).status, 200)

      t.equal(await login(email, later), '401 CREDENTIALS_INVALID')
      t.equal(await login(email, password), '401 CREDENTIALS_INVALID')
    })

    await t.test('[R-REG-3] proved accounts stay, and so does one that ever had a session', async (t) => {
      type Proof = (mine: Awaited<ReturnType<typeof register>>, email: string) => Promise<unknown>
      const proofs: Record<string, Proof> = {
        verified: (mine) => verify(mine),
        reset: (_, email) => reset(email, later),
        session: (_, email) => session(email),
      }

      for (const [what, proof] of Object.entries(proofs)) {
        const email = newAddress()
        await proof(await register({ email, password }), email)
        for (let days = 0; days < 60; days += 20) {
          clock.pass(20 * 24 * hour)
          await purge(realmOf(accounts))
        }
        t.ok(await find(email), what)
      }
    })
  })
}

t.test('[R-REG-3] whatever an attacker and an owner do, the proof of the mailbox decides', async (t) => {
  const clock = settableClock()
  const host = await memoryApp(t, { passwords, clock, registration })

  await fc.assert(
    fc.asyncProperty(actsOf, async (acts: Act[]) => playOut(host, clock, acts)),
    { numRuns: rounds(100, 25) },
  )
  t.pass('in 100 stories')
})

t.test('[R-REG-3] a code that was issued before another proof is dead, even if the cache kept it', async (t) => {
  const cache = { ...memoryCache(), burn: async () => {} }
  const host = await memoryApp(t, { passwords, cache, registration: { concealExisting: true } })
  const { register, verify, resend, reset, login } = verificationActs(host)
  const email = newAddress()
  const mine = await register({ email, password })
  const others = [await register({ email, password: later }), await resend(email), await resend(email, mine.token)]
  t.equal((await verify(mine)).status, 200)

  for (const other of others) t.equal(told(await verify(other)), '400 CODE_INVALID')

  t.equal(await login(email, password), '200')
  t.equal((await reset(email, later)).status, 200)
  t.equal(told(await verify(mine)), '400 CODE_INVALID')
  t.equal(await login(email, later), '200')
})

t.test('without verifyEmail registration answers no token and the routes do not exist', async (t) => {
  const host = await memoryApp(t, { passwords })
  const email = newAddress()

  const { status, body } = await host.post('/api/register/', { username: uniqueName(), email, password })

  t.equal(status, 201)
  t.notOk('token' in body)
  t.strictSame(host.mailer.sent, [])
  for (const url of ['/auth/verify_email/', '/auth/resend_verification/', '/auth/resend_verification']) {
    t.equal((await host.post(url, { email })).status, 404)
  }
  t.equal((await host.post('/api/login/', { email, password })).status, 200)
})
