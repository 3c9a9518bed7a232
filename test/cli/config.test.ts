import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import t from 'tap'
import { queueMailer } from '../../lib/adapters/bullmq.ts'
import { sampleMessage } from '../../lib/testing/mailer.ts'
import { openDatabase, type Teardown } from '../helpers/app.ts'
import {
  despiteLoad,
  freePort,
  freshDatabase,
  noPostgres,
  noRedis,
  redisUrl,
  sampled,
  startRedis,
  uniqueName,
  until,
} from '../helpers/helper.ts'
import { cli, done, loadedIn, printingModules, spawnNode } from '../helpers/program.ts'
import { startSmtp } from '../helpers/smtp-catcher.ts'

const secret = randomBytes(32).toString('base64url')
const example = 'examples/config/accounts.config.js'
const account = { email: 'ada@example.com', password: 'correct horse battery' }

/** A server that nobody should connect to. */
async function untouched(t: Teardown) {
  const touches = { count: 0 }
  const server = createServer((socket) => {
    touches.count++
    socket.destroy()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { touches, url: `postgres://127.0.0.1:${(server.address() as AddressInfo).port}/app` }
}

t.test('one module serves the app, the worker and the command line', { skip: noPostgres || noRedis }, async (t) => {
  const database = await freshDatabase()
  t.teardown(() => database.drop())
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const smtp = await startSmtp()
  t.teardown(() => smtp.close())
  const servers = { DATABASE_URL: database.url, REDIS_URL: redis.url, SMTP_URL: smtp.url }
  const env = { ...servers, ACCOUNTS_SECRET: secret }
  const run = (args: string[], input = '') => done(t, [...args, '--config', example], env, { input })

  const migrated = await run(['migrate'])
  const created = await run(
    ['user', 'create', '--email', account.email, '--verified', '--role', 'admin', '--password-stdin'],
    account.password,
  )
  const unknownRole = await run(['user', 'set-role', account.email, 'king'])
  t.match(migrated, { code: 0, out: /^applied [\s\S]+\nThe tables are up to date\.\n$/, err: '' })
  t.match(created, { code: 0, out: /"ada@example.com"/, err: '' })
  t.match(unknownRole, { code: 1, err: /^ACCOUNTS_VALIDATION: .+ \(role must be one of .+\(admin, support\)\)\n$/ })

  const touchless = await untouched(t)
  const worker = cli(t, ['worker', '--config', example], { ...env, DATABASE_URL: touchless.url })
  const { post, get } = await startApp(t, env)
  const { access } = (await post('/api/login/', account)).body
  t.match(await get('/hello', access), { status: 200, body: { hello: 1 } })
  await post('/auth/email_request/', { email: account.email })
  await until(() => smtp.caught.length === 1)

  const { mail } = smtp.caught[0]!
  t.match(mail.from, { name: 'Example', address: 'no-reply@example.com' })
  t.match(mail.html, /#0055aa[\s\S]*help@example\.com/)
  t.match(await run(['end-sessions', '--all']), { code: 0, out: '1 session was ended.\n', err: '' })
  await until(async () => (await get('/hello', access)).status === 401, 5000)
  worker.child.kill('SIGTERM')
  t.equal(await worker.ended, 0)
  t.equal(touchless.touches.count, 0)
})

async function startApp(t: Teardown, env: Record<string, string>) {
  const port = String(await freePort())
  const settings = { PATH: process.env.PATH, ...env, PORT: port }
  const child = spawnNode(['examples/config/app.js'], { env: settings, stdio: 'ignore' })
  t.teardown(() => child.kill('SIGKILL'))
  const origin = `http://localhost:${port}`
  await until(async () => child.exitCode !== null || (await fetch(origin)).status === 404)
  const call = async (path: string, init: RequestInit) => {
    const response = await fetch(origin + path, init)
    return { status: response.status, body: (await response.json()) as Record<string, string> }
  }
  const headers = { 'content-type': 'application/json' }
  return {
    post: (path: string, body: unknown) => call(path, { method: 'POST', headers, body: JSON.stringify(body) }),
    get: (path: string, access?: string) => call(path, { headers: { authorization: `Bearer ${access}` } }),
  }
}

t.test('a config that cannot be loaded is reported on one line, without a stack and without a secret', async (t) => {
  const env = {
    MAIL_PASSWORD: 'canary-password',
    DATABASE_URL: 'postgres://user:canary%20two@db/app',
    SECRETS: 'canary,',
  }
  const folder = t.testdir({
    'empty.js': 'export const secret = 1',
    'function.js': 'export default () => ({})',
    'typed.ts': 'export default {} as object',
    'message.js': 'throw new Error(`no ${process.env.MAIL_PASSWORD}, ${new URL(process.env.DATABASE_URL)}\\nsecond`)',
    'part.js': 'throw new Error(`denied: ${new URL(process.env.DATABASE_URL).password}`)',
    'json.js': 'JSON.parse(process.env.SECRETS + "canary")',
    'syntax.js': 'export default {',
    'import.js': 'import "../missing.js"',
    'nothing.js': 'throw undefined',
    folder: {},
  })
  const strips = Boolean((process.features as { typescript?: unknown }).typescript)
  const all: [string, RegExp][] = [
    ['missing.js', /there is no file ".+missing\.js"/],
    ['folder', /there is no file ".+folder"/],
    ['empty.js', /".+empty\.js" has to export the options of the plugin as its default: export default/],
    ['function.js', /has to export the options of the plugin as its default/],
    ['message.js', /".+message\.js" failed: no \[redacted\], \[address\]/],
    ['part.js', /failed: denied: \[redacted\]/],
    ['json.js', /failed: Unexpected token/],
    ['syntax.js', /failed: Unexpected end of input/],
    ['import.js', /failed: Cannot find module .+missing\.js/],
    ['nothing.js', /failed: failed/],
    ...(strips ? [] : [['typed.ts', /this Node cannot load ".+typed\.ts"; use Node 22\.18/] as [string, RegExp]]),
  ]

  const wrong = sampled(all, 2)
  const runs = await Promise.all(wrong.map(([file]) => done(t, ['worker', '--config', `${folder}/${file}`], env)))

  for (const [index, { code, out, err }] of runs.entries()) {
    const [file, text] = wrong[index]!
    t.equal(code, 1, file)
    t.equal(out, '')
    t.match(err, /^fastify-accounts: --config: .+\n$/)
    t.match(err, text)
    t.notMatch(err, /canary|second|\bat /)
  }
})

t.test('a config in TypeScript works where Node loads it, and a file is found from the working folder', async (t) => {
  const text = 'export default { mail: { brand: { name: "Acme" } } satisfies object }'
  const folder = t.testdir({ 'a.config.ts': text })
  const file = `${folder}/a.config.ts`
  const relative = file.slice(process.cwd().length + 1)
  const strips = Boolean((process.features as { typescript?: unknown }).typescript)

  const { code, err } = await done(t, ['mails', '--config', relative, '--out', `${folder}/mails`])

  t.equal(code, strips ? 0 : 1, err)
})

t.test('the worker takes what the config leaves out from the environment, and the queue of two Redis', async (t) => {
  const name = uniqueName()
  const smtp = await startSmtp()
  t.teardown(() => smtp.close())
  const { touches, url } = await untouched(t)
  const parts = `redis: { cache: ${JSON.stringify(url.replace('postgres', 'redis'))}, queue: process.env.QUEUE }`
  const templates = "{ reset: ({ code }) => ({ subject: 'Own', text: code, html: code }) }"
  const from = `mail: { from: 'Acme <a@example.com>', templates: ${templates} }`
  // Only the app has it.
  const pepper = 'passwords: { pepper: { id: "2026", secret: process.env.PEPPER } }'
  const folder = t.testdir({
    'queue.js': `export default { name: '${name}', ${parts}, ${from}, ${pepper} }`,
  })
  const mailer = queueMailer({ redis: redisUrl(), secret, name })
  t.teardown(() => mailer.close())
  const env = { ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: 'another', QUEUE: redisUrl(), SMTP_URL: smtp.url }
  const run = cli(t, ['worker', '--config', `${folder}/queue.js`], { ...env, MAIL_FROM: 'wrong' })

  await despiteLoad(() => mailer.send(sampleMessage({ code: '44443333' })))
  await until(() => smtp.caught.length === 1)
  run.child.kill('SIGTERM')

  t.equal(await run.ended, 0)
  t.match(smtp.caught[0]?.mail, { subject: 'Own', from: { name: 'Acme' } })
  t.match(smtp.caught[0]?.mail.text, '44443333')
  t.equal(touches.count, 0)
})

t.test('the worker names the option or the variable that is missing or wrong, never what it holds', async (t) => {
  const right = {
    secret,
    redis: 'redis://127.0.0.1:1',
    mail: { transport: 'smtp://127.0.0.1:1', from: 'a@example.com' },
  }
  const all: [object, Record<string, string>, RegExp][] = [
    [{ secret: 'canary' }, {}, /config\.json\.js: option "secret" must be/],
    [{ secret: undefined }, { ACCOUNTS_SECRET: 'canary' }, /: ACCOUNTS_SECRET: option "secret" must be/],
    [{ secret: undefined }, {}, /: ACCOUNTS_SECRET is not set; .+, or set "secret" in .+config\.json\.js/],
    [{ redis: 'canary' }, {}, /config\.json\.js: "redis" is not an address/],
    [{ name: 'a name' }, {}, /config\.json\.js: option "name" must be/],
    [{ mail: { ...right.mail, transport: 'http://canary' } }, {}, /config\.json\.js: option "mail\.transport" must be/],
    [{ mail: { transport: 'smtp://127.0.0.1:1' } }, {}, /: MAIL_FROM is not set; .+, or set "mail\.from" in/],
    [{ mail: { ...right.mail, brand: { color: 'red' } } }, {}, /config\.json\.js: option "mail\.brand\.color" must be/],
    [{ mail: { ...right.mail, brand: 7 } }, {}, /config\.json\.js: option "mail\.brand" must be .+, but 7 was given/],
    [
      { mail: { ...right.mail, templates: { reset: 5 } } },
      {},
      /config\.json\.js: option "mail\.templates\.reset" must/,
    ],
    [
      { mail: { ...right.mail, template: {} } },
      {},
      /config\.json\.js: option "mail\.template" is unknown; the names are brand, transport, from, templates/,
    ],
  ]
  const wrong = sampled(all, 2)
  const files = wrong.map(([options], index) => [
    `${index}-config.json.js`,
    `export default ${JSON.stringify({ ...right, ...options })}`,
  ])
  const folder = t.testdir(Object.fromEntries(files))

  const runs = await Promise.all(
    files.map(([file], index) => done(t, ['worker', '--config', `${folder}/${file}`], wrong[index]![1])),
  )

  for (const [index, { code, out, err }] of runs.entries()) {
    t.equal(code, 1)
    t.equal(out, '')
    t.match(err, /^fastify-accounts: .+\n$/)
    t.match(err, wrong[index]![2])
    t.notMatch(err, 'canary')
  }
})

t.test('the worker of the environment loads neither fastify nor kysely nor pg', async (t) => {
  const env = { ACCOUNTS_SECRET: secret, REDIS_URL: 'redis://127.0.0.1:1', SMTP_URL: 'smtp://127.0.0.1:1' }
  const run = cli(t, ['worker'], { ...env, MAIL_FROM: 'a@example.com' }, { node: printingModules() })
  await until(() => run.err().includes('"event":"mail.redis"'))
  run.child.kill('SIGTERM')
  await run.ended

  const { packages, ours } = loadedIn(run.err())
  t.ok(packages.has('bullmq') && packages.has('nodemailer') && ours.includes('worker.js'))
  t.strictSame(
    ours.filter((name) => /^(index|cli\/users|adapters\/kysely.*)\.js$/.test(name)),
    [],
  )
  for (const name of ['fastify', 'fastify-plugin', '@fastify/jwt', 'kysely', 'pg']) t.notOk(packages.has(name), name)
})

t.test('a command loads no package that it does not use', async (t) => {
  const all = ['fastify', 'kysely', 'pg', 'ioredis', 'bullmq', 'nodemailer', '@node-rs/argon2', 'typebox']
  const uses: Record<string, string[]> = {
    '--help': [],
    'generate-secret': [],
    'generate-key EdDSA': [],
    'migrate --sql': ['kysely'],
    [`mails --out ${t.testdir()}`]: [],
  }

  for (const [line, wanted] of Object.entries(uses)) {
    const run = cli(t, line.split(' '), {}, { node: printingModules() })
    t.equal(await run.ended, 0, line)
    const { packages } = loadedIn(run.err())
    t.strictSame(
      all.filter((name) => packages.has(name)),
      wanted,
      line,
    )
  }
})

t.test('migrate says what to do about a config whose database it cannot take', async (t) => {
  const folder = t.testdir({
    'storage.js': 'export default { storage: {} }',
    'wrong.js': 'export default { db: "postgres://canary" }',
    'none.js': 'export default {}',
  })
  const errorOf = async (file: string) => (await done(t, ['migrate', '--config', `${folder}/${file}`])).err

  const [storage, wrong, none] = await Promise.all(['storage.js', 'wrong.js', 'none.js'].map(errorOf))

  t.match(
    storage,
    /^fastify-accounts: .+storage\.js has "storage" instead of "db": .+DATABASE_URL.+migrateToLatest.+\n$/,
  )
  t.match(wrong, /^fastify-accounts: .+wrong\.js: option "db" must be a Kysely instance\n$/)
  t.match(none, /^fastify-accounts: DATABASE_URL is not set; .+, or set "db" in .+none\.js\n$/)
})

t.test(
  'user works on the storage and the ids of a config, whatever it leaves open',
  { skip: noPostgres },
  async (t) => {
    const { url } = await openDatabase(t, { ids: 'uuid' })
    const folder = t.testdir({
      'uuid.js': `import { kyselyStorage } from 'fastify-accounts/kysely'
      import { Kysely, PostgresDialect } from 'kysely'
      import pg from 'pg'
      const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, idleTimeoutMillis: 0 })
      pool.on('error', () => {})
      export default {
        storage: kyselyStorage(new Kysely({ dialect: new PostgresDialect({ pool }) }), { ids: 'uuid' }),
        passwordReset: false, routes: { changeEmail: false }, revocation: 'storage',
      }`,
      'wrong.js': 'export default { storage: {}, redis: "redis://127.0.0.1:1" }',
    })
    const env = { DATABASE_URL: url, ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
    const user = (file: string, ...args: string[]) => done(t, ['user', ...args, '--config', `${folder}/${file}`], env)

    const created = await user('uuid.js', 'create', '--email', account.email)
    const found = await user('uuid.js', 'show', JSON.parse(created.out).id)
    const doubled = await user('uuid.js', 'list', '--ids', 'uuid')
    const wrong = await user('wrong.js', 'list')

    t.strictSame([created.code, created.err], [0, ''])
    t.strictSame(found, created)
    t.match(doubled, { code: 2, err: /--ids belongs to DATABASE_URL, and .+uuid\.js has a database of its own/ })
    t.match(wrong, { code: 1, err: /^fastify-accounts: option "storage" must be a storage adapter .+\n$/ })
  },
)

t.test('user create takes the profile fields that the config asks for', { skip: noPostgres }, async (t) => {
  const { url } = await openDatabase(t)
  const folder = t.testdir({
    'profile.js': `import Type from 'typebox'
      export default { registration: { profile: Type.Object({ company: Type.String({ maxLength: 20 }) }) } }`,
  })
  const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_SECRET: secret, ACCOUNTS_NAME: uniqueName() }
  const create = (...args: string[]) =>
    done(t, ['user', 'create', '--email', account.email, ...args, '--config', `${folder}/profile.js`], env)

  const wrong = await Promise.all(sampled([['--profile', '{"company":7}'], []], 1).map((args) => create(...args)))
  const created = await create('--profile', '{"company":"Acme"}')

  for (const run of wrong) t.match(run, { code: 1, out: '', err: /^ACCOUNTS_VALIDATION: .+ \(.*company.*\)\n$/ })
  t.equal(created.code, 0, created.err)
  t.strictSame(JSON.parse(created.out).profile, { company: 'Acme' })
})

t.test('mails shows the brand and the templates of the config, and names those that fail', async (t) => {
  const folder = t.testdir({
    'own.js': `export default { mail: { brand: { name: 'Acme' }, templates: {
      reset: ({ code, brand }) => ({ subject: brand.name, text: 'Own ' + code, html: '<b>' + code + '</b>' }),
    } } }`,
    'failing.js': `export default { mail: { templates: {
      reset({ user }) { throw new TypeError(\`no \${user.nickname} \${process.env.MAIL_PASSWORD}\`) },
      verify: () => undefined, change() { throw undefined }, account_exists: undefined,
    } } }`,
    'wrong.js': 'export default { mail: { brand: { color: "red" } } }',
    'kind.js': 'export default { mail: { templates: { rest: () => {} } } }',
    'number.js': 'export default { mail: { templates: { reset: 5 } } }',
    'member.js': 'export default { mail: { template: {} } }',
  })
  const mails = (file: string) =>
    done(t, ['mails', '--config', `${folder}/${file}`, '--out', `${folder}/${file}-mails`], { MAIL_PASSWORD: 'canary' })

  const [own, failing, wrong] = await Promise.all(['own.js', 'failing.js', 'wrong.js'].map(mails))
  const refused = await Promise.all(['kind.js', 'number.js', 'member.js'].map(mails))

  t.match(own, { code: 0, err: '' })
  t.equal(readFileSync(`${folder}/own.js-mails/reset.txt`, 'utf8'), 'Subject: Acme\n\nOwn 12345678')
  t.equal(readFileSync(`${folder}/own.js-mails/reset.html`, 'utf8'), '<b>12345678</b>')
  t.match(readFileSync(`${folder}/own.js-mails/verify.html`, 'utf8'), 'Acme')
  const failed = 'reset (TypeError: no undefined [redacted]), verify (no mail), change (Error: failed)'
  const line = `fastify-accounts: built-in mails were written for templates that failed: ${failed}\n`
  t.strictSame([failing?.code, failing?.err], [1, line])
  t.match(readFileSync(`${folder}/failing.js-mails/reset.txt`, 'utf8'), '1234 5678')
  t.match(wrong, { code: 1, out: '', err: /^fastify-accounts: .+wrong\.js: option "mail\.brand\.color" must be .+\n$/ })
  const says = [
    /^fastify-accounts: .+kind\.js: option "mail\.templates\.rest" is unknown; the names are reset, .+\n$/,
    /^fastify-accounts: .+number\.js: option "mail\.templates\.reset" must be a function .+, but 5 was given\n$/,
    /^fastify-accounts: .+member\.js: option "mail\.template" is unknown; the names are .+, templates\n$/,
  ]
  for (const [index, run] of refused.entries()) t.match(run, { code: 1, out: '', err: says[index] })
})
