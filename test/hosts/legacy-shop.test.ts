import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { SignJWT } from 'jose'
import pg from 'pg'
import t from 'tap'
import { root, startServer } from '../helpers/examples.ts'
import { freshDatabase, longRun, startRedis } from '../helpers/helper.ts'
import { done, runNode } from '../helpers/program.ts'

const shop = `${root}examples/legacy-shop`
const migration = '003-accounts.sql'
const config = `${shop}/after/accounts.config.js`

t.test('the app that adopted us is the one before, but for 30 lines and a migration', async (t) => {
  const without = ['node_modules', 'package-lock.json', migration].map((name) => `--exclude=${name}`)
  const { stdout } = spawnSync('diff', ['-ruN', ...without, 'before', 'after'], { cwd: shop, encoding: 'utf8' })
  const files = [...stdout.matchAll(/^diff .* after\/(.*)$/gm)].map(([, name]) => name)
  const lines = stdout.split('\n').filter((line) => /^[-+]/.test(line) && !/^(---|\+\+\+) /.test(line))

  t.strictSame(files, ['accounts.config.js', 'package.json', 'plugins/auth.js', 'routes/accounts.js'])
  t.ok(lines.length <= 30, `${lines.length} lines`)
})

// Each step goes on from the one before it, on one database.
longRun('a shop of 10,000 users adopts us, and leaves again', async (t) => {
  const { url, drop } = await freshDatabase()
  const redis = await startRedis()
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  t.teardown(async () => {
    await client.end()
    await Promise.all([drop(), redis.stop()])
  })
  const jwtSecret = randomBytes(32).toString('base64url')
  const env = {
    DATABASE_URL: url,
    REDIS_URL: redis.url,
    JWT_SECRET: jwtSecret,
    BCRYPT_ROUNDS: '4',
    ACCOUNTS_SECRET: randomBytes(32).toString('base64url'),
    // The package, where `npm install` would have put it.
    NODE_PATH: t.testdir({ 'fastify-accounts': t.fixture('symlink', root) }),
  }
  const rows = async (query: string) => (await client.query(query)).rows
  const user = async (id: number) => (await rows(`select * from users where id = ${id}`))[0]
  const adopt = (...flags: string[]) => done(t, ['adopt', ...flags, '--config', config], env)
  const start = (version: string) => startServer(t, `${shop}/${version}/server.js`, env)

  async function run(...args: string[]) {
    const { ended, out, err } = runNode(t, args, env)
    t.equal(await ended, 0, err())
    return out()
  }

  /** The suite of the shop, which is the same in both: the titles of the tests that passed. */
  async function passedOn(version: string) {
    const printed = await run('--test-reporter=tap', `${shop}/${version}/test/shop.test.js`)
    return [...printed.matchAll(/^ok \d+ - (.*)$/gm)].map(([, title]) => title)
  }

  const ordered = () =>
    rows(`select count(*)::int, count(distinct user_id)::int as users, sum(cents)::int as cents
      from orders join users on users.id = user_id where users.id <= 10000`)

  let suite: unknown[] = []
  let ordersBefore: unknown[] = []
  await t.test('before', async (t) => {
    await run(`${shop}/before/migrate.js`)
    await run(`${shop}/before/seed.js`)

    suite = await passedOn('before')
    ordersBefore = await ordered()

    t.equal(suite.length, 10)
    t.match(await rows('select count(*)::int from users where id <= 10000'), [{ count: 10_000 }])
    t.match(ordersBefore, [{ count: 20_001 }])
  })

  const before = await start('before')
  const tokenOf = async (email: string, password: string) =>
    (await before.post('/login', { email, password })).body.token
  const oldToken = await tokenOf('user5@example.com', 'password-1')
  await t.test('the check finds nothing but those who came back, and the migration is what is printed', async (t) => {
    const [checked, printed] = await Promise.all([adopt('--check'), adopt()])

    t.match(checked, { code: 0, err: '' })
    const lines = checked.out.split('\n')
    t.match(lines[0], /^\d+ share an address; the first of each gets the account: .*\b10000\+8000\b/)
    t.strictSame(
      lines.slice(1).map((line) => line.replace(/\d+$/, 'n')),
      ['passwords: 2a: n', 'passwords: 2y: n', 'passwords: 2b: n', 'Everything else is in order.', ''],
    )
    t.match(printed, { code: 0, err: '' })
    // After a change of the statements, with DATABASE_URL of an empty database, ACCOUNTS_SECRET and REDIS_URL:
    //   node examples/legacy-shop/before/migrate.js && cd examples/legacy-shop/after &&
    //   node ../../../dist/cli.js adopt --config accounts.config.js > migrations/003-accounts.sql
    t.equal(readFileSync(`${shop}/after/migrations/${migration}`, 'utf8'), printed.out)
    t.equal(await run(`${shop}/after/migrate.js`), `${migration}\n`)
  })

  await t.test('the suite passes on both, while both run', async (t) => {
    t.strictSame(await Promise.all(['before', 'after'].map(passedOn)), [suite, suite])
  })

  const after = await start('after')
  const login = (email: string, password: string) => after.post('/login', { email, password })
  const refresh = async (token: string) => (await after.post('/auth/refresh/', { refresh: token })).status

  await t.test('old users log in with their old passwords, under their ids', async (t) => {
    for (const [email, password, id] of [
      ['user5@example.com', 'password-1', 5],
      ['USER6@example.com', 'password-2', 6],
      ['user7@example.com', 'password-3', 7],
      ['user8@EXAMPLE.com', 'password-0', 8],
      // Left as 8000, and came back.
      ['user8000@example.com', 'password-0', 10_000],
    ] as const) {
      const { hash } = (await rows(`select password_hash as hash from users where id = ${id}`))[0]
      const { status, body } = await login(email, password)
      t.equal(status, 200, email)
      t.match(await after.open('/me', body.token), { status: 200, body: { id, name: String } })
      t.equal((await user(id)).password_hash, hash, 'the hash stays as the old code made it')
    }
    t.match(await login('user5@example.com', 'password-2'), { status: 401 })
  })

  await t.test('who was deleted softly does not log in', async (t) => {
    t.type((await user(50)).deleted_at, Date)
    t.match(await login('user50@example.com', 'password-2'), { status: 401 })
  })

  await t.test('a token from before is good until it expires', async (t) => {
    const expired = await new SignJWT({ id: 5, role: 'customer' })
      .setProtectedHeader({ alg: 'HS256' })
      .setIssuedAt(Date.now() / 1000 - 13 * 3600)
      .setExpirationTime(Date.now() / 1000 - 3600)
      .sign(Buffer.from(jwtSecret))

    t.match(await after.open('/me', oldToken), { status: 200, body: { id: 5 } })
    t.match(await after.post('/orders', { article: 'tea', cents: 450 }, oldToken), { status: 201 })
    t.match(await after.open('/admin/customers', oldToken), { status: 403 })
    t.match(await after.open('/me', expired), { status: 401 })
  })

  await t.test('new users have ids of the shop’s sequence and rows in its table', async (t) => {
    const one = await after.post('/register', { email: 'One@example.com', password: 'correct horse', name: 'One' })
    const two = await after.post('/api/register/', { email: 'Two@example.com', password: 'correct horse' })

    t.match([one, two], [{ status: 201 }, { status: 201 }])
    t.equal(Number(two.body.id), Number(one.body.id) + 1)
    t.match(await rows('select last_value::int as id from users_id_seq'), [{ id: two.body.id }])
    const stored = {
      email: 'Two@example.com',
      role: 'customer',
      name: '',
      deleted_at: null,
      password_hash: /^\$2b\$12/,
    }
    t.match(await user(Number(two.body.id)), stored)
    t.match([await login('one@example.com', 'correct horse'), await login('two@example.com', 'correct horse')], {
      0: { status: 200 },
      1: { status: 200 },
    })
  })

  await t.test('a customer changes the password, logs out and leaves by our routes', async (t) => {
    const { token } = (await login('user6@example.com', 'password-2')).body
    const passwords = { current_password: 'password-2', new_password: 'another battery' }
    t.match(await after.post('/auth/change_password/', passwords, token), { status: 200 })
    t.match((await user(6)).password_hash, /^\$2b\$12/)
    t.match(await login('user6@example.com', 'password-2'), { status: 401 })
    const changed = (await login('user6@example.com', 'another battery')).body
    t.equal((await after.post('/auth/logout/', { refresh: changed.refresh })).status, 204)
    t.equal(await refresh(changed.refresh!), 401)

    const leaving = (await login('user8@example.com', 'password-0')).body.token
    t.equal((await after.remove('/auth/user/', leaving, { password: 'password-0' })).status, 204)
    t.type((await user(8)).deleted_at, Date)
    t.match(await login('user8@example.com', 'password-0'), { status: 401 })
  })

  await t.test('the nightly script runs as it is, and ends the sessions of those whom it changes', async (t) => {
    const renamed = (await login('user11@oldmail.example', 'password-3')).body
    const closed = (await login('user903@example.com', 'password-3')).body
    const untouched = (await login('user5@example.com', 'password-1')).body

    await client.query(readFileSync(`${shop}/after/nightly.sql`, 'utf8'))

    t.strictSame(await Promise.all([renamed, closed, untouched].map((one) => refresh(one.refresh!))), [401, 401, 200])
    t.match(await login('user11@oldmail.example', 'password-3'), { status: 401 })
    t.match(await login('user11@mail.example', 'password-3'), { status: 200 })
    t.match(await login('user903@example.com', 'password-3'), { status: 401 })
    t.match(await user(100), { email: 'gone-100@shop.example', password_hash: '' })
    t.equal(await user(450), undefined)
    t.match((await adopt('--check')).out, /^(?!.*(no row|differ)).*Everything else is in order\.\n$/s)
  })

  await t.test('orders still refer to their users', async (t) => {
    const [now] = await ordered()
    t.strictSame([{ ...now, count: now.count - 1, cents: now.cents - 450 }], ordersBefore)
    await t.rejects(client.query('delete from users where id = 5'), { code: '23503' })
  })

  await t.test('the way back', async (t) => {
    const { token } = (await login('one@example.com', 'correct horse')).body
    await after.stop()

    const removal = await adopt('--remove')
    t.match(removal, { code: 0, err: '' })
    await client.query(removal.out)

    t.strictSame(await passedOn('before'), suite)
    for (const [email, password, status] of [
      ['user7@example.com', 'password-3', 200],
      ['two@example.com', 'correct horse', 200],
      ['user6@example.com', 'another battery', 200],
      ['user6@example.com', 'password-2', 401],
      ['user11@mail.example', 'password-3', 200],
      ['user8@example.com', 'password-0', 401],
    ] as const) {
      t.equal((await before.post('/login', { email, password })).status, status, email)
    }
    t.equal((await before.open('/me', oldToken)).status, 200)
    t.equal((await before.open('/me', token)).status, 401, 'a token of ours means nothing there')
    t.strictSame(await rows("select tgname from pg_trigger where tgname like 'fastify_accounts%'"), [])
  })
})
