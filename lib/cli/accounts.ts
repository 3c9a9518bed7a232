import type { StandaloneAccounts } from '../index.ts'
import type { AccountsOptions } from '../options/options.ts'
import {
  type Config,
  type Flags,
  idsOf,
  kyselyAdapter,
  loadConfig,
  openDatabase,
  required,
  secretOf,
  variable,
} from './config.ts'
import { faultText, usageError } from './output.ts'

/** Runs an action on the accounts of a config or of the environment, and closes them whatever comes of it. */
export async function withAccounts<T>(flags: Flags, act: (accounts: StandaloneAccounts) => Promise<T>): Promise<T> {
  const { options, close } = await optionsOf(flags)
  try {
    const { createAccounts } = await import('../index.ts')
    const warnings = new Set<string>()
    const accounts = await createAccounts(options, { logger: { level: 'warn', stream: collecting(warnings) } })
    const result = await act(accounts).finally(() => accounts.close())
    // An action that failed has an error that says why.
    for (const line of warnings) process.stderr.write(line)
    return result
  } finally {
    await close()
  }
}

async function optionsOf({ config: file, ids }: Flags): Promise<{ options: AccountsOptions; close(): Promise<void> }> {
  const config = await loadConfig(file)
  const name = config.name ?? variable('ACCOUNTS_NAME')
  const redis = redisOf(config, file)
  const options = { ...config, secret: secretOf(config, file), ...(name && { name }), ...(redis && { redis }) }
  if (config.db || config.storage) {
    if (ids !== undefined) throw usageError(`--ids belongs to DATABASE_URL, and ${file} has a database of its own`)
    return { options, close: async () => config.db?.destroy?.() }
  }
  const db = await openDatabase(file)
  const { kyselyStorage } = await kyselyAdapter()
  const own = config.adopt ? { db } : { storage: kyselyStorage(db, { ids: idsOf(ids) }) }
  return { options: { ...options, ...own }, close: () => db.destroy() }
}

// An app of a config may do without Redis; the plugin says so if it cannot.
function redisOf({ redis, cache, mailer }: Config, file: string | undefined): Config['redis'] {
  if (redis !== undefined || (cache && mailer)) return redis
  return file === undefined ? required('REDIS_URL', 'redis', file) : variable('REDIS_URL')
}

// What is logged of faults, such as a Redis that is down, as lines for people; each once.
function collecting(lines: Set<string>) {
  return {
    write(entry: string): void {
      const { msg, err } = JSON.parse(entry)
      if (err) lines.add(`${msg}: ${faultText(err)}\n`)
    },
  }
}
