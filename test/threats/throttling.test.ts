// Before the first import of argon2.
import '../helpers/counted-argon2.ts'
import { randomBytes } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import type { InjectOptions } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import { hashQueue, hashSlots } from '../../lib/core/hash-queue.ts'
import { sweepOutbox } from '../../lib/core/outbox.ts'
import { createTallies } from '../../lib/core/tallies.ts'
import { AccountsError } from '../../lib/errors.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import {
  type Answer,
  bearer,
  memoryApp,
  openApp,
  openDatabase,
  requestsBy,
  secret,
  settableClock,
  startServer,
} from '../helpers/app.ts'
import { calls } from '../helpers/counted-argon2.ts'
import { fillHashQueue } from '../helpers/hash-queue.ts'
import { noPostgres, noRedis, redisUrl, rounds, startRedis, uniqueName, until } from '../helpers/helper.ts'
import { newPassword, password, resetActs } from '../helpers/reset-flow.ts'

const limited = { statusCode: 429, code: 'ACCOUNTS_TOO_MANY_REQUESTS' }
const home = '192.0.2.1'
const minute = 60_000

/** The acts of a client at an address. */
function actsFrom({ send, mailer }: Awaited<ReturnType<typeof memoryApp>>, remoteAddress: string) {
  const requests = requestsBy((request: InjectOptions) => send({ remoteAddress, ...request }))
  return resetActs(requests, mailer.sent)
}

async function open(t: Test, options: Partial<AccountsOptions> = {}) {
  const clock = settableClock()
  const app = await memoryApp(t, { throttle: {}, clock, ...options })
  const from = (address: string) => actsFrom(app, address)
  return { ...app, clock, from, atHome: from(home) }
}

function statuses(answers: Answer[]): Record<number, number> {
  const counts: Record<number, number> = {}
  for (const { status } of answers) counts[status] = (counts[status] ?? 0) + 1
  return counts
}

function times<T>(count: number, act: (index: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, index) => act(index)))
}

async function inTurn<T>(count: number, act: (index: number) => Promise<T>): Promise<T[]> {
  const all: T[] = []
  for (let index = 0; index < count; index++) all.push(await act(index))
  return all
}

t.test('[R-THR-1] 200 parallel wrong logins make as many hashes as the limit', async (t) => {
  const { atHome } = await open(t)
  const { email } = await atHome.enrol()
  calls.length = 0

  const answers = await times(200, () => atHome.login(email, 'a wrong password'))

  t.same(statuses(answers), { 401: 10, 429: 190 })
  t.equal(calls.length, 10)
})

t.test('[R-THR-1] two processes share a budget', { skip: noPostgres || noRedis }, async (t) => {
  const { url } = await openDatabase(t)
  const OPTIONS = JSON.stringify({ name: uniqueName(), throttle: {} })
  const settings = { DATABASE_URL: url, REDIS_URL: redisUrl(), OPTIONS }
  const servers = await times(2, () => startServer(t, settings))
  const email = `${uniqueName()}@example.org`
  const registered = await servers[0]!.post('/api/register/', { username: uniqueName(), email, password })
  t.equal(registered.status, 201)

  const guess = (n: number) => servers[n % 2]!.post('/api/login/', { email, password: 'a wrong password' })
  const answers = await times(200, guess)
  // A busy machine answers some of them with a 503; they are asked again until the budget is used up.
  while (answers.at(-1)?.status !== 429) answers.push(await guess(answers.length))

  const { 401: compared = 0, 429: limited = 0, 503: busy = 0, ...others } = statuses(answers)
  t.same(others, {})
  t.ok(
    compared <= 10 && compared + busy >= 10 && limited > 150,
    `${compared} compared, ${limited} limited, ${busy} busy`,
  )
  t.equal((await servers[1]!.post('/api/login/', { email, password })).status, 429)
})

t.test('[R-THR-2] one budget per account, whatever the spelling and the route', async (t) => {
  const { atHome, send } = await open(t)
  const { email } = await atHome.enrol('Owner@Example.org')
  const { access } = (await atHome.login(email)).body
  const wrong = 'a wrong password'
  const inside = (method: 'POST' | 'DELETE', url: string, payload: object) =>
    send({ method, url, payload, headers: bearer(access), remoteAddress: home })
  const tries = [
    () => atHome.login('owner@example.org', wrong),
    () => atHome.login('OWNER@EXAMPLE.ORG', wrong),
    () => inside('POST', '/auth/change_password/', { current_password: wrong, new_password: password }),
    () => inside('POST', '/auth/change_email/', { email: 'other@example.org', password: wrong }),
    () => inside('DELETE', '/auth/user/', { password: wrong }),
  ]

  const answers = await inTurn(20, (n) => tries[n % tries.length]!())

  t.same(statuses(answers), { 401: 4, 403: 6, 429: 10 })
  t.equal((await atHome.login(email)).status, 429)
})

t.test('[R-THR-3] a botnet does not shut the owner out', async (t) => {
  const { from, atHome, clock } = await open(t)
  const { email } = await atHome.enrol()
  t.equal((await atHome.login(email)).status, 200)
  calls.length = 0
  const all = rounds(10, 3)
  for (let round = 0; round < all; round++) {
    clock.pass(10 * minute)
    const answers = await times(1000, (n) => from(`10.${round}.${n >> 8}.${n & 255}`).login(email, 'a wrong password'))
    t.ok(answers.every(({ status }) => status === 401 || status === 429))
  }
  t.ok(calls.length >= 50 && calls.length < 130, `${calls.length} hashes for ${all},000 guesses`)

  t.equal((await atHome.login(email)).status, 200, 'from a known network at the first try')

  const abroad = from('198.51.100.7')
  t.equal((await abroad.login(email)).status, 429)
  const { token } = await abroad.grant(email)
  t.equal((await abroad.reset(token)).status, 200)
  t.equal((await abroad.login(email, 'the new password')).status, 200, 'from a new one after a reset')
  t.equal((await atHome.login(email, 'the new password')).status, 429, 'a reset forgets all other networks')
})

t.test('[R-THR-3] strangers without end do not keep the owner waiting', async (t) => {
  const { from, atHome } = await open(t)
  const { email } = await atHome.enrol()
  t.equal((await atHome.login(email)).status, 200)
  const { waiting } = hashQueue.size()

  for (const [where, places, crowd] of [
    ['before the queue', Number.POSITIVE_INFINITY, 300],
    ['in the queue', hashSlots, 40],
  ] as const) {
    const leave = fillHashQueue(places)
    const answered: string[] = []
    const guesses = times(crowd, async (n) => {
      await from(`10.0.${n >> 8}.${n & 255}`).login(`${uniqueName()}@example.org`, 'a wrong password')
      answered.push('stranger')
    })
    if (places === hashSlots) await until(() => hashQueue.size().waiting === waiting + crowd)
    const own = atHome.login(email).then(({ status }) => answered.push(`owner ${status}`))
    if (places === hashSlots) await until(() => hashQueue.size().waiting === waiting + crowd + 1)

    await leave()
    await Promise.all([guesses, own])

    const before = answered.indexOf('owner 200')
    t.ok(before >= 0 && before < crowd / 4, `${before} of ${crowd} strangers ${where} were served before the owner`)
  }
})

t.test('[R-ENUM-8] [R-THR-5] an unknown address is counted, and refused, as a known one', async (t) => {
  const { from, atHome } = await open(t)
  const { email } = await atHome.enrol()
  const told = async (address: string, network: string) => {
    const answers = await inTurn(12, () => from(network).login(address, 'a wrong password'))
    return answers.map(({ status, body, headers }) => [status, body, headers['retry-after']])
  }

  const known = await told(email, '203.0.113.1')
  const unknown = await told('nobody@example.org', '203.0.113.2')

  t.same(known, unknown)
  t.match(known[10], [429, { ...limited, error: 'Too Many Requests' }, '90'])
})

t.test('[R-THR-3] slower and slower, and never closed', async (t) => {
  const { atHome, clock } = await open(t)
  const { email } = await atHome.enrol()
  await inTurn(10, () => atHome.login(email, 'a wrong password'))
  const waits: number[] = []
  for (let round = 0; round < 6; round++) {
    const { status, headers } = await atHome.login(email, 'a wrong password')
    t.equal(status, 429)
    waits.push(Number(headers['retry-after']))
    clock.pass(waits.at(-1)! * 1000)
    t.equal((await atHome.login(email, 'a wrong password')).status, 401)
  }

  t.same(waits, [90, 180, 360, 720, 900, 900])
  clock.pass(60 * minute)
  t.equal((await atHome.login(email)).status, 200)
})

t.test('[P15] a login is one round of the cache before the hash, and one that nobody waits for', async (t) => {
  const cache = memoryCache()
  const rounds: string[][] = []
  let waiting = false
  /** Calls that are made before any of them can have a reply are a round. */
  async function traced(verb: string, call: () => unknown) {
    if (!waiting) rounds.push([])
    waiting = true
    rounds.at(-1)?.push(verb)
    await setImmediate()
    waiting = false
    return call()
  }
  const verbs = ['charge', 'refund', 'acquaint'] as const
  const spies = verbs.map((verb) => [
    verb,
    (...all: never[]) => traced(verb, () => cache[verb](...(all as [never, never, never]))),
  ])
  const { atHome } = await open(t, { cache: { ...cache, ...Object.fromEntries(spies) } })
  const { email } = await atHome.enrol()
  rounds.length = 0

  t.equal((await atHome.login(email)).status, 200)
  await until(() => rounds.length === 2)

  t.equal((await atHome.login(email)).status, 200)
  await until(() => rounds.length === 4)

  t.same(
    rounds.map((verbs) => verbs.sort().join()),
    ['charge,charge', 'acquaint,acquaint,refund,refund', 'charge', 'refund'],
    'for whom this process knows, it is one command each',
  )
})

t.test('whom this process knows, and the cache does not any more, is charged as a stranger', async (t) => {
  const [cache, other] = [memoryCache(), memoryCache()]
  let charge = cache.charge
  const changing = { ...cache, charge: (...all: Parameters<typeof charge>) => charge(...all) }
  const { atHome, from } = await open(t, { cache: changing, throttle: { network: { tries: 5, seconds: 900 } } })
  const { email } = await from('198.51.100.1').enrol()
  t.equal((await atHome.login(email)).status, 200)
  // As after a reset by way of another process.
  charge = other.charge

  const answers = await inTurn(9, () => atHome.login(email, 'a wrong password'))

  t.same(statuses(answers), { 401: 5, 429: 4 })
})

t.test('[R-THR-3] a known network may guess 50 times a day, however slowly', async (t) => {
  const { atHome, clock } = await open(t)
  const { email } = await atHome.enrol()
  t.equal((await atHome.login(email)).status, 200)

  const answers: Answer[] = []
  for (let round = 0; round < 96; round++) {
    answers.push(...(await inTurn(9, () => atHome.login(email, 'a wrong password'))))
    clock.pass(15 * minute)
  }

  const { 401: guessed = 0 } = statuses(answers)
  t.ok(guessed > 25 && guessed <= 50, `${guessed} guesses`)
  clock.pass(60 * minute)
  t.equal((await atHome.login(email)).status, 200, 'and is never closed')
})

t.test('a right password is free', async (t) => {
  const { atHome, from } = await open(t)
  const users = await inTurn(20, (n) => from(`198.51.100.${n}`).enrol())

  const answers = await inTurn(40, () => times(5, (n) => atHome.login(users[n]!.email)))

  t.same(statuses(answers.flat()), { 200: 200 })
  t.same(statuses(await times(40, (n) => atHome.login(users[n % 20]!.email))), { 200: 40 })
})

t.test('[R-THR-3] an office behind one address is not shut out by one of them', async (t) => {
  const { atHome, from } = await open(t)
  const users = await inTurn(20, (n) => from(`198.51.100.${n}`).enrol())
  const early = users.slice(0, 10)
  for (const { email } of early) t.equal((await atHome.login(email)).status, 200)

  await inTurn(300, () => atHome.login(users[0]!.email, 'a wrong password'))

  const others = await times(19, (n) => atHome.login(users[n + 1]!.email))
  t.same(statuses(others), { 200: 19 }, 'one who hammers one account uses up that one')
  await inTurn(300, (n) => atHome.login(`stranger${n}@example.org`, 'a wrong password'))
  const known = await times(9, (n) => atHome.login(early[n + 1]!.email))
  t.same(statuses(known), { 200: 9 }, 'one who tries all accounts does not reach those who are known')
  const { status } = await atHome.login('another@example.org', 'a wrong password')
  t.equal(status, 429)
})

t.test('who is known to an account is charged to nobody else', async (t) => {
  const options = { storage: memoryStorage(), cache: memoryCache(), throttle: { network: { tries: 5, seconds: 900 } } }
  const { atHome, from } = await open(t, options)
  const [known, colleague] = [await from('198.51.100.1').enrol(), await from('198.51.100.2').enrol()]
  t.equal((await atHome.login(known.email)).status, 200)

  // Another process asks the cache who is known.
  const { atHome: elsewhere } = await open(t, options)
  const wrong = await inTurn(9, (n) => (n % 2 ? atHome : elsewhere).login(known.email, 'a wrong password'))

  t.same(statuses(wrong), { 401: 9 })
  const others = await inTurn(6, () => atHome.login(colleague.email, 'a wrong password'))
  t.same(statuses(others), { 401: 5, 429: 1 })
})

t.test('one network tries a hundred accounts, its neighbours share the wider one', async (t) => {
  const { from } = await open(t)
  const guess = (address: string, n: number) => from(address).login(`user${n}@example.org`, 'a wrong password')

  const near = await inTurn(150, (n) => guess(`2001:db8:1:2::${n.toString(16)}`, n))
  const wide = await inTurn(500, (n) => guess(`2001:db8:1:${(n & 255).toString(16)}::1`, 1000 + n))

  t.same(statuses(near), { 401: 100, 429: 50 })
  t.same(statuses(wide), { 401: 300, 429: 200 })
})

t.test('[R-THR-4] X-Forwarded-For is read by the option trustProxy alone', async (t) => {
  const told = async (trustProxy: boolean | string, forwarded: string) => {
    const networks: string[] = []
    const app = await memoryApp(t, { throttle: {} }, { trustProxy })
    app.accounts.addHook('afterLoginFail', ({ network }) => networks.push(network))
    const payload = { email: 'nobody@example.org', password: 'a wrong password' }
    await app.send({ method: 'POST', url: '/api/login/', payload, headers: { 'x-forwarded-for': forwarded } })
    return networks
  }

  t.same(await told(false, '1.2.3.4'), ['127.0.0.1'])
  t.same(await told('127.0.0.1', '6.6.6.6, 198.51.100.7'), ['198.51.100.7'])
  t.same(await told('127.0.0.1', 'not-an-ip'), ['127.0.0.1'])
})

t.test('[R-THR-4] boot warns of a proxy that everybody may be', async (t) => {
  for (const [trustProxy, warns] of [
    [true, true],
    ['127.0.0.1', false],
    [false, false],
  ] as const) {
    const lines: string[] = []
    const stream = { write: (line: string) => void lines.push(line) }
    await memoryApp(t, {}, { trustProxy, logger: { level: 'warn', stream } })
    t.equal(
      lines.some((line) => line.includes('with trustProxy: true every client chooses its address')),
      warns,
    )
  }
})

t.test('registrations and mails are counted by network', async (t) => {
  const { atHome, from, clock } = await open(t, { registration: { verifyEmail: true } })
  const register = (acts: typeof atHome, n: number) =>
    acts.post('/api/register/', { username: `u${n}`, email: `u${n}@example.org`, password })
  const answers = await times(30, (n) => register(atHome, n))
  t.same(statuses(answers), { 201: 20, 429: 10 })
  t.match(answers.find(({ status }) => status === 429)?.headers, { 'retry-after': '180' })
  t.equal((await register(from('192.0.2.2'), 100)).status, 201)

  const routes = ['/auth/email_request/', '/auth/resend_verification/']
  const asked = await times(30, (n) => atHome.post(routes[n % 2]!, { email: `u${n}@example.org` }))
  t.same(statuses(asked), { 200: 20, 429: 10 })
  clock.pass(63 * minute)
  t.equal((await register(atHome, 200)).status, 201)
})

t.test('[R-OTP-12] a botnet does not fill a mailbox, nor keep the owner from a code', async (t) => {
  const { from, atHome, mailer, clock, accounts } = await open(t)
  const dropped: unknown[] = []
  accounts.addHook('afterThrottle', ({ details }) => dropped.push(details.act))
  const { email } = await atHome.enrol()
  t.equal((await atHome.login(email)).status, 200)
  const first = await atHome.grant(email)
  const before = mailer.sent.length

  const [local, domain] = email.split('@')
  const tagged = await inTurn(2, (n) => atHome.enrol(`${local}+account${n}@${domain}`))
  const accountsOfMailbox = [email, ...tagged.map((account) => account.email)]
  const answers = await times(1000, (n) => {
    const address = n % 2 ? accountsOfMailbox[n % 3]! : `${local}+${n}@${domain}`
    return from(`10.1.${n >> 8}.${n & 255}`).post('/auth/email_request/', { email: address })
  })

  t.same(statuses(answers), { 200: 1000 })
  t.equal(new Set(answers.map(({ body }) => `${body.message} ${body.token.length}`)).size, 1)
  const mails = mailer.sent.length - before
  t.ok(mails <= 5, `${mails} mails`)
  t.ok(dropped.length > 0 && dropped.every((act) => act === 'mailbox'), 'the log tells what was not mailed')
  clock.pass(minute)
  const second = await atHome.ask(email)
  t.not(second.code, '00000000')
  t.not(second.code, first.code)
  t.equal((await atHome.check(second.token, second.code)).status, 200)
  t.equal((await atHome.reset(first.token)).status, 200, 'the code that was there stays good')
})

t.test('[R-OTP-12] strangers get a mailbox 10 mails a day, however slowly they ask', async (t) => {
  const { from, mailer, clock } = await open(t)
  const { email } = await from('198.51.100.1').enrol()
  for (let hour = 0; hour < 24; hour++) {
    await inTurn(4, (n) => from(`10.3.${hour}.${n}`).post('/auth/email_request/', { email }))
    clock.pass(60 * minute)
  }
  t.ok(mailer.sent.length > 5 && mailer.sent.length <= 10, `${mailer.sent.length} mails`)
})

t.test('[R-OTP-12] accounts of a mailbox do not keep its owner at home from a code', async (t) => {
  const { from, atHome, mailer } = await open(t)
  await atHome.enrol('owner@example.org')
  t.equal((await atHome.login('owner@example.org')).status, 200)
  const thief = from('203.0.113.66')
  for (const n of [1, 2, 3, 4]) {
    const { email } = await thief.enrol(`owner+${n}@example.org`)
    t.equal((await thief.login(email)).status, 200)
    t.same(statuses(await inTurn(5, () => thief.post('/auth/email_request/', { email }))), { 200: 5 })
  }
  t.equal(mailer.sent.length, 20)

  const { token, code } = await atHome.ask('owner@example.org')

  t.equal((await atHome.check(token, code)).status, 200)
})

t.test('[R-OTP-12] whoever knows the password does not keep the owner at home from a code', async (t) => {
  const { from, atHome, send, mailer } = await open(t)
  const { email } = await atHome.enrol()
  t.equal((await atHome.login(email)).status, 200)
  const thief = '203.0.113.66'
  const headers = bearer((await from(thief).login(email)).body.access)
  const payload = { current_password: password, new_password: 'another horse battery' }
  const url = '/auth/change_password/'
  t.equal((await send({ method: 'POST', url, payload, headers, remoteAddress: thief })).status, 200)
  await inTurn(9, (n) => from(`10.4.0.${n}`).post('/auth/email_request/', { email }))

  const { token } = await atHome.grant(email)

  t.equal((await atHome.reset(token)).status, 200)
  const { length } = mailer.sent
  await from(thief).post('/auth/email_request/', { email })
  t.equal(mailer.sent.length, length, 'a reset makes the thief a stranger, whose mails are used up')
})

t.test('[R-OTP-12] mails to nobody keep none from whoever registers the address', async (t) => {
  const { from, atHome, mailer } = await open(t, { registration: { verifyEmail: true } })
  const email = 'new@example.org'
  for (const route of ['/auth/email_request/', '/auth/resend_verification/']) {
    await inTurn(9, (n) => from(`10.5.0.${n}`).post(route, { email }))
  }
  t.equal(mailer.sent.length, 0)

  await atHome.enrol(email)

  t.equal(mailer.sent.length, 1)
})

t.test('[R-ENUM-8] a change to an address that somebody has costs the own mailbox as much as another', async (t) => {
  const { atHome, from, send, mailer } = await open(t)
  const { email: taken } = await from('198.51.100.1').enrol()
  for (const wanted of ['free@example.org', taken]) {
    const { email } = await atHome.enrol()
    const headers = bearer((await atHome.login(email)).body.access)
    const request = { url: '/auth/change_email/', payload: { email: wanted, password }, headers, remoteAddress: home }
    await inTurn(5, () => send({ method: 'POST', ...request }))
    const { length } = mailer.sent
    await atHome.post('/auth/email_request/', { email })
    t.equal(mailer.sent.length, length, wanted)
  }
})

/** Does something inside an account, after a login from a network. */
function insider({ from, send }: Awaited<ReturnType<typeof open>>) {
  return async (network: string, email: string, url: string, payload: object, typed = password) => {
    const headers = bearer((await from(network).login(email, typed)).body.access)
    return send({ method: 'POST', url, payload, headers, remoteAddress: network })
  }
}

const renewal = { current_password: password, new_password: password }

t.test('a change is noticed by the owner, however many mails strangers have asked for', async (t) => {
  const app = await open(t)
  const { atHome, from, mailer } = app
  const inside = insider(app)
  await atHome.enrol('owner@example.org')
  for (const n of [1, 2]) {
    const { email } = await from(`203.0.113.${n}`).enrol(`owner+${n}@example.org`)
    const wanted = { email: 'owner@example.org', password }
    await inTurn(9, () => inside(`203.0.113.${n}`, email, '/auth/change_email/', wanted))
    await inTurn(9, () => inside(`203.0.113.${n}`, email, '/auth/change_password/', renewal))
  }

  const thief = '203.0.113.66'
  const changed = await inTurn(10, () => inside(thief, 'owner@example.org', '/auth/change_password/', renewal))

  t.same(statuses(changed), { 200: 10 })
  t.match(mailer.sent.at(-1), { to: 'owner@example.org', kind: 'password_changed' })
  const asked = await inside(thief, 'owner@example.org', '/auth/change_email/', { email: 'new@example.org', password })
  const proof = { token: asked.body.token, otp: mailer.sent.at(-1)?.code }
  t.equal((await inside(thief, 'owner@example.org', '/auth/confirm_email/', proof)).status, 200)
  t.match(mailer.sent.at(-1), { to: 'owner@example.org', kind: 'email_changed' }, 'each kind by itself')
})

t.test('notices of accounts with tags do not fill the mailbox', async (t) => {
  const app = await open(t)
  const inside = insider(app)
  for (let n = 0; n < 10; n++) {
    const { email } = await app.from(`203.0.113.${n}`).enrol(`owner+${n}@example.org`)
    await inTurn(9, () => inside(`203.0.113.${n}`, email, '/auth/change_password/', renewal))
  }
  t.equal(app.mailer.sent.length, 40)
})

t.test('a notice that could not be sent is counted once', async (t) => {
  const mailer = memoryMailer()
  const send = mailer.send
  let broken = true
  const failing = {
    ...mailer,
    send: (message: Parameters<typeof send>[0]) => (broken ? Promise.reject(new Error('away')) : send(message)),
  }
  const app = await open(t, { mailer: failing })
  const { email } = await app.atHome.enrol()
  await insider(app)(home, email, '/auth/change_password/', renewal)
  const realm = realmOf(app.accounts)
  for (let round = 0; round < 30; round++) {
    app.clock.pass(minute)
    await sweepOutbox(realm).catch(() => {})
  }

  broken = false
  app.clock.pass(minute)
  await sweepOutbox(realm)

  t.match(mailer.sent, [{ to: email, kind: 'password_changed' }])
})

t.test('[R-OTP-12] whoever logs in from many networks does not make the account forget its owner’s', async (t) => {
  const { atHome, from } = await open(t)
  const { email } = await atHome.enrol()
  t.equal((await atHome.login(email)).status, 200)
  await inTurn(40, (n) => from(`10.6.0.${n}`).login(email))
  await inTurn(9, (n) => from(`10.7.0.${n}`).post('/auth/email_request/', { email }))
  await inTurn(60, (n) => from(`10.8.0.${n}`).login(email, 'a wrong password'))

  const { token, code } = await atHome.ask(email)

  t.equal((await atHome.check(token, code)).status, 200)
  t.equal((await atHome.login(email)).status, 200)
})

t.test(
  '[R-THR-3] an address knows nobody after its account is deleted, or after a login that was too late',
  async (t) => {
    const app = await open(t)
    const { atHome, from, send, accounts } = app
    const email = 'owner@example.org'
    const thief = from('203.0.113.66')
    await thief.enrol(email)
    const headers = bearer((await thief.login(email)).body.access)
    const request = { url: '/auth/user/', payload: { password }, headers, remoteAddress: '203.0.113.66' }
    t.equal((await send({ method: 'DELETE', ...request })).status, 204)
    const { id } = await atHome.enrol(email)
    accounts.addHook('beforeLogin', async ({ client }) => {
      if (client.ip === '203.0.113.77') await accounts.users.setPassword(id, password)
    })
    const late = from('203.0.113.77')
    t.equal((await late.login(email)).status, 401)

    await inTurn(60, (n) => from(`10.9.0.${n}`).login(email, 'a wrong password'))

    t.equal((await thief.login(email)).status, 429)
    t.equal((await late.login(email)).status, 429)
  },
)

t.test('[R-OTP-12] while a secret is replaced the owner at home still gets a code', async (t) => {
  const other = randomBytes(32).toString('base64url')
  for (const secrets of [
    [secret, other],
    [other, secret],
  ] as const) {
    const shared = { storage: memoryStorage(), cache: memoryCache() }
    const before = await open(t, { ...shared, secret })
    const { email } = await before.atHome.enrol()
    t.equal((await before.atHome.login(email)).status, 200)
    const { atHome, from, mailer } = await open(t, { ...shared, secret: secrets })
    await inTurn(9, (n) => from(`10.10.0.${n}`).post('/auth/email_request/', { email }))
    t.ok(mailer.sent.length <= 5, `${mailer.sent.length} mails`)

    const { token, code } = await atHome.ask(email)

    t.equal((await atHome.check(token, code)).status, 200)
  }
})

t.test('[R-OTP-12] while a secret is replaced strangers get as many mails as before', async (t) => {
  /** The secret is replaced after some of the mails. */
  const mailsOf = async (next: AccountsOptions['secret']) => {
    const clock = settableClock()
    const shared = { storage: memoryStorage(), cache: memoryCache(), clock }
    const [before, after] = [await open(t, { ...shared, secret }), await open(t, { ...shared, secret: next })]
    const { email } = await before.from('198.51.100.1').enrol()
    for (let n = 0; n < 288; n++) {
      const { from } = n < 3 ? before : after
      await from(`10.11.${n >> 8}.${n & 255}`).post('/auth/email_request/', { email })
      clock.pass(10 * minute)
    }
    return before.mailer.sent.length + after.mailer.sent.length
  }

  const mails = await mailsOf(secret)

  t.ok(mails > 10 && mails <= 20, `${mails} mails in two days`)
  const other = randomBytes(32).toString('base64url')
  t.equal(await mailsOf([other, secret]), mails)
  t.equal(await mailsOf([secret, other]), mails)
})

t.test('what an outage of a part of the cache leaves is taken back', async (t) => {
  const cache = memoryCache()
  let broken = true
  const partial = {
    ...cache,
    async charge(...[charge, now]: Parameters<typeof cache.charge>) {
      if (broken && charge.tallies[0]?.name === 'network') throw new AccountsError('ACCOUNTS_UNAVAILABLE')
      return cache.charge(charge, now)
    },
  }
  const { atHome, from } = await open(t, { cache: partial })
  const { email } = await atHome.enrol()
  t.same(statuses(await inTurn(60, (n) => from(`10.12.0.${n}`).login(email))), { 200: 60 })

  broken = false

  t.equal((await atHome.login(email)).status, 200)
})

t.test('tries that were refused push out none that count', async (t) => {
  const tallies = createTallies(100)
  const charge = (name: string) => ({ slot: name, tallies: [{ name, tries: 2, windowMs: 900_000 }] })
  for (let n = 0; n < 2; n++) tallies.chargeNow(charge('victim'), 1)

  for (let n = 0; n < 1000; n++) {
    tallies.chargeNow(charge(`refused${n}`), 1)
    await tallies.refund(charge(`refused${n}`), false, 1)
  }

  t.ok(tallies.chargeNow(charge('victim'), 1).waitMs > 0)
})

t.test('[R-OTP-12] a code that was not mailed is guessed by nobody, and answers as any other', async (t) => {
  const { atHome, from, mailer } = await open(t, { throttle: { mailbox: { tries: 2, seconds: 3600 } } })
  const { email } = await from('198.51.100.1').enrol()
  const asked = await inTurn(4, () => atHome.post('/auth/email_request/', { email }))
  t.equal(mailer.sent.length, 2)

  for (const { body } of asked) {
    const answers = await inTurn(7, () => atHome.check(body.token, '12345678'))
    t.same(
      answers.map(({ status, body }) => [status, body.code]),
      Array(7).fill([400, 'ACCOUNTS_CODE_INVALID']),
    )
  }
})

t.test('[R-OTP-12] no route fills a mailbox that is not its owner’s to fill', async (t) => {
  const victim = 'victim@example.org'
  const sentTo = (mailer: { sent: { to: string }[] }) =>
    mailer.sent.filter(({ to }) => to.replace(/\+\d/, '').toLowerCase() === victim).length

  await t.test('change_email, from many accounts and networks', async (t) => {
    const { from, send, mailer } = await open(t)
    await inTurn(10, async (n) => {
      const acts = from(`198.51.100.${n}`)
      const { email } = await acts.enrol()
      const headers = bearer((await acts.login(email)).body.access)
      const payload = { email: victim, password }
      const asked = await inTurn(3, () =>
        send({ method: 'POST', url: '/auth/change_email/', payload, headers, remoteAddress: `198.51.100.${n}` }),
      )
      t.same(statuses(asked), { 200: 3 })
    })
    t.ok(sentTo(mailer) <= 10, `${sentTo(mailer)} mails`)
  })

  for (const registration of [{}, { verifyEmail: true }]) {
    await t.test(`an account of somebody else, registered with its address ${Object.keys(registration)}`, async (t) => {
      const { from, mailer } = await open(t, { registration })
      const addresses = Array.from({ length: 8 }, (_, n) => `victim+${n}@example.org`)
      for (const [n, email] of addresses.entries()) await from(`198.51.100.${n}`).enrol(email)
      for (const route of ['/auth/email_request/', '/auth/resend_verification/']) {
        await inTurn(40, async (n) => {
          const acts = from(`203.0.113.${n}`)
          const email = addresses[n % 8]!
          await acts.login(email)
          await inTurn(5, () => acts.post(route, { email }))
        })
      }
      t.ok(sentTo(mailer) <= 25, `${sentTo(mailer)} mails`)
    })
  }

  await t.test('notices of accounts that come and go', async (t) => {
    const { from, send, mailer } = await open(t)
    await inTurn(30, async (n) => {
      const acts = from(`198.51.100.${n}`)
      await acts.enrol(victim)
      const headers = bearer((await acts.login(victim)).body.access)
      await send({
        method: 'DELETE',
        url: '/auth/user/',
        payload: { password },
        headers,
        remoteAddress: `198.51.100.${n}`,
      })
    })
    t.ok(sentTo(mailer) > 0 && sentTo(mailer) <= 10, `${sentTo(mailer)} mails`)
  })
})

t.test('who changes the password or the address is known from there, and others are not any more', async (t) => {
  const { from, atHome, send, mailer } = await open(t)
  const { email } = await atHome.enrol()
  const thief = from('203.0.113.66')
  t.equal((await thief.login(email)).status, 200)
  const { access } = (await atHome.login(email)).body
  const inside = (url: string, payload: object, token: string) =>
    send({ method: 'POST', url, payload, headers: bearer(token), remoteAddress: home })
  const next = 'another horse battery'
  const changed = await inside('/auth/change_password/', { current_password: password, new_password: next }, access)
  t.equal(changed.status, 200)
  await inTurn(60, (n) => from(`10.2.0.${n}`).login(email, 'a wrong password'))
  t.equal((await thief.login(email)).status, 429)
  t.equal((await atHome.login(email, next)).status, 200)
  const asked = await inside('/auth/change_email/', { email: 'new@example.org', password: next }, changed.body.access)
  const proof = { token: asked.body.token, otp: mailer.sent.findLast(({ code }) => code !== null)?.code }
  t.equal((await inside('/auth/confirm_email/', proof, changed.body.access)).status, 200)

  await inTurn(60, (n) => from(`10.2.0.${n}`).login('new@example.org', 'a wrong password'))

  t.equal((await atHome.login('new@example.org', next)).status, 200)
  t.equal((await thief.login('new@example.org', password)).status, 429)
})

t.test('[R-THR-3] whoever resets the password is known from there, and others are not any more', async (t) => {
  const { from, atHome } = await open(t)
  const { email } = await atHome.enrol()
  const thief = from('203.0.113.66')
  t.equal((await thief.login(email)).status, 200)

  t.equal((await atHome.reset((await atHome.grant(email)).token)).status, 200)
  await inTurn(60, (n) => from(`10.2.0.${n}`).login(email, 'a wrong password'))

  t.equal((await thief.login(email)).status, 429)
  t.equal((await atHome.login(email, newPassword)).status, 200)
})

t.test('without a limit of its own a known network is known all the same', async (t) => {
  const { from, atHome } = await open(t, { throttle: { login: false } })
  const { email } = await atHome.enrol()
  t.equal((await atHome.login(email)).status, 200)

  const strangers = await inTurn(60, (n) => from(`10.2.0.${n}`).login(email, 'a wrong password'))

  t.same(statuses(strangers), { 401: 50, 429: 10 })
  t.equal((await atHome.login(email)).status, 200)
})

t.test('a network that is no text is a fault that is logged, and ends nothing', async (t) => {
  const odd = [() => 7, () => ({}), async () => 'net', () => Promise.reject(new Error('of the host'))]
  for (const network of odd) {
    const { atHome } = await open(t, { network: network as never })
    t.equal((await atHome.login('one@example.org')).status, 500)
  }
})

t.test('whoever knows the password does not kill one reset code after the other', async (t) => {
  const { atHome, send } = await open(t)
  const { email } = await atHome.enrol()
  let { access } = (await atHome.login(email)).body
  const change = async () => {
    const payload = { current_password: password, new_password: password }
    const answer = await send({ method: 'POST', url: '/auth/change_password/', payload, headers: bearer(access) })
    access = answer.body.access ?? access
    return answer
  }

  const answers = await inTurn(15, change)

  t.same(statuses(answers), { 200: 10, 429: 5 })
  const { token } = await atHome.grant(email)
  t.equal((await change()).status, 429)
  t.equal((await atHome.reset(token)).status, 200)
})

t.test('each limit can be switched off, and all of them', async (t) => {
  const attacks = {
    login: (acts: ReturnType<typeof actsFrom>) => acts.login('one@example.org', 'a wrong password'),
    register: (acts: ReturnType<typeof actsFrom>) =>
      acts.post('/api/register/', { username: uniqueName(), email: `${uniqueName()}@example.org`, password }),
    mail: (acts: ReturnType<typeof actsFrom>) => acts.post('/auth/email_request/', { email: 'one@example.org' }),
  }
  for (const [name, attack] of Object.entries(attacks)) {
    const options = name === 'login' ? { login: false, account: false, network: false } : { [name]: false }
    const one = await open(t, { throttle: options as AccountsOptions['throttle'] })
    t.notOk(statuses(await times(30, () => attack(one.atHome)))[429], name)
    const other = await open(t, { throttle: { login: { tries: 5, seconds: 60 }, [name]: { tries: 2, seconds: 60 } } })
    t.equal(statuses(await times(10, () => attack(other.atHome)))[429], 8, name)
    const off = await open(t, { throttle: false })
    t.notOk(statuses(await times(30, () => attack(off.atHome)))[429], name)
  }
})

t.test('replacing the secret forgets no try', async (t) => {
  const next = randomBytes(32).toString('base64url')
  const cache = memoryCache()
  // The newer secret has counted since the second deploy.
  const told = [{ 401: 6 }, { 401: 4, 429: 2 }, { 429: 6 }, { 401: 6 }]
  const secrets: (string | [string, string])[] = [secret, [secret, next], [next, secret], next]
  for (const [index, current] of secrets.entries()) {
    const { atHome } = await open(t, { cache, secret: current })
    const answers = await inTurn(6, () => atHome.login('one@example.org', 'a wrong password'))
    t.same(statuses(answers), told[index], `deploy ${index}`)
  }
})

t.test('replacing the secret forgets no mail', async (t) => {
  const next = randomBytes(32).toString('base64url')
  const [cache, storage, mailer] = [memoryCache(), memoryStorage(), memoryMailer()]
  const deploy = (current: AccountsOptions['secret']) => open(t, { cache, storage, mailer, secret: current })
  const first = await deploy(secret)
  const { email } = await first.atHome.enrol()
  const asked = (acts: typeof first.atHome, count: number) =>
    inTurn(count, () => acts.post('/auth/email_request/', { email }))
  await asked(first.atHome, 6)
  t.equal(mailer.sent.length, 5)

  const second = await deploy([secret, next])
  t.same(statuses(await asked(second.atHome, 1)), { 200: 1 })
  const third = await deploy([next, secret])
  t.same(statuses(await asked(third.atHome, 6)), { 200: 6 })
  t.equal(mailer.sent.length, 5)

  const other = await third.atHome.enrol()
  const { token } = await third.atHome.ask(other.email)
  t.equal((await third.atHome.check(token, mailer.sent.at(-1)?.code)).status, 200, 'others get theirs')
})

t.test('[R-THR-7] without Redis a process counts by itself, with a quarter', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const { db } = await openDatabase(t)
  const app = await openApp(t, { name: uniqueName(), db, redis: server.url, throttle: {} })
  const acts = actsFrom(app as never, home)
  await until(async () => (await acts.login('first@example.org', 'a wrong password')).status === 401)
  const { email } = await acts.enrol()
  t.equal((await acts.login(email)).status, 200)
  await server.stop()

  const answers = await times(50, () => acts.login('one@example.org', 'a wrong password'))

  t.same(statuses(answers), { 401: 2, 429: 48 })
  await inTurn(20, (n) => actsFrom(app as never, `10.2.0.${n}`).login(email, 'a wrong password'))
  t.equal((await acts.login(email)).status, 200, 'and remembers who has logged in here')
})

t.test('no counter is without a lifetime', { skip: noPostgres || noRedis }, async (t) => {
  const { db } = await openDatabase(t)
  const name = uniqueName()
  const app = await openApp(t, { name, db, redis: redisUrl(), throttle: {} })
  const acts = actsFrom(app as never, '2001:db8::1')
  const { email } = await acts.enrol()
  await acts.login(email)
  await inTurn(12, () => acts.login(email, 'a wrong password'))
  await acts.reset((await acts.grant(email)).token)
  const client = new Redis(redisUrl())
  t.teardown(() => client.quit())
  const keys = (await client.keys(`${name}:*`)).filter((key) => key.includes(':tally:'))

  t.ok(keys.length >= 6, `${keys.length} keys`)
  for (const key of keys) t.ok((await client.pttl(key)) > 0, key)
})
