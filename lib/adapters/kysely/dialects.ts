import {
  type InsertQueryBuilder,
  type Kysely,
  type KyselyPlugin,
  MysqlAdapter,
  MysqlIntrospector,
  MysqlQueryCompiler,
  OperationNodeTransformer,
  type PluginTransformQueryArgs,
  type PluginTransformResultArgs,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type PrimitiveValueListNode,
  type RawBuilder,
  type RootOperationNode,
  type SelectQueryNode,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
  sql,
  type ValueNode,
} from 'kysely'
import type { IdKind } from '../../contracts.ts'
import type { AnyKysely } from '../../options/ports.ts'
import type { AccountsTables } from './tables.ts'

/** The databases that the adapter knows. */
export type DatabaseName = 'postgres' | 'mysql' | 'sqlite'

type Db = Kysely<AccountsTables>

/** What the databases do differently, but for the statements that PostgreSQL alone can do at once: `stepwise.ts`. */
export interface Dialect {
  readonly name: DatabaseName
  /** How Kysely speaks to it. */
  readonly parts: {
    createAdapter(): PostgresAdapter | MysqlAdapter | SqliteAdapter
    createIntrospector(db: AnyKysely): PostgresIntrospector | MysqlIntrospector | SqliteIntrospector
    createQueryCompiler(): PostgresQueryCompiler | MysqlQueryCompiler | SqliteQueryCompiler
  }
  /** Ours, on the host's Kysely. */
  readonly plugins: KyselyPlugin[]
  readonly types: {
    /** A text that is compared bytewise, and may have an index. */
    key: RawBuilder<unknown>
    text: RawBuilder<unknown>
    json: RawBuilder<unknown>
    emptyJson: RawBuilder<unknown>
    /** Of users' ids. */
    ids: Record<IdKind, RawBuilder<unknown>>
  }
  readonly newUuid: RawBuilder<unknown>
  /** What stands behind the columns of a new table. */
  readonly tableEnd: RawBuilder<unknown> | undefined
  /** The database's clock, in milliseconds. */
  readonly now: RawBuilder<string | number>
  /** A number that sorts by chance. */
  readonly random: RawBuilder<number>
  /** The parameter `keyid` of a password hash, or null. Only among its parameters has a PHC string a comma. */
  readonly keyId: RawBuilder<string | null>
  /** Whether a session is open, for queries that lock: on MySQL not by an index that would lock everybody's. */
  readonly open: RawBuilder<boolean>
  /** A column of JSON as a text, so that no type parser or plugin of the host changes it. */
  asText(column: string): RawBuilder<string>
  /** A text in JSON as a value within JSON. */
  inJson(text: string): RawBuilder<unknown>
  /** The type of the ids that the tables have, or undefined. */
  existingIds(db: Db): Promise<string | undefined>
  /** Runs statements in a transaction whose every statement sees what was committed before it. */
  transaction<T>(db: Db, step: (db: Db) => Promise<T>): Promise<T>
  /** Runs statements of a transaction while triggers find a text under a name. */
  withSetting<T>(db: Db, name: string, value: string, step: () => Promise<T>): Promise<T>
  /** The place of a table, by its name as it is compiled; null when it cannot be told. */
  place(table: string): RawBuilder<string | null>
  /** Runs migrations as the only process that does. */
  migrating<T>(db: Db, run: (db: Db) => Promise<T>): Promise<T>
  /** An insert that leaves rows alone whose id is there. */
  unlessThere<Table extends keyof AccountsTables, Row>(
    insert: InsertQueryBuilder<AccountsTables, Table, Row>,
  ): InsertQueryBuilder<AccountsTables, Table, Row>
}

/**
 * The dialect of the host's Kysely. By what its adapter can do, since packages bring adapters of their own.
 *
 * @throws {TypeError} for SQL Server
 */
export function dialectOf(db: AnyKysely): Dialect {
  const { supportsReturning, supportsTransactionalDdl, supportsOutput } = db.getExecutor().adapter
  if (supportsOutput) throw new TypeError('kyselyStorage knows PostgreSQL, MySQL, MariaDB and SQLite')
  if (!supportsReturning) return mysql
  return supportsTransactionalDdl ? postgres : sqlite
}

/** SQLite has neither booleans nor locks of rows: whoever writes has the whole database. */
class WithoutLocks extends OperationNodeTransformer implements KyselyPlugin {
  transformQuery({ node }: PluginTransformQueryArgs): RootOperationNode {
    return this.transformNode(node)
  }
  async transformResult({ result }: PluginTransformResultArgs) {
    return result
  }
  protected override transformSelectQuery(node: SelectQueryNode): SelectQueryNode {
    const { endModifiers, ...others } = super.transformSelectQuery(node)
    return others
  }
  protected override transformValue(node: ValueNode): ValueNode {
    return { ...node, value: withoutBoolean(node.value) }
  }
  protected override transformPrimitiveValueList(node: PrimitiveValueListNode): PrimitiveValueListNode {
    return { ...node, values: node.values.map(withoutBoolean) }
  }
}

function withoutBoolean(value: unknown) {
  return typeof value === 'boolean' ? Number(value) : value
}

// Our own id: Kysely's would deadlock inside a host's Migrator.
const LOCK_ID = 6_102_025_071_409

const postgres: Dialect = {
  name: 'postgres',
  parts: {
    createAdapter: () => new PostgresAdapter(),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  },
  plugins: [],
  types: {
    key: sql`text collate "C"`,
    text: sql`text`,
    json: sql`jsonb`,
    emptyJson: sql`'{}'`,
    ids: { integer: sql`bigint`, uuid: sql`uuid`, text: sql`text collate "C"` },
  },
  newUuid: sql`gen_random_uuid()`,
  tableEnd: undefined,
  now: sql`(extract(epoch from clock_timestamp()) * 1000)::bigint`,
  random: sql`random()`,
  keyId: sql`substring(password_hash from ',keyid=([A-Za-z0-9+/]+)')`,
  open: sql`${sql.ref('ended_at')} is null`,
  asText: (column) => sql`${sql.ref(column)}::text`,
  inJson: (text) => sql`${text}::text::jsonb`,
  async existingIds(db) {
    const { type } = await db
      .selectNoFrom((eb) =>
        sql<string>`pg_typeof((${eb.selectFrom('accounts_users').select('id').limit(1)}))::text`.as('type'),
      )
      .executeTakeFirstOrThrow()
    return type
  },
  // A stricter one would hide a session that was stored while a statement waited for the user's row.
  transaction: (db, step) => db.transaction().setIsolationLevel('read committed').execute(step),
  // Should a statement fail, the setting is rolled back as well.
  async withSetting(db, name, value, step) {
    const set = (text: string) => sql`select set_config(${name}, ${text}, true)`.execute(db)
    await set(value)
    const result = await step()
    await set('')
    return result
  },
  place: (table) => sql`extract(epoch from pg_postmaster_start_time()) || '/' ||
    (select oid from pg_database where datname = current_database()) || '/' || to_regclass(${table})::oid`,
  // Under any other isolation the query would not see what was committed while this waited for the lock.
  migrating(db, run) {
    const locked = async (transaction: Db) => {
      // Before the table is made: eight racing "create table if not exists" fail now and then.
      await sql`select pg_advisory_xact_lock(${LOCK_ID})`.execute(transaction)
      return run(transaction)
    }
    return db.isTransaction ? locked(db) : postgres.transaction(db, locked)
  },
  unlessThere: (insert) => insert.onConflict((conflict) => conflict.doNothing()),
}

const mysql: Dialect = {
  name: 'mysql',
  parts: {
    createAdapter: () => new MysqlAdapter(),
    createIntrospector: (db) => new MysqlIntrospector(db),
    createQueryCompiler: () => new MysqlQueryCompiler(),
  },
  plugins: [],
  types: {
    key: sql`varchar(255)`,
    text: sql`mediumtext`,
    json: sql`longtext`,
    emptyJson: sql`('{}')`,
    ids: { integer: sql`bigint`, uuid: sql`char(36)`, text: sql`varchar(255)` },
  },
  newUuid: sql`(uuid())`,
  // Bytewise, spaces at the end as well; either reads what the other takes for a comment.
  tableEnd: sql`character set utf8mb4 /*!50700 collate utf8mb4_0900_bin */ /*M!100202 collate utf8mb4_nopad_bin */`,
  // In UTC, since an hour of the session's time zone may come twice.
  now: sql`timestampdiff(microsecond, '1970-01-01', utc_timestamp(3)) div 1000`,
  random: sql`rand()`,
  keyId: sql`case when instr(password_hash, ',keyid=') > 0 then
    substring_index(substring_index(substring_index(password_hash, ',keyid=', -1), '$', 1), ',', 1) end`,
  open: sql`coalesce(ended_at, -1) = -1`,
  asText: (column) => sql`${sql.ref(column)}`,
  inJson: (text) => sql`json_extract(${text}, '$')`,
  async existingIds(db) {
    const { rows } = await sql<{ type: string }>`select data_type as type from information_schema.columns
      where table_schema = database() and table_name = 'accounts_users' and column_name = 'id'`.execute(db)
    return rows[0]?.type
  },
  // A stricter one locks gaps between rows as well, in which callers deadlock that have nothing to do with each other.
  transaction: (db, step) => db.transaction().setIsolationLevel('read committed').execute(step),
  // The variables of a session know nothing of transactions.
  async withSetting(db, name, value, step) {
    const set = (text: string | null) => sql`set @${sql.id(name)} = ${text}`.execute(db)
    await set(value)
    try {
      return await step()
    } finally {
      await set(null)
    }
  },
  place: (table) => sql`concat(@@hostname, ':', @@port, @@datadir, '/',
    if(${table} like '%\`.\`%', ${table}, concat('\`', database(), '\`.', ${table})))`,
  migrating(db, run) {
    if (db.isTransaction)
      throw new TypeError('migrateToLatest: MySQL ends a transaction at each new table; call it outside')
    return db.connection().execute(async (connection) => {
      const lock = await sql<{ held: number }>`select get_lock('accounts_migrations', 60) as held`.execute(connection)
      if (!lock.rows[0]?.held) throw new Error('migrateToLatest: another process has been migrating for a minute')
      try {
        return await run(connection)
      } finally {
        await sql`select release_lock('accounts_migrations')`.execute(connection)
      }
    })
  },
  unlessThere: (insert) => insert.onDuplicateKeyUpdate({ id: sql`id` } as never),
}

const sqlite: Dialect = {
  name: 'sqlite',
  parts: {
    createAdapter: () => new SqliteAdapter(),
    createIntrospector: (db) => new SqliteIntrospector(db),
    createQueryCompiler: () => new SqliteQueryCompiler(),
  },
  plugins: [new WithoutLocks()],
  types: {
    key: sql`text`,
    text: sql`text`,
    json: sql`text`,
    emptyJson: sql`'{}'`,
    ids: { integer: sql`integer`, uuid: sql`text`, text: sql`text` },
  },
  newUuid: sql`(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||
    substr(hex(randomblob(2)), 2, 3) || '-8' || substr(hex(randomblob(2)), 2, 3) || '-' || hex(randomblob(6))))`,
  tableEnd: undefined,
  now: sql`cast((julianday('now') - 2440587.5) * 86400000 as integer)`,
  random: sql`random()`,
  keyId: sql`case when instr(password_hash, ',keyid=') > 0 then
    substr(password_hash, instr(password_hash, ',keyid=') + 7, instr(
      replace(substr(password_hash, instr(password_hash, ',keyid=') + 7), ',', '$'), '$') - 1) end`,
  open: sql`ended_at is null`,
  asText: (column) => sql`${sql.ref(column)}`,
  inJson: (text) => sql`json(${text})`,
  async existingIds(db) {
    const { rows } = await sql<{ type: string }>`select lower(type) as type from pragma_table_info('accounts_users')
      where name = 'id'`.execute(db)
    return rows[0]?.type
  },
  transaction: (db, step) =>
    db.transaction().execute(async (transaction) => {
      // Takes the lock of all writers before anything is read: a reader that writes later would be refused at once.
      await transaction.updateTable('accounts_users').set({ role: null }).where(sql<boolean>`false`).execute()
      return step(transaction)
    }),
  // Nobody else writes meanwhile, and should a statement fail, the row is rolled back as well.
  async withSetting(db, name, value, step) {
    await sql`insert or replace into accounts_settings (name, value) values (${name}, ${value})`.execute(db)
    const result = await step()
    await sql`delete from accounts_settings where name = ${name}`.execute(db)
    return result
  },
  // One in memory is nobody else's.
  place: () => sql`(select nullif(file, '') from pragma_database_list where name = 'main')`,
  migrating: (db, run) => (db.isTransaction ? run(db) : db.transaction().execute(run)),
  unlessThere: (insert) => insert.onConflict((conflict) => conflict.doNothing()),
}

/** The dialects by their names, for SQL without a database. */
export const dialectsByName = { postgres, mysql, sqlite } satisfies Record<DatabaseName, Dialect>
