import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import t, { type Test } from 'tap'
import { kyselyStorage, migrateToLatest } from '../../../lib/adapters/kysely/index.ts'
import { sampleUser, storedUser } from '../../../lib/testing/samples.ts'
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

t.test('the log of a host finds texts', { skip }, async (t) => {
  const { db, storage, logged } = await open(t)
  await migrateToLatest(db)
  await storage.findUserByEmail('ada@example.org')

  const text = logged.at(-1)!

  t.match(`${text}`, /^select .+ from "accounts_users" where "email_canonical" = \$1$/)
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
