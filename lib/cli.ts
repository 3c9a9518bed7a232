#!/usr/bin/env node
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

const help = `Usage: fastify-accounts <command>

Commands:
  worker            send the queued mails, until SIGTERM or SIGINT
                      ACCOUNTS_SECRET  the secret of the app; "current,previous" while one is being replaced
                      ACCOUNTS_NAME    the realm (default: accounts)
                      REDIS_URL        the Redis of the app, such as redis://localhost:6379
                      SMTP_URL         the mail server, such as smtps://user:password@mail.example.com
                      MAIL_FROM        the sender, such as "Example <no-reply@example.com>"
  migrate           bring the tables of a PostgreSQL database up to date
                      DATABASE_URL     such as postgres://localhost/app
                      --ids uuid       ids of users are UUIDs (default: integer)
  generate-secret   print a new secret

Options:
  -h, --help        show this text
  -v, --version     show the version
`

const commands: Record<string, () => Promise<void> | void> = {
  worker,
  migrate,
  'generate-secret': () => print(randomBytes(32).toString('base64url')),
}

try {
  await run()
} catch (error) {
  const exitCode = (error as { exitCode?: number }).exitCode
  const message = (exitCode !== undefined || error instanceof TypeError) && (error as Error).message
  process.stderr.write(`fastify-accounts: ${message ? message.replace(/^fastify-accounts: /, '') : faultText(error)}
`)
  process.exitCode = exitCode ?? 1
}

async function run(): Promise<void> {
  const { values, positionals } = readArguments()
  if (values.version) return print(version())
  if (values.help || positionals[0] === 'help') return print(help.trimEnd())
  const [name, ...rest] = positionals
  if (name === undefined) throw usageError(`a command is missing\n\n${help.trimEnd()}`, 2)
  if (!Object.hasOwn(commands, name) || rest.length > 0) {
    const wrong = Object.hasOwn(commands, name) ? rest[0] : name
    throw usageError(`unknown command "${wrong}"; the commands are ${Object.keys(commands).join(', ')}`, 2)
  }
  if (values.ids !== undefined && name !== 'migrate') throw usageError('--ids belongs to "migrate"', 2)
  await commands[name]!()
}

/** What is wrong with a call is told without a stack: it is the caller's to mend. */
function usageError(message: string, exitCode = 1): Error {
  return Object.assign(new Error(message), { exitCode })
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean', short: 'v' },
        ids: { type: 'string' },
      },
    })
  } catch (error) {
    throw usageError(`${(error as Error).message}; see fastify-accounts --help`, 2)
  }
}

function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  return version
}

async function worker(): Promise<void> {
  const secret = required('ACCOUNTS_SECRET', 'set it to the secret of the app').split(/\s*,\s*/)
  const options = {
    redis: required('REDIS_URL', 'set it to the Redis of the app, such as redis://localhost:6379'),
    transport: required('SMTP_URL', 'set it to the mail server, such as smtps://user:password@mail.example.com'),
    from: required('MAIL_FROM', 'set it to the sender, such as "Example <no-reply@example.com>"'),
    secret: secret.length > 1 ? (secret as unknown as [string, string]) : secret[0]!,
    name: process.env.ACCOUNTS_NAME || 'accounts',
  }
  const { startMailWorker } = await import('./worker.ts')
  const running = namingVariables(() => startMailWorker(options))
  const signal = await new Promise<string>((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, resolve)
  })
  await running.close()
  print(
    JSON.stringify({ level: 'info', time: new Date().toISOString(), event: 'mail.stopped', signal, msg: 'Stopped' }),
  )
  // What did not finish in time must not keep the process.
  process.exit(0)
}

/** The options of the worker come from the environment here, so its refusals name the variables. */
function namingVariables<T>(start: () => T): T {
  const variables = {
    secret: 'ACCOUNTS_SECRET',
    name: 'ACCOUNTS_NAME',
    redis: 'REDIS_URL',
    transport: 'SMTP_URL',
    from: 'MAIL_FROM',
  }
  try {
    return start()
  } catch (error) {
    const text = (error as Error).message
    const option = Object.entries(variables).find(([name]) => new RegExp(`"${name}[."[]`).test(text))
    if (!(error instanceof TypeError) || !option) throw error
    throw usageError(`${option[1]}: ${text.replace(/^fastify-accounts: /, '')}`)
  }
}

async function migrate(): Promise<void> {
  const { ids = 'integer' } = readArguments().values
  if (ids !== 'integer' && ids !== 'uuid') throw usageError(`--ids must be integer or uuid, but "${ids}" was given`)
  const connectionString = required('DATABASE_URL', 'set it to the database, such as postgres://localhost/app')
  const pg = await installed(() => import('pg'), 'pg')
  const { Kysely, PostgresDialect } = await installed(() => import('kysely'), 'kysely')
  const { migrateToLatest } = await import('./adapters/kysely.ts')
  // biome-ignore lint/suspicious/noExplicitAny: the tables are the migrations' own
  const db = new Kysely<any>({
    dialect: new PostgresDialect({ pool: new pg.default.Pool({ connectionString, max: 2 }) }),
  })
  try {
    const applied = await migrateToLatest(db, { ids })
    print([...applied.map((migration) => `applied ${migration}`), 'The tables are up to date.'].join('\n'))
  } finally {
    await db.destroy()
  }
}

async function installed<T>(load: () => Promise<T>, name: string): Promise<T> {
  try {
    return await load()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw usageError(`"migrate" needs the package ${name}; run: npm install ${name}`)
  }
}

function required(variable: string, fix: string): string {
  const value = process.env[variable]
  if (!value) throw usageError(`${variable} is not set; ${fix}`)
  return value
}

/** A driver's error may hold the address of a server: its code says enough, or its first line without addresses. */
function faultText(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  const line = `${message}`.split('\n', 1)[0]!.replace(/\b[a-z]+:\/\/\S+/gi, '[address]')
  return [line, code && !line.includes(code) ? `(${code})` : ''].filter(Boolean).join(' ') || 'failed'
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}
