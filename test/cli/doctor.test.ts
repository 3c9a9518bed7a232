import { randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { sampleUser } from '../../lib/testing/samples.ts'
import { openApp, openDatabase, passwords, secret } from '../helpers/app.ts'
import { freePort, noPostgres, redisUrl, uniqueName } from '../helpers/helper.ts'
import { done } from '../helpers/program.ts'

const [older, newer] = ['2025', '2026'].map((id) => ({ id, secret: randomBytes(32).toString('base64url') }))
const password = 'correct horse battery'

/** Runs `doctor` with configs of these peppers, and without one. */
function doctorOf(t: Test, configs: Record<string, unknown>) {
  const needless = { passwordReset: false, routes: { changeEmail: false }, revocation: 'storage' }
  const files = Object.entries(configs).map(([name, pepper]) => [
    `${name}.mjs`,
    `export default ${JSON.stringify({ passwords: { pepper }, ...needless })}`,
  ])
  const folder = t.testdir(Object.fromEntries(files))
  const common = { ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
  return (url: string, name?: string) => {
    const [args, env] = name ? [['--config', `${folder}/${name}.mjs`], {}] : [[], { REDIS_URL: redisUrl() }]
    return done(t, ['doctor', ...args], { DATABASE_URL: url, ...common, ...env })
  }
}

t.test(
  '[R-HASH-5] doctor counts the hashes of each pepper, and fails for one that lacks',
  { skip: noPostgres },
  async (t) => {
    const { db, url } = await openDatabase(t)
    const storage = kyselyStorage(db)
    const app = async (pepper: unknown) =>
      openApp(t, { storage, redis: redisUrl(), name: uniqueName(), passwords: { ...passwords, pepper } as never })
    const register = async (pepper: unknown, ...emails: string[]) => {
      const { post } = await app(pepper)
      for (const email of emails) {
        t.equal((await post('/api/register/', { username: email[0], email, password })).status, 201)
      }
    }
    await register(undefined, 'a@example.org')
    await register(older, 'b@example.org', 'c@example.org', 'd@example.org')
    await register([newer, older], 'e@example.org')
    await storage.insertUser(sampleUser({ passwordHash: null }))
    const run = doctorOf(t, { both: [newer, older], newer, older: [null, older] })
    const doctor = (name?: string) => run(url, name)

    const counts = (none: number, of2026: number, of2025: number) => [
      `password hashes with no pepper: ${none}`,
      `password hashes with the pepper "2025": ${of2025}`,
      `password hashes with the pepper "2026": ${of2026}`,
    ]
    const shown = ({ code, out, err }: Awaited<ReturnType<typeof doctor>>) => ({
      ...{ code, err },
      lines: out.trimEnd().split('\n').toSorted(),
    })
    const lacks = (ids: string) =>
      `fastify-accounts: passwords.pepper lacks ${ids}: nobody can log in by the password hashes that have it\n`
    t.strictSame(shown(await doctor('both')), { code: 0, err: '', lines: counts(1, 1, 3) })
    t.strictSame(shown(await doctor('newer')), { code: 1, err: lacks('"2025"'), lines: counts(1, 1, 3) })
    t.strictSame(shown(await doctor('older')), { code: 1, err: lacks('"2026"'), lines: counts(1, 1, 3) })
    t.match(await doctor(), {
      code: 1,
      err: /^fastify-accounts: passwords\.pepper lacks ("2025", "2026"|"2026", "2025"): /,
    })

    const { post } = await app([newer, older])
    for (const name of ['a', 'b', 'c', 'd']) await post('/api/login/', { email: `${name}@example.org`, password })

    t.strictSame(shown(await doctor('both')), { code: 0, err: '', lines: counts(0, 5, 0) })
    t.strictSame(shown(await doctor('newer')), {
      ...{ code: 0, err: '' },
      lines: counts(0, 5, 0).filter((line) => !line.includes('2025')),
    })
  },
)

t.test(
  '[R-HASH-5] doctor shows an id that somebody made up without its control characters',
  { skip: noPostgres },
  async (t) => {
    const { db, url } = await openDatabase(t)
    const keyId = Buffer.from('\u001b[2J\nok').toString('base64').replace('=', '')
    const passwordHash = `$argon2id$v=19$m=19456,t=2,p=1,keyid=${keyId}$c2FsdA$aGFzaA`
    await kyselyStorage(db).insertUser(sampleUser({ passwordHash }))

    const { code, out, err } = await doctorOf(t, {})(url)

    t.equal(code, 1)
    t.match(out, 'the pepper "\\u001b[2J\\nok": 1\n')
    t.match(err, /^fastify-accounts: passwords\.pepper lacks "\\u001b\[2J\\nok": .+\n$/)
  },
)

t.test(
  'doctor says that the database is down, or that a pepper is wrong, without its secret',
  { skip: noPostgres },
  async (t) => {
    const { url } = await openDatabase(t)
    const down = `postgres://user:canary@127.0.0.1:${await freePort()}/app`
    const doctor = doctorOf(t, { newer, weak: { id: '2026', secret: 'canary' }, text: newer!.secret })

    const [away, weak, text] = await Promise.all([doctor(down, 'newer'), doctor(url, 'weak'), doctor(url, 'text')])

    t.match(away, { code: 1, out: '', err: /^ACCOUNTS_UNAVAILABLE: .+ECONNREFUSED/ })
    t.match(weak, { code: 1, err: /^fastify-accounts: option "passwords\.pepper\.secret" must be .+\n$/ })
    t.match(text, { code: 1, err: /^fastify-accounts: option "passwords\.pepper" must be .+\n$/ })
    for (const { err } of [away!, weak!, text!]) t.notMatch(err, new RegExp(`canary|${newer!.secret}`))
  },
)
