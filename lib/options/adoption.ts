import type { FastifyRequest } from 'fastify'
import type { IdKind, NewUser } from '../contracts.ts'
import { type Check, fn, oneOf, optionalText, section, shown, text, wrongOption } from './checks.ts'
import type { AnyKysely } from './ports.ts'

/** A users table of the host's that the database keeps equal to ours. Members name its columns. */
export interface Adoption {
  /** With its schema where the search path does not have it. */
  table: string
  /** The schema of our own tables, on PostgreSQL. @default 'accounts' */
  schema: string | undefined
  /** The kind of its ids. @default 'integer' */
  ids: IdKind
  /** @default 'id' */
  id: string
  /** @default 'email' */
  email: string
  /**
   * How the host's code finds an address there: `'exact'` where it compares the column with one that it has put in
   * lower case. New ones are written so then. @default 'lower'
   */
  emailMatch: 'lower' | 'exact'
  /** @default 'password' */
  password: string
  /** What stands there for an account without a password; `'!'` for Django's. @default null */
  noPassword: '' | '!' | undefined
  username: string | undefined
  role: string | undefined
  /** True, or a number that is not 0, for those who may log in; or a text, such as a status. */
  active: string | Status | undefined
  /** Null for those who may log in, instead of `active`. */
  disabledAt: string | undefined
  /** A time, or true, for an address that is proved. */
  verifiedAt: string | undefined
  createdAt: string | undefined
  /** Fields of `registration.profile` and their columns. */
  profile: Readonly<Record<string, string>>
  /** Further columns, and what new rows have there. */
  defaults: Readonly<Record<string, string | number | boolean>>
  /** What a new row has in columns that are not null and have no default, by the user or the request. */
  insert: InsertColumns | undefined
}

/** A column of words. */
export interface Status {
  column: string
  /** Of those who may log in. */
  enabled: string
  /** What stands there for whoever is disabled; every other word is no way in either. */
  disabled: string
}

/**
 * Answers further columns of a new user's row. It runs before the row is inserted, in the same transaction, where it
 * names tables with their schema, and again when that transaction is.
 *
 * @param context `request`: the one that registers; null for `users.create`
 */
export type InsertColumns = (
  trx: AnyKysely,
  user: Pick<NewUser, 'username' | 'email' | 'role' | 'profile'>,
  context: { request: FastifyRequest | null },
) => Columns | Promise<Columns>

type Columns = Record<string, string | number | boolean | null>

const columnName = optionalText(/^[^\0]{1,63}$/, 'must be the name of a column')
const column =
  (fallback: string): Check<string> =>
  (path, given = fallback) =>
    columnName(path, given) as string

const word = text(/^[^\0]{1,255}$/, 'must be a text of the column', '')
const status = section<Status>({ column: column(''), enabled: word, disabled: word })

function members<T>(check: Check<T>): Check<Readonly<Record<string, T>>> {
  return (path, given = {}) => {
    if (typeof given !== 'object' || given === null) throw wrongOption(path, 'must be an object by names', shown(given))
    return Object.fromEntries(Object.entries(given).map(([name, each]) => [name, check(`${path}.${name}`, each)]))
  }
}

const adoptionMembers = section<Adoption>({
  table: text(/^[^\0.]{1,63}(\.[^\0.]{1,63})?$/, 'must be the name of a table, such as "users" or "public.users"', ''),
  schema: columnName,
  ids: oneOf(['integer', 'uuid', 'text'], 'integer'),
  id: column('id'),
  email: column('email'),
  emailMatch: oneOf(['lower', 'exact'], 'lower'),
  password: column('password'),
  noPassword: oneOf(['', '!', undefined], undefined),
  username: columnName,
  role: columnName,
  active: (path, given) => (typeof given === 'object' ? status(path, given) : columnName(path, given)),
  disabledAt: columnName,
  verifiedAt: columnName,
  createdAt: columnName,
  profile: members(column('')),
  defaults: members((path, given) => {
    if (['string', 'number', 'boolean'].includes(typeof given)) return given as string | number | boolean
    throw wrongOption(path, 'must be a text, a number, true or false', shown(given))
  }),
  insert: fn<InsertColumns | undefined>('(trx, user, { request }) => columns', undefined),
})

/** The host's users table, or undefined. */
export const adoption: Check<Adoption | undefined> = (path, given) => {
  if (given === undefined) return undefined
  const read = adoptionMembers(path, given)
  if (read.active === undefined || read.disabledAt === undefined) return read
  throw wrongOption(`${path}.disabledAt`, 'must be left out when "active" is given')
}
