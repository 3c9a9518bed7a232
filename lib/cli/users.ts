import { realmOf } from '../accounts.ts'
import type { Profile, User, UserId } from '../contracts.ts'
import { AccountsError } from '../errors.ts'
import { type AccountsFlags, type Opened, withAccounts } from './accounts.ts'
import { usageError } from './errors.ts'

/** What the actions of `user` take. */
export interface UserFlags extends AccountsFlags {
  after?: string
  limit?: string
  email?: string
  username?: string
  role?: string
  verified?: boolean
  profile?: string
  'password-stdin'?: boolean
}

/** Prints users by ascending id. */
export function listUsers(flags: UserFlags): Promise<void> {
  const { after, limit = '100' } = flags
  if (!/^\d{1,4}$/.test(limit) || Number(limit) < 1 || Number(limit) > 1000) {
    throw usageError(`--limit must be a whole number from 1 to 1000, but "${limit}" was given`)
  }
  return withAccounts(flags, async (accounts) => {
    const page = { limit: Number(limit), ...(after !== undefined && { after: idOf(after, accounts) }) }
    for (const user of await accounts.users.list(page)) print(user)
  })
}

/** Prints one user. */
export function showUser(flags: UserFlags, [who]: string[]): Promise<void> {
  return withAccounts(flags, async (accounts) => print(await found(accounts, who!)))
}

/** Creates a user and prints it. */
export async function createUser(flags: UserFlags): Promise<void> {
  const { email, username, role, verified } = flags
  if (email === undefined) throw usageError('user create needs --email')
  const profile = flags.profile === undefined ? undefined : profileOf(flags.profile)
  const password = flags['password-stdin'] ? await readPassword() : undefined
  await withAccounts(flags, async ({ users }) =>
    print(await users.create({ email, username, profile, role, verified, password })),
  )
}

// What was given is not repeated: it may be personal.
function profileOf(text: string): Profile {
  const problem = usageError(`--profile must be a JSON object, such as '{"company":"Example"}'`)
  try {
    const profile = JSON.parse(text)
    if (typeof profile === 'object' && profile !== null && !Array.isArray(profile)) return profile
  } catch {
    throw problem
  }
  throw problem
}

/** Sets a password, which ends all sessions. */
export async function setPassword(flags: UserFlags, who: string[]): Promise<void> {
  if (!flags['password-stdin']) {
    throw usageError('user set-password needs --password-stdin: an argument could be read by everybody on this machine')
  }
  const password = await readPassword()
  await change(({ users }, { id }) => users.setPassword(id, password))(flags, who)
}

/** Sets a role; `none` takes it away. */
export const setRole = change(({ users }, { id }, role) => users.setRole(id, role === 'none' ? null : role!))

/** Refuses log-ins and ends all sessions. */
export const disableUser = change(({ users }, { id }) => users.disable(id))

/** Allows log-ins again. */
export const enableUser = change(({ users }, { id }) => users.enable(id))

/** Ends all sessions of a user. */
export const endUserSessions = change(({ users }, { id }) => users.endSessions(id))

/** Deletes a user and prints who it was. */
export function deleteUser(flags: UserFlags, [who]: string[]): Promise<void> {
  return withAccounts(flags, async (accounts) => {
    const user = await found(accounts, who!)
    await accounts.users.delete(user.id)
    print(user)
  })
}

/** Makes a command that changes a user and prints it as it is afterwards. */
function change(act: (accounts: Opened, user: User, argument?: string) => Promise<void>) {
  return (flags: UserFlags, [who, argument]: string[]): Promise<void> =>
    withAccounts(flags, async (accounts) => {
      const user = await found(accounts, who!)
      await act(accounts, user, argument)
      print((await accounts.users.find({ id: user.id })) ?? user)
    })
}

async function found(accounts: Opened, who: string): Promise<User> {
  const user = await accounts.users.find(who.includes('@') ? { email: who } : { id: idOf(who, accounts) })
  if (!user) throw new AccountsError('ACCOUNTS_NOT_FOUND')
  return user
}

function idOf(text: string, accounts: Opened): UserId {
  const { ids } = realmOf(accounts).storage
  const possible = ids === 'uuid' ? /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i : /^\d{1,15}$/
  if (!possible.test(text)) throw usageError(`"${text}" is neither an address nor an id; ids are of the kind ${ids}`)
  return ids === 'uuid' ? text.toLowerCase() : Number(text)
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

// By name: a storage adapter's own members stay where they are.
function print({ id, username, email, emailVerifiedAt, active, role, profile, createdAt }: User): void {
  const user = { id, username, email, emailVerifiedAt, active, role, profile, createdAt }
  process.stdout.write(`${JSON.stringify(user)}\n`)
}
