import type { Adoption } from '../../options/adoption.ts'
import { columnOf, type PostgresTable as HostTable, type PostgresColumn, quoted } from './adopt-mapping.ts'
import {
  columnValues,
  fieldOf,
  hostRow,
  isField,
  literal,
  type Mapped,
  ownTables,
  precedence,
  hostTriggerNames as triggers,
} from './adopt-table.ts'
import { taking } from './tables.ts'

const names = { take: 'accounts_take_over', host: 'accounts_host_changed', ours: 'accounts_user_changed' }
const ownTrigger = 'fastify_accounts_adopted'
/** The database's time in milliseconds, as SQL. */
export const nowMs = 'floor(extract(epoch from clock_timestamp()) * 1000)::bigint'
/** The form of an address in which it is unique, as far as SQL can make it. */
export const canonicalOf = (email: string) => `lower(${email} collate "C")`
/** The form of a username in which it is unique. */
export const usernameFormOf = (username: string) => `lower(normalize(${username}, NFC))`

/** The statements that keep two tables equal, after those that make ours; they may run again. */
export function adoptionStatements(table: HostTable, schema: string, ids: Adoption['ids']): string[] {
  return [
    seesAll(table),
    ...ownIds(table, schema),
    ...[takeOver(table, schema), hostChanged(table, schema), userChanged(table, schema, ids), closed(table, schema)],
    ...hostTriggers(table, schema),
    bulk(table, schema),
    // Those whose address or username is another account's by now.
    rest(table, schema),
    userTrigger(schema),
  ]
}

/** The statements that undo an adoption; the host's table is up to date and stays, as all else in the schema does. */
export function removalStatements(name: string, schema: string): string[] {
  const own = quoted(schema)
  const tables = ownTables.map((table) => `${own}.${table}`)
  return [
    ...triggers.map((trigger) => `drop trigger if exists ${trigger} on ${name};`),
    `drop table if exists ${tables.join(', ')};`,
    `drop function if exists ${own}.${names.host}(), ${own}.${names.ours}(), ${own}.${names.take}(${name});`,
    `-- If nothing else is in it: drop schema ${own};`,
  ]
}

// They run with the rights of their owner, so that whoever may change the host's table needs none in our schema.
function closed({ name }: HostTable, schema: string): string {
  const own = quoted(schema)
  const all = [`${names.take}(${name})`, `${names.host}()`, `${names.ours}()`].map((each) => `${own}.${each}`)
  return `revoke all on function ${all.join(', ')} from public;`
}

// A policy that binds whoever runs this hides rows from it, and from the functions, which are then theirs.
function seesAll({ name }: HostTable): string {
  return `do $accounts$ begin
  if row_security_active(${literal(name)}) then
    raise 'fastify-accounts: policies of % hide rows from %', ${literal(name)}, current_user;
  end if;
end $accounts$;`
}

// New users have ids from where the host's have them.
function ownIds({ id }: HostTable, schema: string): string[] {
  const column = `alter table ${quoted(schema)}.accounts_users alter column id`
  if (id.fallback === null) return []
  return [`${column} drop identity if exists;`, `${column} set default ${id.fallback};`]
}

/** The expressions of our columns over a row of the host's, `a` of ours that may be null, and `now_ms`. */
function valuesOf({ mapped }: HostTable) {
  const profile = mapped.filter(isField)
  const fields = profile.map((one) => `${literal(fieldOf(one))}, ${one.read}`)
  return {
    ...columnValues(mapped),
    profile: `(coalesce(a.profile, '{}') - array[${profile.map((one) => literal(fieldOf(one)))}]::text[])
      || (select coalesce(jsonb_object_agg(key, value) filter (where value <> 'null'), '{}')
        from jsonb_each(jsonb_build_object(${fields.join(', ')})))`,
  }
}

/** Whether a row of the host's and `a` of ours differ; a username that is another account's does not count. */
export function difference(table: HostTable, schema: string): string {
  const { email, hash, username, active, role, verified, profile } = valuesOf(table)
  const taken = `exists (select from ${quoted(schema)}.accounts_users o
    where o.id <> a.id and o.username_canonical = ${usernameFormOf(username)})`
  return `((a.email, a.password_hash, a.active, a.role, a.email_verified_at, a.profile) is distinct from
      (${[email, hash, active, role, verified, `(${profile})`].join(', ')})
    or a.username is distinct from ${username} and not (a.username is null and ${taken}))`
}

type Values = ReturnType<typeof valuesOf>

const ownColumns = `id, email, email_canonical, username, username_canonical, password_hash,
  credential_version, active, role, profile, created_at, email_verified_at`
const randomVersion = 'floor(random() * 1099511627776)::bigint'

// Tried again without what is another account's by now: first the username, then the address.
function takeOver(table: HostTable, schema: string): string {
  const users = `${quoted(schema)}.accounts_users`
  const value = valuesOf(table)
  const id = columnOf(table.id)
  return `create or replace function ${quoted(schema)}.${names.take}(${hostRow} ${table.name}) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $accounts$
declare
  now_ms bigint := ${nowMs};
  a ${users};
  v_email text; v_canonical text; v_username text; v_username_canonical text;
  v_version bigint;
begin
  perform set_config('${taking}', '1', true);
  select * into a from ${users} u where u.id = ${id};
  v_email := ${value.email};
  -- What is known to be the form of this address stays: not every form can be made here.
  v_canonical := case when ${canonicalOf('a.email')} = ${canonicalOf('v_email')} then a.email_canonical
    else ${canonicalOf('v_email')} end;
  v_username := ${value.username};
  v_username_canonical := case when a.username = v_username then a.username_canonical
    else ${usernameFormOf('v_username')} end;
  ${madeWay(users, id, schema, value)}
  for attempt in 1..3 loop
    begin
      if a.id is null then
        ${insertion(users, id, value)};
      else
        ${change(users, value)};
      end if;
      exit;
    exception when unique_violation or data_exception or program_limit_exceeded then
      if attempt = 1 then
        v_username := a.username;
        v_username_canonical := a.username_canonical;
      else
        raise log 'fastify-accounts: user % of % cannot be taken over: %', ${id}, ${literal(table.name)}, sqlerrm;
        exit when a.id is null;
        v_email := a.email;
        v_canonical := a.email_canonical;
      end if;
    end;
  end loop;
  perform set_config('${taking}', '', true);
  if v_version <> a.credential_version then
    ${endSessions(schema)};
  end if;
end $accounts$;`
}

function endSessions(schema: string): string {
  const sessions = `${quoted(schema)}.accounts_sessions`
  return `update ${sessions} s set ended_at = now_ms where s.user_id = a.id and s.ended_at is null`
}

function madeWay(users: string, id: string, schema: string, { active }: Values): string {
  return `if coalesce(trim(v_email), '') = '' then
    ${endSessions(schema)};
    delete from ${users} u where u.id = a.id;
    perform set_config('${taking}', '', true);
    return;
  end if;
  -- Who was deleted keeps nobody's address.
  if ${active} then
    delete from ${users} u where u.email_canonical = v_canonical and u.id <> ${id} and not u.active;
  end if;`
}

function insertion(users: string, id: string, { hash, active, role, profile, created, verified }: Values): string {
  const columns = ['email', 'email_canonical', 'username', 'username_canonical', 'password_hash', 'active', 'role']
  const kept = [...columns, 'profile', 'email_verified_at'].map((name) => `${name} = excluded.${name}`)
  return `insert into ${users} as u (${ownColumns})
        values (${id}, v_email, v_canonical, v_username, v_username_canonical, ${hash}, ${randomVersion},
          ${active}, ${role}, ${profile}, ${created}, ${verified})
        on conflict (id) do update set ${kept.join(', ')}`
}

function change(users: string, { hash, active, role, profile, verified }: Values): string {
  // Nobody has proved an address that the host has put there, unless a column of the host's says so.
  const proof =
    verified === 'a.email_verified_at' ? `case when u.email_canonical = v_canonical then ${verified} end` : verified
  return `update ${users} as u set email = v_email, email_canonical = v_canonical, username = v_username,
          username_canonical = v_username_canonical, password_hash = ${hash}, active = ${active},
          role = ${role}, profile = ${profile}, email_verified_at = ${proof},
          credential_version = u.credential_version + case
            when (u.email_canonical, u.password_hash, u.active) is distinct from (v_canonical, ${hash}, ${active})
            then 1 else 0 end
        where u.id = a.id and (u.email, u.username, u.password_hash, u.active, u.role, u.profile, u.email_verified_at)
          is distinct from (v_email, v_username, ${hash}, ${active}, ${role}, ${profile}, ${verified})
        returning u.credential_version into v_version`
}

function hostChanged({ name, id }: HostTable, schema: string): string {
  const own = quoted(schema)
  const [before, after] = [columnOf(id, 'old'), columnOf(id, 'new')]
  return `create or replace function ${own}.${names.host}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $accounts$
declare
  ${hostRow} ${name};
begin
  if tg_op = 'UPDATE' and ${before} is distinct from ${after} then
    update ${own}.accounts_sessions s set ended_at = ${nowMs} where s.user_id = ${before} and s.ended_at is null;
    begin
      update ${own}.accounts_users u set id = ${after} where u.id = ${before};
    exception when unique_violation then
      delete from ${own}.accounts_users u where u.id = ${before};
    end;
  end if;
  if tg_op = 'DELETE' then
    update ${own}.accounts_sessions s set ended_at = ${nowMs} where s.user_id = ${before} and s.ended_at is null;
    delete from ${own}.accounts_users u where u.id = ${before};
    return null;
  end if;
  -- As it is now: another trigger may have changed it since.
  select * into ${hostRow} from ${name} r where ${columnOf(id, 'r')} = ${after};
  if found then
    perform ${own}.${names.take}(${hostRow});
  end if;
  return null;
end $accounts$;`
}

function hostTriggers({ name, id, mapped }: HostTable, schema: string): string[] {
  const call = `execute function ${quoted(schema)}.${names.host}();`
  const watched = [id, ...mapped.map(({ host }) => host)]
  // As texts: `json` cannot be compared, and of what is compared without regard to case each letter counts.
  const row = (of: string) => watched.map((host) => `${columnOf(host, of)}::text`).join(', ')
  const [inserted, updated, deleted] = triggers
  return [
    ...triggers.map((trigger) => `drop trigger if exists ${trigger} on ${name};`),
    `create trigger ${inserted} after insert on ${name} for each row ${call}`,
    `create trigger ${updated} after update on ${name} for each row
  when ((${row('old')}) is distinct from (${row('new')})) ${call}`,
    `create trigger ${deleted} after delete on ${name} for each row ${call}`,
  ]
}

function bulk(table: HostTable, schema: string): string {
  const value = valuesOf(table)
  const users = `${quoted(schema)}.accounts_users`
  const selected = [
    ...[columnOf(table.id), value.email, canonicalOf(value.email), value.username],
    ...[usernameFormOf(value.username), value.hash, randomVersion, value.active],
    ...[value.role, value.profile, value.created, value.verified],
  ]
  return `insert into ${users} (${ownColumns})
select ${selected.join(', ')}
from ${table.name} ${hostRow} cross join (select ${nowMs} as now_ms) n
  left join ${users} a on false
where coalesce(trim(${value.email}), '') <> ''
order by ${precedence(value.active, value.email, canonicalOf, columnOf(table.id))}
on conflict do nothing;`
}

function rest({ name, id }: HostTable, schema: string): string {
  const own = quoted(schema)
  return `select count(${own}.${names.take}(${hostRow})) from ${name} ${hostRow}
where not exists (select from ${own}.accounts_users a where a.id = ${columnOf(id)});`
}

function userChanged(table: HostTable, schema: string, ids: Adoption['ids']): string {
  const { name, id, mapped, filled } = table
  const newId = ids === 'integer' ? `new.id::${id.type}` : 'new.id'
  const inserted = [{ host: id, write: newId }, ...mapped, ...filled]
  const overriding = id.always ? ' overriding system value' : ''
  // Each by itself, since a trigger of the host's may be one of a column.
  const changes = mapped.filter(({ ours }) => ours !== 'created_at').map((one) => changeOfHost(table, one))
  return `create or replace function ${quoted(schema)}.${names.ours}() returns trigger
language plpgsql security definer set search_path from current as $accounts$
declare
  now_ms bigint := ${nowMs};
begin
  if tg_op = 'DELETE' then
    delete from ${name} ${hostRow} where ${columnOf(id)} = old.id;
  elsif tg_op = 'INSERT' then
    insert into ${name} (${inserted.map(({ host }) => quoted(host.name)).join(', ')})${overriding}
    select ${inserted.map(({ write }) => write).join(', ')}
    where not exists (select from ${name} ${hostRow} where ${columnOf(id)} = new.id);
  else
${changes.join('\n')}
  end if;
  -- What a trigger of the host's has made of it.
  perform ${quoted(schema)}.${names.take}(${hostRow}) from ${name} ${hostRow}
    where ${columnOf(id)} = case when tg_op = 'DELETE' then old.id else new.id end;
  return null;
end $accounts$;`
}

function changeOfHost({ name, id }: HostTable, mapped: Mapped<PostgresColumn>): string {
  const { ours, host, write } = mapped
  const field = isField(mapped) ? literal(fieldOf(mapped)) : null
  const [before, after] = ['old', 'new'].map((row) => (field ? `${row}.profile -> ${field}` : `${row}.${ours}`))
  return `    if ${after} is distinct from ${before} then
      update ${name} ${hostRow} set ${quoted(host.name)} = ${write} where ${columnOf(id)} = new.id;
    end if;`
}

// What a trigger of the host's table has changed came from there.
function userTrigger(schema: string): string {
  const users = `${quoted(schema)}.accounts_users`
  return `drop trigger if exists ${ownTrigger} on ${users};
create trigger ${ownTrigger} after insert or update or delete on ${users}
  for each row when (pg_trigger_depth() = 0 and current_setting('${taking}', true) is distinct from '1')
  execute function ${quoted(schema)}.${names.ours}();`
}

/** Takes over again what has no account or another one, while our triggers do nothing. */
export function repairStatements(table: HostTable, schema: string): string[] {
  const own = quoted(schema)
  const id = columnOf(table.id)
  const { email, username } = valuesOf(table)
  const now = `(select ${nowMs} as now_ms) n`
  const lost = `not exists (select from ${table.name} ${hostRow} where ${id} = a.id)`
  const wanted = `a.email is distinct from ${email}
    and a.email_canonical in (select ${canonicalOf(email)} from ${table.name} ${hostRow})`
  return [
    `update ${own}.accounts_sessions s set ended_at = ${nowMs} from ${own}.accounts_users a
  where s.user_id = a.id and s.ended_at is null and ${lost};`,
    `delete from ${own}.accounts_users a where ${lost};`,
    // Out of the way first, where an address is another's by now: two of them may have changed places.
    `update ${own}.accounts_users u set email = case when ${wanted} then '~' || u.id else u.email end,
  email_canonical = case when ${wanted} then '~' || u.id else u.email_canonical end,
  username = case when a.username = ${username} then u.username end,
  username_canonical = case when a.username = ${username} then u.username_canonical end
  from ${own}.accounts_users a join ${table.name} ${hostRow} on ${id} = a.id
  where u.id = a.id and (a.email is distinct from ${email} or a.username is distinct from ${username});`,
    `select ${own}.${names.take}(${hostRow}) from ${table.name} ${hostRow}
  left join ${own}.accounts_users a on a.id = ${id} cross join ${now}
  where a.id is null or ${difference(table, schema)} order by ${id};`,
  ]
}
