import { columnOf, hostIdOf, idOf, type MysqlTable, textOf } from './adopt-mysql-mapping.ts'
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
import { hostRow, hostTriggerNames } from './adopt-table.ts'

/** The procedures by which the host's rows become ours. */
export const procedures = { take: 'accounts_take_over', gone: 'accounts_row_gone' }

/** What makes our table equal after each change of the host's. */
export function hostStatements(table: MysqlTable): string[] {
  return [takeOver(table), rowGone(table), ...hostTriggers(table)]
}

// By this index it locks no others.
function endSessions(id: string): string {
  return `update accounts_sessions force index (accounts_sessions_user_id) set ended_at = ${nowMs}
    where user_id = ${id} and ended_at is null`
}

// Nothing is looked for that may not be there: at the isolation that MySQL begins with this locks the gap where it
// would be, in which others insert. So a row is inserted, and judged when it is refused: what is another account's by
// now is left out, first the username, then the address.
function takeOver(table: MysqlTable): string {
  const value = valuesOf(table)
  const values = valueNames.map((name) => value[name])
  return `create procedure ${procedures.take}(in p_id ${idType(table)}, in p_known boolean)
modifies sql data
take_over: begin
  ${nowDeclared}
  ${declared(table, 'v', ['canonical', 'username_canonical'])}
  ${declared(table, 'a', ['canonical', 'username_canonical'])}
  declare a_id ${idType(table)};
  declare v_attempt, v_done int default 0;
  if p_known then
    ${loadAccount};
  end if;
  select ${values.join(',\n      ')}
    into ${valueNames.map((name) => `v_${name}`).join(', ')}
    from ${table.name} ${hostRow} cross join (select a_username as username, a_role as role, a_active as active,
      a_verified as email_verified_at, a_profile as profile) a
    where ${columnOf(table.id)} = ${hostIdOf(table, 'p_id')};
  set v_canonical = if(${canonicalOf('a_email')} <=> ${canonicalOf('v_email')}, a_canonical, ${canonicalOf('v_email')});
  set v_username_canonical = if(a_username <=> v_username, a_username_canonical, ${usernameFormOf('v_username')});
  if coalesce(trim(v_email), '') = '' then
    if a_id is not null then
      ${endSessions('p_id')};
      delete from accounts_users where id = p_id;
    end if;
    leave take_over;
  end if;
  while v_attempt < 4 and not v_done do
    begin
      declare exit handler for ${refusals} begin ${afterRefusal} end;
      ${stored(table)}
      set v_done = true;
    end;
  end while;
  if a_id is not null and not (a_canonical <=> v_canonical and a_hash <=> v_hash and a_active <=> v_active) then
    ${endSessions('p_id')};
  end if;
end`
}

// Unique, too long, out of range, no text of this charset, and a constraint of either server.
const refusals = '1062, 1406, 1264, 1366, 3819, 4025'

const loadAccount = `select u.id, u.email, u.email_canonical, u.username, u.username_canonical, u.password_hash, u.role,
      u.profile, u.active, u.email_verified_at
      into a_id, a_email, a_canonical, a_username, a_username_canonical, a_hash, a_role, a_profile, a_active, a_verified
      from accounts_users u where u.id = p_id for update`

const afterRefusal = `
        set v_attempt = v_attempt + 1;
        if v_attempt = 1 then
          -- Who was deleted keeps nobody's address; and an account may have outlived its row.
          if v_active then
            delete from accounts_users where email_canonical = v_canonical and id <> p_id and not active;
          end if;
          if a_id is null then
            ${loadAccount};
          end if;
        elseif v_attempt = 2 then
          set v_username = a_username, v_username_canonical = a_username_canonical;
        elseif a_id is null then
          set v_attempt = 4;
        else
          set v_email = a_email, v_canonical = a_canonical;
        end if;
      `

function stored({ mapped }: MysqlTable): string {
  // Nobody has proved an address that the host has put there, unless a column of the host's says so.
  const proof = mapped.some(({ ours }) => ours === 'email_verified_at')
    ? 'v_verified'
    : 'if(a_canonical <=> v_canonical, a_verified, null)'
  return `if a_id is null then
        insert into accounts_users (${ownColumns})
        values (p_id, v_email, v_canonical, v_username, v_username_canonical, v_hash, ${randomVersion}, v_active,
          v_role, v_profile, v_created, v_verified);
      else
        update accounts_users set credential_version = credential_version +
            if(email_canonical <=> v_canonical and password_hash <=> v_hash and active <=> v_active, 0, 1),
          email = v_email, email_canonical = v_canonical, username = v_username,
          username_canonical = v_username_canonical, password_hash = v_hash, active = v_active, role = v_role,
          profile = v_profile, email_verified_at = ${proof}
        where id = p_id;
      end if;`
}

// The row is gone, or has another key.
function rowGone(table: MysqlTable): string {
  return `create procedure ${procedures.gone}(in p_id ${idType(table)}, in p_new ${idType(table)})
modifies sql data
begin
  declare exit handler for 1062 delete from accounts_users where id = p_id;
  ${endSessions('p_id')};
  if p_new is null then
    delete from accounts_users where id = p_id;
  else
    update accounts_users set id = p_new where id = p_id;
  end if;
end`
}

function idType({ id, server }: MysqlTable): string {
  return id.charset === null && id.kind !== 'uuid'
    ? 'bigint'
    : `varchar(255) character set utf8mb4 collate ${server.bin}`
}

function hostTriggers(table: MysqlTable): string[] {
  const { name, id, mapped, server } = table
  const [inserted, updated, deleted] = hostTriggerNames
  const [before, after] = [idOf(table, 'old'), idOf(table, 'new')]
  const watched = mapped.map(({ host }) => `${textOf(host, server, 'old')} <=> ${textOf(host, server, 'new')}`)
  const take = (known: boolean) => `call ${procedures.take}(${after}, ${known});`
  const changed = `if not (${columnOf(id, 'old')} <=> ${columnOf(id, 'new')}) then
      call ${procedures.gone}(${before}, ${after});
      ${take(true)}
    elseif not (${watched.join('\n      and ')}) then
      ${take(true)}
    end if;`
  return [
    `create trigger ${inserted} after insert on ${name} for each row\n${guarded('', take(false))}`,
    `create trigger ${updated} after update on ${name} for each row\n${guarded('', changed)}`,
    `create trigger ${deleted} after delete on ${name} for each row
${guarded('', `call ${procedures.gone}(${before}, null);`)}`,
  ]
}
