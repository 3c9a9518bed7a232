import { sql } from 'kysely'
import type { Adoption } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'
import {
  finder,
  type HostColumn,
  type HostTable,
  hostRow,
  keyOf,
  literal,
  type Mapped,
  type Mapping,
  mappedOf,
  passwordValues,
  runText,
  withoutValue,
} from './adopt-table.ts'
import { insertedColumns } from './tables.ts'

/** A column of the host's table in SQLite, where each value has a type of its own. */
export interface SqliteColumn extends HostColumn {
  /** The newest value that is not null, where the options name it as a time; undefined for none. */
  sample?: string | number | undefined
}

/** A host's table in SQLite. */
export interface SqliteTable extends HostTable<SqliteColumn> {
  mapped: SqliteMapped[]
}

/** Of a field of the profile: whether it is the same in the JSON of `a.profile`. */
export type SqliteMapped = Mapped<SqliteColumn> & { same?: string }

/**
 * The name of the host's table, quoted.
 *
 * @throws {TypeError} when the database has no such table, or is too old
 */
export async function nameOfTable(db: AnyKysely, { table }: Adoption): Promise<string> {
  const { rows } = await sql<{ name: string | null; version: string }>`select sqlite_version() as version,
    (select name from sqlite_master where type = 'table' and lower(name) = lower(${table})) as name`.execute(db)
  const { name, version } = rows[0]!
  const [major, minor] = version.split('.').map(Number) as [number, number]
  if (major < 3 || (major === 3 && minor < 44))
    throw new TypeError(`fastify-accounts: "adopt" needs SQLite 3.44 or later: this is ${version}`)
  if (name === null) throw new TypeError(`fastify-accounts: adopt.table: there is no table ${quoted(table)}`)
  return quoted(name)
}

/**
 * Reads the columns of the host's table.
 *
 * @throws {TypeError} when the table or a column that is named does not exist, or cannot be what it is said to be
 */
export async function readHostTable(db: AnyKysely, adoption: Adoption): Promise<SqliteTable> {
  const name = await nameOfTable(db, adoption)
  const columns = await columnsOf(db, adoption, name)
  const column = finder(name, columns, 'SQLite')
  const filled = Object.entries(adoption.defaults).map(([wanted, value]) => ({
    host: column(`defaults.${wanted}`, wanted),
    write: typeof value === 'string' ? literal(value) : String(value),
  }))
  const id = keyOf(column('id', adoption.id), adoption.ids, keys)
  const mapped = mappedOf(adoption, column, mapping)
  const known = [id, ...[...mapped, ...filled].map(({ host }) => host)]
  const asked = withoutValue(columns, known).map((host) => ({ host, write: answered(host) }))
  return { name, columns, id, mapped, filled: [...filled, ...asked], asked }
}

function answered({ name }: SqliteColumn): string {
  const columns = `(select value from accounts_settings where name = ${literal(insertedColumns)})`
  return `json_extract(${columns}, ${pathOf(name)})`
}

const keys = { integer: /int/, uuid: /^(uuid|(var)?char\(36\)|text)/, text: /char|text|clob/ }

// A primary key may be null there by an old mistake of SQLite, which no key of an app makes use of.
async function columnsOf(db: AnyKysely, { disabledAt, verifiedAt, createdAt }: Adoption, table: string) {
  const rows = await runText<{
    name: string
    type: string
    required: number
    fallback: string | null
    hidden: number
    key: number
    keys: number
    rowless: number
    unique: number
  }>(
    db,
    `select c.name, lower(c.type) as type, c."notnull" as required, c.dflt_value as fallback, c.hidden, c.pk as "key",
      (select count(*) from pragma_table_info(t.name) where pk > 0) as keys, l.wr as rowless,
      exists (select 1 from pragma_index_list(t.name) i where i."unique" and not i.partial
        and (select group_concat(name) from pragma_index_info(i.name)) = c.name) as "unique"
    from sqlite_master t join pragma_table_list(t.name) l join pragma_table_xinfo(t.name) c
    where t.type = 'table' and t.name = ${literal(unquoted(table))}`,
  )
  const times = [disabledAt, verifiedAt, createdAt]
  const columns: SqliteColumn[] = []
  for (const { name, type, required, fallback, hidden, key, keys, rowless, unique } of rows) {
    const isKey = key > 0 && keys === 1
    const column = {
      ...{ name, type, notNull: Boolean(required) || isKey, generated: hidden > 1, unique: Boolean(unique) || isKey },
      // It counts itself.
      fallback: isKey && type === 'integer' && !rowless ? 'null' : isKey ? null : defaultOf(fallback),
    }
    columns.push(times.includes(name) ? { ...column, sample: await sampleOf(db, table, name, !rowless) } : column)
  }
  return columns
}

// SQLite takes a name for a text there, quoted or not.
function defaultOf(text: string | null): string | null {
  if (text === null || /^(null|true|false|current_(time|date|timestamp))$/i.test(text)) return text
  if (/^[a-z_]\w*$/i.test(text)) return literal(text)
  return /^(?:"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])$/.test(text) ? literal(unquoted(text)) : text
}

// A zero says least: it may be a flag, or no time.
async function sampleOf(db: AnyKysely, table: string, name: string, numbered: boolean) {
  const [row] = await runText<{ sample: string | number }>(
    db,
    `select ${quoted(name)} as sample from ${table} where ${quoted(name)} is not null
      order by ${quoted(name)} = 0${numbered ? ', rowid desc' : ''} limit 1`,
  )
  return row?.sample
}

const numbers = /int|bool|num|dec|real|doub|floa|bit/
const flags = /bool|bit|tinyint/

const mapping: Mapping<SqliteColumn, SqliteMapped> = {
  text: (ours, host) => ({ ours, host, read: textOf(host), write: `new.${ours}` }),
  password: (host, none) => ({ host, ...passwordValues(textOf(host), none) }),
  active(host) {
    if (!numbers.test(host.type)) {
      throw new TypeError(`fastify-accounts: adopt.active: "${host.name}" is no number but ${host.type}`)
    }
    return { ours: 'active', host, read: `coalesce(${isTrue(host)}, 0)`, write: 'new.active' }
  },
  status: (host, { enabled, disabled }) => ({
    ours: 'active',
    host,
    read: `coalesce(${textOf(host)} = ${literal(enabled)}, 0)`,
    write: `iif(new.active, ${literal(enabled)}, ${literal(disabled)})`,
  }),
  disabled(host) {
    const write = `case when not new.active then ${writtenTime(host, 'now_ms')} end`
    return { ours: 'active', host, read: `(${columnOf(host)} is null)`, write }
  },
  verified(host) {
    const isFlag = host.sample === undefined ? flags.test(host.type) : host.sample === 0 || host.sample === 1
    // A column that may not be null has 0 for an address that nobody proved.
    if (!isFlag) {
      const time = mapping.time('verifiedAt', 'email_verified_at', host)
      return { ...time, read: `case when ${columnOf(host)} <> 0 then ${time.read} end` }
    }
    return {
      ours: 'email_verified_at',
      host,
      read: `case when ${isTrue(host)} then coalesce(a.email_verified_at, now_ms) end`,
      write: 'new.email_verified_at is not null',
    }
  },
  time: (_path, ours, host) => ({ ours, host, read: readTime(host), write: writtenTime(host, `new.${ours}`) }),
  profile(field, host) {
    const path = pathOf(field)
    const column = columnOf(host)
    const plain = `json_quote(case typeof(${column}) when 'blob' then cast(${column} as text) else ${column} end)`
    const isJson = /^json/.test(host.type)
    const flag = `case when ${column} is not null then iif(${isTrue(host)}, 'true', 'false') end`
    const value = isJson ? `case when json_valid(${column}) then json(${column}) else ${plain} end` : plain
    const read = flags.test(host.type) ? flag : `nullif(${value}, 'null')`
    return {
      ...{ ours: `profile.${field}`, host, read },
      write: isJson ? `nullif(new.profile -> ${path}, 'null')` : `json_extract(new.profile, ${path})`,
      same: `nullif(a.profile -> ${path}, 'null') is json(${read})`,
    }
  },
}

// As Rails once wrote it, too.
function isTrue(host: SqliteColumn): string {
  const column = columnOf(host)
  return `(cast(${column} as numeric) <> 0 or lower(${column}) in ('t', 'true'))`
}

// A number of this size is one of milliseconds since 1973, or one of seconds for thousands of years.
const smallestMs = 100_000_000_000

function readTime(host: SqliteColumn): string {
  const column = columnOf(host)
  return `case typeof(${column})
      when 'text' then cast(round((julianday(${column}) - 2440587.5) * 86400000) as integer)
      when 'null' then null
      else cast(case when abs(${column}) >= ${smallestMs} then ${column} else ${column} * 1000 end as integer) end`
}

// As the host writes it, by what stands there or, in an empty table, by what it was made for.
function writtenTime({ type, fallback, sample }: SqliteColumn, ms: string): string {
  const isNumber = sample === undefined ? /int|num/.test(type) : typeof sample === 'number'
  const inMs = sample === undefined ? /000/.test(fallback ?? '') : Math.abs(Number(sample)) >= smallestMs
  if (isNumber) return inMs ? ms : `${ms} / 1000`
  const format = (pattern: string) => `strftime('${pattern}', ${ms} / 1000.0, 'unixepoch')`
  const shape = String(sample ?? '')
  if (/^\d+-\d+-\d+$/.test(shape) || (!shape && type === 'date')) return format('%Y-%m-%d')
  const [separator, fraction] = [/T/, /\.\d/].map((part) => part.test(shape))
  const zone = /Z$/.test(shape) ? 'Z' : /[+-]\d\d:\d\d$/.test(shape) ? '+00:00' : ''
  return format(`%Y-%m-%d${separator ? 'T' : ' '}%H:%M:${fraction ? '%f' : '%S'}${zone}`)
}

/** The path to a member in JSON, as SQL. */
export function pathOf(name: string): string {
  return literal(`$.${JSON.stringify(name)}`)
}

/** The host's column of a row. */
export function columnOf({ name }: HostColumn, row = hostRow): string {
  return `${row}.${quoted(name)}`
}

/** A column as a text that is compared bytewise. */
function textOf(host: SqliteColumn): string {
  return `cast(${columnOf(host)} as text) collate binary`
}

/** The name that was quoted. */
export function unquoted(name: string): string {
  return name.slice(1, -1).replaceAll('""', '"')
}

/** A name as SQL writes it. */
export function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
