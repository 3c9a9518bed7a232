import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { createUser } from '../../lib/testing/index.ts'
import { type Answer, openDatabase, password, secret } from '../helpers/app.ts'
import { accessTtl, cluster, type Deploy } from '../helpers/cluster.ts'
import { longRun, noPostgres, redisUrl, uniqueName, until } from '../helpers/helper.ts'
import { newKey, pemOf, publicPemOf } from '../helpers/keys.ts'
import { codeIn } from '../helpers/smtp-catcher.ts'

// These hosts import the built package `fastify-accounts`, and none of them calls process.exit().
async function run(host: string, env: Record<string, string> = {}) {
  const file = fileURLToPath(new URL(host, import.meta.url))
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [file], {
    env: { ...process.env, NODE_V8_COVERAGE: '', ACCOUNTS_SECRET: secret, ...env },
    timeout: 30_000,
  })
  return { ...JSON.parse(stdout), stderr }
}

t.test('a CommonJS host requires the package, and the process ends by itself', async (t) => {
  t.strictSame(await run('commonjs.cjs'), { statuses: [201, 200, 200, 401], id: 1, error: 401, stderr: '' })
})

t.test('a host that loads its plugins from a folder registers us in one of its files', async (t) => {
  t.strictSame(await run('autoload.js'), { statuses: [201, 200, 200, 401], stderr: '' })
})

t.test(
  'app.close() closes what we opened to Redis, and the process ends by itself',
  { skip: noPostgres },
  async (t) => {
    const { url } = await openDatabase(t)
    const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_NAME: uniqueName() }

    t.strictSame(await run('ending.js', env), { statuses: [200], stderr: '' })
  },
)

t.test('a host that cannot boot for a wrong option ends with its message', async (t) => {
  const failed = await run('commonjs.cjs', { ACCOUNTS_SECRET: 'short' }).catch((error) => error)

  t.equal(failed.code, 1)
  t.match(failed.stderr, /TypeError: fastify-accounts: option "secret" must be a random text of at least 32 bytes/)
})

longRun(
  '[R-TOK-8] secret and keys are replaced under load: no 401, no lost mail, no budget reset',
  { skip: noPostgres, timeout: 240_000 },
  async (t) => {
    const [oldSecret, newSecret] = [randomBytes(32).toString('base64url'), randomBytes(32).toString('base64url')]
    const [old, young] = [newKey('RS256'), newKey('EdDSA')]
    const before: Deploy = { secret: [oldSecret], tokens: { keys: [pemOf(old)] } }
    const deploys: Deploy[] = [
      { secret: [oldSecret, newSecret], tokens: { keys: [pemOf(old), pemOf(young)] } },
      { secret: [newSecret, oldSecret], tokens: { keys: [pemOf(young), publicPemOf(old)] } },
      { secret: [newSecret], tokens: { keys: [pemOf(young)] } },
    ]
    const { app, name, smtp, call, roll, calls } = await cluster(t, before)
    const enrol = async (user: { password?: string } = {}) =>
      (await createUser(app, { name, verified: true, ...user })).email
    const login = (email: string, typed = password) =>
      call(({ post }) => post('/api/login/', { email, password: typed }))
    const refresh = (token: string) => call(({ post }) => post('/auth/refresh/', { refresh: token }))
    const ask = (email: string) => call(({ post }) => post('/auth/email_request/', { email }))
    const mailsTo = (email: string) => smtp.caught.filter(({ recipients }) => recipients.includes(email))

    const unexpected: string[] = []
    function expect(answer: Answer, what: string): boolean {
      // A process that has just begun may be busy. It promises nothing, and clients come back.
      if (![200, 503].includes(answer.status)) unexpected.push(`${what}: ${answer.status} ${answer.body?.code}`)
      return answer.status === 200
    }
    let over = false
    const kids = new Set<string>()

    /** A user who reads, refreshes and now and then logs in again; answers with when the tokens were made. */
    function client(email: string) {
      const state = { madeAt: 0 }
      async function live(): Promise<void> {
        let { body: pair } = await login(email)
        for (let turn = 0; !over; turn++) {
          const me = await call(({ get }) => get('/host/me', pair.access))
          kids.add(JSON.parse(Buffer.from(pair.access.split('.')[0], 'base64url').toString()).kid)
          const expired = me.status === 401 && me.body.code === 'ACCOUNTS_TOKEN_EXPIRED'
          if (!expired) expect(me, 'a guarded route')
          const startedAt = Date.now()
          const act = turn % 50 === 49 ? 'a login' : expired || turn % 10 === 9 ? 'a refresh' : null
          const made = act && (await (act === 'a login' ? login(email) : refresh(pair.refresh)))
          if (made && expect(made, act)) {
            pair = made.body
            state.madeAt = startedAt
          }
          await sleep(20)
        }
      }
      return { state, living: live() }
    }

    const proofs: Promise<void>[] = []
    let asking = true

    /** Somebody who asks for a mail, whose code has to work on either instance. */
    async function mails(): Promise<void> {
      while (!over) {
        if (asking) {
          const email = await enrol()
          const asked = await ask(email)
          if (expect(asked, 'a request for a mail')) proofs.push(prove(email, asked.body.token))
        }
        await sleep(100)
      }
    }
    async function prove(email: string, token: string): Promise<void> {
      await until(() => mailsTo(email).length > 0, 60_000)
      const otp = codeIn(mailsTo(email)[0]!)
      const check = () => call(({ post }) => post('/auth/check_otp/', { token, otp }))
      for (let right = 0; right < 2; ) {
        const answer = await check()
        if (expect(answer, 'a code')) right++
        else if (answer.status !== 503) return
      }
    }

    const [guessed, guessedLate] = [await enrol({ password }), await enrol({ password })]
    const flooded = await enrol()
    const spend = async (email: string) => {
      for (let tries = 0; tries < 5; tries++) t.equal((await login(email, 'a wrong password')).status, 401)
    }
    const isSpent = async (email: string, when: string) =>
      t.equal((await login(email, 'a wrong password')).status, 429, `${when}: guesses of a password`)
    /** Mails to a full mailbox are dropped: what is asked for after them arrives, and they do not. */
    async function isFull(when: string): Promise<void> {
      await until(async () => (await ask(flooded)).status === 200)
      const later = await enrol()
      await until(async () => (await ask(later)).status === 200)
      await until(() => mailsTo(later).length > 0, 60_000)
      t.equal(mailsTo(flooded).length, 3, `${when}: mails to one address`)
    }
    await spend(guessed)
    await until(async () => (await ask(flooded)) && mailsTo(flooded).length === 3)
    await isFull('before')

    const clients = await Promise.all(Array.from({ length: 4 }, async () => client(await enrol({ password }))))
    const mailing = mails()
    await until(() => clients.every(({ state }) => state.madeAt > 0))
    for (const [index, deploy] of deploys.entries()) {
      if (index === 2) {
        // Before the last deploy nothing of the old secret and the old key may be left.
        const since = Date.now()
        await until(() => clients.every(({ state }) => state.madeAt > since))
        asking = false
        await sleep(500)
        await Promise.all(proofs)
        await sleep(accessTtl * 1000)
        asking = true
      }
      await roll(deploy)
      const when = `after deploy ${index + 1}`
      // A budget that was spent before the first deploy is long forgotten by the last.
      if (index < 2) await isSpent(guessed, when)
      if (index < 2) await isFull(when)
      if (index === 0) await spend(guessedLate)
      await isSpent(guessedLate, when)
    }
    over = true
    await Promise.all([mailing, ...clients.map(({ living }) => living)])
    await Promise.all(proofs)

    t.strictSame(unexpected, [])
    t.equal(kids.size, 2, 'tokens of both keys were used')
    t.ok(proofs.length > 20, `${proofs.length} mails arrived and their codes worked`)
    t.comment(`${calls()} calls, ${proofs.length} mails`)
  },
)
