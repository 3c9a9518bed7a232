import { sql } from 'kysely'
import type { Adoption } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'
import {
  finder,
  type HostColumn,
  type HostTable,
  hostRow,
  keyOf,
  type Mapped,
  type Mapping,
  mappedOf,
  passwordValues,
  literal as plainLiteral,
  withoutValue,
} from './adopt-table.ts'
import { insertedColumns } from './tables.ts'

/** A column of the host's table in MySQL or MariaDB. */
export interface MysqlColumn extends HostColumn {
  /** Such as `varchar`; `json` in MariaDB, too. */
  kind: string
  /** Of a text. */
  charset: string | null
  collation: string | null
}

/** What the two do differently. */
export interface MysqlServer {
  /** The collation of our tables. */
  bin: string
  /** A JSON text in the one form that all of its spellings have. */
  normal(json: string): string
}

/** A host's table in MySQL or MariaDB. */
export interface MysqlTable extends HostTable<MysqlColumn> {
  server: MysqlServer
  mapped: MysqlMapped[]
}

/** Of a field of the profile: whether it is the same in the JSON of `a.profile`. */
export type MysqlMapped = Mapped<MysqlColumn> & { same?: string }

const servers = {
  mysql: { bin: 'utf8mb4_0900_bin', normal: (json: string) => `cast(cast(${json} as json) as char)` },
  mariadb: { bin: 'utf8mb4_nopad_bin', normal: (json: string) => `json_compact(${json})` },
}

/**
 * The name of the host's table, quoted.
 *
 * @throws {TypeError} when the database has no such table
 */
export async function nameOfTable(db: AnyKysely, { table }: Adoption): Promise<string> {
  const { rows } = await sql<{ name: string }>`select table_name as name from information_schema.tables
    where table_schema = database() and table_name = ${table} and table_type = 'BASE TABLE'`.execute(db)
  const [found] = rows
  if (found) return quoted(found.name)
  throw new TypeError(`fastify-accounts: adopt.table: there is no table ${quoted(table)}`)
}

/**
 * Reads the columns of the host's table.
 *
 * @throws {TypeError} when the table or a column that is named does not exist, or cannot be what it is said to be
 */
export async function readHostTable(db: AnyKysely, adoption: Adoption): Promise<MysqlTable> {
  const name = await nameOfTable(db, adoption)
  const { rows } = await sql<{ version: string }>`select version() as version`.execute(db)
  const isMariadb = rows[0]!.version.includes('MariaDB')
  const server = isMariadb ? servers.mariadb : servers.mysql
  const columns = await columnsOf(db, adoption.table, isMariadb)
  const column = finder(name, columns, 'the database')
  const filled = Object.entries(adoption.defaults).map(([wanted, value]) => ({
    host: column(`defaults.${wanted}`, wanted),
    write: typeof value === 'string' ? literal(value) : String(value),
  }))
  const id = keyOf(column('id', adoption.id), adoption.ids, keys)
  const mapped = mappedOf(adoption, column, mappingOf(server))
  const known = [id, ...[...mapped, ...filled].map(({ host }) => host)]
  const asked = withoutValue(columns, known).map(askedOf)
  return { name, columns, id, mapped, filled: [...filled, ...asked], asked, server }
}

function askedOf(host: MysqlColumn): Pick<MysqlMapped, 'host' | 'write'> {
  const text = memberOf(`@${insertedColumns}`, host.name)
  if (!numbers.test(host.kind)) return { host, write: text }
  const number = /^(float|double)$/.test(host.kind) ? `${text} + 0` : `cast(${text} as decimal(65, 30))`
  return { host, write: `case ${text} when 'true' then 1 when 'false' then 0 else ${number} end` }
}

/** A member of an object in JSON, as a text; null for JSON's null and for none. */
function memberOf(json: string, name: string): string {
  const found = `json_extract(${json}, ${literal(`$.${JSON.stringify(name)}`)})`
  return `(case when json_type(${found}) <> 'NULL' then json_unquote(${found}) end)`
}

// The numbers of a column that counts itself come from null. The server of MySQL writes literal defaults as they are.
async function columnsOf(db: AnyKysely, table: string, isMariadb: boolean): Promise<MysqlColumn[]> {
  const { rows } = await sql<{
    name: string
    type: string
    kind: string
    charset: string | null
    collation: string | null
    nullable: string
    extra: string
    given: string | null
    json: number
    unique: number
  }>`
    select c.column_name as name, c.column_type as type, c.data_type as kind, c.character_set_name as charset,
      c.collation_name as collation, c.is_nullable as nullable, lower(c.extra) as extra, c.column_default as given,
      c.data_type = 'json' /*M!100202 or exists (select 1 from information_schema.check_constraints k
        where k.constraint_schema = c.table_schema and k.table_name = c.table_name
          and k.check_clause = concat('json_valid(\`', c.column_name, '\`)')) */ as json,
      exists (select 1 from information_schema.statistics s
        where s.table_schema = c.table_schema and s.table_name = c.table_name and s.non_unique = 0
        group by s.index_name having count(*) = 1 and min(s.column_name) = c.column_name) as ${sql.id('unique')}
    from information_schema.columns c
    where c.table_schema = database() and c.table_name = ${table} order by c.ordinal_position`.execute(db)
  return rows.map(({ nullable, extra, given, json, unique, ...column }) => {
    const isExpression = isMariadb || extra.includes('default_generated') || column.kind === 'bit'
    const fallback = given === null || isExpression ? given?.replaceAll("\\'", "'") : literal(given)
    return {
      ...column,
      kind: json ? 'json' : column.kind,
      notNull: nullable === 'NO',
      generated: /(virtual|stored|persistent)( generated)?$/.test(extra),
      unique: Boolean(unique),
      fallback: extra.includes('auto_increment')
        ? 'null'
        : fallback === undefined || fallback === 'NULL'
          ? null
          : fallback,
    }
  })
}

const keys = { integer: /^\w*int\b/, uuid: /^(uuid|(var)?char\(36\))/, text: /^(var)?char/ }
const numbers = /^(\w*int|decimal|float|double|year|bit)$/
const times = /^(timestamp|datetime|date)$/

function mappingOf(server: MysqlServer): Mapping<MysqlColumn, MysqlMapped> {
  return {
    text: (ours, host) => ({ ours, host, read: textOf(host, server), write: `new.${ours}` }),
    password: (host, none) => ({ host, ...passwordValues(textOf(host, server), none) }),
    active: activeOf,
    status: (host, { enabled, disabled }) => ({
      ours: 'active',
      host,
      read: `coalesce(${textOf(host, server)} = ${literal(enabled)}, false)`,
      write: `if(new.active, ${literal(enabled)}, ${literal(disabled)})`,
    }),
    disabled: disabledOf,
    verified: verifiedOf,
    time: timeOf,
    profile: (field, host) => profileOf(field, host, server),
  }
}

function activeOf(host: MysqlColumn): MysqlMapped {
  if (!numbers.test(host.kind)) {
    throw new TypeError(`fastify-accounts: adopt.active: "${host.name}" is no number but ${host.type}`)
  }
  return { ours: 'active', host, read: `coalesce(${columnOf(host)} <> 0, false)`, write: 'new.active' }
}

function disabledOf(host: MysqlColumn): MysqlMapped {
  const { write } = timeOf('disabledAt', 'active', host)
  const now = write.replace('new.active', 'now_ms')
  return {
    ours: 'active',
    host,
    read: `(${columnOf(host)} is null)`,
    write: `case when not new.active then ${now} end`,
  }
}

function verifiedOf(host: MysqlColumn): MysqlMapped {
  if (!numbers.test(host.kind)) return timeOf('verifiedAt', 'email_verified_at', host)
  return {
    ours: 'email_verified_at',
    host,
    read: `case when ${columnOf(host)} <> 0 then coalesce(a.email_verified_at, now_ms) end`,
    write: 'new.email_verified_at is not null',
  }
}

// Only `timestamp` knows a zone: that of the session, between which and the column MySQL converts. All else is UTC.
function timeOf(path: string, ours: string, host: MysqlColumn): MysqlMapped {
  if (!times.test(host.kind)) {
    throw new TypeError(`fastify-accounts: adopt.${path}: "${host.name}" is no timestamp but ${host.type}`)
  }
  const since = `timestampdiff(microsecond, '1970-01-01', ${columnOf(host)}) / 1000`
  const milliseconds = host.kind === 'timestamp' ? `unix_timestamp(${columnOf(host)}) * 1000` : since
  const utc = `timestampadd(microsecond, new.${ours} * 1000, cast('1970-01-01' as datetime(6)))`
  const write = { timestamp: `from_unixtime(new.${ours} / 1000)`, datetime: utc, date: `date(${utc})` }[host.kind]!
  return { ours, host, read: `cast(floor(${milliseconds}) as signed)`, write }
}

// `read` is the field's JSON, null for none.
function profileOf(field: string, host: MysqlColumn, server: MysqlServer): MysqlMapped {
  const path = literal(`$.${JSON.stringify(field)}`)
  const column = columnOf(host)
  const found = (profile: string) => `json_extract(${profile}, ${path})`
  const text = (profile: string) => memberOf(profile, field)
  const mapped = { ours: `profile.${field}`, host }
  if (host.kind === 'json') {
    const read = `nullif(${textOf(host, server)}, 'null')`
    const same = `${server.normal(found('a.profile'))} <=> ${server.normal(read)}`
    return { ...mapped, read, write: found('new.profile'), same }
  }
  if (/^(tinyint\(1\)|bit\(1\))/.test(host.type)) {
    const read = `case when ${column} <> 0 then 'true' when ${column} = 0 then 'false' end`
    const write = `case ${text('new.profile')} when 'true' then 1 when 'false' then 0 end`
    return { ...mapped, read, write, same: `${text('a.profile')} <=> ${read}` }
  }
  const isNumber = numbers.test(host.kind)
  const read = isNumber ? `cast(${column} as char)` : `json_quote(${textOf(host, server)})`
  const same = isNumber
    ? `${text('a.profile')} + 0 <=> ${column} + 0`
    : `${text('a.profile')} <=> ${textOf(host, server)}`
  return { ...mapped, read, write: text('new.profile'), same }
}

/** The host's column of a row. */
export function columnOf({ name }: HostColumn, row = hostRow): string {
  return `${row}.${quoted(name)}`
}

/** A column as a text that is compared as ours are. */
export function textOf(host: MysqlColumn, { bin }: MysqlServer, row = hostRow): string {
  return `convert(${columnOf(host, row)} using utf8mb4) collate ${bin}`
}

/** The host's key as our ids are. */
export function idOf({ id, server }: MysqlTable, row = hostRow): string {
  return id.charset === null && id.kind !== 'uuid' ? columnOf(id, row) : textOf(id, server, row)
}

/** An id of ours in the host's key, so that the host's index finds it. */
export function hostIdOf({ id }: MysqlTable, ours: string): string {
  return id.charset === null ? ours : `convert(${ours} using ${id.charset}) collate ${id.collation}`
}

/** A name as MySQL writes it. */
export function quoted(name: string): string {
  return `\`${name.replaceAll('`', '``')}\``
}

/** A text as MySQL writes it, whatever the charset of the connection and its mode say of what is not plain ASCII. */
export function literal(text: string): string {
  if (/^[ -[\]-~]*$/.test(text)) return plainLiteral(text)
  return `convert(0x${Buffer.from(text).toString('hex')} using utf8mb4)`
}
