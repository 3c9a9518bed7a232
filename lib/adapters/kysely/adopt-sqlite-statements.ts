import { columnOf, pathOf, quoted, type SqliteMapped, type SqliteTable, unquoted } from './adopt-sqlite-mapping.ts'
import {
  columnValues,
  fieldOf,
  hostRow,
  hostTriggerNames,
  isField,
  literal,
  ownTables,
  precedence,
} from './adopt-table.ts'
import { taking } from './tables.ts'

/** The database's time in milliseconds, as SQL. */
export const nowMs = `cast((julianday('now') - 2440587.5) * 86400000 as integer)`
/** The form of an address in which it is unique; of what is not ASCII `repair` makes it. */
export const canonicalOf = (email: string) => `lower(${email})`
/** The form of a username in which it is unique. */
export const usernameFormOf = (username: string) => `lower(${username})`

const ownTriggers = ['insert', 'update', 'delete'].map((act) => `fastify_accounts_adopted_${act}`)
const users = 'accounts_users'
const ownColumns = `id, email, email_canonical, username, username_canonical, password_hash, credential_version,
    active, role, profile, created_at, email_verified_at`
// A version of credentials that no token has.
const randomVersion = 'abs(random() % 1099511627776)'

/** The statements that keep two tables equal, after those that make ours; they may run again. */
export function adoptionStatements(table: SqliteTable): string[] {
  return [
    ...dropped(table.name),
    'create table if not exists accounts_settings (name text primary key, value text)',
    bulk(table, true),
    // Those whose username is another account's by now.
    bulk(table, false),
    ...lastId(table),
    ...hostTriggers(table),
    ...userTriggers(table),
  ]
}

/** The statements that undo an adoption. */
export function removalStatements(name: string): string[] {
  return [...dropped(name), ...[...ownTables, 'accounts_settings'].map((table) => `drop table if exists ${table}`)]
}

function dropped(name: string): string[] {
  const [first, ...others] = [...hostTriggerNames, ...ownTriggers].map((trigger) => `drop trigger if exists ${trigger}`)
  return [`-- ${name}\n${first}`, ...others]
}

/** The expressions of our columns over a row of the host's, `a` of ours that may be null, and `now_ms`. */
function valuesOf({ mapped }: SqliteTable) {
  const fields = mapped.filter(isField)
  const pathsOf = (one: SqliteMapped) => pathOf(fieldOf(one))
  const set = fields.map((one) => `, ${pathsOf(one)}, json(${one.read})`)
  // What is null is left out: no object has the other path.
  const empty = fields.map((one) => `, case when (${one.read}) is null then ${pathsOf(one)} else '$[0]' end`)
  const others = `coalesce(a.profile, '{}')`
  return {
    ...columnValues(mapped),
    profile: fields.length ? `json_remove(json_set(${others}${set.join('')})${empty.join('')})` : others,
  }
}

// The values of a row of the host's, `a_…` of its account, and the forms in which they are unique.
function formed(table: SqliteTable, id: string): string {
  const values = Object.entries(valuesOf(table)).map(([name, value]) => `${value} as ${name}`)
  const own = ['id', 'email', 'email_canonical', 'username', 'username_canonical', 'email_verified_at']
  return `select v.*,
      case when ${canonicalOf('a_email')} is ${canonicalOf('email')} then a_email_canonical
        else ${canonicalOf('email')} end as canonical,
      case when a_username is username then a_username_canonical else ${usernameFormOf('username')} end as name_form
    from (select ${columnOf(table.id)} as id, ${own.map((name) => `a.${name} as a_${name}`).join(', ')},
      ${values.join(',\n      ')}
      from ${table.name} ${hostRow} cross join (select ${nowMs} as now_ms) n
        left join ${users} a on a.id = ${columnOf(table.id)}
      where ${columnOf(table.id)} = ${id}) v`
}

// The same, without an address or a username that is another account's.
function resolved(table: SqliteTable, id: string): string {
  const heldBy = (column: string, form: string) =>
    `exists (select 1 from ${users} o where o.${column} = f.${form} and o.id <> f.id)`
  return `(select id, a_id, hash, active, role, profile, created, verified, a_email_verified_at,
      iif(email_held, a_email, email) as email, iif(email_held, a_email_canonical, canonical) as canonical,
      iif(name_held, a_username, username) as username, iif(name_held, a_username_canonical, name_form) as name_form
    from (select f.*, ${heldBy('email_canonical', 'canonical')} as email_held,
      ${heldBy('username_canonical', 'name_form')} as name_held
    from (${formed(table, id)}) f)) y`
}

/** The statements that make an account what the host's row is. */
export function takeStatements(table: SqliteTable, id: string): string[] {
  const { email } = valuesOf(table)
  const host = `${table.name} ${hostRow} where ${columnOf(table.id)} = ${id}`
  // Whose row was replaced, which no trigger of it saw.
  const replaced = `email_canonical = (select canonical from (${formed(table, id)})) and ${lostOf(table, users)}`
  const blank = `(select coalesce(trim(${email}), '') = '' from ${host})`
  return [
    `delete from ${users} where id = ${id} and ${blank}`,
    `update accounts_sessions set ended_at = ${nowMs} where ended_at is null
    and user_id in (select id from ${users} where ${replaced})`,
    `delete from ${users} where ${replaced}`,
    // Who was deleted keeps nobody's address.
    `delete from ${users} where not active and id <> ${id}
    and email_canonical = (select canonical from (${formed(table, id)}) where active)`,
    change(table, id),
    `insert into ${users} (${ownColumns})
    select id, email, canonical, username, name_form, hash, ${randomVersion}, active, role, profile, created, verified
    from ${resolved(table, id)} where a_id is null and trim(email) <> ''`,
    endSessions(id, `credential_version is not (select u.credential_version from ${users} u where u.id = ${id})`),
  ]
}

function change(table: SqliteTable, id: string): string {
  // Nobody has proved an address that the host has put there, unless a column of the host's says so.
  const proof = table.mapped.some(({ ours }) => ours === 'email_verified_at')
    ? 'y.verified'
    : `iif(${users}.email_canonical is y.canonical, y.a_email_verified_at, null)`
  return `update ${users} set credential_version = ${users}.credential_version
      + iif(email_canonical is y.canonical and password_hash is y.hash and ${users}.active is y.active, 0, 1),
      email = y.email, email_canonical = y.canonical, username = y.username, username_canonical = y.name_form,
      password_hash = y.hash, active = y.active, role = y.role, profile = y.profile, email_verified_at = ${proof}
    from ${resolved(table, id)} where ${users}.id = y.id`
}

function endSessions(id: string, where = 'true'): string {
  return `update accounts_sessions set ended_at = ${nowMs} where user_id = ${id} and ended_at is null and ${where}`
}

// So that ours give out no id that a row of the host's has, or had.
function lastId({ name, id }: SqliteTable): string[] {
  if (id.fallback === null) return []
  return [
    `insert into sqlite_sequence (name, seq) select '${users}', 0
where not exists (select 1 from sqlite_sequence where name = '${users}')`,
    `update sqlite_sequence set seq = max(seq, coalesce((select max(${columnOf(id)}) from ${name} ${hostRow}), 0),
  coalesce((select h.seq from sqlite_sequence h where h.name = ${literal(unquoted(name))}), 0))
where name = '${users}'`,
  ]
}

const isSet = (name: string, more = '') =>
  `exists (select 1 from accounts_settings where name = ${literal(name)}${more})`
/** The user whose row we write: what else the host's triggers and keys change then is to be taken over. */
const writing = 'fastify_accounts.writing'

function trigger(name: string, event: string, when: string, [setting, value]: [string, string], statements: string[]) {
  const body = [
    `insert into accounts_settings (name, value) values (${literal(setting)}, ${value})`,
    ...statements,
    `delete from accounts_settings where name = ${literal(setting)}`,
  ]
  return `create trigger ${name} ${event} for each row when not ${isSet(taking)} and ${when}
begin
${body.map((statement) => `  ${statement};\n`).join('')}end`
}

/** Does nothing for the row that a trigger of our table writes. */
function hostTrigger(name: string, event: string, when: string, ids: string[], statements: string[]): string {
  const own = ids.map((id) => `not ${isSet(writing, ` and value = cast(${id} as text)`)}`)
  return trigger(name, event, [...own, when].join(' and '), [taking, "'1'"], statements)
}

/** Does nothing in a statement that a trigger of the host's table began. */
function ownTriggerOf(name: string, event: string, id: string, statements: string[]): string {
  return trigger(name, event, `not ${isSet(writing)}`, [writing, `cast(${id} as text)`], statements)
}

function hostTriggers(table: SqliteTable): string[] {
  const { name, id, mapped } = table
  const [inserted, updated, deleted] = hostTriggerNames as [string, string, string]
  const [before, after] = [columnOf(id, 'old'), columnOf(id, 'new')]
  const watched = [id, ...mapped.map(({ host }) => host)]
  const changed = watched.map((host) => `${columnOf(host, 'old')} collate binary is not ${columnOf(host, 'new')}`)
  const counted =
    id.fallback === null
      ? []
      : [`update sqlite_sequence set seq = max(seq, ${after}) where name = '${users}' and seq < ${after}`]
  const differs = `${before} collate binary is not ${after}`
  const moved = `id = ${before} and ${differs}`
  const free = `not exists (select 1 from ${users} o where o.id = ${after})`
  const gone = [endSessions(before), `delete from ${users} where id = ${before}`]
  return [
    hostTrigger(inserted, `after insert on ${name}`, 'true', [after], [...takeStatements(table, after), ...counted]),
    hostTrigger(
      updated,
      `after update on ${name}`,
      `(${changed.join('\n    or ')})`,
      [before],
      [
        endSessions(before, differs),
        `update ${users} set id = ${after} where ${moved} and ${free}`,
        `delete from ${users} where ${moved}`,
        ...takeStatements(table, after),
        ...counted,
      ],
    ),
    hostTrigger(deleted, `after delete on ${name}`, 'true', [before], gone),
  ]
}

function userTriggers(table: SqliteTable): string[] {
  const { name, id, mapped, filled } = table
  const [inserted, updated, deleted] = ownTriggers as [string, string, string]
  const columns = [{ host: id, write: 'new.id' }, ...mapped, ...filled]
  const insertion = `insert into ${name} (${columns.map(({ host }) => quoted(host.name)).join(', ')})
    select ${columns.map(({ write }) => write).join(', ')} from (select ${nowMs} as now_ms)
    where not exists (select 1 from ${name} ${hostRow} where ${columnOf(id)} = new.id)`
  // Each by itself: what the host's triggers do with a column is done when it changes.
  const changes = mapped.filter(({ ours }) => ours !== 'created_at').map((one) => changeOfHost(table, one))
  return [
    // After each the host's columns and triggers may have made something else of it.
    ownTriggerOf(inserted, `after insert on ${users}`, 'new.id', [insertion, change(table, 'new.id')]),
    ownTriggerOf(updated, `after update on ${users}`, 'new.id', [...changes, change(table, 'new.id')]),
    ownTriggerOf(deleted, `after delete on ${users}`, 'old.id', [
      `delete from ${name} where ${quoted(id.name)} = old.id`,
    ]),
  ]
}

function changeOfHost({ name, id }: SqliteTable, mapped: SqliteMapped): string {
  const { ours, host, write } = mapped
  const path = isField(mapped) ? pathOf(fieldOf(mapped)) : null
  const [before, after] = ['old', 'new'].map((row) => (path ? `${row}.profile -> ${path}` : `${row}.${ours}`))
  const written = write.replaceAll('now_ms', nowMs)
  return `update ${name} set ${quoted(host.name)} = ${written}
    where ${quoted(id.name)} = new.id and ${before} is not ${after}`
}

/** Whether a row of the host's and `a` of ours differ; a username that is another account's does not count. */
export function difference(table: SqliteTable): string {
  const { email, hash, username, active, role, verified } = valuesOf(table)
  const taken = `exists (select 1 from ${users} o
    where o.id <> a.id and o.username_canonical = ${usernameFormOf(username)})`
  const same = [
    ...[`a.email is ${email}`, `a.password_hash is ${hash}`, `a.active is ${active}`, `a.role is ${role}`],
    ...[`a.email_verified_at is ${verified}`, ...table.mapped.flatMap((one) => one.same ?? [])],
    `(a.username is ${username} or a.username is null and ${taken})`,
  ]
  return `not (${same.map((each) => `(${each})`).join(' and ')})`
}

function bulk(table: SqliteTable, withUsername: boolean): string {
  const value = valuesOf(table)
  const username = withUsername ? value.username : 'null'
  const selected = [
    ...[columnOf(table.id), value.email, canonicalOf(value.email), username, usernameFormOf(username), value.hash],
    ...[randomVersion, value.active, value.role, value.profile, value.created, value.verified],
  ]
  return `insert or ignore into ${users} (${ownColumns})
select ${selected.join(', ')}
from ${table.name} ${hostRow} cross join (select ${nowMs} as now_ms) n left join ${users} a on false
where coalesce(trim(${value.email}), '') <> ''
order by ${precedence(value.active, value.email, canonicalOf, columnOf(table.id))}`
}

/** Whether an account has no row. */
export function lostOf(table: SqliteTable, account: string): string {
  return `not exists (select 1 from ${table.name} ${hostRow} where ${columnOf(table.id)} = ${account}.id)`
}

/** The statements that make way for rows of the host's that are to be taken over. */
export function repairStatements(table: SqliteTable): string[] {
  const lost = lostOf(table, users)
  const { email, username } = valuesOf(table)
  const name = username.replace('a.username', `${users}.username`)
  const addresses = `select ${canonicalOf(email)} from ${table.name} ${hostRow} where ${email} is not null`
  const sameEmail = `${users}.email is ${email} or ${users}.email_canonical not in (${addresses})`
  const sameName = `${users}.username is ${name}`
  return [
    `update accounts_sessions set ended_at = ${nowMs} where ended_at is null
    and exists (select 1 from ${users} where id = user_id and ${lost})`,
    `delete from ${users} where ${lost}`,
    // Where an address is another's by now: two of them may have changed places.
    `update ${users} set email = iif(${sameEmail}, ${users}.email, '~' || ${users}.id),
      email_canonical = iif(${sameEmail}, ${users}.email_canonical, '~' || ${users}.id),
      username = iif(${sameName}, ${users}.username, null),
      username_canonical = iif(${sameName}, ${users}.username_canonical, null)
    from ${table.name} ${hostRow} where ${columnOf(table.id)} = ${users}.id`,
  ]
}
