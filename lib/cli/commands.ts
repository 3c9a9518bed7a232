import { generateKeyPairSync, type KeyPairKeyObjectResult, randomBytes } from 'node:crypto'
import type { AnyKysely } from '../options/ports.ts'
import {
  databaseOf,
  environment,
  type FlagName,
  type Flags,
  flagTypes,
  idsOf,
  kyselyAdapter,
  loadConfig,
  openDatabase,
} from './config.ts'
import { failure, print, usageError } from './output.ts'

/** A command. */
export interface Command {
  /** The arguments that it has to be called with, in order. */
  takes: string[]
  flags: FlagName[]
  help: string
  run(flags: Flags, given: string[]): Promise<void> | void
}

const database: FlagName[] = ['config', 'ids']
const who = ['<id|email>']

/** Every command by its words. What a command needs is loaded when it runs. */
export const commands: Record<string, Command> = {
  worker: {
    takes: [],
    flags: ['config'],
    help: 'send the queued mails, until SIGTERM or SIGINT; needs no database',
    run: async (flags) => (await import('./worker.ts')).work(flags),
  },
  migrate: {
    takes: [],
    flags: [...database, 'sql', 'database'],
    help: 'bring the tables of a database up to date',
    run: migrate,
  },
  adopt: {
    takes: [],
    flags: ['config', 'check', 'repair', 'remove'],
    help: 'print the statements that keep the users table of "adopt" and ours equal',
    run: async (flags) => (await import('./adopt.ts')).adopt(flags),
  },
  'generate-secret': {
    takes: [],
    flags: [],
    help: 'print a new secret',
    run: () => print(randomBytes(32).toString('base64url')),
  },
  'generate-key EdDSA': ofKeys('print a new private key for "tokens.keys"', () => generateKeyPairSync('ed25519')),
  'generate-key ES256': ofKeys('the same on P-256', () => generateKeyPairSync('ec', { namedCurve: 'P-256' })),
  'generate-key RS256': ofKeys('the same of RSA', () => generateKeyPairSync('rsa', { modulusLength: 2048 })),
  'user list': ofUsers('listUsers', 'print users by ascending id', [], ['after', 'limit']),
  'user show': ofUsers('showUser', 'print a user'),
  'user create': ofUsers(
    'createUser',
    'create a user; mails nothing; without a password the user has to reset it first',
    [],
    ['email', 'username', 'role', 'verified', 'profile', 'password-stdin'],
  ),
  'user set-password': ofUsers(
    'setPassword',
    'set a password (needs --password-stdin), end the sessions, mail a notice',
    who,
    ['password-stdin'],
  ),
  'user set-role': ofUsers('setRole', 'set the role that guards read; "none" takes it away', [...who, '<role|none>']),
  'user disable': ofUsers('disableUser', "end the user's sessions and refuse logins"),
  'user enable': ofUsers('enableUser', 'allow logins again'),
  'user end-sessions': ofUsers('endUserSessions', 'log the user out everywhere'),
  'user delete': ofUsers('deleteUser', 'delete the user, end the sessions and mail a notice'),
  'end-sessions': ofUsers(
    'endAllSessions',
    'log everybody out; running apps refuse the access tokens at once',
    [],
    ['all'],
  ),
  mails: {
    takes: [],
    flags: ['config', 'out'],
    help: 'write a preview of every kind of mail',
    run: async (flags) => (await import('./worker.ts')).writeMails(flags),
  },
  doctor: {
    takes: [],
    flags: database,
    help: 'count the password hashes by pepper; fails when the config lacks a pepper',
    run: async (flags) => (await import('./doctor.ts')).examine(flags),
  },
}

function ofKeys(help: string, generate: () => KeyPairKeyObjectResult): Command {
  const run = () => print(String(generate().privateKey.export({ type: 'pkcs8', format: 'pem' })).trimEnd())
  return { takes: [], flags: [], help, run }
}

type UserAction = keyof typeof import('./users.ts')

function ofUsers(action: UserAction, help: string, takes = who, flags: FlagName[] = []): Command {
  const run: Command['run'] = async (...call) => (await import('./users.ts'))[action](...call)
  return { takes, flags: [...database, ...flags], help, run }
}

/** What `--help` prints. */
export function helpText(): string {
  const common: string[] = database
  const rows = Object.entries(commands).flatMap(([name, { takes, flags, help }]) => [
    [[name, ...takes].join(' '), help] as const,
    ...flags.filter((flag) => !common.includes(flag)).map((flag) => flagRow(flag, '    ')),
  ])
  const options = [
    ...database.map((flag) => flagRow(flag)),
    ['-h, --help', 'show this text'] as const,
    ['-v, --version', 'show the version'] as const,
  ]
  return `Usage: fastify-accounts <command> [options]

Commands:
${columns(rows)}

  "user" prints one line of JSON for each user: as it is afterwards, or before it was deleted.

Options of every command that needs them:
${columns(options)}

Environment, for what the config leaves out:
${columns(Object.entries(environment))}

  worker takes all but DATABASE_URL; migrate takes DATABASE_URL; user, adopt, end-sessions and doctor take all but
  SMTP_URL and MAIL_FROM.

The exit code is 0 when it is done, 1 when it failed or was refused, 2 when the command line is wrong.`
}

function flagRow(name: FlagName, indent = ''): readonly [string, string] {
  const flag = flagTypes[name]
  return [`${indent}--${name}${'value' in flag ? ` ${flag.value}` : ''}`, flag.help]
}

function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length))
  return rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`.trimEnd()).join('\n')
}

/** Brings the tables up to date, or prints the statements that would. */
async function migrate({ config, ids: given, sql, database: kind }: Flags): Promise<void> {
  if (kind !== undefined && !sql) throw usageError('--database goes with --sql')
  if (sql && config !== undefined) throw usageError('--sql needs no database: leave --config out')
  if (given !== undefined && idsOf(given) !== 'integer' && config !== undefined) {
    throw usageError(`--ids ${given} needs DATABASE_URL instead of --config, whose "db" means integer ids`)
  }
  const { adopt } = await loadConfig(config)
  const ids = adopt?.ids ?? idsOf(given)
  const { migrateToLatest, migrationSql } = await kyselyAdapter()
  if (sql) return void process.stdout.write(await migrationSql({ ids, database: databaseOf(kind) }))
  const db = await databaseToMigrate(config)
  try {
    const { besideAdopted } = await import('../adapters/kysely/host-table.ts')
    const applied = await migrateToLatest(adopt ? besideAdopted(db, adopt) : db, { ids })
    print(...applied.map((migration) => `applied ${migration}`), 'The tables are up to date.')
  } finally {
    await db.destroy()
  }
}

async function databaseToMigrate(file: string | undefined): Promise<AnyKysely> {
  const { db, storage } = await loadConfig(file)
  if (typeof db?.selectFrom === 'function') return db
  if (db !== undefined) throw failure(`${file}: option "db" must be a Kysely instance`)
  if (storage === undefined) return openDatabase(file)
  const instead = 'leave --config out and set DATABASE_URL, with --ids uuid if its ids are, or call migrateToLatest(db)'
  throw failure(`${file} has "storage" instead of "db": ${instead}`)
}
