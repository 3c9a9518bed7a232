import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import pg from 'pg'
import t, { type Test } from 'tap'
import { queueMailer } from '../lib/adapters/bullmq.ts'
import { sampleMessage } from '../lib/testing/mailer.ts'
import { freePort, freshDatabase, noPostgres, noRedis, redisUrl, startRedis, uniqueName, until } from './helper.ts'
import { codeIn, startSmtp } from './smtp-catcher.ts'

const secret = randomBytes(32).toString('base64url')

interface Run {
  child: ChildProcess
  out(): string
  err(): string
  ended: Promise<number | null>
}

/** Runs the built program as a container does. */
function cli(t: Test, args: string[], env: Record<string, string> = {}): Run {
  const child = spawn(process.execPath, ['dist/cli.js', ...args], { env: { PATH: process.env.PATH, ...env } })
  t.teardown(() => child.kill('SIGKILL'))
  const text = { out: '', err: '' }
  child.stdout.setEncoding('utf8').on('data', (chunk) => {
    text.out += chunk
  })
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    text.err += chunk
  })
  const ended = once(child, 'close').then(([code]) => code as number | null)
  return { child, out: () => text.out, err: () => text.err, ended }
}

t.test('generate-secret prints 32 new random bytes that the plugin accepts', async (t) => {
  const runs = [cli(t, ['generate-secret']), cli(t, ['generate-secret'])]

  t.strictSame(await Promise.all(runs.map(({ ended }) => ended)), [0, 0])
  const [one, two] = runs.map((run) => run.out().trim())
  t.equal(Buffer.from(one!, 'base64url').length, 32)
  t.match(one, /^[\w-]{43}$/)
  t.not(one, two)
  await t.resolves(queueMailer({ redis: redisUrl(), secret: one! }).close())
})

t.test('--help names the commands and --version the version', async (t) => {
  const help = cli(t, ['--help'])
  const version = cli(t, ['--version'])

  t.strictSame(await Promise.all([help.ended, version.ended]), [0, 0])
  t.match(help.out(), /worker[\s\S]*migrate[\s\S]*generate-secret/)
  t.equal(version.out().trim(), JSON.parse(readFileSync('package.json', 'utf8')).version)
})

t.test('an unknown command exits 2 with the list', async (t) => {
  const wrong = [
    ['wroker'],
    [],
    ['generate-secret', 'now'],
    ['worker', '--config', 'x'],
    ['generate-secret', '--ids', 'uuid'],
  ]
  for (const args of wrong) {
    const run = cli(t, args)
    t.equal(await run.ended, 2, args.join(' '))
    t.equal(run.out(), '')
  }
  const run = cli(t, ['wroker'])
  await run.ended
  t.match(run.err(), 'unknown command "wroker"; the commands are worker, migrate, generate-secret')
})

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
  const wrong = cli(t, ['migrate', '--ids', 'text'], { DATABASE_URL: 'postgres://localhost/app' })
  const down = cli(t, ['migrate'], { DATABASE_URL: `postgres://user:canary@127.0.0.1:${await freePort()}/app` })

  t.strictSame(await Promise.all([missing.ended, wrong.ended, down.ended]), [1, 1, 1])
  t.match(missing.err(), /^fastify-accounts: DATABASE_URL is not set/)
  t.match(wrong.err(), /^fastify-accounts: --ids must be integer or uuid/)
  t.match(down.err(), /^fastify-accounts: .*ECONNREFUSED/)
  t.notMatch(down.err(), 'canary')
})
