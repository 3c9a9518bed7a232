import { literal, type MysqlTable } from './adopt-mysql-mapping.ts'
import { columnValues, fieldOf, isField } from './adopt-table.ts'
import { taking as setting } from './tables.ts'

/** The database's time in milliseconds, as SQL. */
export const nowMs = `cast(floor(timestampdiff(microsecond, '1970-01-01', utc_timestamp(3)) / 1000) as signed)`
/** The form of an address in which it is unique; of what is not ASCII `repair` makes it. */
export const canonicalOf = (email: string) => `lower(${email})`
/** The form of a username in which it is unique. */
export const usernameFormOf = (username: string) => `lower(${username})`

/**
 * Set while one table is written because the other was, since MySQL refuses to write the table whose trigger this is.
 * The time at which the statement began is the same in all its triggers and in those of no other statement: should a
 * deadlock or a `kill` leave it set, which no handler sees, it means nothing to the next statement of the connection.
 */
const taking = `@${setting}`
const thisStatement = `timestampdiff(microsecond, '2020-01-01', utc_timestamp(6))`
// What it is set to for statements on our tables that the host's are to hear nothing of.
const byHand = 1

/** The expressions of our columns over a row of the host's, `a` of ours that may be null, and `now_ms`. */
export function valuesOf({ mapped }: MysqlTable) {
  const fields = mapped.filter(isField)
  const others = [`coalesce(a.profile, '{}')`, ...fields.map((one) => literal(`$.${JSON.stringify(fieldOf(one))}`))]
  // What is null is left out.
  const given = fields.map((one) => `concat(${literal(`${JSON.stringify(fieldOf(one))}:`)}, ${one.read})`)
  return {
    ...columnValues(mapped),
    profile: fields.length
      ? `json_merge_preserve(json_remove(${others.join(', ')}), concat('{', concat_ws(',', ${given.join(', ')}), '}'))`
      : others[0]!,
  }
}

/** The columns of ours that are made of the host's. */
export const ownColumns = `id, email, email_canonical, username, username_canonical, password_hash,
          credential_version, active, role, profile, created_at, email_verified_at`
/** A version of credentials that no token has. */
export const randomVersion = 'floor(rand() * 1099511627776)'

const texts = ['email', 'username', 'hash', 'role', 'profile'] as const
const others = ['active', 'verified', 'created'] as const
/** The names of `valuesOf`, in an order in which they are declared and selected. */
export const valueNames = [...texts, ...others]

/** Declares a variable for each value. */
export function declared({ server }: MysqlTable, prefix: string, more: string[] = []): string {
  const names = (list: readonly string[]) => list.map((name) => `${prefix}_${name}`).join(', ')
  return `declare ${names([...texts, ...more])} mediumtext character set utf8mb4 collate ${server.bin};
  declare ${names(others)} bigint;`
}

/** Declares `now_ms`. */
export const nowDeclared = `declare now_ms bigint default ${nowMs};`
const cleared = `declare exit handler for sqlexception begin set ${taking} = null; resignal; end;`

/** A body of a trigger that runs once in a statement, whichever table that began with. */
export function guarded(declarations: string, body: string): string {
  return `begin
  ${declarations}
  ${cleared}
  if not coalesce(${taking} in (${byHand}, ${thisStatement}), false) then
    set ${taking} = ${thisStatement};
    ${body}
    set ${taking} = null;
  end if;
end`
}
