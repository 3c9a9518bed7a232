import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { DatabaseName } from '../adapters/kysely/dialects.ts'
import type { IdKind } from '../contracts.ts'
import { mail as mailRule } from '../options/mail.ts'
import type { AccountsOptions } from '../options/options.ts'
import type { AnyKysely } from '../options/ports.ts'
import { failure, faultText, usageError } from './output.ts'

/** The flags of all commands: as `parseArgs` takes them, and as `--help` explains them. */
export const flagTypes = {
  config: {
    type: 'string',
    value: '<file>',
    help: 'a module with the options as its default export; see defineAccounts',
  },
  ids: { type: 'string', value: '<kind>', help: 'the ids of users in DATABASE_URL: integer (default), uuid or text' },
  sql: { type: 'boolean', help: 'print the statements for Flyway, Prisma and the like; needs no database' },
  database: { type: 'string', value: '<kind>', help: 'with --sql: postgres (default), mysql or sqlite' },
  all: { type: 'boolean', help: 'required, so that nobody does it by mistake' },
  check: { type: 'boolean', help: 'print what is to be known of the table instead, before and after' },
  repair: { type: 'boolean', help: 'with --check: make the two tables equal first, as the host’s is' },
  remove: { type: 'boolean', help: 'print the statements that undo it instead' },
  out: { type: 'string', value: '<folder>', help: 'where to (default: mails-preview)' },
  after: { type: 'string', value: '<id>', help: 'those after this one' },
  limit: { type: 'string', value: '<n>', help: 'at most so many, up to 1000 (default: 100)' },
  email: { type: 'string', value: '<email>', help: 'required' },
  username: { type: 'string', value: '<name>', help: 'unique, whatever its case' },
  role: { type: 'string', value: '<role>', help: 'one of the option roles, if the config has it' },
  verified: { type: 'boolean', help: "the address is known to be the user's" },
  profile: { type: 'string', value: '<json>', help: `such as '{"company":"Example"}', as registration.profile has it` },
  'password-stdin': { type: 'boolean', help: 'read the password from the standard input' },
} as const

/** The name of a flag. */
export type FlagName = keyof typeof flagTypes

/** The flags of a call. */
export type Flags = { [Name in FlagName]?: (typeof flagTypes)[Name]['type'] extends 'string' ? string : boolean }

/** The options of a config module; the environment may fill in what is missing. */
export type Config = Partial<AccountsOptions>

/** Loads the options that a module exports as default; none without a file. */
export async function loadConfig(file: string | undefined): Promise<Config> {
  if (file === undefined) return {}
  const path = resolve(file)
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) throw failure(`--config: there is no file "${file}"`)
  const { default: config } = await load(file, path)
  if (typeof config === 'object' && config !== null) return config as Config
  throw failure(`--config: "${file}" has to export the options of the plugin as its default: export default { … }`)
}

async function load(file: string, path: string): Promise<{ default?: unknown }> {
  try {
    return await import(pathToFileURL(path).href)
  } catch (error) {
    if ((error as NodeJS.ErrnoException)?.code === 'ERR_UNKNOWN_FILE_EXTENSION' && /\.[cm]?tsx?$/.test(path)) {
      throw failure(`--config: this Node cannot load "${file}"; use Node 22.18 or later, or compile it to JavaScript`)
    }
    throw failure(`--config: "${file}" failed: ${withoutSecrets(error)}`)
  }
}

/** The text of an error that a config threw, without what its author may have read from the environment. */
export function withoutSecrets(error: unknown): string {
  const text = faultText(error)
  // JSON.parse quotes what it was given.
  const unquoted = error instanceof SyntaxError ? text.replace(/".*"/, '"…"') : text
  return secretsOfEnvironment().reduce((line, secret) => line.replaceAll(secret, '[redacted]'), unquoted)
}

function secretsOfEnvironment(): string[] {
  const suspect = /SECRET|PASS|PEPPER|TOKEN|KEY|AUTH|CREDENTIAL|DSN|UR[IL]/i
  return Object.entries(process.env)
    .filter(([name]) => suspect.test(name))
    .flatMap(([, value = '']) => [...value.split(/\s*,\s*/), URL.canParse(value) ? new URL(value).password : ''])
    .filter((value) => value.length >= 6)
    .sort((one, other) => other.length - one.length)
}

/** The option `mail` of a config, checked. */
export function mailOf({ mail = {} }: Config, file: string | undefined): NonNullable<Config['mail']> {
  try {
    mailRule('mail', mail)
  } catch (error) {
    throw failure(`${file}: ${(error as Error).message.replace(/^fastify-accounts: /, '')}`)
  }
  return mail
}

/** The variables of the environment that fill in what a config leaves out. */
export const environment = {
  ACCOUNTS_SECRET: 'the secret of the app; "current,previous" while one is being replaced',
  ACCOUNTS_NAME: 'the realm (default: accounts)',
  DATABASE_URL: 'the database, such as postgres://localhost/app or mysql://localhost/app',
  REDIS_URL: 'the Redis of the app, such as redis://localhost:6379',
  SMTP_URL: 'the mail server, such as smtps://user:password@mail.example.com',
  MAIL_FROM: 'the sender, such as "Example <no-reply@example.com>"',
} as const

/** A variable of the environment; an empty one is not set. */
export function variable(name: keyof typeof environment): string | undefined {
  return process.env[name] || undefined
}

/** A variable of the environment that is needed when the config, if there is one, leaves the option out. */
export function required(name: keyof typeof environment, option: string, file: string | undefined): string {
  const value = variable(name)
  if (value !== undefined) return value
  const otherwise = file === undefined ? '' : `, or set "${option}" in ${file}`
  throw failure(`${name} is not set; set it to ${environment[name]}${otherwise}`)
}

/** The secret of a config or of the environment, or both while one is being replaced. */
export function secretOf({ secret }: Config, file: string | undefined): AccountsOptions['secret'] {
  if (secret !== undefined) return secret
  const [current, ...others] = required('ACCOUNTS_SECRET', 'secret', file).split(/\s*,\s*/)
  return others.length > 0 ? ([current, ...others] as [string, string]) : current!
}

/** Opens the database of the environment; the first statement connects. */
export async function openDatabase(file: string | undefined): Promise<AnyKysely> {
  const connectionString = required('DATABASE_URL', 'db', file)
  const { Kysely, MysqlDialect, PostgresDialect } = await installed(() => import('kysely'), 'kysely')
  if (connectionString.startsWith('mysql:')) {
    const { createPool } = await installed(() => import('mysql2'), 'mysql2')
    return new Kysely({
      dialect: new MysqlDialect({ pool: createPool({ uri: connectionString, connectionLimit: 2 }) }),
    })
  }
  const pg = await installed(() => import('pg'), 'pg')
  const pool = new pg.default.Pool({ connectionString, max: 2 })
  // The statement that meets a broken connection fails; without these two the process would end before.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  return new Kysely({ dialect: new PostgresDialect({ pool }) })
}

/** The adapter for Kysely. */
export function kyselyAdapter() {
  return installed(() => import('../adapters/kysely/index.ts'), 'kysely')
}

// Not every host has these packages.
async function installed<T>(load: () => Promise<T>, name: string): Promise<T> {
  try {
    return await load()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw failure(`the package ${name} is needed for this; run: npm install ${name}`)
  }
}

/** Checks `--database`. */
export function databaseOf(given = 'postgres'): DatabaseName {
  if (given === 'postgres' || given === 'mysql' || given === 'sqlite') return given
  throw usageError(`--database must be postgres, mysql or sqlite, but "${given}" was given`)
}

/** Checks `--ids`. */
export function idsOf(given = 'integer'): IdKind {
  if (given === 'integer' || given === 'uuid' || given === 'text') return given
  throw usageError(`--ids must be integer, uuid or text, but "${given}" was given`)
}
