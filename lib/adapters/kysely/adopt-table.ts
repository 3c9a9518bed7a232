import { sql } from 'kysely'
import type { Adoption, Status } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'

/** A column of the host's table. */
export interface HostColumn {
  name: string
  /** As the database writes it, such as `character varying(60)`. */
  type: string
  notNull: boolean
  /** The expression of its default, also that of a sequence; null without one. */
  fallback: string | null
  /** Whether the database alone writes it: a generated column. */
  generated: boolean
  /** Whether no two rows have the same there. */
  unique: boolean
}

/** How a column of `accounts_users` and one of the host's are made of each other. */
export interface Mapped<Column = HostColumn> {
  /** The column of `accounts_users`. */
  ours: string
  /** The column of the host's. */
  host: Column
  /** Our value as SQL, made of the host's row. */
  read: string
  /** The host's value as SQL, made of our row `new`. */
  write: string
}

/** The host's table, and what of it is ours. */
export interface HostTable<Column = HostColumn> {
  /** Quoted, with its schema where it has one. */
  name: string
  id: Column
  columns: Column[]
  mapped: Mapped<Column>[]
  /** Further columns, and what new rows have there, as SQL. */
  filled: Pick<Mapped<Column>, 'host' | 'write'>[]
  /** Those that need a value and have none of these; `adopt.insert` has to answer them. */
  asked: { host: Column }[]
}

/** How a database reads and writes the columns that options name. */
export interface Mapping<Column, Each> {
  text(ours: string, host: Column): Each
  password(host: Column, none: string | undefined): Each
  active(host: Column): Each
  /** A column of words. */
  status(host: Column, words: Status): Each
  disabled(host: Column): Each
  verified(host: Column): Each
  /** A time; `path` is the option that names it. */
  time(path: string, ours: string, host: Column): Each
  profile(field: string, host: Column): Each
}

/** The names of our tables. */
export const ownTables: readonly string[] = ['sessions', 'users', 'outbox', 'events', 'migrations'].map(
  (table) => `accounts_${table}`,
)

/** The alias of a row of the host's in our statements. */
export const hostRow = 'accounts_host_row'

/** The names of the triggers on the host's table. */
export const hostTriggerNames: readonly string[] = ['insert', 'update', 'delete'].map(
  (act) => `fastify_accounts_${act}`,
)

/** Finds a column that an option names. */
export type Find<Column> = (path: string, wanted: string) => Column

/**
 * Finds the columns that the options name.
 *
 * @throws {TypeError} from what it returns, when there is no such column or only the database writes it
 */
export function finder<Column extends HostColumn>(name: string, columns: Column[], database: string): Find<Column> {
  return (path, wanted) => {
    const found = columns.find((each) => each.name === wanted)
    if (!found) throw new TypeError(`fastify-accounts: adopt.${path}: ${name} has no column "${wanted}"`)
    if (!found.generated) return found
    throw new TypeError(`fastify-accounts: adopt.${path}: ${database} alone writes the column "${wanted}"`)
  }
}

/**
 * The key of the host's table.
 *
 * @throws {TypeError} when it is none, or of another kind than the options say
 */
export function keyOf<Column extends HostColumn>(host: Column, ids: string, kinds: Record<string, RegExp>): Column {
  const at = `fastify-accounts: adopt.id: "${host.name}"`
  if (!host.unique || !host.notNull) throw new TypeError(`${at} is no key by itself: two rows may have the same there`)
  if (!kinds[ids]!.test(host.type)) {
    throw new TypeError(`${at} is ${host.type}, not of the kind that adopt.ids says: ${ids}`)
  }
  if (ids !== 'integer' || host.fallback !== null) return host
  throw new TypeError(`${at} has no default, and new users need numbers that you have not given to others`)
}

/**
 * The columns of ours that the options name.
 *
 * @throws {TypeError} from `find` and the mapping
 */
export function mappedOf<Column extends HostColumn, Each extends Mapped<Column>>(
  adoption: Adoption,
  find: Find<Column>,
  mapping: Mapping<Column, Each>,
): Each[] {
  const { email, password, username, role, active, disabledAt, verifiedAt, createdAt } = adoption
  const [emailColumn, passwordColumn] = [find('email', email), find('password', password)]
  return [
    mapping.text('email', emailColumn),
    mapping.password(passwordColumn, adoption.noPassword),
    ...(username ? [mapping.text('username', find('username', username))] : []),
    ...(role ? [mapping.text('role', find('role', role))] : []),
    ...(typeof active === 'string' ? [mapping.active(find('active', active))] : []),
    ...(typeof active === 'object' ? [mapping.status(find('active.column', active.column), active)] : []),
    ...(disabledAt ? [mapping.disabled(find('disabledAt', disabledAt))] : []),
    ...(verifiedAt ? [mapping.verified(find('verifiedAt', verifiedAt))] : []),
    ...(createdAt ? [mapping.time('createdAt', 'created_at', find('createdAt', createdAt))] : []),
    ...Object.entries(adoption.profile).map(([field, name]) => mapping.profile(field, find(`profile.${field}`, name))),
  ].map(withFallback)
}

// What has a default of its own is never null.
function withFallback<Each extends Mapped>(mapped: Each): Each {
  const { ours, host, write } = mapped
  const filled = host.notNull && host.fallback !== null && !['email', 'active'].includes(ours)
  return filled ? { ...mapped, write: `coalesce(${write}, ${host.fallback})` } : mapped
}

/** Our columns but the profile, as SQL over a row of the host's, `a` of ours that may be null, and `now_ms`. */
export function columnValues(mapped: Pick<Mapped, 'ours' | 'read'>[]) {
  const read = (ours: string) => mapped.find((one) => one.ours === ours)?.read
  const username = read('username')
  return {
    email: read('email')!,
    hash: read('password_hash')!,
    username: username === undefined ? 'a.username' : `nullif(${username}, '')`,
    active: read('active') ?? 'coalesce(a.active, true)',
    role: read('role') ?? 'a.role',
    verified: read('email_verified_at') ?? 'a.email_verified_at',
    created: `coalesce(${read('created_at') ?? 'now_ms'}, now_ms)`,
  }
}

/** The order in which rows are taken over, as SQL: of those who share an address or a username the first has it. */
export function precedence(active: string, email: string, canonical: (email: string) => string, id: string): string {
  return `(${active}) desc, ${email} = ${canonical(email)} desc, ${id}`
}

/** How a password hash is made of the text in a column, and the column of a hash. */
export function passwordValues(text: string, none: string | undefined): Pick<Mapped, 'ours' | 'read' | 'write'> {
  const stored = `nullif(${text}, '')`
  return {
    ours: 'password_hash',
    // Django marks an unusable password by this and a random text.
    read: none === '!' ? `case when ${text} like '!%' then null else ${stored} end` : stored,
    write: none === undefined ? 'new.password_hash' : `coalesce(new.password_hash, ${literal(none)})`,
  }
}

/** The columns that a new row needs a value for, besides those that are known. */
export function withoutValue<Column extends HostColumn>(columns: Column[], known: Column[]): Column[] {
  return columns.filter((one) => one.notNull && one.fallback === null && !one.generated && !known.includes(one))
}

/** The field of the profile that a column is mapped to. */
export function fieldOf({ ours }: Pick<Mapped, 'ours'>): string {
  return ours.slice('profile.'.length)
}

/** Whether a column is mapped to a field of the profile. */
export function isField({ ours }: Pick<Mapped, 'ours'>): boolean {
  return ours.startsWith('profile.')
}

/**
 * Runs a statement that names the host's table and columns, which Kysely does not know: all of them are quoted, and it
 * takes no value of a user.
 */
export async function runText<Row>(db: AnyKysely, text: string): Promise<Row[]> {
  return (await sql<Row>`${sql.raw(text)}`.execute(db)).rows
}

/** A text as SQL writes it, where a backslash means nothing. */
export function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}
