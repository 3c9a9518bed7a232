import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import t, { type Test } from 'tap'
import { kyselyStorage, migrateToLatest } from '../../../lib/adapters/kysely/index.ts'
import { sampleSession, sampleUser, storedUser } from '../../../lib/testing/samples.ts'
import { openPglite } from '../../helpers/databases.ts'
import { faultProxy, onPort } from '../../helpers/fault-proxy.ts'
import { databaseUrl, freshDatabase, noPostgres } from '../../helpers/helper.ts'

const skip = noPostgres

/** A storage on one connection, with the statements that were logged and what is prepared on the connection. */
async function open(t: Test, port?: number) {
  const { url, drop } = await freshDatabase()
  const pool = new pg.Pool({ connectionString: port ? onPort(url, port) : url, max: 1 })
  pool.on('error', () => {})
  const logged: string[] = []
  const db = new Kysely<any>({
    dialect: new PostgresDialect({ pool }),
    log: ({ query }) => void logged.push(query.sql),
  })
  t.teardown(async () => {
    await db.destroy()
    await drop()
  })
  const names = async () => {
    const { rows } = await sql<{ name: string }>`select name from pg_prepared_statements`.execute(db)
    return rows.map(({ name }) => name)
  }
  return { db, storage: kyselyStorage(db), logged, names }
}

t.test('what runs all the time is prepared by name, once', { skip }, async (t) => {
  const { db, storage, names } = await open(t)
  await migrateToLatest(db)
  const user = await storedUser(storage)

  for (let n = 0; n < 3; n++) {
    t.match(await storage.findUserById(user.id), { email: user.email })
    t.match(await storage.findUserByEmail(user.emailCanonical), { id: user.id })
  }

  const prepared = await names()
  t.equal(prepared.length, 2)
  for (const name of prepared) t.match(name, /^accounts_[0-9a-f]{32}$/)
})

t.test('a login whose plan is from the first days of the table does not read all of it', { skip }, async (t) => {
  const { db, storage } = await open(t)
  await migrateToLatest(db)
  const user = await storedUser(storage)
  // PostgreSQL keeps a plan for all values after five runs.
  for (let n = 0; n < 8; n++) await storage.insertSession(sampleSession(user), 100)
  const { rows } = await sql<{ name: string; count: number }>`
    select name, cardinality(parameter_types) as count from pg_prepared_statements
    where statement like '%insert into "accounts_sessions"%' and generic_plans > 0`.execute(db)
  t.equal(rows.length, 1)

  const [{ name, count }] = rows as [{ name: string; count: number }]
  const nulls = Array(count).fill('null').join()
  const plan = await sql<
    Record<string, string>
  >`explain (analyze, costs off) execute ${sql.id(name)}(${sql.raw(nulls)})`
    .execute(db)
    .then(({ rows }) => rows.map((row) => row['QUERY PLAN']!.trim()))

  const reads = plan.filter((line) => /Scan (on|using) .*accounts_sessions/.test(line))
  t.ok(reads.length >= 3, plan.join('\n'))
  t.same(
    reads.filter((line) => /Seq Scan/.test(line) && !line.includes('never executed')),
    [],
  )
  t.ok(
    reads.some((line) => line.includes('never executed')),
    plan.join('\n'),
  )
})

for (const ids of ['integer', 'uuid', 'text'] as const) {
  t.test(`[R-ENUM-3] for an address that nobody has a row is read as well, ${ids} ids`, { skip }, async (t) => {
    const { db } = await open(t)
    await migrateToLatest(db, { ids })
    const rows: number[] = []
    const counted = db.withPlugin({
      transformQuery: ({ node }) => node,
      async transformResult({ result }) {
        rows.push(result.rows.length)
        return result
      },
    })
    const storage = kyselyStorage(counted, { ids })
    const { emailCanonical } = await storedUser(storage)
    t.match(await storage.findUserByEmail(emailCanonical), { emailVerifiedAt: null })
    rows.length = 0

    await storage.findUserByEmail(emailCanonical)
    t.equal(await storage.findUserByEmail('nobody@example.org'), null)
    t.strictSame(rows, [1, 1])
  })
}

t.test('the log of a host finds texts', { skip }, async (t) => {
  const { db, storage, logged } = await open(t)
  await migrateToLatest(db)
  await storage.findUserByEmail('ada@example.org')

  const text = logged.at(-1)!

  t.match(`${text}`, /^select .+ left join "accounts_users" on "email_canonical" = \$1$/)
  t.equal(text.slice(0, 6), 'select')
  t.equal(text.length, `${text}`.length)
  t.ok(text.includes('"accounts_users"') && text.startsWith('select') && /email/.test(text))
  t.equal(JSON.parse(JSON.stringify({ text })).text, `${text}`)
  t.equal(text.concat(';'), `${text};`)
})

t.test('a statement that is not prepared any more is run without a name', { skip }, async (t) => {
  for (const lose of ['deallocate all', 'alter table accounts_users alter column role type varchar(100)']) {
    const { db, storage, names } = await open(t)
    await migrateToLatest(db)
    const user = await storedUser(storage)
    await storage.findUserById(user.id)
    t.equal((await names()).length, 1)

    await sql.raw(lose).execute(db)

    t.match(await storage.findUserById(user.id), { email: user.email }, lose)
    await sql`deallocate all`.execute(db)
    t.match(await storage.findUserById(user.id), { email: user.email })
    t.strictSame(await names(), [], 'nor is one any more')
  }
})

t.test('a connection of a pooler that has a statement of that name already is used without it', { skip }, async (t) => {
  const [{ db, storage, names }, { db: other, storage: otherStorage, names: otherNames }] = [
    await open(t),
    await open(t),
  ]
  for (const each of [db, other]) await migrateToLatest(each)
  await otherStorage.findUserByEmail('ada@example.org')
  const [taken] = await otherNames()
  await sql.raw(`prepare "${taken}" as select 1`).execute(db)

  t.equal(await storage.findUserByEmail('ada@example.org'), null)
  t.strictSame(await names(), [taken])
})

t.test('nothing is prepared for a host that does not want it', { skip }, async (t) => {
  const { db, names } = await open(t)
  await migrateToLatest(db)
  const storage = kyselyStorage(db, { prepare: false })

  t.equal(await storage.findUserByEmail('ada@example.org'), null)
  t.strictSame(await names(), [])
})

t.test(
  'within a transaction of the host nothing has a name, since its fault would end the transaction',
  { skip },
  async (t) => {
    const { db, storage, names } = await open(t)
    await migrateToLatest(db)
    const user = await storedUser(storage)

    await db.transaction().execute(async (transaction) => {
      t.match(await kyselyStorage(transaction).findUserById(user.id), { email: user.email })
    })

    t.strictSame(await names(), [])
  },
)

t.test('a database that is down at first gets names when it comes', { skip }, async (t) => {
  const proxy = await faultProxy(Number(new URL(databaseUrl()).port))
  t.teardown(() => proxy.close())
  const { db, storage, names } = await open(t, proxy.port)
  proxy.mode = 'refuse'
  await t.rejects(storage.findUserByEmail('ada@example.org'), { code: 'ACCOUNTS_UNAVAILABLE' })

  proxy.mode = 'pass'
  await migrateToLatest(db)
  await storage.findUserByEmail('ada@example.org')

  t.equal((await names()).length, 1)
})

t.test('the driver of another database gets texts', async (t) => {
  const db = await openPglite(t)
  await migrateToLatest(db)
  const storage = kyselyStorage(db)
  const { email } = sampleUser()

  const user = await storedUser(storage, { email })

  t.match(await storage.findUserById(user.id), { email })
  const { rows } = await sql`select name from pg_prepared_statements where name <> ''`.execute(db)
  t.strictSame(rows, [])
})
