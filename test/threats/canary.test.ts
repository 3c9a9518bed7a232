import { Writable } from 'node:stream'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import t, { type Test } from 'tap'
import { migrateToLatest } from '../../lib/adapters/kysely/index.ts'
import plugin from '../../lib/index.ts'
import { startMailWorker } from '../../lib/worker.ts'
import { type Answer, clientOf, secret } from '../helpers/app.ts'
import {
  databaseUrl,
  faultProxy,
  freshDatabase,
  noPostgres,
  noRedis,
  startRedis,
  uniqueName,
  until,
} from '../helpers/helper.ts'
import { monitorOf } from '../helpers/redis-trace.ts'

const jsonType = { 'content-type': 'application/json' }
const serverSecrets = { 'database password': 'canary-database-Rr4nB7', 'Redis password': 'canary-redis-Ff6cX3' }
const pepper = 'canary-pepper-0Kd8sWq2-and-24-bytes-more'
const title = '[R-LOG-1] [R-LOG-2] [R-HASH-8] no secret reaches a log, an error, Redis or the database'

t.test(title, { skip: noPostgres || noRedis }, async (t) => {
  const { app, written, commands, redis, db, proxies, mails, mailFaults } = await observedHost(t)
  const { post, get, send } = clientOf(app)
  const secrets = new Map(Object.entries({ ...serverSecrets, secret, ...formsOf(pepper) }))
  const addresses = new Set<string>()
  const errors: Answer[] = []

  function keep(name: string, value: string): string {
    if (value) secrets.set(name, value)
    return value
  }
  function newAddress(): string {
    const address = `canary${uniqueName()}@example.com`
    addresses.add(address)
    return address
  }
  /** The bodies of refusals are searched too; those of successes carry tokens on purpose. */
  async function act(answer: Promise<Answer>): Promise<Answer> {
    const settled = await answer
    if (settled.status >= 400) errors.push(settled)
    return settled
  }
  const email = newAddress()
  const password = keep('password', 'canary-password-Zq8xW2')
  const next = keep('new password', 'canary-password-Lm3vK9')
  const post_ = (url: string, body: unknown, access = '') =>
    act(post(url, body, access ? { authorization: `Bearer ${access}` } : {}))
  function keepTokens({ access = '', refresh = '' }): { access: string; refresh: string } {
    keep(`access ${secrets.size}`, access)
    keep(`refresh ${secrets.size}`, refresh)
    return { access, refresh }
  }
  /** The code that an act mails to an address, with its token; while mails cannot leave, one that nobody mailed. */
  async function codeFor(kind: string, to: string, answer: Answer, expected: boolean) {
    const token = keep(`${kind} token ${secrets.size}`, answer.body.token ?? '')
    const last = () => mails.findLast((mail) => mail.to === to && mail.code !== '')
    if (expected) await until(last)
    const { code } = last() ?? { code: '' }
    keep(`${kind} code ${secrets.size}`, code)
    keep(`${kind} typed code ${secrets.size}`, code && `${code.slice(0, 4)} ${code.slice(4)}`)
    return { token, otp: code || '00000000' }
  }

  /** From the registration to the end of an account; `whole` while nothing is broken. */
  async function wholeLife(whole: boolean): Promise<void> {
    const [first, second] = [newAddress(), newAddress()]
    const body = { username: uniqueName(), email: first, password }
    const verification = await codeFor('verify', first, await post_('/api/register/', body), whole)
    await post_('/auth/verify_email/', { ...verification, otp: '00000000' })
    mails.length = 0
    const { token } = verification
    const again = await post_('/auth/resend_verification/', { email: first, token })
    const resent = await codeFor('verify', first, again, whole)
    const verified = await post_('/auth/verify_email/', resent)
    const { access, refresh } = keepTokens((await post_('/api/login/', { email: first, password })).body)
    await act(get('/auth/sessions/', access))
    await post_('/auth/change_email/', { email: second, password: `${password} not` }, access)
    const change = await post_('/auth/change_email/', { email: second, password }, access)
    const moved = await post_('/auth/confirm_email/', await codeFor('change', second, change, whole), access)
    const changed = await post_('/auth/change_password/', { current_password: password, new_password: next }, access)
    const tokens = keepTokens(changed.body)
    await post_('/auth/logout/', { refresh })
    await send({
      ...{ method: 'PATCH', url: '/auth/user/', payload: { username: uniqueName() } },
      headers: { authorization: `Bearer ${tokens.access}` },
    })
    if (whole) await search(t, 'in the life of an account')
    const removed = await act(
      send({
        ...{ method: 'DELETE', url: '/auth/user/', payload: { password: next } },
        headers: { authorization: `Bearer ${tokens.access}` },
      }),
    )
    await post_('/auth/logout_all/', {}, tokens.access)
    if (!whole) return
    t.strictSame(
      [verified, moved, changed, removed].map(({ status }) => status),
      [200, 200, 200, 204],
    )
    await until(() => mails.filter(({ code }) => code === '').length === 3)
  }

  async function everyRoute(): Promise<void> {
    await post_('/api/register/', { username: uniqueName(), email, password })
    await post_('/api/register/', { username: 'ada', email: 'ada@example', password })
    await post_('/api/login/', { email, password: keep('wrong password', 'canary-password-Tt5yU1') })
    const { access, refresh } = keepTokens((await post_('/api/login/', { email, password })).body)
    await act(get('/auth/user/', access))
    await act(get('/auth/user/', keep('forged token', 'canary.forged.token-Hh7')))
    const renewed = (await post_('/auth/refresh/', { refresh })).body
    keepTokens(renewed)
    await post_('/auth/refresh/', { refresh: [refresh] })
    const payload = `{"email":"${email}","password":"${password}"`
    await act(clientOf(app).send({ method: 'POST', url: '/api/login/', payload, headers: jsonType }))
    await post_('/auth/reset_password/', { token: 'canary', new_password: { nested: next } })
  }
  async function askAndReset(newPassword: string): Promise<void> {
    const before = mails.length
    const { body } = await post_('/auth/email_request/', { email })
    keep(`reset token ${before}`, body.token)
    const link = () => mails.slice(before).find((mail) => mail.to === email && mail.token !== '')
    await until(link)
    const { code, token: linkToken } = link()!
    keep(`code ${before}`, code)
    keep(`typed code ${before}`, `${code.slice(0, 4)} ${code.slice(4)}`)
    keep(`link token ${before}`, linkToken)
    await post_('/auth/check_otp/', { token: body.token, otp: '00000000' })
    await post_('/auth/check_otp/', { token: linkToken, otp: code })
    await post_('/auth/check_otp/', { token: body.token, otp: code })
    await post_('/auth/reset_password/', { token: body.token, new_password: 'short' })
    await search(t, 'while a grant lives')
    const { status } = await post_('/auth/reset_password/', { token: body.token, new_password: newPassword })
    t.equal(status, 200)
    await post_('/auth/reset_password/', { token: body.token, new_password: newPassword })
  }
  async function search(t: Test, when: string): Promise<void> {
    const dumps = { log: written.join(''), errors: JSON.stringify(errors), redis: await dumpRedis(redis) }
    const { accounts_users: users, ...tables } = await dumpDatabase(db)
    const places = { ...dumps, commands: commands.join('\n'), ...tables }
    for (const [place, text] of Object.entries({ ...places, users: users! })) {
      const found = [...secrets].filter(([, value]) => holds(text, value)).map(([name]) => name)
      t.strictSame(found, [], `${when}: ${place}`)
    }
    for (const [place, text] of Object.entries(places)) {
      const found = [...addresses].filter((address) => text.includes(address))
      t.strictSame(found, [], `${when}: no address in ${place}`)
    }
    for (const place of ['redis', 'commands', 'accounts_outbox', 'accounts_events'] as const) {
      t.ok(places[place as keyof typeof places].length > 500, `${when}: there was something to find in ${place}`)
    }
    t.ok(users!.includes(email))
  }

  await post_('/api/register/', { username: uniqueName(), email, password })
  await until(() => mails.length === 1)
  await askAndReset(password)
  await everyRoute()
  await wholeLife(true)
  await askAndReset(next)
  await search(t, 'after every route')

  // An alarm names the pepper of a hash, which is not there.
  await sql`update accounts_users set password_hash = replace(password_hash, 'keyid=', 'keyid=b2xk')`.execute(db)
  t.equal((await post_('/api/login/', { email, password: next })).status, 401)
  t.match(written.join(''), /has the pepper .+oldcanary-id/)

  mailFaults.count = 2
  await askAndReset(password)
  await search(t, 'with mails that failed and were tried again')

  for (const mode of ['refuse', 'freeze'] as const) {
    for (const proxy of proxies) {
      proxy.mode = mode
      await everyRoute()
      await wholeLife(false)
      await post_('/auth/email_request/', { email })
      const newest = (kind: string) => [...secrets].findLast(([name]) => name.startsWith(kind))![1]
      const [token, code] = [newest('reset token'), newest('code')]
      await post_('/auth/check_otp/', { token, otp: code })
      await post_('/auth/reset_password/', { token, new_password: next })
      proxy.mode = 'pass'
      await until(async () => (await post('/auth/email_request/', { email })).status === 200)
      await until(async () => (await post('/api/login/', { email, password })).status === 200)
    }
  }
  t.ok(errors.some(({ status }) => status === 503))
  t.match(written.join(''), /ECONNREFUSED|took longer than/, 'the log has the faults')
  await search(t, 'after faults')
})

/** A host whose log, Redis and database can be read, behind proxies, with a worker that can fail. */
async function observedHost(t: Test) {
  const server = await startRedis()
  const redis = new Redis(server.url)
  const commands: string[] = []
  // Before there is a password, which a monitor does not send.
  const monitor = await monitorOf(redis)
  monitor.on('monitor', (_time: string, args: string[]) => commands.push(args.join(' ')))
  await redis.config('SET', 'requirepass', serverSecrets['Redis password'])
  const { url, drop } = await freshDatabase()
  const proxies = [await faultProxy(server.port), await faultProxy(Number(new URL(url).port))] as const
  const redisUrl = `redis://:${serverSecrets['Redis password']}@127.0.0.1:${proxies[0].port}`
  const database = new URL(url)
  Object.assign(database, { port: String(proxies[1].port), password: serverSecrets['database password'] })
  t.equal(new URL(databaseUrl()).username, database.username)

  const written: string[] = []
  const stream = new Writable({
    write(chunk, _encoding, done) {
      written.push(String(chunk))
      done()
    },
  })
  const name = uniqueName()
  const pool = new pg.Pool({ connectionString: database.href, max: 10 })
  const app = Fastify({ logger: { level: 'trace', stream } })
  pool.on('error', (error) => app.log.error(error))
  pool.on('connect', (client) => client.on('error', () => {}))
  const db = new Kysely<any>({ dialect: new PostgresDialect({ pool }) })
  await migrateToLatest(db)
  const passwordReset = { url: 'https://app.example.com/reset' }
  const passwords = { pepper: { id: 'canary-id', secret: pepper } }
  const given = { passwordReset, passwords, eventLog: {}, registration: { verifyEmail: true } }
  await app.register(plugin, { name, secret, db, redis: redisUrl, ...given })

  /** Code and token are empty in a notice, the token in a mail without a link. */
  const mails: { to: string; code: string; token: string }[] = []
  const mailFaults = { count: 0 }
  const worker = startMailWorker({
    ...{ name, secret, redis: redisUrl, from: 'no-reply@example.com', log: app.log, timing: { retryMs: 20 } },
    async transport({ to, text }) {
      if (mailFaults.count-- > 0) throw new Error(`550 ${to} ${text} is not wanted`)
      const code = /^ {4}([\d ]+)$/m.exec(text)?.[1]?.replaceAll(' ', '') ?? ''
      mails.push({ to, code, token: /#token=([\w.-]+)/.exec(text)?.[1] ?? '' })
    },
  })
  const write = process.stderr.write
  process.stderr.write = ((chunk: string, ...rest: []) => {
    written.push(String(chunk))
    return write.call(process.stderr, chunk, ...rest)
  }) as typeof write
  t.teardown(async () => {
    process.stderr.write = write
    await worker.close()
    await app.close()
    await db.destroy()
    for (const client of [monitor, redis]) client.disconnect()
    await Promise.all(proxies.map((proxy) => proxy.close()))
    await Promise.all([server.stop(), drop()])
  })
  return { app, written, commands, redis, db, proxies, mails, mailFaults }
}

async function dumpRedis(redis: Redis): Promise<string> {
  const readers: Record<string, (key: string) => Promise<unknown>> = {
    string: (key) => redis.get(key),
    hash: (key) => redis.hgetall(key),
    list: (key) => redis.lrange(key, '0', '-1'),
    set: (key) => redis.smembers(key),
    zset: (key) => redis.zrange(key, '0', '-1'),
    stream: (key) => redis.xrange(key, '-', '+'),
  }
  const dumped = (await redis.keys('*')).map(async (key) => [key, await readers[await redis.type(key)]?.(key)])
  return JSON.stringify(await Promise.all(dumped))
}

async function dumpDatabase(db: Kysely<any>): Promise<Record<string, string>> {
  const tables = await db.introspection.getTables()
  const dumped = tables.map(async ({ name }) => {
    const { rows } = await sql`select * from ${sql.table(name)}`.execute(db)
    return [name, JSON.stringify(rows)]
  })
  return Object.fromEntries(await Promise.all(dumped))
}

/** A pepper as it is given, and as bytes are written. */
function formsOf(text: string): Record<string, string> {
  const encodings = ['base64', 'base64url', 'hex'] as const
  const forms = encodings.map((encoding) => [`pepper in ${encoding}`, Buffer.from(text).toString(encoding)])
  return { pepper: text, ...Object.fromEntries(forms) }
}

/** Whether a text holds a secret. Eight digits are found by chance within the longer numbers of a log. */
function holds(text: string, value: string): boolean {
  if (!text.includes(value)) return false
  return !/^\d+$/.test(value) || new RegExp(`(?<![\\d.])${value}(?!\\d)`).test(text)
}
