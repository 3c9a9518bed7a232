import fc from 'fast-check'
import t, { type Test } from 'tap'
import Type from 'typebox'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache, memoryMailer } from '../../lib/adapters/memory/index.ts'
import type { NewCode } from '../../lib/contracts.ts'
import { AccountsError } from '../../lib/errors.ts'
import { createUser } from '../../lib/testing/index.ts'
import { accountActs, backends, counted, type Host, told } from '../helpers/account-acts.ts'
import { type Answer, memoryApp, realApp, settableClock } from '../helpers/app.ts'
import { noPostgres, rounds, uniqueName } from '../helpers/helper.ts'
import { exhaust, hijack, lostAll, newAddress, passwords, verificationActs } from '../helpers/verification-acts.ts'
import { type Act, actsOf, playOut } from '../helpers/verification-model.ts'

const password = 'a password of my own'
const later = 'another one of my own'
const hour = 3_600_000
const profile = Type.Object({ company: Type.Optional(Type.String()) })
const registration = { concealExisting: true, profile }

// Real hashes, on a machine that may be busy.
t.setTimeout(300_000)

/** A registration that meets each thing that there may be. */
const meetings: Record<string, (host: Host) => Promise<{ email: string; username: string }>> = {
  nothing: async () => ({ email: newAddress(), username: uniqueName() }),
  'a verified account': async ({ app, name }) => addressOf(await createUser(app, { name, verified: true })),
  'its username too': async ({ app, name }) => {
    const { email, username } = await createUser(app, { name, verified: true })
    return { email, username: username as string }
  },
  'an account that is not proved': async ({ app, name }) => addressOf(await createUser(app, { name })),
  'another registration': async (host) => {
    const email = newAddress()
    await verificationActs(host).register({ email, password })
    return { email, username: uniqueName() }
  },
  'a username': async ({ app, name }) => {
    const { username } = await createUser(app, { name, verified: true })
    return { email: newAddress(), username: username as string }
  },
  'a disabled account': async (host) => {
    const user = await createUser(host.app, { name: host.name, verified: true })
    await verificationActs(host).accounts.users.disable(user.id)
    return addressOf(user)
  },
  'a disabled account that is not proved': async (host) => {
    const user = await createUser(host.app, { name: host.name })
    await verificationActs(host).accounts.users.disable(user.id)
    return addressOf(user)
  },
}

function addressOf({ email }: { email: string }) {
  return { email, username: uniqueName() }
}

for (const { on, open, skip } of backends) {
  t.test(`registration that conceals what exists, on ${on}`, { skip }, async (t) => {
    const clock = settableClock()
    const host: Host = await open(t, { passwords, clock, registration })
    const acts = verificationActs(host)
    const { register, verify, resend, reset, login, session, find, mailsTo, post, accounts, unproved } = acts

    await t.test('[R-ENUM-5] whatever a registration meets, it answers alike', async (t) => {
      const answers: [string, Answer][] = []
      for (const [what, meet] of Object.entries(meetings)) {
        answers.push([what, await post('/api/register/', { ...(await meet(host)), password })])
      }
      const racers = { email: newAddress(), password }
      const race = Array.from({ length: 2 }, () => post('/api/register/', { ...racers, username: uniqueName() }))
      for (const answer of await Promise.all(race)) answers.push(['a race', answer])

      const [, first] = answers[0]!
      t.equal(first.status, 202)
      t.strictSame(first.body, { message: 'Check your e-mail to go on.', token: first.body.token })
      for (const [what, answer] of answers) t.strictSame(faceOf(answer), faceOf(first), what)
      t.equal(new Set(answers.map(([, { body }]) => body.token)).size, answers.length)
    })

    await t.test('[R-ENUM-4] the tokens of all of them guess alike', async (t) => {
      for (const [what, meet] of Object.entries(meetings)) {
        const { token } = await register({ ...(await meet(host)), password })

        const answers: Answer[] = []
        for (let guess = 0; guess < 7; guess++) answers.push(await verify({ token, code: '00000000' }))

        t.strictSame(counted(answers), { '400 CODE_INVALID': 7 }, what)
      }
    })

    await t.test('[R-ENUM-5] what is refused for other reasons is refused alike', async (t) => {
      const refusals = [
        { password: 'short' },
        { password: 'x'.repeat(2000) },
        { email: 'nobody' },
        { username: '\u0000' },
        { company: 1 },
      ]
      for (const wrong of refusals) {
        const answers: Answer[] = []
        for (const meet of Object.values(meetings)) {
          const { status, body, headers } = await post('/api/register/', { ...(await meet(host)), password, ...wrong })
          const { date, ...others } = headers
          answers.push({ status, body, headers: others })
        }

        t.equal(answers[0]?.status, 400)
        for (const answer of answers) t.strictSame(answer, answers[0])
      }
    })

    await t.test(
      '[R-ENUM-5] of 20 parallel registrations of one address none is stored, and all are mailed a code',
      async (t) => {
        const email = newAddress()
        const people = Array.from({ length: 20 }, (_, n) => ({
          email,
          username: uniqueName(),
          password: `${password} ${n}`,
        }))

        const answers = await Promise.all(people.map((person) => post('/api/register/', person)))

        for (const answer of answers) t.strictSame(faceOf(answer), faceOf(answers[0]!))
        t.strictSame(counted(answers), { 202: 20 })
        t.equal(await find(email), null)
        t.strictSame(mailsTo(email), Array(20).fill('verify'), 'each of them may be the owner')
        t.equal((await verify(await register(people[7]!))).status, 200)
        t.equal((await find(email))?.username, people[7]?.username, 'the proof decides whose name the account has')
        const users = await accounts.users.list({ limit: 1000 })
        t.equal(users.filter((user) => user.email === email).length, 1)
      },
    )

    await t.test(
      '[R-ENUM-5] of 20 parallel registrations of one username the first that is proved has it',
      async (t) => {
        const username = uniqueName()
        const people = Array.from({ length: 20 }, () => ({ email: newAddress(), username, password }))
        const registered = await Promise.all(people.map(register))
        t.strictSame(counted(registered.map(({ answer }) => answer)), { 202: 20 })
        for (const { email } of people) t.strictSame(mailsTo(email), ['verify'])

        const answers = await Promise.all(registered.map(verify))

        t.strictSame(counted(answers), { 200: 20 })
        const users = await Promise.all(people.map(({ email }) => find(email)))
        t.equal(users.filter((user) => user?.username === username).length, 1)
        t.equal(users.filter((user) => user?.username === null).length, 19)
        const email = newAddress()
        await register({ email, username, password })
        t.strictSame(mailsTo(email), ['username_taken'])
      },
    )

    await t.test('[R-ENUM-5] whether a username is free tells nothing of the address that it came with', async (t) => {
      const { member } = accountActs(host)
      const { 'its username too': _both, 'a username': _taken, ...addresses } = meetings
      for (const [what, meet] of Object.entries(addresses)) {
        const [first, second] = [await meet(host), await meet(host)]
        await register({ ...first, password })
        await register({ ...second, password })
        const [bystander, own] = [await member(), newAddress()]

        const changed = await bystander.patch({ username: first.username })
        await register({ email: own, username: second.username, password })

        t.equal(told(changed), '200', what)
        t.strictSame(mailsTo(own), ['verify'], what)
      }
    })

    await t.test('[R-ENUM-5] the owner of a verified account hears of registrations once a day', async (t) => {
      // docs: "once a day, that there is an account already"
      const { email } = await createUser(host.app, { name: host.name, verified: true, password })
      const before = await find(email)
      const exists = () => mailsTo(email).filter((kind) => kind === 'account_exists').length
      // The start of a day of the clock, so that the hours below are of one.
      clock.pass(24 * hour - (clock() % (24 * hour)))

      for (let day = 1; day <= 3; day++) {
        for (let time = 0; time < 3; time++) {
          await Promise.all([register({ email, password: later }), register({ email: email.toUpperCase(), password })])
          clock.pass(hour)
        }
        t.equal(exists(), day)
        clock.pass(21 * hour)
      }

      t.strictSame(new Set(mailsTo(email)), new Set(['account_exists']), 'and of nothing else')
      t.strictSame(await find(email), before, 'the account is as it was')
      t.equal(await login(email, password), '200')
      t.equal(await login(email, later), '401 CREDENTIALS_INVALID')
    })

    await t.test('the notice of an existing account has no code and no token', async (t) => {
      const { email } = await createUser(host.app, { name: host.name, verified: true })
      const { token } = await register({ email, password })

      const mail = host.mailer.sent.find(({ to }) => to === email)

      t.strictSame([mail?.kind, mail?.code, mail?.token, mail?.url], ['account_exists', null, null, null])
      t.notMatch(JSON.stringify(mail), token)
    })

    await t.test('a username that is taken is told by mail, and nothing is stored', async (t) => {
      const taken = await createUser(host.app, { name: host.name, verified: true })
      const email = newAddress()
      const { answer, token } = await register({ email, username: taken.username?.toUpperCase(), password })
      t.equal(answer.status, 202)

      t.strictSame(mailsTo(email), ['username_taken'])
      t.equal(await find(email), null)
      t.strictSame(mailsTo(taken.email), [], 'whose name it is hears nothing')
      t.equal((await resend(email, token)).code, '00000000')
      const again = await register({ email, password })
      t.equal((await verify(again)).status, 200)
      t.equal(await login(email, password), '200')
    })

    await t.test('[R-ENUM-9] log-in answers the plain 401 to an account that is not proved', async (t) => {
      const email = newAddress()
      const { token, code } = await register({ email, password })
      const created = await createUser(host.app, { name: host.name, password })
      const tries = {
        right: [email, password],
        wrong: [email, later],
        unknown: [newAddress(), password],
        created: [created.email, password],
      } as const

      const answers: [string, Answer][] = []
      for (const [what, [address, typed]] of Object.entries(tries)) {
        answers.push([what, await post('/api/login/', { email: address, password: typed })])
      }

      t.equal(answers[0]?.[1].body.code, 'ACCOUNTS_CREDENTIALS_INVALID')
      for (const [what, { status, body, headers }] of answers) {
        const { date, ...others } = answers[0]![1].headers
        t.strictSame(
          { status, body, headers: { ...headers, date } },
          { status: 401, body: answers[0]![1].body, headers: { ...others, date } },
          what,
        )
      }
      t.equal((await verify({ token, code })).status, 200)
      t.equal(await login(email, password), '200')
    })

    await t.test('[R-ENUM-7] a resend answers alike for every address, with any token', async (t) => {
      const answers: [string, Answer][] = []
      for (const [what, meet] of Object.entries(meetings)) {
        const { email, username } = await meet(host)
        const { token } = await register({ email, username, password })
        for (const sent of [undefined, token, `${'A'.repeat(22)}.${'A'.repeat(43)}`, 'x']) {
          answers.push([`${what}, ${sent}`, (await resend(email, sent)).answer])
        }
      }

      const [, first] = answers[0]!
      t.equal(first.status, 200)
      t.strictSame(first.body, { message: 'Verification code sent to email.', token: first.body.token })
      for (const [what, answer] of answers) t.strictSame(faceOf(answer), faceOf(first), what)
    })

    await t.test('[R-REG-3] an honest proof of a first registration keeps its password', async (t) => {
      const [email, username] = [newAddress(), uniqueName()]
      const mine = await register({ email, username, company: 'mine', password })
      t.equal(await find(email), null, 'which is when the account comes into being')

      t.equal((await verify(mine)).status, 200)

      t.equal(await login(email, password), '200')
      const user = await find(email)
      t.strictSame([user?.username, user?.profile], [username, { company: 'mine' }])
    })

    await t.test('a registration whose username somebody has by its proof is proved all the same', async (t) => {
      const [email, username] = [newAddress(), uniqueName()]
      const mine = await register({ email, username, company: 'mine', password })
      const other = await accountActs(host).member({ username })

      t.equal((await verify(mine)).status, 200)

      t.equal(await login(email, password), '200')
      const user = await find(email)
      t.strictSame([user?.username, user?.profile], [null, { company: 'mine' }])
      t.equal((await find(other.email))?.username, username)
    })

    await t.test('the mails of a registration name the username that it wants, the later ones too', async (t) => {
      const [email, username] = [newAddress(), uniqueName()]
      const { token } = await register({ email, username, password })
      const { token: fresh } = await resend(email, token)
      await resend(email, fresh)

      const named = host.mailer.sent.filter(({ to }) => to === email).map(({ user }) => user.username)

      t.strictSame(named, [username, username, username])
    })

    await t.test('[R-REG-3] the token of another account brings nothing of its registration', async (t) => {
      const verified = await createUser(host.app, { name: host.name, verified: true })
      for (const own of [newAddress(), verified.email]) {
        const email = newAddress()
        const older = await unproved({ email, password })
        const others = await register({ email: own, company: 'evil', password: later })
        const second = await resend(email, others.token)
        const third = await resend(email, second.token)

        t.equal((await verify(third)).status, 200)

        t.equal(await login(email, later), '401 CREDENTIALS_INVALID')
        t.equal(await login(email, password), '401 CREDENTIALS_INVALID')
        const user = await find(email)
        t.strictSame([user?.username, user?.profile], [older.username, {}])
        const fresh = newAddress()
        await register({ email: fresh, password })
        t.equal((await resend(fresh, others.token)).code, '00000000')
      }
    })

    await t.test('[R-REG-3] a later registration of the owner takes the account over when it is proved', async (t) => {
      const loot = await hijack(host, 'unproved')
      const username = uniqueName()
      const mine = await register({ email: loot.email, username, password: later })
      t.not((await find(loot.email))?.username, username, 'to register changes nothing')

      t.equal((await verify(mine)).status, 200)

      t.equal(await login(loot.email, later), '200')
      const user = await find(loot.email)
      t.strictSame([user?.username, user?.profile], [username, {}], 'nothing of the attacker is left')
      await lostAll(t, host, loot, await session(loot.email))
      t.equal(await login(loot.email, later), '200')
    })

    await t.test('[R-REG-3] so it does by a chain of resends after an exhausted code', async (t) => {
      const loot = await hijack(host, 'unproved')
      const [username, company] = [uniqueName(), 'mine']
      const mine = await register({ email: loot.email, username, company, password: later })
      await exhaust(acts, mine)
      const second = await resend(loot.email, mine.token)
      await exhaust(acts, second)
      const third = await resend(loot.email, second.token)

      t.equal((await verify(third)).status, 200)

      t.equal(await login(loot.email, later), '200')
      const user = await find(loot.email)
      t.strictSame([user?.username, user?.profile], [username, { company }])
      await lostAll(t, host, loot, await session(loot.email))
    })

    await t.test('[R-REG-3] so do a resend without the token, and a reset', async (t) => {
      for (const proof of [async (email: string) => verify(await resend(email)), async () => ({ status: 200 })]) {
        const loot = await hijack(host, 'unproved')
        const mine = await register({ email: loot.email, password })
        t.equal((await proof(loot.email)).status, 200)

        t.equal((await reset(loot.email, later)).status, 200)

        t.equal(told(await verify(mine)), '400 CODE_INVALID', 'a registration before the proof has come to nothing')
        t.equal(await login(loot.email, password), '401 CREDENTIALS_INVALID')
        await lostAll(t, host, loot, await session(loot.email))
        t.equal(await login(loot.email, later), '200')
      }
    })

    await t.test('a later registration whose username is taken brings its password all the same', async (t) => {
      const email = newAddress()
      const older = await unproved({ email, password })
      const taken = await createUser(host.app, { name: host.name, verified: true })
      const mine = await register({ email, username: taken.username as string, company: 'mine', password: later })

      t.equal((await verify(mine)).status, 200)

      t.equal(await login(email, later), '200')
      t.equal(await login(email, password), '401 CREDENTIALS_INVALID')
      const user = await find(email)
      t.strictSame([user?.username, user?.profile], [older.username, { company: 'mine' }])
      t.equal((await find(taken.email))?.username, taken.username)
    })

    await t.test('[R-REG-3] nothing that others register comes between a registration and its proof', async (t) => {
      const [email, username] = [newAddress(), uniqueName()]
      const mine = await register({ email, username, company: 'mine', password })

      for (let round = 0; round < 5; round++) {
        const others = await register({ email, company: 'evil', password: later })
        await exhaust(acts, await resend(email, others.token))
        await exhaust(acts, await resend(email))
        await exhaust(acts, others)
        await register({ email, username, password: later })
      }

      t.equal((await verify(mine)).status, 200)
      t.equal(await login(email, password), '200')
      t.equal(await login(email, later), '401 CREDENTIALS_INVALID')
      const user = await find(email)
      t.strictSame([user?.username, user?.profile], [username, { company: 'mine' }])
    })

    await t.test('of proofs by two registrations at once one counts, whole', async (t) => {
      for (let round = 0; round < 5; round++) {
        const email = newAddress()
        const people = [password, later].map((typed) => ({ email, username: uniqueName(), password: typed }))
        const [one, other] = [await register(people[0]!), await register(people[1]!)]

        const answers = await Promise.all([verify(one), verify(other)])

        t.strictSame(counted(answers), { 200: 1, '400 CODE_INVALID': 1 })
        const [winner, loser] = answers[0].status === 200 ? people : people.toReversed()
        t.equal(await login(email, winner!.password), '200')
        t.equal(await login(email, loser!.password), '401 CREDENTIALS_INVALID')
        t.equal((await find(email))?.username, winner?.username)
      }
    })

    await t.test('a registration that met an account which is gone by its proof makes one', async (t) => {
      const email = newAddress()
      const { id, credentialVersion } = await unproved({ email, password: later })
      const mine = await register({ email, password })
      // As the purge removes it.
      await realmOf(accounts).storage.deleteUser({ userId: id, fence: credentialVersion, now: clock(), mails: [] })

      t.equal((await verify(mine)).status, 200)

      t.equal(await login(email, password), '200')
      t.equal(await login(email, later), '401 CREDENTIALS_INVALID')
    })
  })
}

t.test('[R-REG-3] whatever an attacker and an owner do, the proof of the mailbox decides', async (t) => {
  await stories(t, memoryApp, rounds(100, 25))
})

t.test('[R-REG-3] so it does on PostgreSQL and Redis', { skip: noPostgres }, async (t) => {
  await stories(t, realApp, rounds(15, 5))
})

async function stories(t: Test, open: typeof memoryApp | typeof realApp, numRuns: number): Promise<void> {
  const clock = settableClock()
  const host: Host = await open(t, { passwords, clock, registration })
  await fc.assert(
    fc.asyncProperty(actsOf, async (acts: Act[]) => playOut(host, clock, acts)),
    { numRuns },
  )
  t.pass(`in ${numRuns} stories`)
}

t.test('[R-ENUM-5] what is stored has one size, whatever a registration meets and brings', async (t) => {
  const sizes: number[] = []
  const cache = memoryCache()
  function put(code: NewCode, now: number) {
    sizes.push(...code.records.map(({ subject }) => subject.length))
    return cache.put(code, now)
  }
  const parts = { cache: { ...cache, put } }
  const host: Host = await memoryApp(t, { passwords, registration, ...parts })
  const { register, resend } = verificationActs(host)
  /** The sizes of what a registration and a resend with its token store. */
  async function sizesOf(person: { email: string; username: string }, bytes: number) {
    sizes.length = 0
    const { token } = await register({ ...person, password, company: 'x'.repeat(bytes) })
    await resend(person.email, token)
    return sizes.splice(0)
  }

  const seen: [string, number[]][] = []
  for (const [what, meet] of Object.entries(meetings)) seen.push([what, await sizesOf(await meet(host), 6000)])

  t.equal(seen[0]?.[1].length, 2, 'a code each')
  for (const [what, one] of seen) t.strictSame(one, seen[0]?.[1], what)

  const { email } = await createUser(host.app, { email: newAddress(), verified: true })
  // Every size near the one where the next step of the padding begins.
  for (let bytes = 0; bytes < 1024; bytes += 4) {
    const known = await sizesOf({ email, username: uniqueName() }, bytes)
    const unknown = await sizesOf({ email: newAddress(), username: uniqueName() }, bytes)
    if (known.join() !== unknown.join()) t.fail(`${bytes} bytes: ${known} and ${unknown}`)
  }
})

t.test('a registration is 503, whatever it meets, while the cache or the queue is down', async (t) => {
  const down = async () => {
    throw new AccountsError('ACCOUNTS_UNAVAILABLE')
  }
  const parts = [{ cache: { ...memoryCache(), put: down } }, { mailer: { ...memoryMailer(), send: down } }]
  for (const part of parts) {
    const host: Host = await memoryApp(t, { registration, ...part })
    const known = await createUser(host.app, { verified: true })
    for (const email of [newAddress(), known.email]) {
      const answer = await verificationActs(host).post('/api/register/', { email, username: uniqueName(), password })
      t.equal(told(answer), '503 UNAVAILABLE')
    }
    t.equal((await verificationActs(host).accounts.users.list()).length, 1)
  }
})

t.test('concealExisting without verifyEmail is an error at boot', async (t) => {
  const boot = memoryApp(t, { registration: { concealExisting: true, verifyEmail: false } })

  await t.rejects(boot, { name: 'TypeError', message: /option "registration.verifyEmail" must not be false/ })
})

t.test('a username may be left out where it is optional, and a proof takes that over too', async (t) => {
  const options = { concealExisting: true, username: 'optional' as const }
  const host = await memoryApp(t, { passwords, registration: options })
  const { post, verify, find } = verificationActs(host)
  const email = newAddress()
  await post('/api/register/', { email, username: uniqueName(), password: later })
  const { body } = await post('/api/register/', { email, password })
  const code = host.mailer.sent.at(-1)?.code as string

  t.equal((await verify({ token: body.token, code })).status, 200)

  t.equal((await find(email))?.username, null)
})

/** What a client sees of an answer, but for its token and the time. */
function faceOf({ status, headers, body }: Answer) {
  const { date, ...others } = headers
  return { status, headers: others, names: Object.keys(body), message: body.message, token: body.token.length }
}
