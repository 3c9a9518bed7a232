import { randomBytes } from 'node:crypto'

/** The flags of all commands, as `parseArgs` takes them. */
export const flagTypes = {
  config: { type: 'string' },
  ids: { type: 'string' },
  sql: { type: 'boolean' },
  all: { type: 'boolean' },
  out: { type: 'string' },
  after: { type: 'string' },
  limit: { type: 'string' },
  email: { type: 'string' },
  username: { type: 'string' },
  role: { type: 'string' },
  verified: { type: 'boolean' },
  profile: { type: 'string' },
  'password-stdin': { type: 'boolean' },
} as const

type FlagName = keyof typeof flagTypes

/** The flags of a call. */
export type Flags = { [Name in FlagName]?: (typeof flagTypes)[Name]['type'] extends 'string' ? string : boolean }

/** A command. */
export interface Command {
  /** What it has to be called with, in order. */
  takes: string[]
  flags: FlagName[]
  run(flags: Flags, given: string[]): Promise<void> | void
}

const users = () => import('./users.ts')
const database: FlagName[] = ['config', 'ids']
const who = ['<id|email>']

/** Every command by its words. What a command needs is loaded when it runs. */
export const commands: Record<string, Command> = {
  worker: {
    takes: [],
    flags: ['config'],
    run: async (flags) => (await import('./worker.ts')).work(flags),
  },
  migrate: {
    takes: [],
    flags: [...database, 'sql'],
    run: async (flags) => (await import('./migrate.ts')).migrate(flags),
  },
  'generate-secret': {
    takes: [],
    flags: [],
    run: () => void process.stdout.write(`${randomBytes(32).toString('base64url')}\n`),
  },
  'user list': {
    takes: [],
    flags: [...database, 'after', 'limit'],
    run: async (flags) => (await users()).listUsers(flags),
  },
  'user show': { takes: who, flags: database, run: async (...call) => (await users()).showUser(...call) },
  'user create': {
    takes: [],
    flags: [...database, 'email', 'username', 'role', 'verified', 'profile', 'password-stdin'],
    run: async (flags) => (await users()).createUser(flags),
  },
  'user set-password': {
    takes: who,
    flags: [...database, 'password-stdin'],
    run: async (...call) => (await users()).setPassword(...call),
  },
  'user set-role': {
    takes: [...who, '<role|none>'],
    flags: database,
    run: async (...call) => (await users()).setRole(...call),
  },
  'user disable': { takes: who, flags: database, run: async (...call) => (await users()).disableUser(...call) },
  'user enable': { takes: who, flags: database, run: async (...call) => (await users()).enableUser(...call) },
  'user end-sessions': {
    takes: who,
    flags: database,
    run: async (...call) => (await users()).endUserSessions(...call),
  },
  'user delete': { takes: who, flags: database, run: async (...call) => (await users()).deleteUser(...call) },
  'end-sessions': {
    takes: [],
    flags: [...database, 'all'],
    run: async (flags) => (await import('./sessions.ts')).endAllSessions(flags),
  },
  mails: {
    takes: [],
    flags: ['config', 'out'],
    run: async (flags) => (await import('./mails.ts')).writeMails(flags),
  },
}
