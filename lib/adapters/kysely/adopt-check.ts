import type { Adoption } from '../../options/adoption.ts'
import type { AnyKysely } from '../../options/ports.ts'
import { type HostTable, hostRow, hostTriggerNames, precedence, runText } from './adopt-table.ts'

/** What the findings need of a database, most of it as SQL over a row of the host's and `a` of ours. */
export interface Queries {
  /** The table of our users. */
  users: string
  /** Answers `found`: whether it is there. */
  isThere: string
  /** Answers the `name` of each trigger of the host's table that works. */
  triggers: string
  /** Whether the database itself keeps two spellings of an address from two rows. */
  uniqueEmail(db: AnyKysely): Promise<boolean>
  /** The key of the host's row, comparable with ours. */
  id: string
  literal(text: string): string
  /** The form of an address in which it is unique. */
  canonical(email: string): string
  notAscii(email: string): string
  usernameForm(username: string): string
  /** The ids of a group, as `1+2`, in an order. */
  joined(id: string, order: string): string
  /** Whether the host's row and `a` differ; knows `now_ms`. */
  difference: string
  /** Whether `a` has no row. */
  lost: string
  nowMs: string
}

/** A table of the host's that was read, and what makes ours equal to it. */
export interface Adoptable {
  table: HostTable
  queries: Queries
  /** The statements that make our tables, or that they lack when these migrations have run. */
  tables(applied: readonly string[]): Promise<string[]>
  /** Those that keep the two tables equal; they may run again. */
  statements(): string[]
  /** Makes the two tables equal, within a transaction in which our triggers do nothing. */
  repair(db: AnyKysely): Promise<void>
}

/** How a database is made to keep the host's table and ours equal; see `adopt.ts`. */
export interface Adopter {
  /**
   * Reads the host's table. Our tables are in `schema`, where the database has schemas.
   *
   * @throws {TypeError} when the table or a column that is named does not exist, or cannot be what it is said to be
   */
  read(db: AnyKysely, adoption: Adoption, schema: string | undefined): Promise<Adoptable>
  /** The statements that undo an adoption; the host's table is up to date and stays. */
  removal(db: AnyKysely, adoption: Adoption, schema: string | undefined): Promise<string[]>
  /** Statements as a text for the client of the database. */
  script(statements: string[]): string
}

/** The forms in which addresses and usernames are unique, where SQL cannot make them. */
export interface Forms {
  email(address: string): string
  username(name: string): string
}

/** What the core knows of addresses, usernames and password hashes. */
export interface Judge {
  forms: Forms
  /** What form a stored hash has; null when it cannot be verified. */
  hashForm(stored: string): string | null
  /** How long those may be that it makes. */
  hashLength: number
}

const mostShown = 20
const batchSize = 5000
const emailLength = 254
const nullable = /^(username|role|email_verified_at|profile\.)/

/** What is to be known of a table before or after it is adopted, as lines for people; users are named by their ids. */
export async function findingsOf(
  db: AnyKysely,
  table: HostTable,
  queries: Queries,
  adoption: Pick<Adoption, 'emailMatch' | 'insert'>,
  { forms, hashForm, hashLength }: Judge,
): Promise<string[]> {
  const made = await hasTables(db, queries)
  return [
    ...columnFindings(table, adoption, hashLength),
    ...(await indexFindings(db, table, queries, adoption)),
    ...(await addressFindings(db, table, queries, adoption)),
    ...(await formFindings(db, table, queries, made ? forms : null)),
    ...(await usernameFindings(db, table, queries)),
    ...(await hashFindings(db, table, queries, hashForm)),
    ...(made ? [...(await triggerFindings(db, queries)), ...(await differences(db, table, queries))] : []),
  ]
}

/** The ids of rows that have no account, or another one. */
export async function unequalIds(db: AnyKysely, { name }: HostTable, queries: Queries): Promise<string[]> {
  const { users, id, nowMs, difference } = queries
  const rows = await runText<{ id: string | number }>(
    db,
    `select ${id} as id from ${name} ${hostRow} cross join (select ${nowMs} as now_ms) n
     left join ${users} a on a.id = ${id} where a.id is null or ${difference} order by ${id}`,
  )
  return rows.map(({ id }) => String(id))
}

/** Whether our tables are there. */
export async function hasTables(db: AnyKysely, { isThere }: Pick<Queries, 'isThere'>): Promise<boolean> {
  const [row] = await runText<{ found: boolean | number }>(db, isThere)
  return Boolean(row!.found)
}

async function triggerFindings(db: AnyKysely, { triggers }: Queries): Promise<string[]> {
  const working = (await runText<{ name: string }>(db, triggers)).map(({ name }) => name)
  const missing = hostTriggerNames.filter((trigger) => !working.includes(trigger))
  return missing.length > 0 ? [`the triggers ${missing.join(', ')} are missing or off: run what adopt prints`] : []
}

function columnFindings({ mapped, asked, id }: HostTable, { insert }: Pick<Adoption, 'insert'>, hashLength: number) {
  const lengthOf = (type: string) =>
    Number(/^(?:(?:var)?char|character(?: varying)?)\((\d+)\)$/.exec(type)?.[1] ?? Number.POSITIVE_INFINITY)
  const needs: [string, number][] = [
    ['email', emailLength],
    ['password_hash', hashLength],
  ]
  const narrow = needs.flatMap(([ours, length]) => {
    const host = mapped.find((one) => one.ours === ours)!.host
    return lengthOf(host.type) < length
      ? [`column "${host.name}" is ${host.type}: what we write may need ${length}`]
      : []
  })
  const lacking = asked.map(({ host: { name } }) =>
    insert
      ? `column "${name}" has no default: it is what "insert" answers`
      : `column "${name}" has no default: nobody can register before it has one`,
  )
  const noId = id.fallback === null ? ['its ids have no default: those of new users are UUIDs'] : []
  const mayLack = mapped.filter(({ ours, host }) => host.notNull && host.fallback === null && nullable.test(ours))
  const empty = mayLack.map(({ host }) => `column "${host.name}" has no default: whoever has nothing there is refused`)
  const open = mapped.some(({ ours }) => ours === 'active')
    ? []
    : ['nobody can be disabled there: neither "active" nor "disabledAt" is named']
  return [...narrow, ...lacking, ...empty, ...noId, ...open]
}

type Matching = Pick<Adoption, 'emailMatch'>

async function indexFindings(db: AnyKysely, { mapped }: HostTable, queries: Queries, { emailMatch }: Matching) {
  const { name, unique } = mapped.find(({ ours }) => ours === 'email')!.host
  if ((emailMatch === 'exact' && unique) || (await queries.uniqueEmail(db))) return []
  if (emailMatch === 'exact') return [`there is no unique index on ${name}: one address may get two rows`]
  const hint = unique ? `; if your code puts addresses in lower case, set emailMatch: 'exact'` : ''
  return [`there is no unique index on lower(${name}): two spellings of one address may get two rows${hint}`]
}

async function addressFindings(db: AnyKysely, table: HostTable, queries: Queries, { emailMatch }: Matching) {
  const email = table.mapped.find(({ ours }) => ours === 'email')!.read
  const idsWhere = (where: string, what: string) => listed(db, table, queries, { where, what })
  const inLowerCase = `${email} = ${queries.canonical(email)}`
  return [
    ...(emailMatch === 'exact'
      ? await idsWhere(`not ${inLowerCase}`, 'have an address with a capital letter, not as emailMatch says')
      : []),
    ...(await idsWhere(`coalesce(trim(${email}), '') = ''`, 'have no address, and no account')),
    ...(await shared(db, table, queries, {
      key: queries.canonical(email),
      what: 'share an address; the first of each gets the account',
    })),
  ]
}

// Before there are accounts, all; then those whose account has another form. Who has none is listed elsewhere.
async function formFindings(db: AnyKysely, table: HostTable, queries: Queries, forms: Forms | null) {
  const { users, id, notAscii } = queries
  const what = 'have an address that is not ASCII; run adopt --check --repair once they are taken over'
  const email = table.mapped.find(({ ours }) => ours === 'email')!.read
  if (!forms) return listed(db, table, queries, { where: notAscii(email), what })
  const rows = await runText<{ id: string; email: string; form: string }>(
    db,
    `select ${id} as id, ${email} as email, a.email_canonical as form
     from ${table.name} ${hostRow} join ${users} a on a.id = ${id} where ${notAscii(email)} order by ${id}`,
  )
  const other = rows.filter(({ email, form }) => forms.email(email) !== form)
  return counted(
    other.map(({ id }) => String(id)),
    what,
  )
}

async function usernameFindings(db: AnyKysely, table: HostTable, queries: Queries): Promise<string[]> {
  const username = table.mapped.find(({ ours }) => ours === 'username')
  if (!username) return []
  return shared(db, table, queries, {
    key: queries.usernameForm(username.read),
    what: 'share a username but for its case; all but the first lose it',
  })
}

async function hashFindings(db: AnyKysely, table: HostTable, { id: key, literal }: Queries, formOf: Judge['hashForm']) {
  const hash = table.mapped.find(({ ours }) => ours === 'password_hash')!.read
  const counts = new Map<string, number>()
  const unusable: string[] = []
  for (let after: string | null = null; ; ) {
    const rows: { id: string; stored: string | null }[] = await runText(
      db,
      `select ${key} as id, ${hash} as stored from ${table.name} ${hostRow}
       where ${after === null ? '1 = 1' : `${key} > ${literal(after)}`} order by ${key} limit ${batchSize}`,
    )
    for (const { id, stored } of rows) {
      const form = stored === null ? 'no password' : formOf(stored)
      if (form === null) unusable.push(String(id))
      counts.set(form ?? 'unusable', (counts.get(form ?? 'unusable') ?? 0) + 1)
    }
    if (rows.length < batchSize) break
    after = String(rows.at(-1)!.id)
  }
  const lines = Array.from(counts, ([form, count]) => `passwords: ${form}: ${count}`)
  return [...lines, ...counted(unusable, 'have a hash that cannot be verified')]
}

async function differences(db: AnyKysely, table: HostTable, queries: Queries): Promise<string[]> {
  const { users, difference, lost, id } = queries
  const now = `(select ${queries.nowMs} as now_ms) n`
  const ids = async (query: string) => (await runText<{ id: string }>(db, query)).map((row) => String(row.id))
  const without = await ids(
    `select ${id} as id from ${table.name} ${hostRow}
     where not exists (select 1 from ${users} a where a.id = ${id}) order by 1`,
  )
  const orphans = await ids(`select a.id from ${users} a where ${lost} order by 1`)
  const unequal = await ids(
    `select ${id} as id from ${table.name} ${hostRow} join ${users} a on a.id = ${id} cross join ${now}
     where ${difference} order by 1`,
  )
  return [
    ...counted(without, 'have no account'),
    ...counted(orphans, 'have an account but no row'),
    ...counted(unequal, 'have a row and an account that differ'),
  ]
}

async function listed(
  db: AnyKysely,
  table: HostTable,
  { id }: Queries,
  { where, what }: { where: string; what: string },
): Promise<string[]> {
  const rows = await runText<{ id: string }>(
    db,
    `select ${id} as id from ${table.name} ${hostRow} where ${where} order by 1`,
  )
  const ids = rows.map(({ id }) => String(id))
  return counted(ids, what)
}

async function shared(
  db: AnyKysely,
  table: HostTable,
  { id, joined, canonical }: Queries,
  { key, what }: { key: string; what: string },
): Promise<string[]> {
  const read = (ours: string) => table.mapped.find((one) => one.ours === ours)?.read
  const order = precedence(read('active') ?? '1 = 1', read('email')!, canonical, id)
  const rows = await runText<{ ids: string }>(
    db,
    `select ${joined(id, order)} as ids from ${table.name} ${hostRow}
     where ${key} <> '' group by ${key} having count(*) > 1 order by 1`,
  )
  const groups = rows.map(({ ids }) => ids)
  return counted(groups, what)
}

// No line where there is none.
function counted(ids: string[], what: string): string[] {
  if (ids.length === 0) return []
  const more = ids.length > mostShown ? ` and ${ids.length - mostShown} more` : ''
  return [`${ids.length} ${what}: ${ids.slice(0, mostShown).join(', ')}${more}`]
}
