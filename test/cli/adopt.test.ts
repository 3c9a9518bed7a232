import { spawnSync } from 'node:child_process'
import pg from 'pg'
import t, { type Test } from 'tap'
import { freshMariadb, openFresh } from '../helpers/databases.ts'
import { noMariadb, noPostgres, redisUrl, uniqueName } from '../helpers/helper.ts'
import { done } from '../helpers/program.ts'

const secret = 'q8Zk3vJx5T1mNw7bRy2cLp9dHs6fGa4eUoIiXjVkBnM'
const table = `create table users (id serial primary key, email text not null, password text);
  create unique index on users (lower(email));
  insert into users (email, password) values ('ada@example.org', '$2b$10$${'a'.repeat(53)}'), ('bob@example.org', null)`

async function open(t: Test, config?: object) {
  const { url } = await openFresh(t)
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  t.teardown(() => client.end())
  return { client, ...programOf(t, url, config) }
}

function programOf(t: Test, url: string, config: object = { adopt: { table: 'users' } }) {
  const needless = { passwordReset: false, routes: { changeEmail: false }, revocation: 'storage' }
  const folder = t.testdir({ 'accounts.mjs': `export default ${JSON.stringify({ ...needless, ...config })}` })
  const env = { DATABASE_URL: url, ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName(), REDIS_URL: redisUrl() }
  const run = (...args: string[]) => done(t, [...args, '--config', `${folder}/accounts.mjs`], env)
  return { run, adopt: (...flags: string[]) => run('adopt', ...flags) }
}

t.test('adopt prints what to run, what it found, and the way back', { skip: noPostgres }, async (t) => {
  const { client, run, adopt } = await open(t)
  await client.query(table)

  t.strictSame(await adopt('--check'), {
    code: 0,
    out: `nobody can be disabled there: neither "active" nor "disabledAt" is named
passwords: 2b: 1
passwords: no password: 1
Everything else is in order.
`,
    err: '',
  })
  const printed = await adopt()
  t.match(printed, { code: 0, err: '' })
  await client.query(printed.out)

  t.match(await run('user', 'show', 'ADA@example.org'), { code: 0, out: /"id":1,.*"ada@example.org"/ })
  t.match(await run('user', 'set-role', '2', 'staff'), { code: 0 })
  t.strictSame(await run('migrate'), { code: 0, out: 'The tables are up to date.\n', err: '' })
  await client.query("set session_replication_role = 'replica'; delete from users where id = 2")
  t.match(await adopt('--check'), { code: 0, out: /1 have an account but no row: 2/ })
  t.notMatch(await adopt('--check', '--repair'), { out: /no row/ })

  const back = await adopt('--remove')
  t.match(back, { code: 0, err: '' })
  await client.query(back.out)
  const { rows } = await client.query("select from pg_class where relnamespace = 'accounts'::regnamespace")
  t.equal(rows.length, 0)
})

t.test('adopt says what is missing or wrong, without a stack', { skip: noPostgres }, async (t) => {
  const { adopt } = await open(t)

  t.match(await adopt(), { code: 1, err: /adopt\.table: there is no table "users"/ })
  t.match(await adopt('--remove', '--check'), { code: 2, err: /--remove goes alone/ })
  t.match(await adopt('--repair'), { code: 2, err: /--repair goes with --check/ })
  for (const { err } of [await adopt()]) t.notMatch(err, /\n {4}at /)
})

t.test('adopt --check knows how long the hashes are that will be written', { skip: noPostgres }, async (t) => {
  for (const [write, told] of [
    ['bcrypt', false],
    ['argon2id', true],
  ] as const) {
    await t.test(write, async (t) => {
      const { client, adopt } = await open(t, { adopt: { table: 'users' }, passwords: { write } })
      await client.query(table.replace('password text', 'password varchar(72)'))

      const { code, out } = await adopt('--check')

      t.equal(code, 0)
      t.equal(out.includes('column "password" is character varying(72): what we write may need 128'), told)
    })
  }
})

t.test('adopt needs a table to adopt', { skip: noPostgres }, async (t) => {
  const { adopt } = await open(t, {})

  t.match(await adopt(), { code: 2, err: /the config needs "adopt", and "db" or DATABASE_URL/ })
})

t.test('what adopt prints for MySQL is for its own client', { skip: noMariadb }, async (t) => {
  const { url } = await freshMariadb(t)
  const { run, adopt } = programOf(t, url)
  const { hostname, port, pathname } = new URL(url)
  const client = (input: string) => {
    const options = [`-h${hostname}`, `-P${port}`, '-uroot', '--skip-column-names', pathname.slice(1)]
    const { stdout, stderr } = spawnSync('mariadb', options, { input, encoding: 'utf8' })
    t.equal(stderr, '')
    return stdout
  }
  client(`create table users (id int auto_increment primary key, email varchar(255) not null unique, password text);
    insert into users (email) values ('ada@example.org'), ('bob@example.org')`)

  t.match(await adopt('--check'), { code: 0, out: /no password: 2/, err: '' })
  client((await adopt()).out)

  t.match(await run('user', 'show', 'ADA@example.org'), { code: 0, out: /"id":1,.*"ada@example.org"/ })
  t.strictSame(await run('migrate'), { code: 0, out: 'The tables are up to date.\n', err: '' })
  client('set @fastify_accounts.taking = 1; delete from users where id = 2')
  t.match(await adopt('--check'), { code: 0, out: /1 have an account but no row: 2/ })
  t.notMatch(await adopt('--check', '--repair'), { out: /no row/ })
  client((await adopt('--remove')).out)
  t.equal(client('show tables'), 'users\n')
})
