import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import t from 'tap'
import { queueMailer } from '../lib/adapters/bullmq.ts'
import { kyselyStorage, migrationSql } from '../lib/adapters/kysely/index.ts'
import { memoryStorage } from '../lib/adapters/memory/index.ts'
import { commands } from '../lib/cli/commands.ts'
import { flagTypes } from '../lib/cli/config.ts'
import { resolveOptions } from '../lib/options/options.ts'
import { sampleMessage } from '../lib/testing/mailer.ts'
import { sampleUser } from '../lib/testing/samples.ts'
import { freshMariadb } from './helpers/databases.ts'
import {
  despiteLoad,
  freePort,
  freshDatabase,
  noMariadb,
  noPostgres,
  noRedis,
  redisUrl,
  sampled,
  startRedis,
  uniqueName,
  until,
} from './helpers/helper.ts'
import { algorithms } from './helpers/keys.ts'
import { cli, done } from './helpers/program.ts'
import { codeIn, startSmtp } from './helpers/smtp-catcher.ts'

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

t.test('generate-key prints a new key of each algorithm that the plugin accepts', async (t) => {
  const resolved = async (alg: string) => {
    const { code, out, err } = await done(t, ['generate-key', alg])
    t.strictSame([code, err], [0, ''])
    return resolveOptions({ secret, storage: memoryStorage(), tokens: { keys: out } }).tokens.keys.reveal()
  }

  const rings = await Promise.all(algorithms.map(resolved))
  t.match(
    rings,
    algorithms.map((alg) => [{ alg, private: /^-----BEGIN PRIVATE KEY-----\n/ }]),
  )
  t.strictNotSame(await resolved('EdDSA'), rings[0])
})

t.test('--help names every command and flag, and --version the version', async (t) => {
  const help = cli(t, ['--help'])
  const ofCommand = cli(t, ['user', 'create', '-h'])
  const version = cli(t, ['--version'])

  t.strictSame(await Promise.all([help.ended, ofCommand.ended, version.ended]), [0, 0, 0])
  for (const name of Object.keys(commands)) t.match(help.out(), new RegExp(`^ {2}${name} `, 'm'))
  for (const name of Object.keys(flagTypes)) t.match(help.out(), new RegExp(`--${name}\\b`))
  t.strictSame(
    help
      .out()
      .split('\n')
      .filter((line) => line.length > 120),
    [],
  )
  t.equal(ofCommand.out(), help.out())
  t.equal(version.out().trim(), JSON.parse(readFileSync('package.json', 'utf8')).version)
})

t.test('a reader that stops early is no fault', async (t) => {
  const run = cli(t, ['--help'])
  run.child.stdout?.destroy()

  t.equal(await run.ended, 0)
  t.equal(run.err(), '')
})

t.test(
  'a wrong command line exits 2, names the fix on one line and never repeats what may be a password',
  async (t) => {
    const all: [string[], RegExp][] = [
      [
        ['wroker'],
        /unknown command "wroker"; the commands are worker, migrate, adopt, generate-secret, generate-key, user,/,
      ],
      [[], /a command is missing\n\nUsage/],
      [['user'], /"user" needs an action; the actions are list, show, create,/],
      [['user', 'remove'], /unknown action "remove"; the actions are list,/],
      [['generate-secret', 'now'], /the call is: fastify-accounts generate-secret;/],
      [['generate-secret', '--ids', 'uuid'], /--ids does not belong to "generate-secret"/],
      [['generate-key'], /"generate-key" needs an action; the actions are EdDSA, ES256, RS256/],
      [['generate-key', 'HS256'], /unknown action "HS256"; the actions are EdDSA, ES256, RS256/],
      [['user', 'show'], /the call is: fastify-accounts user show <id\|email>;/],
      [['user', 'show', ''], /the call is: fastify-accounts user show <id\|email>;/],
      [['user', 'set-role', '1'], /the call is: fastify-accounts user set-role <id\|email> <role\|none>;/],
      [['user', 'set-password', '1', 'canary'], /the call is: fastify-accounts user set-password <id\|email>;/],
      [['user', 'set-password', '1'], /needs --password-stdin/],
      [['user', 'set-password', '1', '--password-stdin'], /there is no password on the standard input/],
      [['user', 'create', '--email', 'a@example.com', '--password', 'canary'], /Unknown option '--password';/],
      [['user', 'create', '--email', 'a@example.com', '--password-stdin=canary'], /does not take an argument;/],
      [['user', 'create', '--verified'], /user create needs --email/],
      ...['{canary', '["canary"]', '"canary"', 'null', ''].map((json): [string[], RegExp] => [
        ['user', 'create', '--email', 'a@example.com', '--profile', json],
        /--profile must be a JSON object, such as '\{"company":"Example"\}'/,
      ]),
      [['user', 'list', '--profile', '{}'], /--profile does not belong to "user list"/],
      [['user', 'list', '--limit', '1001'], /--limit must be a whole number from 1 to 1000, but "1001" was given/],
      [['user', 'list', '--email', '--limit'], /Option '--email' argument is ambiguous;/],
      [['end-sessions'], /end-sessions logs everybody out: say so with --all/],
      [['migrate', '--ids', 'int'], /--ids must be integer, uuid or text, but "int" was given/],
      [['migrate', '--sql', '--database', 'oracle'], /--database must be postgres, mysql or sqlite, but "oracle"/],
      [['migrate', '--database', 'mysql'], /--database goes with --sql/],
      [['migrate', '--sql', '--config', 'x.js'], /--sql needs no database: leave --config out/],
      [['migrate', '--ids', 'uuid', '--config', 'x.js'], /--ids uuid needs DATABASE_URL instead of --config/],
    ]
    const wrong = sampled(all, 4)
    const runs = await Promise.all(wrong.map(([args]) => done(t, args)))
    for (const [index, { code, out, err }] of runs.entries()) {
      const [args, text] = wrong[index]!
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

  for (const { name, env } of sampled(cases, 2)) {
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
    await despiteLoad(() => mailer.send(sampleMessage({ code: '44443333' })))
    await until(() => wire.open === 1)

    run.child.kill(signal)
    await sleep(300)
    t.equal(run.child.exitCode, null, 'the mail on the wire is waited for')
    wire.release()

    t.equal(await run.ended, 0, signal)
    t.match(run.out(), /"mail\.sent"[\s\S]*"mail\.stopped"/)
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
  await until(() => run.err().includes('"event":"mail.redis"'))
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

t.test(
  'migrate brings a database up to date, twice is once, and ids may be UUIDs or texts',
  { skip: noPostgres },
  async (t) => {
    for (const [args, type] of [
      [[], /int/],
      [['--ids', 'uuid'], /uuid/],
      [['--ids', 'text'], /text/],
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
  },
)

t.test('migrate names what is wrong without the password of the database', async (t) => {
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
    for (const ids of ['integer', 'uuid', 'text'] as const) {
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

t.test('migrate takes a MariaDB', { skip: noMariadb }, async (t) => {
  const { db, url } = await freshMariadb(t)
  const env = { DATABASE_URL: url }

  const first = await done(t, ['migrate', '--ids', 'uuid'], env)
  const again = await done(t, ['migrate', '--ids', 'uuid'], env)
  const printed = await done(t, ['migrate', '--sql', '--database', 'mysql'])

  t.match(first, { code: 0, out: /applied accounts_0001.+\nThe tables are up to date\.\n$/s, err: '' })
  t.strictSame(again, { code: 0, out: 'The tables are up to date.\n', err: '' })
  t.type(await kyselyStorage(db, { ids: 'uuid' }).insertUser(sampleUser()), 'object')
  t.strictSame(printed, { code: 0, out: await migrationSql({ database: 'mysql' }), err: '' })
})

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
