import type { FastifyServerOptions } from 'fastify'
import { type Accounts, createAccountsOf, realmOf } from './accounts.ts'
import type { Register } from './contracts.ts'
import type { AccountsOptions } from './options/options.ts'
import { accountsPlugin } from './plugin.ts'

/** What `createAccounts` returns: `app.accounts` without an app. */
export type StandaloneAccounts = Accounts & {
  /** Finishes what was begun and closes what was opened. */
  close(): Promise<void>
}

/**
 * Makes accounts without a Fastify app of yours, for scripts and workers: the same options, and `redis` has to be
 * given.
 *
 * @throws {TypeError} naming the option, what was given and the fix
 */
export async function createAccounts(
  options: AccountsOptions,
  { logger = { level: 'warn' } }: Pick<FastifyServerOptions, 'logger'> = {},
): Promise<StandaloneAccounts> {
  const { default: createApp } = await import('fastify')
  const app = createApp({ logger })
  try {
    await app.register(accountsPlugin, options)
    await app.ready()
  } catch (error) {
    await app.close()
    throw error
  }
  const accounts = (app as unknown as Record<string, Accounts>)[options.name ?? 'accounts'] as Accounts
  return createAccountsOf(realmOf(accounts), { close: () => app.close() }) as StandaloneAccounts
}

/**
 * Types the options in a module of their own, one for app, worker and command line; with a type argument those of a
 * realm whose types are not `Register`'s.
 */
export function defineAccounts<Types extends object = Register>(options: AccountsOptions<Types>): AccountsOptions {
  return options as AccountsOptions
}
