import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Kysely, Migrator, MysqlDialect, sql } from 'kysely'
import { createPool } from 'mysql2'
import t from 'tap'
import {
  kyselyStorage,
  migrateToLatest,
  migrationSql,
  migrations,
  migrationsFor,
} from '../../../lib/adapters/kysely/index.ts'
import { liveSessions } from '../../../lib/adapters/kysely/sessions.ts'
import type { AnyKysely } from '../../../lib/options/ports.ts'
import { sampleUser, storedUser } from '../../../lib/testing/samples.ts'
import { storageContract } from '../../../lib/testing/storage.ts'
import { databases, freshMariadb, openMariadb, sqliteFile } from '../../helpers/databases.ts'
import { everything, noMariadb, redisUrl, uniqueName } from '../../helpers/helper.ts'
import { instance, newPassword } from '../../helpers/reset-flow.ts'

const { PostgreSQL: _, ...others } = databases
const names = Object.keys(migrations)
const kinds = everything ? (['integer', 'uuid', 'text'] as const) : (['integer'] as const)

for (const [title, { open, skip }] of Object.entries(others)) {
  const database = title === 'MariaDB' ? 'mysql' : 'sqlite'

  for (const ids of kinds) {
    t.test(`[R-SQL-2] ${title} with ${ids} ids`, { skip }, async (t) => {
      const db = await open(t)
      await migrateToLatest(db, { ids })
      const storage = kyselyStorage(db, { ids })
      for (const { name, run } of storageContract) await t.test(name, () => run(storage))
    })
  }

  t.test(`${title}: of those who migrate at once one does`, { skip }, async (t) => {
    const db = await open(t)

    const answers = await Promise.all(Array.from({ length: 8 }, () => migrateToLatest(db)))

    t.strictSame(answers.toSorted(), [[], [], [], [], [], [], [], names])
    await t.rejects(migrateToLatest(db, { ids: 'text' }), { message: /"ids" is 'text'.*ids: 'integer'/ })
  })

  t.test(`${title}: the migrations run in a host’s own Migrator, up and down`, { skip }, async (t) => {
    const db = await open(t)
    const provider = { getMigrations: async () => migrationsFor({ ids: 'uuid' }) }
    const migrator = new Migrator({ db, provider })

    t.equal((await migrator.migrateToLatest()).error, undefined)
    t.type(await kyselyStorage(db, { ids: 'uuid' }).insertUser(sampleUser()), 'object')
    for (const _ of names) t.equal((await migrator.migrateDown()).error, undefined)

    t.strictSame(await tablesOf(db), [])
  })

  t.test(`${title}: migrationSql leaves migrateToLatest nothing to do`, { skip }, async (t) => {
    const db = await open(t)

    const text = await migrationSql({ database })
    for (const statement of text.replaceAll(/^--.*$/gm, '').split(/;$/m)) {
      if (statement.trim()) await sql.raw(statement).execute(db)
    }

    t.strictSame(await migrateToLatest(db), [])
    t.type(await kyselyStorage(db).insertUser(sampleUser()), 'object')
  })

  t.test(`${title}: the six routes`, { skip }, async (t) => {
    const db = await open(t)
    await migrateToLatest(db)
    const acts = await instance(t, { name: uniqueName(), db, redis: redisUrl() })

    const { email } = await acts.enrol('Ada.Lovelace@example.com')
    const first = await acts.login(email)
    const second = await acts.refresh(first.body.refresh)
    const { token } = await acts.grant(email)
    const reset = await acts.reset(token)

    t.strictSame([first.status, second.status, reset.status], [200, 200, 200])
    t.equal((await acts.get('/auth/user/', second.body.access)).status, 401, 'a reset ends the sessions')
    t.equal((await acts.login(email)).status, 401)
    t.equal((await acts.login(email, newPassword)).status, 200)
  })

  t.test(`${title}: what the database is to blame for is an outage`, { skip }, async (t) => {
    const db = await open(t)
    await t.rejects(kyselyStorage(db).findUserById(1), { code: 'ACCOUNTS_UNAVAILABLE' }, 'no tables yet')
    await migrateToLatest(db)
    const storage = kyselyStorage(db)
    t.type(await storage.ping(), 'number')
    t.ok(Math.abs((await storage.ping()) - Date.now()) < 60_000, 'the clock of the database is in milliseconds')

    await db.destroy()
    await t.rejects(storage.ping(), { code: 'ACCOUNTS_UNAVAILABLE' })
  })
}

t.test('MariaDB: the place of the users is that of the table', { skip: noMariadb }, async (t) => {
  const [{ db, url }, other] = [await freshMariadb(t), await openMariadb(t)]
  const again = new Kysely<any>({ dialect: new MysqlDialect({ pool: createPool({ uri: url }) }) })
  t.teardown(() => again.destroy())
  const placeOf = (own: AnyKysely) => kyselyStorage(own).place!()
  const place = await placeOf(db)

  t.type(place, 'string')
  t.equal(await placeOf(again), place)
  t.equal(await placeOf(other.withSchema(new URL(url).pathname.slice(1))), place)
  t.not(await placeOf(other), place)
})

t.test('SQLite: the place of the users is the file', { skip: databases.SQLite.skip }, async (t) => {
  const dir = t.testdir()
  const places: (string | null)[] = []
  for (const name of ['one.db', 'one.db', 'other.db', ':memory:']) {
    const db = await sqliteFile(name === ':memory:' ? name : join(dir, name))
    t.teardown(() => db.destroy())
    places.push(await kyselyStorage(db).place!())
  }

  t.type(places[0], 'string')
  t.equal(places[1], places[0])
  t.not(places[2], places[0])
  t.equal(places[3], null, 'one in memory is nobody else’s')
})

t.test('MariaDB: the sessions of a user are not locked by an index of everybody’s', { skip: noMariadb }, async (t) => {
  const db = await openMariadb(t)
  await migrateToLatest(db)

  const plan = await liveSessions(db).where('user_id', '=', 1).explain<{ possible_keys: string }>()

  t.match(plan[0]!.possible_keys, 'accounts_sessions_user_id')
  t.notMatch(plan[0]!.possible_keys, 'accounts_sessions_ended_at')
})

t.test('SQLite: processes at once lose nothing of each other’s', { skip: databases.SQLite.skip }, async (t) => {
  const file = join(t.testdir(), 'accounts.db')
  const db = await sqliteFile(file)
  t.teardown(() => db.destroy())
  await migrateToLatest(db)
  const storage = kyselyStorage(db)
  const { id } = await storedUser(storage)
  // It runs what is built into dist/.
  const program = fileURLToPath(new URL('../../helpers/sqlite-process.js', import.meta.url))

  const processes = ['a', 'b', 'c', 'd'].map((name) => fork(program, [file, String(id), name], { execArgv: [] }))
  const ends = await Promise.all(processes.map((child) => once(child, 'exit')))

  t.strictSame(ends, Array(4).fill([0, null]))
  t.equal(Object.keys((await storage.findUserById(id))!.profile).length, 40)
})

async function tablesOf(db: AnyKysely): Promise<string[]> {
  const tables = await db.introspection.getTables()
  return tables.map(({ name }) => name).filter((name) => /^accounts_(?!migrations)/.test(name))
}
