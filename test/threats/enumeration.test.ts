// Before the first import of argon2.
import '../helpers/counted-argon2.ts'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { FastifyInstance, InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import Type from 'typebox'
import { realmOf } from '../../lib/accounts.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryCache, memoryStorage } from '../../lib/adapters/memory/index.ts'
import { smtpMailer } from '../../lib/adapters/smtp.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { createUser } from '../../lib/testing/index.ts'
import { openDatabase, settableClock } from '../helpers/app.ts'
import { calls } from '../helpers/counted-argon2.ts'
import { noPostgres, noRedis, startRedis, uniqueName, until } from '../helpers/helper.ts'
import { catchMails } from '../helpers/mail-catch.ts'
import { traceRedis } from '../helpers/redis-trace.ts'
import { instance, newPassword, wrong } from '../helpers/reset-flow.ts'

const url = 'https://app.example.com/reset'
const typed = 'a password of my own'
const passwords = { argon2: { memoryCost: 7168, timeCost: 5 } }
const unknown = () => `${uniqueName()}@example.com`

t.test('known, unknown and disabled addresses', { skip: noPostgres || noRedis }, async (t) => {
  const { acts, db, statements, commands, startWorker } = await watched(t)
  const [known, disabled] = [await acts.enrol(), await acts.enrol()]
  await db.updateTable('accounts_users').set({ active: false }).where('id', '=', disabled.id).execute()
  const classes = { known: known.email, unknown: unknown(), disabled: disabled.email }
  // The first request counts the waiting jobs, which is done at most once a second.
  await acts.ask(unknown())

  await t.test('[R-ENUM-3] email_request works alike: statements, commands and jobs, to the byte', async (t) => {
    const traces = []
    for (const email of Object.values(classes)) {
      const sql = statements.length
      const { seen } = await commands(() => acts.ask(email))
      traces.push({ sql: statements.slice(sql), commands: seen })
    }

    const [first] = traces
    t.strictSame(first?.sql.length, 1)
    t.ok(first?.commands.some((line) => line.startsWith('evalsha')))
    for (const trace of traces) t.strictSame(trace, first)
  })

  await t.test('[R-ENUM-3] email_request answers alike, but for the token', async (t) => {
    const answers = []
    for (const email of Object.values(classes)) answers.push(await raw(acts.app, '/auth/email_request/', { email }))

    const tokens = answers.map(({ payload }) => JSON.parse(payload).token as string)
    t.equal(new Set(tokens).size, 3)
    for (const token of tokens) t.match(token, /^[\w-]{22}\.[\w-]{43}$/)
    const [first] = answers.map((answer, n) => without(answer, tokens[n]!))
    for (const [n, answer] of answers.entries()) t.strictSame(without(answer, tokens[n]!), first)
  })

  await t.test('[R-ENUM-3] only the known address gets a mail', async (t) => {
    const last = await acts.enrol()
    await acts.ask(last.email)
    const sent = startWorker()

    await until(() => sent.some(({ to }) => to === last.email))
    t.strictSame(sent.map(({ to }) => to).sort(), [known.email, known.email, last.email].sort())
  })
})

t.test('registration that conceals what exists', { skip: noPostgres || noRedis }, async (t) => {
  const profile = Type.Object({ story: Type.Optional(Type.String()) })
  const options = { passwords, registration: { concealExisting: true, profile } }
  const { acts, statements, commands } = await watched(t, 'queue', options)
  const { app, accounts, post, login } = acts
  const { users } = accounts
  const create = (given: object = {}) => createUser(app, { name: realmOf(accounts).options.name, ...given })
  const story = 'x'.repeat(6000)
  const person = (change: object = {}) => ({
    ...{ username: uniqueName(), email: unknown(), password: typed, story },
    ...change,
  })
  const register = (change: object) => post('/api/register/', person(change))
  /** What a registration may meet: the members that it has in common with it. */
  const meetings = {
    nothing: async () => ({}),
    verified: async () => ({ email: (await create({ verified: true })).email }),
    unverified: async () => ({ email: (await create()).email }),
    registered: async () => {
      const known = person()
      await register(known)
      return { email: known.email }
    },
    username: async () => ({ username: (await create()).username }),
    both: async () => {
      const { email, username } = await create({ verified: true })
      return { email, username }
    },
    disabled: async () => {
      const { id, email } = await create()
      await users.disable(id)
      return { email }
    },
  }

  /** The work of an act. */
  async function work(act: () => Promise<unknown>) {
    const [sql, hashes] = [statements.length, calls.length]
    const { seen } = await commands(act)
    return { sql: statements.slice(sql), hashes: calls.length - hashes, commands: seen }
  }
  type Work = Awaited<ReturnType<typeof work>>
  // The first requests load the scripts, and count the waiting jobs, which is done at most once a second.
  const { token } = (await register({})).body
  await post('/auth/resend_verification/', { email: unknown(), token })

  await t.test('[R-ENUM-5] it works alike: hashes, statements, commands and jobs, to the byte', async (t) => {
    const works: [string, Work][] = []
    for (const [what, meet] of Object.entries(meetings)) {
      const met = await meet()
      works.push([what, await work(() => register(met))])
    }

    const [, first] = works[0]!
    t.equal(first.hashes, 1)
    t.equal(first.sql.length, 1, 'one look')
    t.ok(first.commands.some((line) => line.startsWith('evalsha')))
    for (const [what, done] of works) t.strictSame(done, first, what)
  })

  await t.test('[R-ENUM-5] who loses a race works as much as who wins it', async (t) => {
    const one = await work(() => register({}))
    const email = unknown()

    const two = await work(() => Promise.all([register({ email }), register({ email })]))

    const twice = (things: string[]) => [...things, ...things].sort()
    t.equal(two.hashes, 2)
    t.strictSame(two.sql.sort(), twice(one.sql))
    t.strictSame(two.commands.sort(), twice(one.commands))
  })

  await t.test('[R-ENUM-7] a resend works alike for every address, with and without a token', async (t) => {
    const works: [string, Work, Work][] = []
    for (const [what, meet] of Object.entries(meetings)) {
      const { email, ...rest } = person(await meet())
      const { token } = (await register({ email, ...rest })).body
      const resend = (token?: string) => work(() => post('/auth/resend_verification/', { email, token }))
      works.push([what, await resend(), await resend(token)])
    }

    const [, bare, own] = works[0]!
    t.equal(bare.sql.length, 1)
    t.equal(own.commands.length, bare.commands.length + 1, 'one look at the token')
    for (const [what, one, other] of works) t.strictSame([one, other], [bare, own], what)
  })

  await t.test('[R-ENUM-9] log-in works alike when only the proof is missing', async (t) => {
    const known = await create({ password: typed })
    const { email } = await create({ verified: true, password: typed })

    const works = [
      await work(() => login(known.email, typed)),
      await work(() => login(known.email, newPassword)),
      await work(() => login(email, newPassword)),
      await work(() => login(unknown(), typed)),
    ]

    t.strictSame([works[0]?.hashes, works[0]?.sql.length, works[0]?.commands], [1, 1, []])
    for (const done of works) t.strictSame(done, works[0])
  })
})

t.test('[R-ENUM-3] with the mail server down the answers stay alike', async (t) => {
  const transport = async () => {
    throw new Error('connect ECONNREFUSED')
  }
  const log = { info() {}, warn() {}, error() {} }
  const mailer = smtpMailer({ transport, from: 'no-reply@example.com', log })
  const acts = await instance(t, { storage: memoryStorage(), cache: memoryCache(), mailer })
  const { email } = await acts.enrol()

  const answers = [
    await raw(acts.app, '/auth/email_request/', { email }),
    await raw(acts.app, '/auth/email_request/', { email: unknown() }),
  ]

  const plain = answers.map((answer) => without(answer, JSON.parse(answer.payload).token))
  t.equal(plain[0]?.status, 200)
  t.strictSame(plain[0], plain[1])
})

t.test('[R-ENUM-4] whatever is wrong with a code, the answer is one', { skip: noPostgres || noRedis }, async (t) => {
  const { acts, clock, commands } = await watched(t, 'memory')
  const { enrol, ask, check, grant, reset, app } = acts
  const code = '00000000'
  const [decoy, expired] = [await ask(unknown()), await ask((await enrol()).email)]
  const verified = await grant((await enrol()).email)
  clock.pass(600_001)
  const [asked, others, exhausted] = await Promise.all(
    Array.from({ length: 3 }, async () => ask((await enrol()).email)),
  ).then((all) => all as [typeof decoy, typeof decoy, typeof decoy])
  for (let guess = 0; guess < 5; guess++) await check(exhausted.token, wrong(exhausted.code))
  const used = await grant((await enrol()).email)
  await reset(used.token)
  const missing = `${'A'.repeat(22)}.${randomBytes(32).toString('base64url')}`
  const guesses = {
    missing: [missing, code],
    malformed: ['no such token', code],
    decoy: [decoy.token, code],
    expired: [expired.token, expired.code],
    wrong: [asked.token, wrong(asked.code)],
    others: [asked.token, others.code],
    exhausted: [exhausted.token, exhausted.code],
    used: [used.token, used.code],
  } as const
  const tokens = { missing, malformed: 'x', decoy: decoy.token, expired: verified.token, unchecked: asked.token }

  const answers: [string, Awaited<ReturnType<typeof raw>>, string[]][] = []
  for (const [kind, [token, otp]] of Object.entries(guesses)) {
    const { seen, result } = await commands(() => raw(app, '/auth/check_otp/', { token, otp }))
    answers.push([`check ${kind}`, result, seen])
  }
  for (const [kind, token] of Object.entries({ ...tokens, exhausted: exhausted.token, used: used.token })) {
    const body = { token, new_password: newPassword }
    const { seen, result } = await commands(() => raw(app, '/auth/reset_password/', body))
    answers.push([`reset ${kind}`, result, seen])
  }

  t.equal(JSON.parse(answers[0]![1].payload).code, 'ACCOUNTS_CODE_INVALID')
  for (const [kind, answer, seen] of answers) {
    t.strictSame(answer, answers[0]![1], kind)
    // A token that cannot exist is refused unasked, as anybody can tell by its shape.
    t.equal(seen.length, kind.includes('malformed') ? 0 : 1, `${kind}: one call of the cache`)
  }
})

t.test('[R-MAIL-1] no header and no body field reaches a mail', async (t) => {
  const vectors = JSON.parse(readFileSync(new URL('../vectors/host-header.json', import.meta.url), 'utf8'))
  const caught: { text: string; html: string; subject: string; headers: object }[] = []
  const transport = async (mail: (typeof caught)[number]) => void caught.push(mail)
  const log = { info() {}, warn() {}, error() {} }
  const mailer = smtpMailer({ transport, from: 'Example <no-reply@example.com>', log })
  const parts = { storage: memoryStorage(), cache: memoryCache(), clock: settableClock() }
  const { app, enrol } = await instance(t, { ...parts, mailer, passwordReset: { url } })
  const { email } = await enrol()
  const fields = Object.fromEntries(vectors.body_fields.map((name: string) => [name, 'https://evil.test/']))

  for (const headers of [{}, ...vectors.headers]) {
    for (const payload of [{ email }, { email, ...fields }]) {
      const { status } = await raw(app, '/auth/email_request/', payload, headers)
      t.equal(status, 200)
    }
  }

  const mails = 2 * (1 + vectors.headers.length)
  await until(() => caught.length === mails)
  const bytes = caught.map(({ subject, text, html, headers }) =>
    anonymous(JSON.stringify({ subject, text, html, headers })),
  )
  for (const mail of bytes) t.equal(mail, bytes[0])
  t.match(bytes[0], `${url}#token=`)
  t.notMatch(bytes[0], /evil|app\.test/)
})

t.test("[R-MAIL-2] the link carries its token in the address's fragment", async (t) => {
  const parts = { storage: memoryStorage(), cache: memoryCache() }
  const { enrol, ask, mailer } = await instance(t, { ...parts, passwordReset: { url } })

  const { token, linkToken } = await ask((await enrol()).email)

  const link = new URL(mailer.sent[0]!.url!)
  t.strictSame([link.origin + link.pathname, link.search, link.hash], [url, '', `#token=${linkToken}`])
  t.not(linkToken, token)
})

/** Codes and link tokens of a mail, made alike. */
function anonymous(mail: string): string {
  const [code = ''] = /(?<=\\n {4})\d{4} \d{4}(?=\\n)/.exec(mail) ?? []
  const spellings = [code, code.replace(' ', '&nbsp;'), code.replace(' ', '')]
  const codeless = spellings.reduce((text, spelling) => text.replaceAll(spelling, '########'), mail)
  return codeless.replaceAll(/#token=[\w-]{22}\.[\w-]{43}/g, '#token=')
}

async function raw(app: FastifyInstance, path: string, payload: object, headers: InjectOptions['headers'] = {}) {
  const answer = await app.inject({ method: 'POST', url: path, payload, headers })
  const { date, ...rest } = answer.headers
  return { status: answer.statusCode, headers: rest, payload: answer.payload }
}

function without<T extends { payload: string }>(answer: T, token: string): T {
  return { ...answer, payload: answer.payload.replace(token, '') }
}

/** An app on a Redis of its own whose commands are seen, and a clock that stands. */
async function watched(t: Test, mailer: 'queue' | 'memory' = 'queue', options: Partial<AccountsOptions> = {}) {
  const { db, statements } = await openDatabase(t)
  const server = await startRedis()
  t.teardown(() => server.stop())
  const name = uniqueName()
  const clock = settableClock()
  // Mails that no request hands over would leave in the midst of another request.
  const storage = { ...kyselyStorage(db), claimMails: async () => [] }
  const parts = { name, storage, redis: server.url, clock, passwordReset: { url }, ...options }
  const queued = mailer === 'queue' ? { mailer: undefined } : {}
  const host = await instance(t, { ...parts, ...queued })
  const commands = await traceRedis(t, server.url)
  /** Starts the worker, whose commands would be seen too. */
  const startWorker = () => catchMails(t, { redis: server.url, name })
  return { acts: host, db, statements, commands, clock, startWorker }
}
