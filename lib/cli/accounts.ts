import type { AccountsOptions } from '../options/options.ts'
import { type Config, loadConfig, required, requiredSecret, variable } from './config.ts'
import { idsOf, openDatabase } from './database.ts'
import { faultText, installed, usageError } from './errors.ts'

/** How the accounts are found. */
export interface AccountsFlags {
  config?: string
  ids?: string
}

/** Runs an action on the accounts of a config or of the environment, and closes them whatever comes of it. */
export async function withAccounts<T>(flags: AccountsFlags, act: (accounts: Opened) => Promise<T>): Promise<T> {
  const { options, close } = await optionsOf(flags)
  try {
    const log = warnings()
    const accounts = await open(options, log)
    const result = await act(accounts).finally(() => accounts.close())
    // A fault that made the action fail is told by its error.
    log.tell()
    return result
  } finally {
    await close()
  }
}

/** What `createAccounts` answers. */
export type Opened = Awaited<ReturnType<typeof open>>

async function open(options: AccountsOptions, { stream }: ReturnType<typeof warnings>) {
  const { createAccounts } = await import('../index.ts')
  return createAccounts(options, { logger: { level: 'warn', stream } })
}

async function optionsOf({ config: file, ids }: AccountsFlags) {
  const given = await loadConfig(file)
  const or = (option: string) => (file === undefined ? '' : `, or set "${option}" in ${file}`)
  const secret = given.secret ?? requiredSecret(or('secret'))
  const name = given.name ?? variable('ACCOUNTS_NAME')
  const redis = redisOf(given, file)
  const filled = { ...given, secret, ...(name && { name }), ...(redis && { redis }) }
  if (given.db || given.storage) {
    if (ids !== undefined) throw usageError(`--ids belongs to DATABASE_URL, and ${file} has a database of its own`)
    return { options: filled, close: async () => given.db?.destroy?.() }
  }
  const db = await openDatabase(required('DATABASE_URL', or('db')))
  const { kyselyStorage } = await installed(() => import('../adapters/kysely/index.ts'), 'kysely')
  return { options: { ...filled, storage: kyselyStorage(db, { ids: idsOf(ids) }) }, close: () => db.destroy() }
}

function redisOf({ redis, cache, mailer }: Config, file: string | undefined): Config['redis'] {
  if (redis !== undefined || (cache && mailer)) return redis
  // An app of a config may do without; the plugin says so if it cannot.
  return file === undefined ? required('REDIS_URL') : variable('REDIS_URL')
}

/** Keeps what is logged of faults, such as a Redis that is away, to be told as lines for people. */
function warnings() {
  const lines = new Set<string>()
  return {
    stream: {
      write(entry: string): void {
        const { msg, err } = JSON.parse(entry)
        if (err) lines.add(`${msg}: ${faultText(err)}\n`)
      },
    },
    tell(): void {
      for (const line of lines) process.stderr.write(line)
    },
  }
}
