import { realmOf } from '../accounts.ts'
import { type AccountsFlags, withAccounts } from './accounts.ts'
import { usageError } from './errors.ts'

/** Logs everybody out: ends all sessions, and tells running apps to refuse their access tokens. */
export async function endAllSessions({ all, ...flags }: AccountsFlags & { all?: boolean }): Promise<void> {
  if (!all) throw usageError('end-sessions logs everybody out: say so with --all')
  const { endEverySession } = await import('../core/sessions.ts')
  const count = await withAccounts(flags, (accounts) => endEverySession(realmOf(accounts)))
  process.stdout.write(`${count} ${count === 1 ? 'session was' : 'sessions were'} ended.\n`)
}
