import { type AccountsFlags, type Opened, withAccounts } from './accounts.ts'
import { usageError } from './errors.ts'

const batch = 500

/** Logs everybody out: ends all sessions, and tells running apps to refuse their access tokens. */
export async function endAllSessions({ all, ...flags }: AccountsFlags & { all?: boolean }): Promise<void> {
  if (!all) throw usageError('end-sessions logs everybody out: say so with --all')
  const count = await withAccounts(flags, (accounts) => endAll(accounts))
  process.stdout.write(`${count} ${count === 1 ? 'session was' : 'sessions were'} ended.\n`)
}

async function endAll(accounts: Opened, count = 0): Promise<number> {
  const { storage, revocation, clock } = accounts
  const ended = await storage.endAnySessions(batch, clock())
  if (ended.length === 0) return count
  revocation.announce(ended)
  return endAll(accounts, count + ended.length)
}
