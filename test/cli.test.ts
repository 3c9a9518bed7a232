import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import pg from 'pg'
import t from 'tap'
import { queueMailer } from '../lib/adapters/bullmq.ts'
import { kyselyStorage, migrationSql } from '../lib/adapters/kysely.ts'
import { redisCache } from '../lib/adapters/redis.ts'
import { commands, flagTypes } from '../lib/cli-commands.ts'
import { sampleMessage } from '../lib/testing/mailer.ts'
import { sampleSession } from '../lib/testing/samples.ts'
import { startMailWorker } from '../lib/worker.ts'
import { secret as appSecret, openDatabase, realApp, startServer } from './app.ts'
import { freePort, freshDatabase, noPostgres, noRedis, redisUrl, startRedis, uniqueName, until } from './helper.ts'
import { cli, done } from './program.ts'
import { codeIn, startSmtp } from './smtp-catcher.ts'

const secret = randomBytes(32).toString('base64url')

t.test('generate-secret prints 32 new random bytes that the plugin accepts', async (t) => {
  const runs = [cli(t, ['generate-secret']), cli(t, ['generate-secret'])]

  t.strictSame(await Promise.all(runs.map(({ ended }) => ended)), [0, 0])
  const [one, two] = runs.map((run) => run.out().trim())
  t.equal(Buffer.from(one!, 'base64url').length, 32)
  t.match(one, /^[\w-]{43}$/)
  t.not(one, two)
  await t.resolves(queueMailer({ redis: redisUrl(), secret: one! }).close())
})

t.test('--help names every command and flag, and --version the version', async (t) => {
  const help = cli(t, ['--help'])
  const ofCommand = cli(t, ['user', 'create', '-h'])
  const version = cli(t, ['--version'])

  t.strictSame(await Promise.all([help.ended, ofCommand.ended, version.ended]), [0, 0, 0])
  for (const name of Object.keys(commands)) t.match(help.out(), new RegExp(`^ {2}${name} `, 'm'))
  for (const name of Object.keys(flagTypes)) t.match(help.out(), new RegExp(`--${name}\\b`))
  t.equal(ofCommand.out(), help.out())
  t.equal(version.out().trim(), JSON.parse(readFileSync('package.json', 'utf8')).version)
})

t.test(
  'a wrong command line exits 2, tells the fix on one line and never repeats what may be a password',
  async (t) => {
    const wrong: [string[], RegExp][] = [
      [
        ['wroker'],
        /unknown command "wroker"; the commands are worker, migrate, generate-secret, user, end-sessions, mails/,
      ],
      [[], /a command is missing\n\nUsage/],
      [['user'], /"user" needs an action; the actions are list, show, create,/],
      [['user', 'remove'], /unknown action "remove"; the actions are list,/],
      [['generate-secret', 'now'], /the call is: fastify-accounts generate-secret;/],
      [['generate-secret', '--ids', 'uuid'], /--ids does not belong to "generate-secret"/],
      [['user', 'show'], /the call is: fastify-accounts user show <id\|email>;/],
      [['user', 'show', ''], /the call is: fastify-accounts user show <id\|email>;/],
      [['user', 'set-role', '1'], /the call is: fastify-accounts user set-role <id\|email> <role\|none>;/],
      [['user', 'set-password', '1', 'canary'], /the call is: fastify-accounts user set-password <id\|email>;/],
      [['user', 'set-password', '1'], /needs --password-stdin/],
      [['user', 'set-password', '1', '--password-stdin'], /there is no password on the standard input/],
      [['user', 'create', '--email', 'a@example.com', '--password', 'canary'], /Unknown option '--password';/],
      [['user', 'create', '--email', 'a@example.com', '--password-stdin=canary'], /does not take an argument;/],
      [['user', 'create', '--verified'], /user create needs --email/],
      [['user', 'list', '--limit', '1001'], /--limit must be a whole number from 1 to 1000, but "1001" was given/],
      [['user', 'list', '--email', '--limit'], /Option '--email' argument is ambiguous;/],
      [['end-sessions'], /end-sessions logs everybody out: say so with --all/],
      [['migrate', '--ids', 'text'], /--ids must be integer or uuid, but "text" was given/],
      [['migrate', '--sql', '--config', 'x.js'], /--sql needs no database: leave --config out/],
      [['migrate', '--ids', 'uuid', '--config', 'x.js'], /--ids uuid needs DATABASE_URL instead of --config/],
    ]
    for (const [args, text] of wrong) {
      const { code, out, err } = await done(t, args)
      t.equal(code, 2, args.join(' '))
      t.equal(out, '')
      t.match(err, text)
      if (args.length > 0) t.match(err, /^fastify-accounts: .+\n$/)
      t.notMatch(err, 'canary')
    }
  },
)

t.test('the worker names a variable that is missing or wrong, never what it holds', async (t) => {
  const right = {
    ACCOUNTS_SECRET: secret,
    REDIS_URL: 'redis://127.0.0.1:1',
    SMTP_URL: 'smtp://127.0.0.1:1',
    MAIL_FROM: 'a@example.com',
  }
  const wrong = {
    ACCOUNTS_SECRET: 'canary',
    REDIS_URL: 'canary',
    SMTP_URL: 'http://canary:canary@example.com',
    MAIL_FROM: 'canary',
    ACCOUNTS_NAME: 'a name',
  }
  const missing = (Object.keys(right) as (keyof typeof right)[]).map((name) => ({
    name,
    env: { ...right, [name]: '' },
  }))
  const cases = [
    ...missing,
    ...Object.entries(wrong).map(([name, value]) => ({ name, env: { ...right, [name]: value } })),
  ]

  for (const { name, env } of cases) {
    const run = cli(t, ['worker'], env)
    t.equal(await run.ended, 1, name)
    t.match(run.err(), new RegExp(`^fastify-accounts: ${name}.+\\n$`))
    t.notMatch(run.err(), 'canary')
    t.equal(run.out(), '')
  }
})

t.test('the worker sends, takes both secrets of a rotation, and drains on SIGTERM and SIGINT', async (t) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    const wire = { open: 0, release: () => {} }
    const held = new Promise<void>((resolve) => {
      wire.release = resolve
    })
    const smtp = await startSmtp({
      onMail: () => {
        wire.open++
        return held
      },
    })
    t.teardown(() => smtp.close())
    const name = uniqueName()
    const next = randomBytes(32).toString('base64url')
    const mailer = queueMailer({ redis: redisUrl(), secret: next, name })
    t.teardown(() => mailer.close())
    const run = cli(t, ['worker'], {
      ACCOUNTS_SECRET: `${secret}, ${next}`,
      ACCOUNTS_NAME: name,
      REDIS_URL: redisUrl(),
      SMTP_URL: smtp.url,
      MAIL_FROM: 'Example <no-reply@example.com>',
    })
    await mailer.send(sampleMessage({ code: '44443333' }))
    await until(() => wire.open === 1, 20_000)

    run.child.kill(signal)
    await until(() => /stop/i.test(run.out()))
    wire.release()

    t.equal(await run.ended, 0, signal)
    t.equal(codeIn(smtp.caught[0]!), '44443333')
    t.ok(
      run
        .out()
        .trim()
        .split('\n')
        .every((line) => JSON.parse(line).level === 'info'),
    )
    t.notMatch(run.out() + run.err(), /44443333|4444 3333|ada@example/)
  }
})

t.test('the worker starts while Redis and the mail server are down, and recovers', { skip: noRedis }, async (t) => {
  const [redisPort, smtpPort] = [await freePort(), await freePort()]
  const run = cli(t, ['worker'], {
    ACCOUNTS_SECRET: secret,
    REDIS_URL: `redis://127.0.0.1:${redisPort}`,
    SMTP_URL: `smtp://127.0.0.1:${smtpPort}`,
    MAIL_FROM: 'no-reply@example.com',
  })
  await until(() => run.err().includes('"event":"mail.redis"'), 20_000)
  const redis = await startRedis({ port: redisPort })
  t.teardown(() => redis.stop())
  const mailer = queueMailer({ redis: redis.url, secret })
  t.teardown(() => mailer.close())
  await until(() =>
    mailer.send(sampleMessage()).then(
      () => true,
      () => false,
    ),
  )
  await until(() => run.err().includes('ECONNREFUSED CONN'))

  const smtp = await startSmtp({ port: smtpPort })
  t.teardown(() => smtp.close())
  await until(() => smtp.caught.length === 1)

  run.child.kill('SIGTERM')
  t.equal(await run.ended, 0)
})

t.test('migrate brings a database up to date, twice is once, and ids may be UUIDs', { skip: noPostgres }, async (t) => {
  for (const [args, type] of [
    [[], /int/],
    [['--ids', 'uuid'], /uuid/],
  ] as const) {
    const database = await freshDatabase()
    t.teardown(() => database.drop())

    for (const attempt of [1, 2]) {
      const run = cli(t, ['migrate', ...args], { DATABASE_URL: database.url })
      t.equal(await run.ended, 0, run.err())
      t.match(run.out(), 'The tables are up to date.')
      t.equal(/applied/.test(run.out()), attempt === 1)
    }

    const client = new pg.Client({ connectionString: database.url })
    await client.connect()
    const { rows } = await client.query(
      "select data_type from information_schema.columns where column_name = 'user_id'",
    )
    await client.end()
    t.ok(rows.length > 0)
    for (const row of rows) t.match(row.data_type, type)
  }
})

t.test('migrate tells what is wrong without the password of the database', async (t) => {
  const missing = cli(t, ['migrate'])
  const down = cli(t, ['migrate'], { DATABASE_URL: `postgres://user:canary@127.0.0.1:${await freePort()}/app` })

  t.strictSame(await Promise.all([missing.ended, down.ended]), [1, 1])
  t.match(missing.err(), /^fastify-accounts: DATABASE_URL is not set/)
  t.match(down.err(), /^fastify-accounts: .*ECONNREFUSED/)
  t.notMatch(down.err(), 'canary')
})

t.test(
  'migrate --sql prints the statements without a database, and they are all there is to do',
  {
    skip: noPostgres,
  },
  async (t) => {
    for (const ids of ['integer', 'uuid'] as const) {
      const database = await freshDatabase()
      t.teardown(() => database.drop())
      const printed = await done(t, ['migrate', '--sql', '--ids', ids])
      t.strictSame(printed, { code: 0, out: await migrationSql({ ids }), err: '' })

      const client = new pg.Client({ connectionString: database.url })
      await client.connect()
      await client.query(printed.out)
      await client.end()
      const migrated = await done(t, ['migrate', '--ids', ids], { DATABASE_URL: database.url })

      t.strictSame(migrated, { code: 0, out: 'The tables are up to date.\n', err: '' })
    }
  },
)

/** The lines of JSON that a run printed. */
function printed({ out }: { out: string }): any[] {
  return out
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

t.test('user does to accounts what an administrator does', { skip: noPostgres }, async (t) => {
  const { name, url, post, get } = await realApp(t)
  const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: appSecret, ACCOUNTS_NAME: name }
  const user = (args: string[], input = '') => done(t, ['user', ...args], env, { input })
  const login = (password: string) => post('/api/login/', { email: 'ada@example.com', password })
  const mails: string[] = []
  const transport = async ({ subject }: { subject: string }) => void mails.push(subject)
  const mailed = startMailWorker({ redis: redisUrl(), secret: appSecret, name, transport, from: 'a@example.com' })
  t.teardown(() => mailed.close())

  const profile = ['--email', 'Ada@Example.com', '--username', 'ada', '--role', 'admin', '--verified']
  const created = await user(['create', ...profile, '--password-stdin'], 'correct horse battery\n')
  t.match(created, { code: 0, err: '' })
  const [ada] = printed(created)
  t.match(ada, { id: 1, email: 'Ada@Example.com', username: 'ada', role: 'admin', active: true, profile: {} })
  t.ok(ada.emailVerifiedAt > 0)
  t.match(await login('correct horse battery'), { status: 200 })

  const byAddress = await user(['show', 'ADA@example.com'])
  t.strictSame(printed(byAddress), [ada])
  t.strictSame(Object.keys(ada).sort(), [
    ...['active', 'createdAt', 'email', 'emailVerifiedAt', 'id', 'profile', 'role', 'username'],
  ])

  const { access } = (await login('correct horse battery')).body
  t.match(await get('/auth/user/', access), { status: 200 })
  t.match(await user(['set-password', '1', '--password-stdin'], 'another good password'), { code: 0 })
  await until(async () => (await get('/auth/user/', access)).status === 401, 2000)
  t.match(await login('correct horse battery'), { status: 401 })
  t.match(await login('another good password'), { status: 200 })

  t.match(printed(await user(['set-role', 'ada@example.com', 'support'])), [{ role: 'support' }])
  t.match(printed(await user(['set-role', '1', 'none'])), [{ role: null }])
  t.match(printed(await user(['disable', '1'])), [{ active: false }])
  t.match(await login('another good password'), { status: 401 })
  t.match(printed(await user(['enable', 'ada@example.com'])), [{ active: true }])
  const again = (await login('another good password')).body
  t.match(printed(await user(['end-sessions', '1'])), [{ id: 1 }])
  t.match(await post('/auth/refresh/', { refresh: again.refresh }), { status: 401 })

  t.match(printed(await user(['create', '--email', 'bob@example.com'])), [{ id: 2, username: null, role: null }])
  t.match(printed(await user(['create', '--email', 'cyd@example.com'])), [{ id: 3, emailVerifiedAt: null }])
  const ids = async (...args: string[]) => printed(await user(['list', ...args])).map(({ id }) => id)
  t.strictSame(await ids(), [1, 2, 3])
  t.strictSame(await ids('--after', '1', '--limit', '1'), [2])
  t.strictSame(await ids('--after', '3'), [])

  t.match(printed(await user(['delete', 'ada@example.com'])), [{ id: 1, username: 'ada' }])
  t.match(await login('another good password'), { status: 401 })
  await until(() => mails.length === 2)
  t.match(mails.sort(), [/account was deleted/, /password was changed/])
})

t.test('user works on ids that are UUIDs', { skip: noPostgres }, async (t) => {
  const { url } = await openDatabase(t, { ids: 'uuid' })
  const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
  const user = (...args: string[]) => done(t, ['user', ...args, '--ids', 'uuid'], env)

  const [created] = printed(await user('create', '--email', 'ada@example.com'))

  t.match(created.id, /^[0-9a-f-]{36}$/)
  t.match(printed(await user('set-role', created.id.toUpperCase(), 'admin')), [{ id: created.id, role: 'admin' }])
  t.strictSame(printed(await user('list', '--after', created.id)), [])
  t.match(await user('show', '1'), { code: 2, out: '', err: '"1" is neither an address nor an id' })
})

t.test(
  'user tells each refusal on one line, with its reasons and without what was given',
  {
    skip: noPostgres,
  },
  async (t) => {
    const { url } = await openDatabase(t)
    const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
    const user = (args: string[], input: string | Buffer = '') => done(t, ['user', ...args], env, { input })
    await user(['create', '--email', 'ada@example.com', '--username', 'ada'])
    const refused: [string[], string, RegExp][] = [
      [['create', '--email', 'ADA@example.com'], '', /^ACCOUNTS_EMAIL_TAKEN: The e-mail address is already in use\.$/],
      [['create', '--email', 'b@example.com', '--username', 'Ada'], '', /^ACCOUNTS_USERNAME_TAKEN: [^()]+$/],
      [['create', '--email', 'nobody'], '', /^ACCOUNTS_VALIDATION: .+ \(email must be an e-mail address\)$/],
      [['create', '--email', 'b@example.com', '--role', 'a b'], '', /^ACCOUNTS_VALIDATION: .+ \(role must be .+\)$/],
      [['set-password', '1', '--password-stdin'], 'canary\r\n', /^ACCOUNTS_PASSWORD_REFUSED: .+ \(too_short\)$/],
      [['show', '7'], '', /^ACCOUNTS_NOT_FOUND: [^()]+$/],
      [['delete', 'nobody@example.com'], '', /^ACCOUNTS_NOT_FOUND: [^()]+$/],
    ]

    for (const [args, input, line] of refused) {
      const { code, out, err } = await user(args, input)
      t.equal(code, 1, args.join(' '))
      t.equal(out, '')
      t.match(err.trimEnd(), line)
      t.notMatch(err, 'canary')
    }
    const { code, err } = await user(['set-password', '1', '--password-stdin'], Buffer.from([0xff, 0xfe, 0x61, 0x62]))
    t.equal(code, 2)
    t.match(err, /is not UTF-8/)
  },
)

t.test(
  'user ends while the database or Redis is down, and tells it without their passwords',
  {
    skip: noPostgres,
  },
  async (t) => {
    const { url } = await openDatabase(t)
    const port = await freePort()
    const right = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
    const noDatabase = { ...right, DATABASE_URL: `postgres://user:canary@127.0.0.1:${port}/app` }
    const withoutRedis = { ...right, REDIS_URL: `redis://:canary@127.0.0.1:${port}` }

    const database = await done(t, ['user', 'list'], noDatabase)
    const redis = await done(t, ['user', 'create', '--email', 'ada@example.com'], withoutRedis)
    const missing = await Promise.all(
      (['DATABASE_URL', 'REDIS_URL', 'ACCOUNTS_SECRET'] as const).map((name) =>
        done(t, ['end-sessions', '--all'], { ...right, [name]: '' }),
      ),
    )

    t.match(database, { code: 1, out: '', err: /^ACCOUNTS_UNAVAILABLE: .+ \(connect ECONNREFUSED .+\)\n$/ })
    t.match(redis, { code: 0, out: /"ada@example.com"/, err: /^(fastify-accounts: Redis is not reachable: .+\n)*$/ })
    t.notMatch(database.err + redis.err, 'canary')
    t.strictSame(
      missing.map(({ code, err }) => [code, err.split(' ')[1]]),
      [
        [1, 'DATABASE_URL'],
        [1, 'REDIS_URL'],
        [1, 'ACCOUNTS_SECRET'],
      ],
    )
  },
)

t.test(
  'end-sessions --all ends every session, and running apps refuse the access tokens at once',
  {
    skip: noPostgres,
  },
  async (t) => {
    const name = uniqueName()
    const { url, db } = await openDatabase(t)
    const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: name }
    const account = { username: 'ada', email: 'ada@example.com', password: 'correct horse battery' }
    const server = await startServer(t, { ...env, OPTIONS: JSON.stringify({ name }) })
    await server.post('/api/register/', account)
    const { access, refresh } = (await server.post('/api/login/', account)).body
    t.match(await server.get('/auth/user/', access), { status: 200 })
    const storage = kyselyStorage(db)
    const { credentialVersion } = (await storage.findUserById(1))!
    const more = Array.from({ length: 1100 }, () => sampleSession({ userId: 1, credentialVersion }))
    await Promise.all(more.map((session) => storage.insertSession(session)))
    const heard: string[] = []
    const channel = redisCache({ redis: redisUrl(), name })
    t.teardown(() => channel.close())
    await new Promise<void>((listening) => {
      channel.subscribe((text) => void heard.push(...JSON.parse(text).ended), listening)
    })

    const ended = await done(t, ['end-sessions', '--all'], env)

    const endedAt = performance.now()
    t.strictSame(ended, { code: 0, out: '1101 sessions were ended.\n', err: '' })
    await until(async () => (await server.get('/auth/user/', access)).status === 401, 1000)
    t.comment(`refused ${Math.round(performance.now() - endedAt)} ms after the program ended`)
    t.match(await server.post('/auth/refresh/', { refresh }), { status: 401 })
    await until(() => heard.length >= 1101, 1000)
    t.equal(new Set(heard).size, 1101)
    for (const { id } of more) t.ok(heard.includes(id))
    t.strictSame(await done(t, ['end-sessions', '--all'], env), { code: 0, out: '0 sessions were ended.\n', err: '' })
  },
)

t.test('mails writes every kind as HTML and as text', async (t) => {
  const out = `${t.testdir()}/deep/mails`

  const { code, out: names, err } = await done(t, ['mails', '--out', out])

  t.strictSame([code, err], [0, ''])
  const kinds = [
    ...['reset', 'verify', 'change', 'password_changed', 'email_changed', 'account_deleted'],
    ...['account_exists', 'username_taken'],
  ]
  const files = kinds.flatMap((kind) => [`${kind}.html`, `${kind}.txt`])
  t.strictSame(readdirSync(out).sort(), files.toSorted())
  t.strictSame(names.trimEnd().split('\n').sort(), files.map((file) => `${out}/${file}`).sort())
  t.match(readFileSync(`${out}/reset.html`, 'utf8'), /<html[\s\S]*1234/)
  t.match(readFileSync(`${out}/reset.txt`, 'utf8'), /^Subject: .+\n\n[\s\S]*1234 5678/)
})
