import type { IdKind } from '../../contracts.ts'
import { hostStatements, procedures } from './adopt-mysql-host.ts'
import { columnOf, hostIdOf, idOf, literal, type MysqlMapped, type MysqlTable, quoted } from './adopt-mysql-mapping.ts'
import {
  canonicalOf,
  declared,
  guarded,
  nowDeclared,
  nowMs,
  ownColumns,
  randomVersion,
  usernameFormOf,
  valueNames,
  valuesOf,
} from './adopt-mysql-values.ts'
import { fieldOf, hostRow, hostTriggerNames, isField, ownTables, precedence } from './adopt-table.ts'

const ownTriggers = ['insert', 'update', 'delete'].map((act) => `fastify_accounts_adopted_${act}`)

// Without it what does not fit is cut, and an id of 0 is one.
const sqlMode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'

/** The statements that keep two tables equal, after those that make ours; they may run again. */
export function adoptionStatements(table: MysqlTable, ids: IdKind): string[] {
  return [
    'set @fastify_accounts_sql_mode = @@session.sql_mode',
    `set session sql_mode = '${sqlMode}'`,
    ...dropped(table.name),
    ...ownIds(table, ids),
    ...hostStatements(table),
    bulk(table, true),
    // Those whose username is another account's by now.
    bulk(table, false),
    ...userTriggers(table, ids),
    'set session sql_mode = @fastify_accounts_sql_mode',
  ]
}

/** The statements that undo an adoption; the host's table is up to date and stays. */
export function removalStatements(name: string): string[] {
  return [...dropped(name), `drop table if exists ${ownTables.join(', ')}`]
}

function dropped(name: string): string[] {
  return [
    `-- ${name}\ndrop trigger if exists ${hostTriggerNames[0]}`,
    ...[...hostTriggerNames.slice(1), ...ownTriggers].map((trigger) => `drop trigger if exists ${trigger}`),
    ...Object.values(procedures).map((procedure) => `drop procedure if exists ${procedure}`),
  ]
}

// New users have ids from where the host's have them.
function ownIds({ id }: MysqlTable, ids: IdKind): string[] {
  if (ids === 'integer' || id.fallback === null) return []
  return [`alter table accounts_users alter column id set default (${id.fallback})`]
}

/** Whether a row of the host's and `a` of ours differ; a username that is another account's does not count. */
export function difference(table: MysqlTable): string {
  const { email, hash, username, active, role, verified } = valuesOf(table)
  const taken = `exists (select 1 from accounts_users o
    where o.id <> a.id and o.username_canonical = ${usernameFormOf(username)})`
  const same = [
    ...[`a.email <=> ${email}`, `a.password_hash <=> ${hash}`, `a.active <=> ${active}`, `a.role <=> ${role}`],
    ...[`a.email_verified_at <=> ${verified}`, ...table.mapped.flatMap((one) => one.same ?? [])],
    `(a.username <=> ${username} or a.username is null and ${taken})`,
  ]
  return `not (${same.map((each) => `(${each})`).join(' and ')})`
}

function userTriggers(table: MysqlTable, ids: IdKind): string[] {
  const [inserted, updated, deleted] = ownTriggers
  const { name, id } = table
  const declarations = `${nowDeclared}\n  ${declared(table, 'v')}`
  const changes = table.mapped.filter(({ ours }) => ours !== 'created_at').map((one) => changeOfHost(table, one))
  const removal = `delete from ${name} where ${quoted(id.name)} = ${hostIdOf(table, 'old.id')};`
  return [
    `create trigger ${inserted} before insert on accounts_users for each row
${guarded(declarations, `${insertion(table, ids)}\n    ${asStored(table, ', new.created_at = v_created')}`)}`,
    `create trigger ${updated} before update on accounts_users for each row
${guarded(declarations, [...changes, asStored(table, '')].join('\n    '))}`,
    `create trigger ${deleted} after delete on accounts_users for each row\n${guarded('', removal)}`,
  ]
}

function insertion(table: MysqlTable, ids: IdKind): string {
  const { name, id, mapped, filled } = table
  const isNew = ids === 'integer' ? 'coalesce(new.id, 0) = 0' : `coalesce(new.id, '') = ''`
  const newId = ids === 'integer' ? 'nullif(new.id, 0)' : hostIdOf(table, 'new.id')
  const columns = [{ host: id, write: newId }, ...mapped, ...filled]
  const made = ids === 'integer' ? '' : `if ${isNew} then set new.id = ${id.fallback ?? 'uuid()'}; end if;\n    `
  const there = `exists (select 1 from ${name} ${hostRow} where ${columnOf(id)} = ${hostIdOf(table, 'new.id')})`
  const given = ids === 'integer' ? `\n    if ${isNew} then set new.id = last_insert_id(); end if;` : ''
  return `${made}if ${isNew} or not ${there} then
      insert into ${name} (${columns.map(({ host }) => quoted(host.name)).join(', ')})
      values (${columns.map(({ write }) => write).join(', ')});
    end if;${given}`
}

// Each by itself: what the host's triggers do with a column is done when it changes.
function changeOfHost(table: MysqlTable, mapped: MysqlMapped): string {
  const { ours, host, write } = mapped
  const path = isField(mapped) ? literal(`$.${JSON.stringify(fieldOf(mapped))}`) : null
  const [before, after] = ['old', 'new'].map((row) =>
    path ? `json_extract(${row}.profile, ${path})` : `${row}.${ours}`,
  )
  return `if not (${before} <=> ${after}) then
      update ${table.name} set ${quoted(host.name)} = ${write}
      where ${quoted(table.id.name)} = ${hostIdOf(table, 'old.id')};
    end if;`
}

// What the host's columns and triggers have made of it.
function asStored(table: MysqlTable, more: string): string {
  const value = valuesOf(table)
  return `select ${valueNames.map((name) => value[name]).join(',\n      ')}
    into ${valueNames.map((name) => `v_${name}`).join(', ')}
    from ${table.name} ${hostRow} cross join (select new.username as username, new.role as role, new.active as active,
      new.email_verified_at as email_verified_at, new.profile as profile) a
    where ${columnOf(table.id)} = ${hostIdOf(table, 'new.id')};
    if coalesce(trim(v_email), '') <> '' then
      set new.email_canonical = if(${canonicalOf('v_email')} <=> ${canonicalOf('new.email')}, new.email_canonical,
          ${canonicalOf('v_email')}),
        new.username_canonical =
          if(v_username <=> new.username, new.username_canonical, ${usernameFormOf('v_username')}),
        new.email = v_email, new.username = v_username, new.password_hash = v_hash, new.active = v_active,
        new.role = v_role, new.email_verified_at = v_verified, new.profile = v_profile${more};
    end if;`
}

function bulk(table: MysqlTable, withUsername: boolean): string {
  const value = valuesOf(table)
  const username = withUsername ? value.username : 'null'
  const selected = [
    ...[idOf(table), value.email, canonicalOf(value.email), username, usernameFormOf(username), value.hash],
    ...[randomVersion, value.active, value.role, value.profile, value.created, value.verified],
  ]
  return `insert into accounts_users (${ownColumns})
select ${selected.join(', ')}
from ${table.name} ${hostRow} cross join (select ${nowMs} as now_ms) n left join accounts_users a on false
where coalesce(trim(${value.email}), '') <> '' and char_length(${value.email}) <= 255
  and coalesce(char_length(${username}), 0) <= 255
order by ${precedence(value.active, value.email, canonicalOf, columnOf(table.id))}
on duplicate key update id = accounts_users.id`
}

/** Whether an account has no row. */
export function lostOf(table: MysqlTable, account: string): string {
  const id = hostIdOf(table, `${account}.id`)
  return `not exists (select 1 from ${table.name} ${hostRow} where ${columnOf(table.id)} = ${id})`
}

/** The statements that make way for rows of the host's that are to be taken over, with `takeStatement`. */
export function repairStatements(table: MysqlTable): string[] {
  const lost = lostOf(table, 'u')
  const { email, username } = valuesOf(table)
  const addresses = `select ${canonicalOf(email)} from ${table.name} ${hostRow} where ${email} is not null`
  // Distinct, so that it is a table of its own: what is changed cannot be read.
  const moving = `select distinct a.id, not (a.email <=> ${email}) and a.email_canonical in (${addresses}) as moves,
      not (a.username <=> ${username}) as renamed
    from accounts_users a join ${table.name} ${hostRow} on ${columnOf(table.id)} = ${hostIdOf(table, 'a.id')}`
  return [
    `update accounts_sessions s join accounts_users u on u.id = s.user_id set s.ended_at = ${nowMs}
  where s.ended_at is null and ${lost}`,
    `delete u from accounts_users u where ${lost}`,
    // Where an address is another's by now: two of them may have changed places.
    `update accounts_users u join (${moving}) c on c.id = u.id
  set u.email = if(c.moves, concat('~', u.id), u.email),
    u.email_canonical = if(c.moves, concat('~', u.id), u.email_canonical),
    u.username = if(c.renamed, null, u.username), u.username_canonical = if(c.renamed, null, u.username_canonical)`,
  ]
}

/** The statement that takes a row over. */
export function takeStatement(id: string): string {
  return `call ${procedures.take}(${literal(id)}, true)`
}
