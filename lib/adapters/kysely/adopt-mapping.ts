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
  withoutValue,
} from './adopt-table.ts'
import { insertedColumns } from './tables.ts'

/** A column of the host's table. */
export interface PostgresColumn extends HostColumn {
  /** Whether a given value needs `overriding system value`. */
  always: boolean
}

/** A host's table in PostgreSQL. */
export type PostgresTable = HostTable<PostgresColumn>

type Column = PostgresColumn

/**
 * The name of the host's table, quoted and with its schema.
 *
 * @throws {TypeError} when there is no such table, or its schema is to be ours
 */
export async function nameOfTable(db: AnyKysely, { table }: Adoption, schema: string): Promise<string> {
  const given = quoted(...table.split('.'))
  const { rows } = await sql<{ name: string; schema: string }>`
    select format('%I.%I', s.nspname, c.relname) as "name", s.nspname as "schema"
    from pg_class c join pg_namespace s on s.oid = c.relnamespace
    where c.oid = to_regclass(${given}) and c.relkind in ('r', 'p')`.execute(db)
  const [found] = rows
  if (!found) throw new TypeError(`fastify-accounts: adopt.table: there is no table ${given}`)
  if (found.schema !== schema) return found.name
  throw new TypeError(
    `fastify-accounts: adopt.schema: "${schema}" is the schema of your table; ours need one of their own`,
  )
}

/**
 * Reads the columns of the host's table.
 *
 * @throws {TypeError} when the table or a column that is named does not exist, or cannot be what it is said to be
 */
export async function readHostTable(db: AnyKysely, adoption: Adoption, schema: string): Promise<PostgresTable> {
  const name = await nameOfTable(db, adoption, schema)
  const { rows: columns } = await sql<Column>`
    select a.attname as "name", a.attnotnull as "notNull",
      case when ts.nspname = 'pg_catalog' then format_type(a.atttypid, a.atttypmod)
        else format('%I.%I', ts.nspname, t.typname) end as "type",
      a.attidentity = 'a' as "always", a.attgenerated <> '' as "generated",
      exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique and i.indisvalid
        and i.indpred is null and i.indnkeyatts = 1 and i.indkey[0] = a.attnum) as "unique",
      case
        when a.attidentity <> '' then format('nextval(%L::regclass)', pg_get_serial_sequence(${name}, a.attname))
        when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid)
      end as "fallback"
    from pg_attribute a
      join pg_type t on t.oid = a.atttypid join pg_namespace ts on ts.oid = t.typnamespace
      left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = ${name}::regclass and a.attnum > 0 and not a.attisdropped
    order by a.attnum`.execute(db)
  const column = finder(name, columns, 'PostgreSQL')
  const filled = Object.entries(adoption.defaults).map(([wanted, value]) => {
    const host = column(`defaults.${wanted}`, wanted)
    return { host, write: `${literal(String(value))}::${host.type}` }
  })
  const id = keyOf(column('id', adoption.id), adoption.ids, kinds)
  const mapped = mappedOf(adoption, column, mapping)
  const asked = withoutValue(columns, [id, ...[...mapped, ...filled].map(({ host }) => host)]).map(askedOf)
  return { name, columns, id, mapped, filled: [...filled, ...asked], asked }
}

function askedOf(host: Column): Pick<Mapped<Column>, 'host' | 'write'> {
  const given = `nullif(current_setting(${literal(insertedColumns)}, true), '')::jsonb`
  return { host, write: cast(`(${given} ->> ${literal(host.name)})`, host) }
}

const kinds = { integer: /^(smallint|integer|bigint)$/, uuid: /^uuid$/, text: /^(text|character)/ }

const mapping: Mapping<Column, Mapped<Column>> = {
  text: (ours, host) => ({ ours, host, read: textOf(host), write: cast(`new.${ours}`, host) }),
  password: passwordOf,
  active: activeOf,
  status: (host, { enabled, disabled }) => ({
    ours: 'active',
    host,
    read: `coalesce(${textOf(host)} = ${literal(enabled)}, false)`,
    write: cast(`(case when new.active then ${literal(enabled)} else ${literal(disabled)} end)`, host),
  }),
  disabled: disabledOf,
  verified: verifiedOf,
  time: timeOf,
  profile: profileOf,
}

function passwordOf(host: Column, none: string | undefined): Mapped<Column> {
  const values = passwordValues(textOf(host), none)
  return { host, ...values, write: cast(values.write, host) }
}

function activeOf(host: Column): Mapped<Column> {
  const isBoolean = host.type === 'boolean'
  const read = `coalesce(${columnOf(host)}${isBoolean ? '' : '::integer <> 0'}, false)`
  return { ours: 'active', host, read, write: cast(isBoolean ? 'new.active' : 'new.active::integer', host) }
}

function disabledOf(host: Column): Mapped<Column> {
  const { write } = timeOf('disabledAt', 'active', host)
  const now = write.replace('new.active', 'now_ms')
  return { ours: 'active', host, read: `${columnOf(host)} is null`, write: `case when not new.active then ${now} end` }
}

function verifiedOf(host: Column): Mapped<Column> {
  if (host.type !== 'boolean') return timeOf('verifiedAt', 'email_verified_at', host)
  return {
    ours: 'email_verified_at',
    host,
    read: `case when ${columnOf(host)} then coalesce(a.email_verified_at, now_ms) end`,
    write: 'new.email_verified_at is not null',
  }
}

// A time without a zone is taken for UTC.
function timeOf(path: string, ours: string, host: Column): Mapped<Column> {
  const zoned = host.type.includes('with time zone')
  if (!/^(timestamp|date)/.test(host.type)) {
    throw new TypeError(`fastify-accounts: adopt.${path}: "${host.name}" is no timestamp but ${host.type}`)
  }
  const time = `to_timestamp(new.${ours} / 1000.0)`
  return {
    ours,
    host,
    read: `case when isfinite(${columnOf(host)}) then floor(extract(epoch from ${columnOf(host)}) * 1000)::bigint end`,
    write: zoned ? time : `(${time} at time zone 'UTC')${host.type === 'date' ? '::date' : ''}`,
  }
}

function profileOf(field: string, host: Column): Mapped<Column> {
  if (host.type.endsWith('[]')) {
    throw new TypeError(`fastify-accounts: adopt.profile.${field}: "${host.name}" is a list, which no profile field is`)
  }
  const json = /^jsonb?$/.test(host.type)
  const written = json ? `new.profile -> ${literal(field)}` : `new.profile ->> ${literal(field)}`
  const write = host.type === 'boolean' ? `(${written})::boolean` : cast(`(${written})`, host)
  return { ours: `profile.${field}`, host, read: `to_jsonb(${columnOf(host)})`, write }
}

/** The host's column of a row. */
export function columnOf({ name }: HostColumn, row = hostRow): string {
  return `${row}.${quoted(name)}`
}

function textOf(host: Column): string {
  return `${columnOf(host)}::text`
}

// Not to a text of some length, which would be cut without a word: what does not fit has to fail.
function cast(value: string, { type }: HostColumn): string {
  return /^(text|boolean|character)/.test(type) ? value : `${value}::${type}`
}

/** Names as SQL writes them, with dots between them. */
export function quoted(...names: string[]): string {
  return names.map((name) => `"${name.replaceAll('"', '""')}"`).join('.')
}
