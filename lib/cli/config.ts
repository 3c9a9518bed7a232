import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { mail as mailRule } from '../options/mail.ts'
import type { AccountsOptions } from '../options/options.ts'
import { failure, faultText } from './errors.ts'

/** The options as a config module has them: those that the environment may fill in can be missing. */
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

/**
 * The text of an error that a config threw. Whoever wrote it may have put what it reads from the environment into the
 * text.
 */
export function withoutSecrets(error: unknown): string {
  const text = faultText(error)
  // JSON.parse quotes what it was given.
  const unquoted = error instanceof SyntaxError ? text.replace(/".*"/, '"…"') : text
  return secretsOfEnvironment().reduce((line, secret) => line.replaceAll(secret, '[redacted]'), unquoted)
}

function secretsOfEnvironment(): string[] {
  const telling = /SECRET|PASS|PEPPER|TOKEN|KEY|AUTH|CREDENTIAL|DSN|UR[IL]/i
  return Object.entries(process.env)
    .filter(([name]) => telling.test(name))
    .flatMap(([, value = '']) => [...value.split(/\s*,\s*/), URL.canParse(value) ? new URL(value).password : ''])
    .filter((value) => value.length >= 6)
    .sort((one, other) => other.length - one.length)
}

/** The option `mail` of a config, checked. */
export function mailOf({ mail }: Config, file: string | undefined): NonNullable<Config['mail']> {
  try {
    mailRule('mail', mail)
  } catch (error) {
    throw failure(`${file}: ${(error as Error).message.replace(/^fastify-accounts: /, '')}`)
  }
  return mail ?? {}
}

/** A variable of the environment; an empty one is not set. */
export function variable(name: string): string | undefined {
  return process.env[name] || undefined
}

/** What an option that the config leaves out is to be set to. */
export const fixes = {
  ACCOUNTS_SECRET: 'the secret of the app',
  REDIS_URL: 'the Redis of the app, such as redis://localhost:6379',
  SMTP_URL: 'the mail server, such as smtps://user:password@mail.example.com',
  MAIL_FROM: 'the sender, such as "Example <no-reply@example.com>"',
  DATABASE_URL: 'the database, such as postgres://localhost/app',
} as const

/** A variable of the environment that is needed. */
export function required(name: keyof typeof fixes, otherwise = ''): string {
  const value = variable(name)
  if (value === undefined) throw failure(`${name} is not set; set it to ${fixes[name]}${otherwise}`)
  return value
}

/** The secret in `ACCOUNTS_SECRET`, or both while one is being replaced. */
export function requiredSecret(otherwise?: string): string | [string, string] {
  const [current, ...others] = required('ACCOUNTS_SECRET', otherwise).split(/\s*,\s*/)
  return others.length > 0 ? ([current, ...others] as [string, string]) : current!
}
