import { realmOf } from '../accounts.ts'
import type { Profile, User, UserId } from '../contracts.ts'
import { endEverySession } from '../core/sessions.ts'
import { isValidId } from '../core/storable.ts'
import { AccountsError } from '../errors.ts'
import type { StandaloneAccounts } from '../index.ts'
import { withAccounts } from './accounts.ts'
import type { Flags } from './config.ts'
import { print, usageError } from './output.ts'

/** Prints users by ascending id. */
export function listUsers(flags: Flags): Promise<void> {
  const { after, limit = '100' } = flags
  if (!/^\d{1,4}$/.test(limit) || Number(limit) < 1 || Number(limit) > 1000) {
    throw usageError(`--limit must be a whole number from 1 to 1000, but "${limit}" was given`)
  }
  return withAccounts(flags, async (accounts) => {
    const page = { limit: Number(limit), ...(after !== undefined && { after: idOf(after, accounts) }) }
    for (const user of await accounts.users.list(page)) printUser(user)
  })
}

/** Prints one user. */
export function showUser(flags: Flags, [who]: string[]): Promise<void> {
  return withAccounts(flags, async (accounts) => printUser(await found(accounts, who!)))
}

/** Creates a user and prints it. */
export async function createUser(flags: Flags): Promise<void> {
  const { email, username, role, verified } = flags
  if (email === undefined) throw usageError('user create needs --email')
  const profile = flags.profile === undefined ? undefined : profileOf(flags.profile)
  const password = flags['password-stdin'] ? await readPassword() : undefined
  await withAccounts(flags, async ({ users }) =>
    printUser(await users.create({ email, username, profile, role, verified, password })),
  )
}

function profileOf(text: string): Profile {
  try {
    const profile = JSON.parse(text)
    if (typeof profile === 'object' && profile !== null && !Array.isArray(profile)) return profile
  } catch {
    // What was given is not repeated: it may be personal.
  }
  throw usageError(`--profile must be a JSON object, such as '{"company":"Example"}'`)
}

/** Sets a password, which ends all sessions. */
export async function setPassword(flags: Flags, who: string[]): Promise<void> {
  if (!flags['password-stdin']) {
    throw usageError('user set-password needs --password-stdin: an argument could be read by everybody on this machine')
  }
  const password = await readPassword()
  await change(({ users }, { id }) => users.setPassword(id, password))(flags, who)
}

/** Sets a role; `none` takes it away. */
export const setRole = change(({ users }, { id }, role) => users.setRole(id, role === 'none' ? null : role!))

/** Refuses logins and ends all sessions. */
export const disableUser = change(({ users }, { id }) => users.disable(id))

/** Allows logins again. */
export const enableUser = change(({ users }, { id }) => users.enable(id))

/** Ends all sessions of a user. */
export const endUserSessions = change(({ users }, { id }) => users.endSessions(id))

/** Deletes a user and prints who it was. */
export function deleteUser(flags: Flags, [who]: string[]): Promise<void> {
  return withAccounts(flags, async (accounts) => {
    const user = await found(accounts, who!)
    await accounts.users.delete(user.id)
    printUser(user)
  })
}

/** Logs everybody out: ends all sessions, and has running apps refuse their access tokens. */
export async function endAllSessions({ all, ...flags }: Flags): Promise<void> {
  if (!all) throw usageError('end-sessions logs everybody out: say so with --all')
  const count = await withAccounts(flags, (accounts) => endEverySession(realmOf(accounts)))
  print(`${count} ${count === 1 ? 'session was' : 'sessions were'} ended.`)
}

/** Makes a command that changes a user and prints it as it is afterwards. */
function change(act: (accounts: StandaloneAccounts, user: User, argument?: string) => Promise<void>) {
  return (flags: Flags, [who, argument]: string[]): Promise<void> =>
    withAccounts(flags, async (accounts) => {
      const user = await found(accounts, who!)
      await act(accounts, user, argument)
      printUser((await accounts.users.find({ id: user.id })) ?? user)
    })
}

async function found(accounts: StandaloneAccounts, who: string): Promise<User> {
  const user = await accounts.users.find(who.includes('@') ? { email: who } : { id: idOf(who, accounts) })
  if (!user) throw new AccountsError('ACCOUNTS_NOT_FOUND')
  return user
}

function idOf(text: string, accounts: StandaloneAccounts): UserId {
  const { ids } = realmOf(accounts).storage
  const id = ids === 'uuid' ? text.toLowerCase() : ids === 'text' ? text : /^\d{1,15}$/.test(text) && Number(text)
  if (id !== false && isValidId(ids, id)) return id
  throw usageError(`"${text}" is neither an address nor an id; ids are of the kind ${ids}`)
}

async function readPassword(): Promise<string> {
  // Typed, it would be seen on the screen.
  if (process.stdin.isTTY) throw usageError('--password-stdin reads a pipe or a file, not a terminal')
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk)
  const password = decoded(Buffer.concat(chunks)).replace(/\r?\n$/, '')
  if (password === '') throw usageError('--password-stdin: there is no password on the standard input')
  return password
}

function decoded(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw usageError('--password-stdin: the standard input is not UTF-8')
  }
}

// By name: a storage adapter's own members are not printed.
function printUser({ id, username, email, emailVerifiedAt, active, role, profile, createdAt }: User): void {
  print(JSON.stringify({ id, username, email, emailVerifiedAt, active, role, profile, createdAt }))
}
