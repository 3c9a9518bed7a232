import { randomBytes } from 'node:crypto'
import { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { sql } from 'kysely'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { queueMailer } from '../../lib/adapters/bullmq.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Mailer, Message } from '../../lib/contracts.ts'
import { noClient } from '../../lib/core/client.ts'
import { purge } from '../../lib/core/housekeeping.ts'
import { rowsOf, sweepOutbox } from '../../lib/core/outbox.ts'
import plugin, { type Accounts, type AccountsOptions } from '../../lib/index.ts'
import { noticesOf } from '../../lib/mail/letters.ts'
import { sampleUser } from '../../lib/testing/samples.ts'
import { startMailWorker } from '../../lib/worker.ts'
import { accountActs, newPassword, password, passwords, told } from '../helpers/account-acts.ts'
import { accountsOf, clientOf, memoryApp, openDatabase, secret, settableClock, startServer } from '../helpers/app.ts'
import {
  despiteLoad,
  faultProxy,
  freePort,
  noPostgres,
  noRedis,
  sampled,
  startRedis,
  uniqueName,
  until,
} from '../helpers/helper.ts'
import { codeIn, type SmtpCatcher, startSmtp } from '../helpers/smtp-catcher.ts'

const skip = noPostgres || noRedis
/** A bit more than the request's own time for its mails, and than the time between two claims of one mail. */
const later = 31_000
const hour = 3_600_000
const silent = { info() {}, warn() {}, error() {} }

t.test(
  '[F1] Redis down for a minute during 100 registrations: 100 users, 100 mails, none twice',
  { skip },
  async (t) => {
    const { redis, smtp, clock, open, work, db, settled, sweepUntil } = await realm(t)
    work()
    const { accounts, register, verify } = await open()
    await register()
    await until(() => smtp.caught.length === 1)
    smtp.caught.length = 0

    redis.mode = 'refuse'
    const registered = await inTurns(50, register)
    clock.pass(later)
    await sweepOutbox(realmOf(accounts)).catch(() => {})
    registered.push(...(await inTurns(50, register)))
    clock.pass(later)
    t.strictSame(smtp.caught, [])
    redis.mode = 'pass'
    clock.pass(later)

    // By the timers of the housekeeping alone.
    await until(() => smtp.caught.length >= 100, 90_000)
    t.equal(new Set(registered.map(({ email }) => email)).size, 100)
    const users = await db.selectFrom('accounts_users').select('email').execute()
    t.equal(users.length, 101)
    t.strictSame(recipientsOf(smtp), registered.map(({ email }) => email).toSorted())
    for (const { email, token } of registered) t.equal(told(await verify(token, codeTo(smtp, email))), '200')
    await sweepUntil(accounts, settled)
    t.equal(smtp.caught.length, 100, 'none twice')
  },
)

t.test(
  '[F3] mails whose jobs and codes Redis has lost are handed over again, and their codes work',
  { skip },
  async (t) => {
    const { server, smtp, open, work, settled, sweepUntil } = await realm(t)
    const { accounts, register, verify } = await open()
    const control = new Redis(server.url)
    t.teardown(() => control.disconnect())
    const registered = await inTurns(5, register)
    t.ok((await control.keys('*:mail-*')).length >= 5, 'they were handed over')

    await control.flushall()

    work()
    await sweepUntil(accounts, () => smtp.caught.length >= 5)
    for (const { email, token } of registered) t.equal(told(await verify(token, codeTo(smtp, email))), '200')
    await sweepUntil(accounts, settled)
    t.strictSame(recipientsOf(smtp), registered.map(({ email }) => email).toSorted())
  },
)

t.test('a mail whose code was put before the mailer took it tells what is left of its life', async (t) => {
  const clock = settableClock()
  const mailer = refusingMailer()
  const host = await memoryApp(t, { clock, mailer, registration: { verifyEmail: true }, passwords })
  const accounts = accountsOf(host)
  const { token } = (await host.post('/api/register/', registration())).body
  t.equal(mailer.sent.length, 0)

  clock.pass(23 * hour)
  mailer.refuses = false
  await sweepOutbox(realmOf(accounts))

  t.match(mailer.sent, [{ minutes: 60, expiresAt: clock() + hour }])
  const code = mailer.sent[0]?.code
  clock.pass(hour - 1)
  t.equal((await host.post('/auth/verify_email/', { token, otp: code })).status, 200)
})

t.test('[R-REG-3] no code outlives the account that it would prove, and its mail says so', async (t) => {
  const clock = settableClock()
  const mailer = refusingMailer()
  const host = await memoryApp(t, { clock, mailer, registration: { verifyEmail: true }, passwords })
  const person = { username: 'ada', email: 'ada@example.org', password }
  const end = clock() + 24 * hour
  const { token } = (await host.post('/api/register/', person)).body

  clock.pass(23 * hour)
  mailer.refuses = false
  await sweepOutbox(realmOf(accountsOf(host)))
  t.match(mailer.sent, [{ minutes: 60, expiresAt: end }])
  clock.pass(hour / 2)
  await host.post('/auth/resend_verification/', { email: person.email, token })

  t.match(mailer.sent.slice(1), [{ minutes: 30, expiresAt: end }])
})

t.test('a mail whose code has died before it left is not sent', async (t) => {
  const clock = settableClock()
  const mailer = refusingMailer()
  const host = await memoryApp(t, { clock, mailer, passwords })
  const { member, accounts } = accountActs({ ...host, mailer: memoryMailer() })
  const user = await member()
  t.equal((await user.changeEmail('new@example.org')).status, 200)
  mailer.refuses = false
  t.equal((await user.remove()).status, 204)
  const kinds = () => mailer.sent.map(({ kind }) => kind)
  t.strictSame(kinds(), ['account_deleted'])

  clock.pass(later)
  await sweepOutbox(realmOf(accounts))
  t.strictSame(kinds(), ['account_deleted'])
  clock.pass(later)
  t.same(await realmOf(accounts).storage.claimMails(clock(), clock() + 1, 10), [], 'and it waits no longer')
})

/** A mailer that takes nothing until it is told to, and then all. */
t.test('so is none whose address was proved meanwhile, or whose password was changed', async (t) => {
  const clock = settableClock()
  const mailer = refusingMailer()
  const host = await memoryApp(t, { clock, mailer, registration: { verifyEmail: true } })
  const person = registration()
  t.equal((await host.post('/api/register/', person)).status, 201)
  const { member, accounts } = accountActs({ ...host, mailer: memoryMailer() })
  const user = await member()
  t.equal((await user.changeEmail('new@example.org')).status, 200)
  mailer.refuses = false
  const { token } = (await host.post('/auth/resend_verification/', { email: person.email })).body
  t.equal((await host.post('/auth/verify_email/', { token, otp: mailer.sent[0]?.code })).status, 200)
  t.equal((await user.changePassword()).status, 200)
  const before = mailer.sent.length

  clock.pass(later)
  await sweepOutbox(realmOf(accounts))

  t.equal(mailer.sent.length, before, 'neither the first proof nor that of the new address')
  clock.pass(later)
  t.same(await realmOf(accounts).storage.claimMails(clock(), clock() + 1, 10), [], 'and they wait no longer')
})

function refusingMailer() {
  const sent: Message[] = []
  const mailer = {
    ...memoryMailer(),
    sent,
    refuses: true,
    async send(message: Message) {
      if (mailer.refuses) throw new Error('the queue is full')
      sent.push(message)
    },
    progress: async (ids: string[]) =>
      ids.map((id) => (sent.some((message) => message.id === id) ? ('done' as const) : ('unknown' as const))),
  }
  return mailer
}

t.test('mails of an instance killed between commit and hand-over are sent by another', { skip }, async (t) => {
  const { redis, smtp, open, work, db, url, redisThroughProxy, name, sweepUntil } = await realm(t)
  work()
  const { accounts, verify } = await open()
  const OPTIONS = JSON.stringify({ name, registration: { verifyEmail: true } })
  const doomed = await startServer(t, { DATABASE_URL: url, REDIS_URL: redisThroughProxy, OPTIONS })
  const answeredBody = registration()
  const unansweredBody = registration()

  redis.mode = 'freeze'
  const answered = await doomed.post('/api/register/', answeredBody)
  t.equal(told(answered), '201')
  doomed.post('/api/register/', unansweredBody).catch(() => {})
  await until(async () => (await db.selectFrom('accounts_outbox').select('id').execute()).length === 2)
  doomed.child.kill('SIGKILL')

  redis.mode = 'pass'
  await sweepUntil(accounts, () => smtp.caught.length >= 2)
  t.strictSame(recipientsOf(smtp), [answeredBody.email, unansweredBody.email].toSorted())
  t.equal(told(await verify(answered.body.token, codeTo(smtp, answeredBody.email))), '200')
})

t.test('a sweep that has begun is done before the app has closed', async (t) => {
  const storage = memoryStorage()
  const sweep = { begun: false, done: false }
  const claimMails: typeof storage.claimMails = async (...call) => {
    sweep.begun = true
    await sleep(200)
    sweep.done = true
    return storage.claimMails(...call)
  }
  const { app } = await memoryApp(t, { storage: { ...storage, claimMails } })
  await until(() => sweep.begun)

  await app.close()

  t.equal(sweep.done, true)
})

t.test('three instances that sweep at once hand no mail over twice', { skip }, async (t) => {
  const { smtp, clock, open, work, redisThroughProxy, name, settled, sweepUntil } = await realm(t)
  work()
  const mailer = counting(t, queueMailer({ redis: redisThroughProxy, secret, name, clock }))
  const instances = await Promise.all([1, 2, 3].map(() => open({ mailer })))
  const { accounts } = instances[0]!
  const notices = await storeNotices(accounts, 120)
  clock.pass(later)

  await Promise.all(instances.map((instance) => sweepOutbox(realmOf(instance.accounts))))

  await until(() => mailer.sends.size === 120)
  t.strictSame([...mailer.sends.keys()].toSorted(), notices.map(({ id }) => id).toSorted())
  await until(() => smtp.caught.length >= 120, 60_000)
  await sweepUntil(
    instances.map(({ accounts }) => accounts),
    settled,
  )
  t.strictSame(new Set(mailer.sends.values()), new Set([1]))
  t.strictSame(recipientsOf(smtp), notices.map(({ email }) => email).toSorted())
})

t.test(
  'a mail is settled once its job is done, nothing sealed is left, and its row is purged at its end',
  { skip },
  async (t) => {
    const { smtp, clock, open, work, redisThroughProxy, name, rows, sweepLater, sweepUntil, settled } = await realm(t, {
      smtp: {
        onRcptTo: ({ address }, _session, done) =>
          done(address.startsWith('refused') ? Object.assign(new Error('no'), { responseCode: 550 }) : null),
      },
    })
    const mailer = counting(t, queueMailer({ redis: redisThroughProxy, secret, name, clock }))
    const { accounts, register } = await open({ mailer })
    await register()
    await register(`refused${uniqueName()}@example.org`)

    await sweepLater(accounts)

    t.strictSame(
      (await rows()).map(({ settled, sealed }) => [settled, sealed !== '']),
      [
        [false, true],
        [false, true],
      ],
      'its job waits',
    )
    work()
    await sweepUntil(accounts, settled)
    t.equal(smtp.caught.length, 1)
    t.strictSame([...mailer.sends.values()], [1, 1], 'nor was a job that waits handed over again')
    await purge(realmOf(accounts))
    t.equal((await rows()).length, 2, 'known until its end')
    clock.pass(24 * hour)
    await purge(realmOf(accounts))
    t.strictSame(await rows(), [])
  },
)

t.test('[F6] a mail server down for ten minutes delays a mail, and does not double it', { skip }, async (t) => {
  const { clock, open, work, redisThroughProxy, name, settled, sweepUntil } = await realm(t)
  const port = await freePort()
  work({ transport: `smtp://127.0.0.1:${port}` })
  const mailer = counting(t, queueMailer({ redis: redisThroughProxy, secret, name, clock }))
  const { accounts, register, verify } = await open({ mailer })
  const { email, token } = await register()

  for (let minute = 0; minute < 10; minute++) {
    clock.pass(60_000)
    await sweepOutbox(realmOf(accounts))
  }
  t.notOk(await settled())
  const smtp = await startSmtp({ port })
  t.teardown(() => smtp.close())

  await until(() => smtp.caught.length >= 1)
  t.equal(told(await verify(token, codeTo(smtp, email))), '200')
  await sweepUntil(accounts, settled)
  t.strictSame([...mailer.sends.values()], [1])
  t.equal(smtp.caught.length, 1)
})

t.test(
  'a mail sealed under the previous secret is sent; one of an unknown secret waits until its end',
  { skip },
  async (t) => {
    const { redis, smtp, clock, open, work, rows, settled, sweepLater, sweepUntil } = await realm(t)
    const [next, strange] = [newSecret(), newSecret()]
    redis.mode = 'refuse'
    const before = await open()
    const { email, token } = await before.register()
    await before.app.close()
    const stranger = await open({ secret: strange })
    redis.mode = 'pass'
    clock.pass(later)

    const left = await rows()
    await sweepLater(stranger.accounts)

    t.match(await rows(), [{ sealed: left[0]?.sealed, settled: false }])
    await stranger.app.close()
    work({ secret: [next, secret] })
    const after = await open({ secret: [next, secret] })
    await sweepUntil(after.accounts, () => smtp.caught.length === 1)
    t.equal(told(await after.verify(token, codeTo(smtp, email))), '200')
    await sweepUntil(after.accounts, settled)

    const { accounts } = await open({ secret: strange })
    await storeNotices(accounts, 1)
    clock.pass(73 * hour)
    await sweepOutbox(realmOf(after.accounts))
    await purge(realmOf(after.accounts))
    t.strictSame([await rows(), smtp.caught.length], [[], 1])
  },
)

t.test('an altered mail is settled and logged, and holds nobody else up', { skip }, async (t) => {
  const { redis, smtp, open, work, db, rows, sweepUntil } = await realm(t)
  work()
  redis.mode = 'refuse'
  const { accounts, register, logged } = await open()
  const altered = await register()
  await sql`update accounts_outbox set sealed = overlay(sealed placing 'AAAA' from 100)`.execute(db)
  const whole = await register()
  redis.mode = 'pass'
  await sweepUntil(accounts, () => smtp.caught.length === 1)
  t.strictSame(recipientsOf(smtp), [whole.email])
  const [first] = await rows()
  t.match(first, { settled: true, sealed: '' })
  t.match(logged(), 'a mail in the outbox was altered')
  t.notMatch(logged(), altered.email)
})

t.test('[R-SES-9] a change that rolls back leaves no mail, and no change goes without its own', { skip }, async (t) => {
  const { smtp, open, work, db, rows, sweepLater } = await realm(t)
  work()
  const host = await open()
  const { accounts, member, rowOf, post, register, verify } = host
  const [changing, deleting, moving, resetting] = [await member(), await member(), await member(), await member()]
  const move = `${uniqueName()}@example.org`
  const { body: moved } = await moving.changeEmail(move)
  const { body: asked } = await post('/auth/email_request/', { email: resetting.email })
  await until(() => smtp.caught.length === 2)
  await post('/auth/check_otp/', { token: asked.token, otp: codeTo(smtp, resetting.email) })
  const fresh = { username: uniqueName(), email: `${uniqueName()}@example.org`, password }
  const acts = {
    change: () => changing.changePassword(),
    delete: () => deleting.remove(),
    confirm: () => moving.confirmEmail({ token: moved.token, code: codeTo(smtp, move) }),
    reset: () => post('/auth/reset_password/', { token: asked.token, new_password: newPassword }),
    register: () => post('/api/register/', fresh),
  }
  const members = [changing, deleting, moving, resetting]
  const state = () => Promise.all(members.map(({ id }) => rowOf(id)))
  const [before, outboxBefore, mailsBefore] = [await state(), await rows(), smtp.caught.length]

  // Checked at the end of the transaction, when all its statements have been done.
  for (const when of ['not deferrable', 'deferrable initially deferred']) {
    await sql`create function refuse() returns trigger as $$ begin raise 'refused'; end $$ language plpgsql`.execute(db)
    await sql`create constraint trigger refuse after insert on accounts_outbox ${sql.raw(when)}
      for each row execute function refuse()`.execute(db)
    for (const [name, act] of Object.entries(acts)) t.equal(told(await act()), '500', `${name}: ${when}`)
    await sql`drop function refuse() cascade`.execute(db)
  }

  t.strictSame([await state(), await rows()], [before, outboxBefore])
  t.equal(await accounts.users.find({ email: fresh.email }), null)
  for (const user of members) t.equal(told(await user.read()), '200', 'no session has ended')
  await sweepLater(accounts)
  t.equal(smtp.caught.length, mailsBefore)

  const done: Record<string, string> = {}
  for (const [name, act] of Object.entries(acts)) done[name] = told(await act())
  t.strictSame(done, { change: '200', delete: '204', confirm: '200', reset: '200', register: '201' })
  await until(() => smtp.caught.length === mailsBefore + 5)
  const after = [changing.email, deleting.email, moving.email, resetting.email, fresh.email]
  t.strictSame(
    smtp.caught
      .slice(mailsBefore)
      .flatMap(({ recipients }) => recipients)
      .toSorted(),
    after.toSorted(),
  )
  t.equal((await rows()).length, outboxBefore.length + 5)
  const last = await register()
  await until(() => codeTo(smtp, last.email) !== '')
  t.equal(told(await verify(last.token, codeTo(smtp, last.email))), '200')
})

for (const mode of sampled(['refuse', 'freeze'] as const, 1)) {
  t.test(`[F1] Redis: ${mode}: passwords and addresses are changed, their mails come later`, { skip }, async (t) => {
    const { redis, smtp, open, work, settled, sweepUntil } = await realm(t)
    work()
    const { accounts, member, login } = await open()
    const [changing, moving, deleting] = [await member(), await member(), await member()]
    const address = `${uniqueName()}@example.org`

    redis.mode = mode
    const changed = await changing.changePassword()
    const asked = await moving.changeEmail(address)
    const deleted = await deleting.remove()

    t.strictSame([told(changed), told(asked), told(deleted)], ['200', '200', '204'])
    t.equal(told(await login(changing.email, newPassword)), '200')
    t.strictSame(smtp.caught, [])
    redis.mode = 'pass'
    await sweepUntil(accounts, () => smtp.caught.length >= 3)
    const confirmed = await moving.confirmEmail({ token: asked.body.token, code: codeTo(smtp, address) })
    t.equal(told(confirmed), '200')
    await sweepUntil(accounts, settled)
    const expected = [changing.email, address, deleting.email, moving.email]
    t.strictSame(recipientsOf(smtp), expected.toSorted())
  })
}

t.test('within a transaction of the host', { skip }, async (t) => {
  const { smtp, open, work, db, rows } = await realm(t)
  work()
  const { accounts, member, login, post } = await open({ eventLog: {} })

  async function withinTransaction(act: (joined: ReturnType<Accounts['using']>) => Promise<void>, fault?: Error) {
    await db.transaction().execute(async (transaction) => {
      await act(accounts.using(kyselyStorage(transaction)))
      if (fault) throw fault
    })
  }

  await t.test('a roll-back mails nothing, ends nothing and kills no code', async (t) => {
    const [one, other] = [await member(), await member()]
    const { body } = await post('/auth/email_request/', { email: one.email })
    await until(() => smtp.caught.length === 1)
    const fault = new Error('the host changed its mind')

    const rolledBack = withinTransaction(async ({ users }) => {
      await users.setPassword(one.id, newPassword)
      await users.delete(other.id)
    }, fault)

    await t.rejects(rolledBack, fault)
    for (const user of [one, other]) {
      t.equal(told(await user.read()), '200')
      t.equal(told(await login(user.email)), '200')
    }
    t.equal(told(await post('/auth/check_otp/', { token: body.token, otp: codeTo(smtp, one.email) })), '200')
    t.strictSame([await rows(), smtp.caught.length], [[], 1])
    const events = await accounts.users.history(one.id)
    t.notOk(events.some(({ name }) => name === 'passwordChange'))
  })

  await t.test('a commit mails the notices within seconds, ends the sessions and keeps the events', async (t) => {
    const [one, other] = [await member(), await member()]
    smtp.caught.length = 0

    await withinTransaction(async ({ users }) => {
      await users.setPassword(one.id, newPassword)
      await users.delete(other.id)
      t.strictSame(smtp.caught, [])
    })

    await until(() => smtp.caught.length >= 2)
    t.strictSame(recipientsOf(smtp), [one.email, other.email].toSorted())
    for (const user of [one, other]) {
      await until(async () => told(await user.read()) === '401 TOKEN_INVALID')
    }
    t.equal(told(await login(one.email, newPassword)), '200')
    for (const [user, name] of [
      [one, 'passwordChange'],
      [other, 'accountDelete'],
    ] as const) {
      const events = await accounts.users.history(user.id)
      t.ok(
        events.some((event) => event.name === name),
        name,
      )
    }
  })
})

t.test('a mail past its end is dropped: a code after a day, a notice after three', { skip }, async (t) => {
  // docs: "a notice for three days"
  const { redis, smtp, clock, open, work, rows, sweepUntil } = await realm(t)
  work()
  redis.mode = 'refuse'
  const { accounts, register, member } = await open()
  await register()
  const changing = await member()
  t.equal(told(await changing.changePassword()), '200')
  const deleting = await member()
  clock.pass(25 * hour)
  redis.mode = 'pass'

  await sweepUntil(accounts, () => smtp.caught.length === 1)
  t.strictSame(recipientsOf(smtp), [changing.email])
  redis.mode = 'refuse'
  await accounts.users.delete(deleting.id)
  clock.pass(72 * hour)
  redis.mode = 'pass'
  await until(() =>
    realmOf(accounts)
      .mailer!.ping()
      .then(() => true),
  )
  await sweepOutbox(realmOf(accounts))
  await purge(realmOf(accounts))
  t.strictSame([recipientsOf(smtp), await rows()], [[changing.email], []])
})

t.test(
  'a thousand mails that are due are handed over in one sweep, a hundred at a time',
  { skip: noPostgres },
  async (t) => {
    const clock = settableClock()
    const { db } = await openDatabase(t)
    const storage = kyselyStorage(db)
    const batches: number[] = []
    const counted = {
      ...storage,
      async claimMails(...claim: Parameters<typeof storage.claimMails>) {
        const mails = await storage.claimMails(...claim)
        batches.push(mails.length)
        return mails
      },
    }
    const mailer = counting(t, memoryMailer())
    const app = Fastify()
    const options = { storage: counted, cache: memoryCache(), mailer, clock, name: uniqueName() }
    await app.register(plugin, { secret, throttle: false, ...options })
    t.teardown(() => app.close())
    const accounts = accountsOf({ app, name: options.name })
    const stored = await storeNotices(accounts, 1000)
    await despiteLoad(() => {
      clock.pass(later)
      return sweepOutbox(realmOf(accounts))
    })

    await until(() => mailer.sends.size === 1000)
    t.ok(Math.max(...batches) <= 100)
    t.strictSame([...mailer.sends.keys()].toSorted(), stored.map(({ id }) => id).toSorted())
    t.strictSame(new Set(mailer.sends.values()), new Set([1]))
  },
)

t.test('no mail that a memoryMailer has taken waits for another mailer', { skip: noPostgres }, async (t) => {
  const { db } = await openDatabase(t)
  const mailer = memoryMailer()
  const { member } = await openInstance(t, { name: uniqueName(), secret, db, cache: memoryCache(), mailer, passwords })
  const changing = await member()

  t.equal(told(await changing.changePassword()), '200')

  t.match(mailer.sent, [{ kind: 'password_changed', to: changing.email }])
  const rows = await db.selectFrom('accounts_outbox').select(['settled', 'sealed']).execute()
  t.strictSame(rows, [{ settled: true, sealed: '' }])
})

/** A clock that runs, and that tests set forward. */
function runningClock() {
  const state = { ahead: 0 }
  const pass = (ms: number) => {
    state.ahead += ms
  }
  return Object.assign(() => Date.now() + state.ahead, { pass })
}

/** A database, a private Redis behind a proxy and an SMTP server; instances and workers of one realm on them. */
async function realm(t: Test, { smtp: handlers }: { smtp?: Parameters<typeof startSmtp>[0] } = {}) {
  const name = uniqueName()
  const clock = runningClock()
  const server = await startRedis()
  t.teardown(() => server.stop())
  const redis = await faultProxy(server.port)
  t.teardown(() => redis.close())
  const smtp = await startSmtp(handlers)
  t.teardown(() => smtp.close())
  const { db, url } = await openDatabase(t)
  const redisThroughProxy = Object.assign(new URL(server.url), { port: String(redis.port) }).href
  const rows = () => db.selectFrom('accounts_outbox').selectAll().orderBy('created_at').execute()
  const settled = async () => (await rows()).every((row) => row.settled && row.sealed === '')

  /** Sweeps when every mail is due again, and Redis is back. */
  async function sweepLater(accounts: Accounts) {
    await until(async () => {
      clock.pass(later)
      await sweepOutbox(realmOf(accounts))
      return true
    })
  }
  /** Sweeps again and again, with all instances at once, until a condition holds. */
  async function sweepUntil(accounts: Accounts | Accounts[], condition: () => boolean | Promise<boolean>) {
    for (let round = 0; round < 100; round++) {
      clock.pass(later)
      // What a busy machine keeps from Redis is swept in the next round.
      await Promise.allSettled([accounts].flat().map((each) => sweepOutbox(realmOf(each))))
      if (await condition()) return
      await until(condition, 300).catch(() => {})
    }
    throw new Error('swept a hundred times for nothing')
  }
  function work(given: { secret?: [string, string]; transport?: string } = {}) {
    const timing = { retryMs: 20, retryMostMs: 200 }
    const post = { transport: smtp.url, from: 'no-reply@example.com', log: silent }
    const worker = startMailWorker({ redis: server.url, secret, name, clock, timing, ...post, ...given })
    t.teardown(() => worker.close())
  }
  async function open(given: Partial<AccountsOptions> = {}) {
    const options = { name, secret, db, redis: redisThroughProxy, passwords, clock, ...given }
    return openInstance(t, { ...options, tokens: { accessTtl: 86_400 }, registration: { verifyEmail: true } })
  }
  return {
    name,
    clock,
    server,
    redis,
    redisThroughProxy,
    smtp,
    db,
    url,
    rows,
    settled,
    sweepLater,
    sweepUntil,
    work,
    open,
  }
}

/** An instance and what its users do. */
async function openInstance(t: Test, options: Partial<AccountsOptions>) {
  const written: string[] = []
  const stream = new Writable({
    write(chunk, _encoding, done) {
      written.push(String(chunk))
      done()
    },
  })
  const app = Fastify({ logger: { level: 'warn', stream } })
  await app.register(plugin, { throttle: false, ...options } as AccountsOptions)
  t.teardown(() => app.close())
  const { member, login, post, rowOf } = accountActs({
    ...{ app, name: options.name, db: options.db, mailer: memoryMailer() },
    ...clientOf(app),
  })

  async function register(email = `${uniqueName()}@example.org`) {
    const answer = await post('/api/register/', { ...registration(), email })
    if (answer.status !== 201) throw new Error(`register answered ${told(answer)}`)
    return { email, token: answer.body.token as string }
  }
  return {
    ...{ app, accounts: accountsOf({ app, name: options.name }), logged: () => written.join('') },
    ...{ member, login, post, rowOf, register },
    verify: (token: string, otp: string) => post('/auth/verify_email/', { token, otp }),
  }
}

function newSecret(): string {
  return randomBytes(32).toString('base64url')
}

function registration() {
  return { username: uniqueName(), email: `${uniqueName()}@example.org`, password }
}

/** Runs an act `count` times, five at once. */
async function inTurns<T>(count: number, act: () => Promise<T>): Promise<T[]> {
  const results: T[] = []
  while (results.length < count) results.push(...(await Promise.all(Array.from({ length: 5 }, () => act()))))
  return results
}

/** A mailer that counts how often each mail is handed to it. */
function counting(t: Test, mailer: Mailer): Mailer & { sends: Map<string, number> } {
  const sends = new Map<string, number>()
  t.teardown(() => mailer.close())
  return {
    ...mailer,
    sends,
    async send(message) {
      sends.set(message.id, (sends.get(message.id) ?? 0) + 1)
      await mailer.send(message)
    },
    // The instances share it.
    async close() {},
  }
}

/** Stores notices to as many addresses, as changes whose requests were cut short leave them. */
async function storeNotices(accounts: Accounts, count: number) {
  const drafts = Array.from({ length: count }, () => {
    const user = { ...sampleUser({ emailVerifiedAt: 1 }), id: 1, active: true, email: `${uniqueName()}@example.org` }
    return noticesOf(realmOf(accounts), 'password_changed', user, noClient)
  }).flat()
  await realmOf(accounts).storage.addMails(rowsOf(realmOf(accounts), drafts))
  return drafts.map(({ message }) => ({ id: message.id, email: message.to as string }))
}

function recipientsOf({ caught }: SmtpCatcher): string[] {
  return caught.flatMap(({ recipients }) => recipients).toSorted()
}

/** The code in the last mail to an address, empty when there is none. */
function codeTo({ caught }: SmtpCatcher, email: string): string {
  const mail = caught.findLast(({ recipients }) => recipients.includes(email))
  return mail ? codeIn(mail) : ''
}
