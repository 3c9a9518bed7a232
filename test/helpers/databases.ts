import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PGlite } from '@electric-sql/pglite'
import { Kysely, type KyselyPlugin, MysqlDialect, PostgresDialect, type PostgresPool, sql } from 'kysely'
import { createPool } from 'mysql2'
import pg from 'pg'
import { migrateToLatest } from '../../lib/adapters/kysely/index.ts'
import type { AnyKysely } from '../../lib/options/ports.ts'
import { freshDatabase, noMariadb, noPostgres, uniqueName, until } from './helper.ts'

export interface Opened {
  db: AnyKysely
  /** The statements sent so far, without those that an app runs in the background. */
  statements: string[]
  close(): Promise<void>
}

export interface OpenOptions {
  plugins?: KyselyPlugin[]
  /** Settings of every connection, as `PGOPTIONS` has them. */
  options?: string
}

/** What a sweeper (claims and purges) and a poll of ended sessions send, whenever they do. */
const inBackground = /^(?!with "inserted").*skip locked|"ended_at" >=/s

/** Opens a database over a pool wide enough for races. */
export function openPostgres(connectionString: string, { plugins = [], options = '' }: OpenOptions = {}): Opened {
  const statements: string[] = []
  const pool = new pg.Pool({ connectionString, options, max: 20 })
  // The server ends connections that are still closing when their database is dropped.
  pool.on('error', () => {})
  const dialect = new PostgresDialect({ pool })
  const db = new Kysely({
    dialect,
    plugins,
    log: ({ query }) => void (inBackground.test(query.sql) || statements.push(query.sql)),
  })
  return { db, statements, close: () => db.destroy() }
}

/** What tests need of tap's `t`. */
export interface Teardown {
  teardown(fn: () => unknown): void
}

/** Opens a new database, which is dropped with the test. */
export async function openFresh(t: Teardown): Promise<Opened & { url: string }> {
  const { url, drop } = await freshDatabase()
  const opened = openPostgres(url)
  t.teardown(async () => {
    await opened.close()
    await drop()
  })
  return { ...opened, url }
}

/** Opens a new database with the current tables, which is dropped with the test. */
export async function openDatabase(t: Teardown, { ids = 'integer' as 'integer' | 'uuid' } = {}) {
  const { url, db, statements } = await openFresh(t)
  await migrateToLatest(db, { ids })
  statements.length = 0
  return { url, db, statements }
}

/** Waits until a statement in the database, or so many, wait for a lock. */
export async function untilSomebodyWaits(db: AnyKysely, waiting = 1): Promise<void> {
  const postgres = db.getExecutor().adapter.supportsReturning
  const query = postgres
    ? sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
    : sql`select 1 from information_schema.innodb_trx join information_schema.processlist on id = trx_mysql_thread_id
        where db = database() and trx_state = 'LOCK WAIT'`
  await until(async () => {
    // MariaDB shows what was so a tenth of a second ago, or longer when it is asked in between.
    if (!postgres) await sleep(150)
    return (await query.execute(db)).rows.length >= waiting
  })
}

/** Opens PGlite. It serialises its callers: it shows that the SQL is right there, never that a race is. */
export async function openPglite(t: Teardown): Promise<AnyKysely> {
  const database = await PGlite.create()
  // There is one session: callers get it in turn, each for the whole of a transaction.
  const session = { free: Promise.resolve() }
  async function connect() {
    const before = session.free
    const released = new Promise<() => void>((told) => {
      session.free = new Promise((release) => told(release))
    })
    await before
    return { query, release: await released }
  }
  async function query(text: string, parameters: unknown[]) {
    const { rows, affectedRows } = await database.query(text, parameters)
    return { command: text.slice(0, 6).toUpperCase(), rowCount: affectedRows ?? rows.length, rows }
  }
  const pool = { connect, end: () => database.close() } as unknown as PostgresPool
  const db = new Kysely({ dialect: new PostgresDialect({ pool }) })
  t.teardown(() => db.destroy())
  return db
}

/** Opens a new database of MariaDB over a pool wide enough for races; it is dropped with the test. */
export async function openMariadb(t: Teardown): Promise<AnyKysely> {
  return (await freshMariadb(t)).db
}

/** The same, with its URL. */
export async function freshMariadb(t: Teardown): Promise<{ db: AnyKysely; url: string }> {
  const name = uniqueName()
  const server = new URL(process.env.TEST_MYSQL_URL as string)
  const administrate = new Kysely({ dialect: new MysqlDialect({ pool: createPool({ uri: server.href }) }) })
  await sql`create database ${sql.id(name)}`.execute(administrate)
  const url = new URL(server)
  url.pathname = `/${name}`
  const pool = createPool({ uri: url.href, connectionLimit: 20 })
  const db = new Kysely({ dialect: new MysqlDialect({ pool }) })
  t.teardown(async () => {
    await db.destroy()
    await sql`drop database ${sql.id(name)}`.execute(administrate)
    await administrate.destroy()
  })
  return { db, url: url.href }
}

/** Why tests of SQLite cannot run here, or false. */
export const noSqlite = Number(process.versions.node.split('.')[0]) >= 22 ? false : 'node:sqlite needs Node 22'

/** Opens a file of SQLite by the lines of the example, which Node 20 cannot load. */
export async function sqliteFile(path: string): Promise<AnyKysely> {
  const { openDatabase } = await import(new URL('../../examples/sqlite/database.js', import.meta.url).href)
  return openDatabase(path)
}

/** Opens a new file of SQLite; it is closed with the test. */
export async function openSqlite(t: Teardown & { testdir(): string }): Promise<AnyKysely> {
  const db = await sqliteFile(join(t.testdir(), 'accounts.db'))
  t.teardown(() => db.destroy())
  return db
}

/** The databases: what opens a new one, which is dropped with the test, and why it cannot be tried, or false. */
export const databases = {
  PostgreSQL: { skip: noPostgres, open: async (t: Teardown): Promise<AnyKysely> => (await openFresh(t)).db },
  MariaDB: { skip: noMariadb, open: openMariadb },
  SQLite: { skip: noSqlite, open: openSqlite },
}
