import { once } from 'node:events'
import { join } from 'node:path'
import * as bcrypt from '@node-rs/bcrypt'
import { sql } from 'kysely'
import t, { type Test } from 'tap'
import Type from 'typebox'
import { realmOf } from '../../../lib/accounts.ts'
import { adoptionSql, checkAdoption, removalSql, repairAdoption } from '../../../lib/adapters/kysely/adopt.ts'
import { memoryCache } from '../../../lib/adapters/memory/index.ts'
import type { AccountsOptions } from '../../../lib/index.ts'
import { type Adoption, adoption } from '../../../lib/options/adoption.ts'
import type { AnyKysely } from '../../../lib/options/ports.ts'
import { forms, judge } from '../../helpers/adoption.ts'
import { bearer, openApp, password } from '../../helpers/app.ts'
import { noSqlite, openMariadb, sqliteFile } from '../../helpers/databases.ts'
import { noMariadb, rounds, uniqueName, until } from '../../helpers/helper.ts'
import { spawnNode } from '../../helpers/program.ts'

t.jobs = 1

interface Legacy {
  unique?: string
  password?: string
  charset?: string
  more?: string
}

/** The databases besides PostgreSQL, and what they write differently. */
const servers = {
  MariaDB: {
    skip: noMariadb,
    open: openMariadb,
    serial: 'int auto_increment primary key',
    words: "enum('active', 'pending', 'blocked')",
    ids: [
      ['uuid', 'char(36) primary key default (uuid())'],
      ['uuid', 'uuid primary key default uuid()'],
      ['text', 'varchar(40) primary key'],
      ['text', "varchar(40) primary key default (concat('m_', uuid_short()))"],
      ['integer', 'bigint unsigned auto_increment primary key'],
    ],
    tableEnd: 'character set latin1',
    /** A table as an app of some years has it. */
    legacy: ({ unique = 'unique (email)', password = 'varchar(255)', charset = 'latin1', more = '' }: Legacy = {}) => `
      create table users (
        id int unsigned auto_increment primary key,
        email varchar(255) not null,
        password ${password} not null default '',
        login varchar(80),
        role enum('member', 'staff'),
        deleted_at timestamp null,
        confirmed tinyint(1) not null default 0,
        created_at datetime not null default current_timestamp,
        company varchar(100),
        settings json,
        points int not null default 0,
        ${more}
        ${unique}
      ) character set ${charset};
      create table orders (id int auto_increment primary key, user_id int unsigned not null,
        foreign key (user_id) references users (id))`,
    asked: `tenant_id int not null, foreign key (tenant_id) references tenants (id), origin json not null,
      lit boolean not null, bits bit(1) not null, price decimal(30, 2) not null, ratio double not null,
      day date not null,`,
    stilled: ['set @fastify_accounts.taking = 1', 'set @fastify_accounts.taking = null'],
    setting: 'select @fastify_accounts.columns as x',
    left: `select table_name as name from information_schema.tables where table_schema = database()
      and table_name like 'accounts%' union all select trigger_name from information_schema.triggers
      where trigger_schema = database() union all select routine_name from information_schema.routines
      where routine_schema = database()`,
    timeOf: (stored: any) => Number(stored),
    jsonOf: (stored: any) => stored,
  },
  SQLite: {
    skip: noSqlite,
    async open(t: Test): Promise<AnyKysely> {
      const db = await sqliteFile(':memory:')
      t.teardown(() => db.destroy())
      return db
    },
    serial: 'integer primary key',
    words: 'text',
    ids: [
      ['uuid', 'text primary key'],
      ['text', 'varchar(40) not null primary key'],
      ['integer', 'integer primary key'],
      ['integer', 'integer primary key autoincrement'],
    ],
    tableEnd: '',
    legacy: ({ unique = 'unique (email)', password = 'varchar(255)', more = '' }: Legacy = {}) => `
      create table users (
        id integer primary key,
        email varchar(255) not null collate nocase,
        password ${password} not null default '',
        login varchar(80),
        role text check (role in ('member', 'staff')),
        deleted_at datetime,
        confirmed boolean not null default 0,
        created_at datetime not null default current_timestamp,
        company varchar(100),
        settings json,
        points int not null default 0,
        ${more}
        ${unique}
      );
      create table orders (id integer primary key, user_id integer not null references users (id))`,
    asked: `tenant_id integer not null references tenants (id), origin json not null, lit boolean not null,
      bits integer not null, price text not null, ratio real not null, day date not null,`,
    stilled: [
      "insert into accounts_settings (name, value) values ('fastify_accounts.taking', '1')",
      'delete from accounts_settings',
    ],
    setting: 'select (select value from accounts_settings) as x',
    left: "select name from sqlite_master where name like 'accounts%' or type = 'trigger'",
    timeOf: (stored: any) => Date.parse(`${stored}Z`),
    jsonOf: (stored: any) => JSON.parse(stored),
  },
} as const
type Server = (typeof servers)[keyof typeof servers]

const columns = {
  ...{ table: 'users', noPassword: '' as const, username: 'login', role: 'role', disabledAt: 'deleted_at' },
  ...{ verifiedAt: 'confirmed', createdAt: 'created_at', profile: { company: 'company', settings: 'settings' } },
}
const registration = {
  username: 'optional',
  profile: Type.Object({ company: Type.Optional(Type.String()), settings: Type.Optional(Type.Any()) }),
} as const

/** Runs statements one by one, as a migration of the host's would, on one connection. */
async function runScript(db: AnyKysely, script: string): Promise<void> {
  const end = script.includes('DELIMITER')
    ? /^(?:DELIMITER .*|\$\$)$/m
    : script.includes('\nbegin')
      ? /;\n+(?!end|\s)/
      : /;$/m
  const statements = script.split(end)
  await db.connection().execute(async (connection) => {
    for (const statement of statements) if (statement.trim()) await sql.raw(statement).execute(connection)
  })
}

interface Shape {
  script?: string
  before?: string
  adopt?: Partial<Adoption> & { table: string }
  options?: Partial<AccountsOptions>
}

/** An app that has adopted a table, and a client of the host's own. */
async function open(
  t: Test,
  server: Server,
  { script = server.legacy(), before = '', adopt = columns as never, options = {} }: Shape = {},
) {
  const db = await server.open(t)
  const hash = await bcrypt.hash(password, 4)
  await runScript(db, `${script};\n${before}`.replaceAll('$HASH', hash))
  const adopted = adoption('adopt', adopt) as Adoption
  await runScript(db, await adoptionSql(db, adopted))
  const name = uniqueName()
  const host = await openApp(t, { name, db, adopt, cache: memoryCache(), registration, ...options })
  const rows = async (query: string) => (await sql.raw<any>(query).execute(db)).rows
  const send = (method: 'PATCH' | 'DELETE') => async (url: string, payload: object, access: string) => {
    const { statusCode } = await host.app.inject({ method, url, payload, headers: bearer(access) })
    return { status: statusCode }
  }
  return {
    ...host,
    ...{ db, rows, hash, adopted, patch: send('PATCH'), remove: send('DELETE') },
    row: async (id: number) => (await rows(`select * from users where id = ${id}`))[0],
    findings: () => checkAdoption(db, adopted, judge),
    unequal: async () => (await checkAdoption(db, adopted, judge)).filter((line) => / account|trigger/.test(line)),
    login: (email: string, typed = password) => host.post('/api/login/', { email, password: typed }),
  }
}

for (const [title, server] of Object.entries(servers))
  t.test(`${title}: an adopted table`, { skip: server.skip }, async (t) => {
    await t.test('old users log in under their ids, and whoever was deleted does not', async (t) => {
      const { login, get, findings, rows, accounts } = await open(t, server, {
        before: `insert into users (email, password, login, role, deleted_at, confirmed, company, created_at) values
        ('Ada@Example.org', '$HASH', 'Ada', 'staff', null, true, 'Engines', '2020-02-03 04:05:06'),
        ('gone@example.org', '$HASH', 'gone', 'member', current_timestamp, true, null, current_timestamp),
        ('guest@example.org', '', null, null, null, false, null, current_timestamp)`,
      })

      const { status, body } = await login('ADA@example.org')

      t.equal(status, 200)
      const profile = (await get('/auth/user/', body.access)).body
      t.match(profile, { id: 1, username: 'Ada', email: 'Ada@Example.org', company: 'Engines' })
      t.match(await accounts.users.find({ id: 1 }), { role: 'staff', createdAt: Date.UTC(2020, 1, 3, 4, 5, 6) })
      t.equal((await login('gone@example.org')).status, 401)
      t.equal((await login('guest@example.org', '')).status, 401)
      t.same(await findings(), ['passwords: argon2: 1', 'passwords: bcrypt: 1', 'passwords: no password: 1'])
      t.match((await rows('select password from users where id = 1'))[0].password, /^\$argon2id/, 'a better hash')
    })

    await t.test('what users do is in the table of the host at once', async (t) => {
      const { post, patch, remove, row, accounts, login, unequal, rows } = await open(t, server)
      const settings = { a: null, b: [1, 'é"\\/\n'] }
      const registered = await post('/api/register/', {
        ...{ username: 'bob', email: 'Bob@example.org', password, company: 'Acmé "x"', settings },
      })
      const { id } = registered.body
      t.match(await row(id), {
        email: 'Bob@example.org',
        login: 'bob',
        company: 'Acmé "x"',
        deleted_at: null,
        points: 0,
      })
      t.same(server.jsonOf((await row(id)).settings), settings)
      const { access } = (await login('bob@example.org')).body
      t.equal((await patch('/auth/user/', { company: 'Engines', username: 'bobby' }, access)).status, 200)
      t.match(await row(id), { login: 'bobby', company: 'Engines' })
      const changed = await post(
        '/auth/change_password/',
        { current_password: password, new_password: 'another horse battery' },
        bearer(access),
      )
      t.equal(changed.status, 200)
      t.match((await row(id)).password, /^\$argon2id/)
      await accounts.users.setRole(id, 'staff')
      await accounts.users.disable(id)
      const disabled = await row(id)
      t.equal(disabled.role, 'staff')
      t.ok(Math.abs(server.timeOf(disabled.deleted_at) - Date.now()) < 60_000)
      await accounts.users.enable(id)
      t.equal((await row(id)).deleted_at, null)
      t.same(await unequal(), [])

      await rows(`insert into orders (user_id) values (${id})`)
      const again = (await login('bob@example.org', 'another horse battery')).body.access
      t.match(await remove('/auth/user/', { password: 'another horse battery' }, again), { status: 409 })
      await rows('delete from orders')
      t.equal((await remove('/auth/user/', { password: 'another horse battery' }, again)).status, 204)
      t.same(await rows(`select * from users where id = ${id}`), [])
    })

    await t.test('what the host does to a user is done to the account, and ends its sessions', async (t) => {
      const { hash, login, post, accounts, rows } = await open(t, server, {
        before: "insert into users (email, password) values ('ada@example.org', '$HASH')",
      })
      const alive = async ({ refresh }: { refresh: string }) => (await post('/auth/refresh/', { refresh })).status
      let session = (await login('ada@example.org')).body
      for (const [change, email, typed] of [
        ["update users set email = 'Grace@example.org' where id = 1", 'grace@example.org', password],
        [
          `update users set password = '${await bcrypt.hash('a third battery', 4)}' where id = 1`,
          'grace@example.org',
          'a third battery',
        ],
      ] as const) {
        await rows(change)
        t.same(await rows('select id from accounts_sessions where ended_at is null'), [], change)
        t.equal(await alive(session), 401, change)
        const { status, body } = await login(email, typed)
        t.equal(status, 200, change)
        session = body
      }
      t.equal((await login('ada@example.org')).status, 401)
      await rows("update users set company = 'Engines', points = 5 where id = 1")
      t.equal(await alive(session), 200, 'what is no credential ends nothing')
      t.equal((await accounts.users.find({ id: 1 }))?.profile.company, 'Engines')
      await rows('update users set deleted_at = current_timestamp where id = 1')
      t.equal(await alive(session), 401)
      t.equal((await login('grace@example.org', 'a third battery')).status, 401)
      await rows('update users set deleted_at = null where id = 1')
      t.equal(await alive(session), 401, 'what has ended stays so')
      t.equal((await login('grace@example.org', 'a third battery')).status, 200)
      await rows("update users set email = 'GRACE@example.org' where id = 1")
      t.equal((await accounts.users.find({ id: 1 }))?.email, 'GRACE@example.org', 'each letter counts')

      const inserted = await sql.raw(`insert into users (email, password) values ('new@example.org', '${hash}')`)
      t.equal((await login('new@example.org')).status, 401)
      t.equal(
        (await inserted.execute(realmOf(accounts).options.db!.reveal())).insertId,
        2n,
        'the host reads its own id',
      )
      t.equal((await login('new@example.org')).status, 200)
      await rows("delete from users where email = 'new@example.org'")
      t.equal((await login('new@example.org')).status, 401)
      t.equal(await accounts.users.find({ email: 'new@example.org' }), null)
    })

    await t.test('a statement of the host that we cannot follow still works, and is found', async (t) => {
      const loose = { unique: 'check (true)', password: 'char(60)', charset: 'utf8mb4' }
      const { findings, login, rows, hash, db, adopted, accounts } = await open(t, server, {
        script: server.legacy(loose),
        before: `insert into users (email, password, login) values ('ada@example.org', '$HASH', 'ada'),
        ('Ada@Example.org', '$HASH', 'x'), ('', '$HASH', 'y'), ('bob@example.org', 'md5$nonsense', 'ADA'),
        ('ada@b\u00fccher.example', '$HASH', '\u00dcnal'), ('kim@localhost', '$HASH', 'kim')`,
      })

      await rows(`insert into users (email, password) values ('ADA@example.org', '${hash}')`)
      await rows("update users set email = 'ada@EXAMPLE.org', company = 'Engines' where id = 4")
      await rows("update users set login = 'ADA', company = 'Engines' where id = 6")

      t.equal((await rows('select * from users')).length, 7)
      t.equal((await login('ada@example.org')).status, 200)
      t.equal((await login('Kim@LOCALHOST')).status, 200, 'an address that registration would refuse')
      t.match(await accounts.users.find({ id: 6 }), { username: 'kim', profile: { company: 'Engines' } })
      t.equal((await login('ada@b\u00fccher.example')).status, 401)
      const found = (await findings()).join('\n')
      t.match(found, 'column "password" is char(60): what we write may need 128')
      t.match(found, 'there is no unique index on lower(email)')
      t.match(found, '1 share an address; the first of each gets the account: 1+2+4+7')
      t.match(found, '1 have no address, and no account: 3')
      t.match(found, '1 share a username but for its case; all but the first lose it: 1+6+4')
      t.match(found, /1 have a hash that cannot be verified: 4/)
      t.match(found, /1 have an address that is not ASCII.*: 5/)
      t.match(found, /3 have no account: 2, 3, 7/)
      t.match(found, '2 have a row and an account that differ: 4, 6')
      await repairAdoption(db, adopted, forms)
      t.match(await accounts.users.find({ id: 4 }), { email: 'bob@example.org' }, 'an address of its own is kept')
      t.equal((await login('ada@b\u00fccher.example')).status, 200)
      await t.rejects(accounts.users.create({ email: 'new@example.org', username: '\u00fcnal' }), {
        code: 'ACCOUNTS_USERNAME_TAKEN',
      })
    })

    await t.test('what no trigger saw is found, and repaired', async (t) => {
      const { findings, unequal, login, post, rows, accounts, db, adopted } = await open(t, server, {
        before: `insert into users (email, password, login) values ('ada@example.org', '$HASH', 'ada'),
        ('bob@example.org', '$HASH', 'bob'), ('eve@example.org', '$HASH', 'eve'), ('kim@example.org', '$HASH', 'kim')`,
      })
      const session = (await login('ada@example.org')).body
      await db.connection().execute(async (connection) => {
        for (const statement of [
          server.stilled[0],
          "update users set email = 'grace@example.org' where id = 1",
          'delete from users where id = 2',
          "insert into users (email, password) values ('new@example.org', 'x')",
          "update users set email = 'x', login = 'x' where id = 3",
          "update users set email = 'eve@example.org', login = 'eve' where id = 4",
          "update users set email = 'kim@example.org', login = 'kim' where id = 3",
          server.stilled[1],
        ]) {
          await sql.raw(statement).execute(connection)
        }
      })

      const lines = (await findings()).filter((line) => / have /.test(line))
      t.match(lines, [
        /cannot be verified: 5/,
        '1 have no account: 5',
        '1 have an account but no row: 2',
        '3 have a row and an account that differ: 1, 3, 4',
      ])
      await repairAdoption(db, adopted, forms)

      t.same(await unequal(), [])
      t.equal((await post('/auth/refresh/', { refresh: session.refresh })).status, 401)
      t.equal((await login('grace@example.org')).status, 200)
      t.equal((await login('bob@example.org')).status, 401)
      t.match(await accounts.users.find({ email: 'eve@example.org' }), { id: 4, username: 'eve' })
      const again = (await login('grace@example.org')).body
      await repairAdoption(db, adopted, forms)
      t.equal((await post('/auth/refresh/', { refresh: again.refresh })).status, 200, 'who is equal stays logged in')
      await rows("update users set email = 'later@example.org' where id = 1")
      t.equal((await login('later@example.org')).status, 200, 'the connection of the repair hears of changes again')
    })

    await t.test('where the host searches an address in lower case, new ones are written so', async (t) => {
      const { post, login, row, rows, accounts, unequal, findings, db, adopted } = await open(t, server, {
        script: server.legacy({ charset: 'utf8mb4' }),
        before: "insert into users (email, password) values ('Ada@Example.org', '$HASH')",
        adopt: { ...columns, emailMatch: 'exact' },
      })
      t.match(await findings(), ['1 have an address with a capital letter, not as emailMatch says: 1', /^passwords/])
      t.equal((await login('ada@example.ORG')).status, 200)

      const email = 'Bob@b\u00fccher.example'
      const { status, body } = await post('/api/register/', { username: 'bob', email, password })

      t.equal(status, 201)
      t.equal((await row(body.id)).email, 'bob@b\u00fccher.example')
      t.equal((await login(email)).status, 200)
      t.equal((await accounts.users.find({ id: body.id }))?.email, 'bob@b\u00fccher.example')
      await rows(`update users set email = 'BOB@b\u00fccher.example' where id = ${body.id}`)
      t.equal((await login(email)).status, 200, 'which has the same form')
      t.notMatch((await findings()).join(), /ASCII/)
      await rows(`update users set email = 'bob@\u00fcber.example' where id = ${body.id}`)
      t.match((await findings()).join(), '1 have an address that is not ASCII')
      await repairAdoption(db, adopted, forms)
      t.notMatch((await findings()).join(), /ASCII/)
      t.equal((await login('Bob@\u00fcber.example')).status, 200)
      t.same(await unequal(), [])
    })

    await t.test(
      'an address that registration would refuse is listed for a repair as long as nobody logs in by it',
      async (t) => {
        const { login, findings, db, adopted } = await open(t, server, {
          script: server.legacy({ charset: 'utf8mb4' }),
          before: "insert into users (email, password) values ('A\u00d1N@example.org', '$HASH')",
        })
        const listed = async () => /1 have an address that is not ASCII/.test((await findings()).join())
        const { status } = await login('A\u00d1N@example.org')

        t.equal(await listed(), status === 401)
        await repairAdoption(db, adopted, forms)
        t.equal(await listed(), false)
        t.equal((await login('a\u00d1n@example.org')).status, 200)
      },
    )

    await t.test('the way back leaves the host with its table, up to date', async (t) => {
      const { db, adopted, post, rows } = await open(t, server)
      const { body } = await post('/api/register/', { username: 'bob', email: 'bob@example.org', password })

      await runScript(db, await removalSql(db, adopted))

      t.match(await rows('select id, email, login from users'), [
        { id: body.id, email: 'bob@example.org', login: 'bob' },
      ])
      await rows("insert into users (email) values ('next@example.org')")
      await rows('update users set points = 1')
      await rows('delete from users')
      t.same(await rows(server.left), [])
    })

    await t.test('the statements may run again', async (t) => {
      const { db, adopted, unequal, login, rows } = await open(t, server, {
        before: "insert into users (email, password) values ('ada@example.org', '$HASH')",
      })
      await rows('drop trigger fastify_accounts_insert')
      await rows("insert into users (email, password) values ('new@example.org', 'x')")
      t.match(await unequal(), [/the triggers fastify_accounts_insert are missing or off/, '1 have no account: 2'])
      const again = await adoptionSql(db, adopted)
      t.notMatch(again, /create table \S?accounts_users/)
      await runScript(db, again)
      t.same(await unequal(), [])
      t.equal((await login('ada@example.org')).status, 200)
      t.equal((await rows('select * from users')).length, 2)
    })

    for (const [kind, type] of server.ids) {
      await t.test(`ids are as they are: ${type}`, async (t) => {
        const { post, login, rows, get, unequal } = await open(t, server, {
          script: `create table Members (memberId ${type}, mail varchar(100) not null unique, hash text)
          ${server.tableEnd}`,
          adopt: { table: 'Members', ids: kind, id: 'memberId', email: 'mail', password: 'hash' },
        })
        const { status, body } = await post('/api/register/', { username: 'bob', email: 'bob@example.org', password })
        t.equal(status, 201)
        t.match(await rows('select memberId as id, mail from Members'), [{ id: body.id, mail: 'bob@example.org' }])
        if (type.includes('m_')) t.match(body.id, /^m_/)
        const { access } = (await login('bob@example.org')).body
        t.equal((await get('/auth/user/', access)).body.id, body.id)
        await rows("update Members set mail = 'Bobby@example.org'")
        t.equal((await login('bobby@example.org')).status, 200)
        t.same(await unequal(), [])
      })
    }

    await t.test('rows without an address, and deleted rows, hold nobody up', async (t) => {
      const { login, findings, rows, hash } = await open(t, server, {
        script: `create table users (id ${server.serial}, email varchar(100), password text,
          created datetime, deleted_at datetime);
        insert into users (email, password, created, deleted_at) values
          ('ada@example.org', '$HASH', null, current_timestamp),
          ('ada@example.org', '$HASH', null, null), (null, '$HASH', current_timestamp, null),
          ('', '$HASH', current_timestamp, null)`,
        adopt: { table: 'users', createdAt: 'created', disabledAt: 'deleted_at' },
      })
      t.equal((await login('ada@example.org')).status, 200, 'the live one of two')
      await rows(`insert into users (email, password) values (null, '${hash}')`)
      await rows("update users set email = 'eve@example.org' where id = 3")
      t.equal((await login('eve@example.org')).status, 200)
      await rows('update users set deleted_at = current_timestamp where id = 3')
      await rows(`insert into users (email, password) values ('eve@example.org', '${hash}')`)
      t.equal((await login('eve@example.org')).status, 200, 'the live one of two')
      await rows('update users set email = null where id = 2')
      t.equal((await login('ada@example.org')).status, 401)
      t.match((await findings()).join(), /have no account: 1, 2, 3, 4, 5/)
      t.equal((await rows('select * from users')).length, 6)
    })

    await t.test('columns that we cannot fill come from a function, in the same transaction', async (t) => {
      const values = {
        lit: true,
        bits: false,
        price: '12345678901234567890.5',
        ratio: 1.5,
        day: '2024-02-29',
        note: null,
      }
      const { post, rows, findings, accounts } = await open(t, server, {
        script: `create table tenants (id ${server.serial}, host varchar(100) not null);
        ${server.legacy({ more: server.asked })}`,
        adopt: {
          ...columns,
          async insert(trx, user, { request }) {
            const host = request?.headers['x-tenant'] ?? 'none'
            const { insertId } = await trx.insertInto('tenants').values({ host }).executeTakeFirstOrThrow()
            if (user.email.startsWith('eve'))
              return { ...values, tenant_id: Number(insertId), origin: '{}', ratio: null }
            return { ...values, tenant_id: Number(insertId), origin: JSON.stringify({ host: `${host}"\\é😀'` }) }
          },
        },
      })
      const body = { email: 'Ada@example.org', password, company: 'Engines' }

      const registered = await post('/api/register/', body, { 'x-tenant': 'acme' })
      const taken = await post('/api/register/', { ...body, email: 'ada@Example.org' }, { 'x-tenant': 'other' })
      const created = await accounts.users.create({ email: 'bob@example.org' })
      await t.rejects(accounts.users.create({ email: 'eve@example.org' }), { code: 'ACCOUNTS_VALIDATION' })

      t.match([registered.status, taken.status], [201, 409])
      const found = await rows(`select u.id, host, origin, lit, bits + 0 as bits, cast(price as char) as price, ratio,
      cast(day as char) as day, company from users u join tenants t on t.id = tenant_id order by 1`)
      const stored = { lit: 1, bits: 0, price: /^12345678901234567890\.50?$/, ratio: 1.5, day: '2024-02-29' }
      const originOf = (host: string) => ({ host: `${host}"\\é😀'` })
      t.match(
        found.map(({ origin, ...row }: any) => ({ ...row, origin: server.jsonOf(origin) })),
        [
          { id: registered.body.id, host: 'acme', ...stored, origin: originOf('acme'), company: 'Engines' },
          { id: created.id, host: 'none', ...stored, origin: originOf('none'), company: null },
        ],
      )
      t.equal((await rows('select * from tenants')).length, 2, 'a refusal takes back what it did')
      t.match(await findings(), [/"tenant_id" has no default: it is what "insert" answers/, /"origin"/, /"lit"/])
      const left = await Promise.all(Array.from({ length: 20 }, () => rows(server.setting)))
      t.ok(left.every(([{ x }]) => x === null))
    })

    await t.test('the address of who was deleted softly is free where the table of the host has it so', async (t) => {
      const before = `insert into users (email, password, deleted_at)
        values ('Ada@example.org', '$HASH', current_timestamp);`
      const several = server.legacy({ unique: 'unique (email, deleted_at)' })
      const free = await open(t, server, { script: several, before })
      const kept = await open(t, server, { before })
      const register = ({ post }: typeof free) => post('/api/register/', { email: 'ada@example.org', password })

      const { status, body } = await register(free)
      t.equal(status, 201)
      t.match(await register(free), { status: 409 })
      t.match(await free.login('Ada@example.org'), { status: 200 })
      t.match(await free.rows('select id, deleted_at is null as active from users order by id'), [
        { id: 1, active: 0 },
        { id: body.id, active: 1 },
      ])
      t.match(await register(kept), { status: 409, body: { code: 'ACCOUNTS_EMAIL_TAKEN' } })
      t.match(await kept.rows('select a.id from users u join accounts_users a on a.id = u.id'), [{ id: 1 }])
    })

    await t.test('a column of words tells who may log in', async (t) => {
      const { login, rows, accounts, post, unequal } = await open(t, server, {
        script: `create table users (id ${server.serial}, email varchar(100) not null unique, password text,
          status ${server.words} not null);
        insert into users (email, password, status) values ('ada@example.org', '$HASH', 'active'),
          ('bob@example.org', '$HASH', 'pending'), ('eve@example.org', '$HASH', 'blocked')`,
        adopt: { table: 'users', active: { column: 'status', enabled: 'active', disabled: 'blocked' } },
      })
      const statuses = async () => (await rows('select status from users order by id')).map(({ status }: any) => status)
      const answers = ['ada', 'bob', 'eve'].map(async (name) => (await login(`${name}@example.org`)).status)

      t.strictSame(await Promise.all(answers), [200, 401, 401])
      await accounts.users.setPassword(2, 'another horse battery')
      t.strictSame(await statuses(), ['active', 'pending', 'blocked'], 'a third word stays')
      await accounts.users.disable(1)
      await accounts.users.enable(3)
      const { refresh } = await accounts.startSession(3)
      await post('/api/register/', { email: 'new@example.org', password })
      t.strictSame(await statuses(), ['blocked', 'pending', 'active', 'active'])
      await rows("update users set status = 'pending' where id = 3")
      t.equal((await post('/auth/refresh/', { refresh })).status, 401)
      t.same(await unequal(), [])
    })

    await t.test('keys change, and ids are imported', async (t) => {
      const { accounts, unequal, rows } = await open(t, server, {
        script: server.legacy().replace('references users (id)', 'references users (id) on update cascade'),
        before: `insert into users (email, password, login) values ('ada@example.org', '$HASH', 'ada'),
        ('bob@example.org', '$HASH', 'bob')`,
        adopt: { ...columns, verifiedAt: undefined },
      })
      await accounts.users.setRole(1, 'staff')
      const { id } = await accounts.users.create({ email: 'eve@example.org', verified: true })
      await rows(`update users set id = 78 where id = ${id}`)
      t.match(
        await accounts.users.find({ id: 78 }),
        { emailVerifiedAt: Number },
        'also what the host has no column for',
      )
      await rows('update users set id = 77 where id = 1')
      t.match(await accounts.users.find({ id: 77 }), { email: 'ada@example.org', username: 'ada', role: 'staff' })
      t.equal(await accounts.users.find({ id: 1 }), null)
      const imported = Array.from({ length: 4 }, (_, n) => ({ id: 4711 + n, email: `old${n}@example.org` }))
      t.match(
        await accounts.users.import(imported),
        imported.map(({ id }) => ({ id })),
      )
      t.equal((await accounts.users.create({ email: 'next@example.org' })).id, 4715)
      t.match(await accounts.users.import([{ email: 'a@example.org' }, { email: 'b@example.org' }]), [
        { id: 4716 },
        { id: 4717 },
      ])
      t.same(await unequal(), [])
    })

    await t.test('both insert at once: ids stay equal, and no statement of the host meets a deadlock', async (t) => {
      const { rows, unequal, accounts } = await open(t, server)
      const failures: string[] = []
      const many = rounds(40, 10)
      for (let round = 0; round < many; round++) {
        await Promise.all(
          Array.from({ length: 16 }, (_, n) =>
            n % 2
              ? accounts.users.create({ email: `our${round}x${n}@example.org` })
              : rows(`insert into users (email) values ('host${round}x${n}@example.org')`).catch(({ code }) => {
                  failures.push(code)
                }),
          ),
        )
      }
      t.same(failures, [])
      t.same(await unequal(), [])
      t.equal((await rows('select u.id from users u join accounts_users a using (id, email)')).length, many * 16)
    })
  })

t.test('MariaDB: an adopted table of its own kind', { skip: noMariadb }, async (t) => {
  await t.test('columns of other kinds, a session with a time zone, and what fills the others', async (t) => {
    const { login, rows, accounts, post, unequal } = await open(t, servers.MariaDB, {
      script: `create table members (id bigint auto_increment primary key, email varchar(255) not null,
          password varchar(255) not null, is_active bit(1) not null default b'1', verified_at timestamp(3) null,
          joined date not null, staff boolean not null, note varchar(20) not null, news boolean, size decimal(8, 2));
        insert into members (email, password, is_active, verified_at, joined, staff, note) values
        ('ada@example.org', '!x', 1, null, '2020-02-03', true, 'old'),
        ('bob@example.org', '$HASH', 0, now(3), '2020-02-03', true, 'old')`,
      adopt: {
        ...{ table: 'members', noPassword: '!', active: 'is_active', verifiedAt: 'verified_at', createdAt: 'joined' },
        defaults: { staff: false, note: "a 'new' \\ \u00e9" },
        profile: { news: 'news', size: 'size' },
      },
      options: {
        registration: {
          username: false,
          profile: Type.Object({ news: Type.Optional(Type.Boolean()), size: Type.Optional(Type.Number()) }),
        },
      },
    })
    t.equal((await login('bob@example.org')).status, 401)
    await accounts.users.enable(2)
    t.equal((await login('bob@example.org')).status, 200)
    const { emailVerifiedAt, createdAt } = (await accounts.users.find({ id: 2 }))!
    t.ok(Math.abs(emailVerifiedAt! - Date.now()) < 60_000)
    t.equal(createdAt, Date.UTC(2020, 1, 3))
    const { body } = await post('/api/register/', { email: 'new@example.org', password, news: true, size: 1.5 })
    const inserted = await rows(`select cast(joined as char) as joined, verified_at, staff, note, news, size
      from members where id = ${body.id}`)
    const today = new Date().toISOString().slice(0, 10)
    t.match(inserted, [
      { joined: today, verified_at: null, staff: 0, note: "a 'new' \\ \u00e9", news: 1, size: '1.50' },
    ])
    await accounts.users.create({ email: 'none@example.org', verified: true })
    t.match(await rows("select password, verified_at from members where email like 'none%'"), [
      { password: '!', verified_at: Date },
    ])
    t.same(await unequal(), [])
    const { db } = realmOf(accounts).options
    await db!
      .reveal()
      .connection()
      .execute(async (connection: AnyKysely) => {
        await sql`set time_zone = '+05:00'`.execute(connection)
        await sql`update members set verified_at = '2030-01-01 05:00:00.250', news = false where id = 2`.execute(
          connection,
        )
        await sql`set time_zone = default`.execute(connection)
      })
    t.match(await accounts.users.find({ id: 2 }), {
      emailVerifiedAt: Date.UTC(2030, 0, 1, 0, 0, 0, 250),
      profile: { news: false },
    })
  })

  await t.test('what does not fit is refused, never cut', async (t) => {
    const { login, rows, post } = await open(t, servers.MariaDB, {
      script: `create table users (id int auto_increment primary key, email varchar(30) not null unique,
          password varchar(60));
        insert into users (email, password) values ('ada@example.org', '$HASH')`,
      adopt: { table: 'users' },
      options: { registration: { username: false } },
    })
    for (const _ of [1, 2]) t.equal((await login('ada@example.org')).status, 200)
    t.match((await rows('select password from users'))[0].password, /^\$2b/)
    const long = await post('/api/register/', { email: 'abcdefghijkl@example.org.evil-domain.example', password })
    t.equal(long.status, 400)
    t.equal((await rows('select * from users')).length, 1)
  })

  await t.test('what the host\u2019s own triggers and defaults do is kept, on both sides', async (t) => {
    const { accounts, post, rows, unequal, row, db, adopted } = await open(t, servers.MariaDB, {
      script: `
        create table audit (what varchar(20));
        create table users (id int auto_increment primary key, email varchar(100) not null, password text,
          role varchar(20) not null default 'member', company varchar(50) not null default '');
        create trigger audited after insert on users for each row insert into audit values ('insert');
        create trigger slow after update on users for each row insert into audit select sleep(0.01);
        create trigger lower_i before insert on users for each row set new.email = lower(new.email);
        create trigger lower_u before update on users for each row
          set new.email = lower(new.email), new.role = if(new.role = 'root', old.role, new.role)`,
      adopt: { table: 'users', role: 'role', profile: { company: 'company' } },
      options: { registration: { username: false, profile: Type.Object({ company: Type.Optional(Type.String()) }) } },
    })
    const { status, body } = await post('/api/register/', { email: 'Bob@Example.org', password })
    t.equal(status, 201)
    t.match(await row(body.id), { email: 'bob@example.org', role: 'member', company: '' })
    t.match(await accounts.users.find({ id: body.id }), { email: 'bob@example.org', role: 'member' })
    await accounts.users.setRole(body.id, 'root')
    t.equal((await accounts.users.find({ id: body.id }))?.role, 'member', 'the host has refused it')
    await rows("insert into users (email, company) values ('Ada@example.org', 'acme')")
    await rows("update users set email = 'Grace@Example.org' where email like 'ada%'")
    t.match(await accounts.users.find({ email: 'grace@example.org' }), { email: 'grace@example.org' })
    await accounts.users.setPassword(body.id, 'another horse battery')
    t.ok((await rows('select * from audit')).length >= 5)
    t.same(await unequal(), [])
    t.same(await checkAdoption(db, adopted, judge).then((lines) => lines.slice(-1)), ['passwords: no password: 1'])
  })

  await t.test('of a statement that fails in the middle nothing is left behind', async (t) => {
    const { db, rows, login } = await open(t, servers.MariaDB, {
      before: `insert into users (email, password) values ('ada@example.org', '$HASH'), ('bob@example.org', '$HASH')`,
    })
    const connected = (run: (one: AnyKysely) => Promise<void>) => db.connection().execute(run)
    const left = async (one: AnyKysely) =>
      (await sql<{ left: unknown }>`select @fastify_accounts.taking as ${sql.id('left')}`.execute(one)).rows[0]!.left

    await rows(`create trigger refuse before update on accounts_sessions for each row
      signal sqlstate '45000' set message_text = 'not now'`)
    await login('ada@example.org')
    await connected(async (one) => {
      await t.rejects(sql`update users set email = 'x@example.org' where id = 1`.execute(one), { message: /not now/ })
      t.equal(await left(one), null, 'an error is handled')
    })
    await rows('drop trigger refuse')
    await rows(`create trigger stuck before update on accounts_sessions for each row
      set new.ip = sleep(60)`)
    await connected(async (one) => {
      const { rows: ids } = await sql<{ id: number }>`select connection_id() as id`.execute(one)
      const killed = sql`update users set email = 'x@example.org' where id = 1`.execute(one)
      const refused = t.rejects(killed, { code: 'ER_QUERY_INTERRUPTED' })
      await untilStuck(db)
      await rows(`kill query ${ids[0]!.id}`)
      await refused
      t.not(await left(one), null, 'no handler sees a kill')
      await rows('drop trigger stuck')
      await sql`update users set email = 'Grace@example.org' where id = 1`.execute(one)
      await sql`update accounts_users set email = 'bobby@example.org' where id = 2`.execute(one)
    })
    t.equal((await login('grace@example.org')).status, 200, 'and yet the next statement is carried over')
    t.match(await rows('select email from users order by id'), [{ email: /Grace/ }, { email: /bobby/ }])
  })

  await t.test('host and users change one user at once: nobody waits for ever, and both are equal', async (t) => {
    const { rows, unequal, accounts, login, post, hash } = await open(t, servers.MariaDB, {
      before: "insert into users (email, password) values ('ada@example.org', '$HASH')",
    })
    const failures: string[] = []
    const noted = (who: string) => (error: { code?: string }) => void failures.push(`${who} ${error.code}`)
    for (let round = 0; round < rounds(300, 60); round++) {
      const session = await accounts.startSession(1)
      const statements = [
        `update users set password = '${hash}', points = points + 1 where id = 1`,
        `update users set email = 'ada${round % 7}@example.org' where id = 1`,
        "update users set company = 'Engines', deleted_at = null where id = 1",
        `update users set deleted_at = ${round % 2 ? 'now()' : 'null'} where id = 1`,
      ]
      await Promise.all([
        ...statements.slice(round % 2).map((text) => rows(text).catch(noted('host'))),
        accounts.users.setPassword(1, `correct horse battery ${round}`).catch(noted('ours')),
        accounts.users.setRole(1, 'staff').catch(noted('ours')),
        login(`ada${(round + 6) % 7}@example.org`),
        post('/auth/refresh/', { refresh: session.refresh }),
        (round % 2 ? accounts.users.enable(1) : accounts.users.disable(1)).catch(noted('ours')),
      ])
      // All of them changed a credential.
      t.equal((await post('/auth/refresh/', { refresh: session.refresh })).status, 401)
      await rows('update users set deleted_at = null where id = 1')
    }
    t.same(
      failures.filter((line) => !line.endsWith('ACCOUNTS_CONFLICT')),
      [],
      'no deadlock reached anybody',
    )
    t.same(await unequal(), [])
    const alive = await rows(`select s.id from accounts_sessions s join accounts_users u on u.id = s.user_id
      where s.ended_at is null and s.credential_version <> u.credential_version`)
    t.same(alive, [], 'no session of an older credential is left open')
    const left = await Promise.all(Array.from({ length: 20 }, () => rows('select @fastify_accounts.taking as x')))
    t.same(
      left.filter(([{ x }]) => x !== null),
      [],
    )
  })

  await t.test('what cannot be adopted is told by name', async (t) => {
    const db = await openMariadb(t)
    const told = (given: object, message: RegExp) =>
      t.rejects(adoptionSql(db, adoption('adopt', given) as Adoption), { name: 'TypeError', message })
    const run = (text: string) => sql.raw(text).execute(db)
    await told({ table: 'nowhere' }, /adopt\.table: there is no table `nowhere`/)
    await told({ table: 'mysql.user' }, /adopt\.table: there is no table `mysql\.user`/)
    await run('create table people (id integer, email text, uid binary(16) not null unique, state char(1))')
    await told({ table: 'people', schema: 'other' }, /adopt\.schema: leave it out; without schemas our tables stand/)
    await told({ table: 'people', password: 'email' }, /adopt\.id: "id" is no key by itself/)
    await told(
      { table: 'people', password: 'email', id: 'uid', ids: 'uuid' },
      /adopt\.id: "uid" is binary\(16\), not of the kind that adopt\.ids says: uuid/,
    )
    await run('alter table people add primary key (id)')
    await told({ table: 'people', password: 'email' }, /adopt\.id: "id" has no default/)
    await run('alter table people modify id integer auto_increment')
    await told(
      { table: 'people', password: 'email', ids: 'uuid' },
      /adopt\.id: "id" is int\(11\), not of the kind that adopt\.ids says: uuid/,
    )
    await run('alter table people add shown varchar(100) generated always as (email) stored')
    await told(
      { table: 'people', password: 'email', username: 'shown' },
      /the database alone writes the column "shown"/,
    )
    await told({ table: 'people' }, /adopt\.password: `people` has no column "password"/)
    const named = { table: 'people', password: 'email' }
    await told({ ...named, createdAt: 'id' }, /adopt\.createdAt: "id" is no timestamp but int/)
    await told({ ...named, active: 'state' }, /adopt\.active: "state" is no number but char\(1\)/)
  })
})

t.test('SQLite: an adopted table of its own kind', { skip: noSqlite }, async (t) => {
  const server = servers.SQLite

  for (const [kind, what, stored] of [
    ['datetime', 'verified text', '2030-01-01T00:00:00.250Z'],
    ['datetime', 'plain text', '2030-01-01 00:00:00'],
    ['integer', 'seconds', 1893456000],
    ['integer', 'milliseconds', 1893456000250],
    ['date', 'a day', '2030-01-01'],
    ['text', 'of the zone UTC', '2030-01-01T00:00:00+00:00'],
  ] as const) {
    await t.test(`times are written as those that are there: ${kind}, ${what}`, async (t) => {
      const { accounts, rows, login, unequal } = await open(t, server, {
        script: `create table members (id integer primary key, email text not null unique, password text not null,
            off_at ${kind}, verified_at ${kind}, joined ${kind});
          insert into members (email, password, off_at, verified_at, joined) values
          ('ada@example.org', '!x', null, null, null),
          ('bob@example.org', '$HASH', '${stored}', '${stored}', '${stored}')`,
        adopt: {
          ...{ table: 'members', noPassword: '!', disabledAt: 'off_at', verifiedAt: 'verified_at' },
          createdAt: 'joined',
        },
        options: { registration: { username: false } },
      })
      const ms =
        typeof stored === 'number'
          ? stored * (stored < 1e11 ? 1000 : 1)
          : Date.parse(/\d:\d\d$/.test(stored) && !stored.includes('+') ? `${stored}Z` : stored)
      t.match(await accounts.users.find({ id: 2 }), { createdAt: ms, emailVerifiedAt: ms, active: false })
      await accounts.users.enable(2)
      t.equal((await login('bob@example.org')).status, 200)
      await accounts.users.disable(2)
      const { id } = await accounts.users.create({ email: 'new@example.org', verified: true })
      const [off] = await rows('select off_at from members where id = 2')
      const [made] = await rows(`select verified_at, joined, off_at from members where id = ${id}`)
      const shape = (value: unknown) => String(value).replaceAll(/\d/g, '0')
      t.strictSame([off.off_at, made.verified_at, made.joined].map(shape), Array(3).fill(shape(stored)))
      t.equal(made.off_at, null)
      t.same(await unequal(), [])
    })
  }

  await t.test('columns of other kinds, and what fills the others', async (t) => {
    const profile = { news: true, size: 1.5, tags: ['a', 1], note: '"5"', big: 12345678901 }
    const { rows, accounts, post, get, login, patch, unequal } = await open(t, server, {
      script: `create table members (id integer primary key autoincrement, email text not null unique,
        password text not null, is_active int not null default 1, verified tinyint, staff boolean not null,
        comment text not null, news boolean, size numeric, tags json, note, big integer)`,
      adopt: {
        ...{ table: 'members', noPassword: '!', active: 'is_active', verifiedAt: 'verified' },
        defaults: { staff: false, comment: "a 'new' \\ é" },
        profile: { news: 'news', size: 'size', tags: 'tags', note: 'note', big: 'big' },
      },
      options: {
        registration: {
          username: false,
          profile: Type.Object({
            news: Type.Optional(Type.Union([Type.Boolean(), Type.Null()])),
            size: Type.Optional(Type.Number()),
            tags: Type.Optional(Type.Any()),
            note: Type.Optional(Type.String()),
            big: Type.Optional(Type.Number()),
          }),
        },
      },
    })
    const { status, body } = await post('/api/register/', { email: 'new@example.org', password, ...profile })
    t.equal(status, 201)
    t.match(await rows(`select * from members where id = ${body.id}`), [
      {
        is_active: 1,
        verified: 0,
        staff: 0,
        comment: "a 'new' \\ é",
        news: 1,
        size: 1.5,
        tags: '["a",1]',
        note: '"5"',
      },
    ])
    const { access } = (await login('new@example.org')).body
    t.match((await get('/auth/user/', access)).body, profile)
    t.equal((await patch('/auth/user/', { tags: 'plain' }, access)).status, 200)
    t.match(await rows('select tags from members'), [{ tags: '"plain"' }])
    t.equal((await patch('/auth/user/', { news: null, tags: { a: null } }, access)).status, 200)
    t.match(await rows('select news, tags from members'), [{ news: null, tags: '{"a":null}' }])
    await rows('update members set news = 0, tags = null, size = 9007199254740991, verified = 1, note = 5')
    const changed = await accounts.users.find({ id: body.id })
    t.strictSame(changed!.profile, { big: 12345678901, news: false, note: 5, size: 9007199254740991 })
    t.ok(Math.abs(changed!.emailVerifiedAt! - Date.now()) < 60_000)
    await rows('update members set is_active = 0')
    t.equal((await login('new@example.org')).status, 401)
    t.same(await unequal(), [])
    // The number of a row that is gone is nobody's again, on neither side.
    await rows("insert into members (id, email, password, staff, comment) values (70, '', '', 0, '')")
    await rows('delete from members where id = 70')
    t.equal((await accounts.users.create({ email: 'next@example.org' })).id, 71)
    t.equal(
      (await rows("insert into members (email, password, staff, comment) values ('x', '', 0, '') returning id"))[0].id,
      72,
    )
  })

  await t.test('what the host’s own triggers do is kept, on both sides', async (t) => {
    const { accounts, post, rows, unequal, row, db } = await open(t, server, {
      script: `create table audit (what text);
        create table users (id integer primary key, email text not null, password text,
          role text not null default 'member', company text not null default '')`,
      adopt: { table: 'users', role: 'role', profile: { company: 'company' } },
      options: { registration: { username: false, profile: Type.Object({ company: Type.Optional(Type.String()) }) } },
    })
    for (const trigger of [
      "audited after insert on users for each row begin insert into audit values ('insert'); end",
      `lower_i after insert on users when new.email <> lower(new.email) begin
        update users set email = lower(email) where id = new.id; end`,
      `lower_u after update of email, role on users when new.email <> lower(new.email) or new.role = 'root' begin
        update users set email = lower(new.email),
        role = iif(new.role = 'root', old.role, new.role) where id = new.id; end`,
    ])
      await sql.raw(`create trigger ${trigger}`).execute(db)

    const { status, body } = await post('/api/register/', { email: 'Bob@Example.org', password })
    t.equal(status, 201)
    t.match(await row(body.id), { email: 'bob@example.org', role: 'member', company: '' })
    t.match(await accounts.users.find({ id: body.id }), { email: 'bob@example.org', role: 'member' })
    await accounts.users.setRole(body.id, 'root')
    t.equal((await accounts.users.find({ id: body.id }))?.role, 'member', 'the host has refused it')
    await rows("insert into users (email, company) values ('Ada@example.org', 'acme')")
    await rows("update users set email = 'Grace@Example.org' where email like 'ada%'")
    t.match(await accounts.users.find({ email: 'grace@example.org' }), { email: 'grace@example.org' })
    t.equal((await rows('select * from audit')).length, 2)
    t.same(await unequal(), [])
    await sql`pragma recursive_triggers = on`.execute(db)
    await accounts.users.setPassword(body.id, 'another horse battery')
    await rows("insert or replace into users (id, email) values (7, 'GRACE@example.org'), (8, 'kim@example.org')")
    await rows("insert or replace into users (id, email) values (8, 'Kim@example.org')")
    await rows("update or ignore users set email = 'kim@example.org' where id = 7")
    t.match(await unequal(), [/share an address.*: 7\+8/, '1 have no account: 7'])
  })

  await t.test('what the host’s keys and triggers do to other rows while we write is taken over', async (t) => {
    const { db, rows, accounts, unequal, post, hash } = await open(t, server, {
      script: `create table users (id integer primary key, email text not null unique, password text, role text,
          parent_id integer references users (id) on delete cascade);
        insert into users (email, password, parent_id) values ('ada@example.org', '$HASH', null),
          ('bob@example.org', '$HASH', 1), ('eve@example.org', '$HASH', null)`,
      adopt: { table: 'users', role: 'role' },
    })
    for (const trigger of [
      `demoted after update of role on users when new.role = 'owner' begin
        update users set role = 'member', password = '${hash}x' where id <> new.id; end`,
      `paired after insert on users when new.role = 'pair' begin
        insert into users (email) values ('twin-of-' || new.email); end`,
    ])
      await sql.raw(`create trigger ${trigger}`).execute(db)
    const [bob, eve] = [await accounts.startSession(2), await accounts.startSession(3)]

    await accounts.users.delete(1)
    t.equal((await post('/auth/refresh/', { refresh: bob.refresh })).status, 401)
    t.same(await unequal(), [])
    const id = Number((await accounts.users.create({ email: 'kim@example.org', role: 'pair' })).id)
    await accounts.users.setRole(id, 'owner')
    t.equal((await post('/auth/refresh/', { refresh: eve.refresh })).status, 401)
    t.match(await accounts.users.find({ id: 3 }), { role: 'member' })
    t.equal((await accounts.users.create({ email: 'new@example.org' })).id, id + 2)
    t.match(await rows(`select email from accounts_users where id = ${id + 1}`), [{ email: 'twin-of-kim@example.org' }])
    t.same(await unequal(), [])
  })

  await t.test('a row that replaces another takes its address, and ends its sessions', async (t) => {
    const { rows, accounts, unequal, post, login, hash } = await open(t, server, {
      before: `insert into users (email, password) values ('ada@example.org', '$HASH'), ('bob@example.org', '$HASH')`,
    })
    const sessions = [await accounts.startSession(1), await accounts.startSession(2)]
    await rows(`insert or replace into users (id, email, password) values (7, 'ADA@example.org', '${hash}')`)
    await rows("update or replace users set email = 'bob@example.org' where id = 7")

    for (const { refresh } of sessions) t.equal((await post('/auth/refresh/', { refresh })).status, 401)
    t.same(await unequal(), [])
    t.equal((await login('bob@example.org')).status, 200)
    t.match(await rows('select id from accounts_users'), [{ id: 7 }])
  })

  await t.test('no address is proved by a zero, nobody active by a word, and a default may be a name', async (t) => {
    const { accounts, login, post, rows, unequal } = await open(t, server, {
      script: `create table users (id integer primary key, email text unique, password text,
          role text not null default "member", plan text not null default free, active boolean not null default 't',
          verified_at integer not null default 0, big integer, bio text);
        insert into users (email, password, active, verified_at, big) values
          ('ada@example.org', '$HASH', 't', 1614830000, 123456789012345678),
          ('bob@example.org', '$HASH', 'f', 0, null), ('eve@example.org', '$HASH', 'false', 0, null)`,
      adopt: {
        ...{ table: 'users', role: 'role', active: 'active', verifiedAt: 'verified_at' },
        profile: { plan: 'plan', big: 'big', bio: 'bio' },
      },
      options: {
        registration: {
          username: false,
          verifyEmail: true,
          profile: Type.Object({
            plan: Type.Optional(Type.String()),
            big: Type.Optional(Type.Any()),
            bio: Type.Optional(Type.String()),
          }),
        },
      },
    })
    const { status, body } = await login('ada@example.org')
    t.equal(status, 200)
    for (const email of ['bob@example.org', 'eve@example.org']) t.equal((await login(email)).status, 401)
    t.equal((await post('/api/register/', { email: 'new@example.org', password })).status, 201)
    t.equal((await login('new@example.org')).status, 403)
    const { id } = await accounts.users.create({ email: 'kim@example.org', password })
    t.match(await accounts.users.find({ id }), { emailVerifiedAt: null, role: 'member', profile: { plan: 'free' } })
    t.equal((await login('kim@example.org')).status, 403)
    t.match(await rows(`select verified_at, role from users where id = ${id}`), [{ verified_at: 0, role: 'member' }])
    const { storage } = realmOf(accounts)
    await storage.updateUser({ id: 1, profile: { bio: 'x' } as never })
    t.match(await rows('select cast(big as text) as big, bio from users where id = 1'), [
      { big: '123456789012345678', bio: 'x' },
    ])
    t.same(await unequal(), [])
    t.ok(body.access)
  })

  await t.test('a statement that fails takes along what it did on the other side', async (t) => {
    const { db, rows, unequal, accounts } = await open(t, server, {
      before: `insert into users (email, password) values ('ada@example.org', '$HASH'), ('bob@example.org', '$HASH')`,
    })
    await t.rejects(rows("update users set email = 'x' || id, role = iif(id = 2, 'nobody', null)"), /CHECK/)
    t.same(await rows('select * from accounts_settings'), [])
    await t.rejects(accounts.users.setRole(1, 'nobody'), { code: 'ACCOUNTS_VALIDATION' })
    t.same(await rows('select * from accounts_settings'), [])
    await t.rejects(
      db.transaction().execute(async (trx) => {
        await sql`update users set email = 'x' where id = 1`.execute(trx)
        throw new Error('no')
      }),
      /no/,
    )
    t.same(await unequal(), [])
    t.equal((await accounts.users.find({ email: 'ada@example.org' }))?.id, 1)
  })

  await t.test('another process and users change one user at once: both are equal', async (t) => {
    const path = join(t.testdir(), 'app.db')
    const db = await sqliteFile(path)
    t.teardown(() => db.destroy())
    const { accounts, post, rows, unequal, hash } = await open(
      t,
      { ...server, open: async () => db },
      { before: "insert into users (email, password) values ('ada@example.org', '$HASH')" },
    )
    const many = rounds(300, 60)
    const program = `
      import { DatabaseSync } from 'node:sqlite'
      const file = new DatabaseSync(${JSON.stringify(path)})
      file.exec('pragma busy_timeout = 20000')
      for (let round = 0; round < ${many}; round++) {
        file.exec("update users set password = '${hash}', points = points + 1 where id = 1")
        file.exec("update users set email = 'ada" + round % 7 + "@example.org' where id = 1")
        file.exec('update users set deleted_at = ' + (round % 2 ? 'current_timestamp' : 'null') + ' where id = 1')
      }
      file.exec("insert into users (email) values ('done@example.org')")`
    const host = spawnNode(['--input-type=module', '-e', program], { stdio: ['ignore', 'inherit', 'inherit'] })
    const ended = once(host, 'exit')
    const sessions: string[] = []
    const failures: string[] = []
    while (!(await accounts.users.find({ email: 'done@example.org' }))) {
      for (const change of [
        async () => sessions.push((await accounts.startSession(1)).refresh),
        () => accounts.users.setRole(1, 'staff'),
        () => accounts.users.setPassword(1, `correct horse battery ${sessions.length}`),
        () => accounts.users.enable(1),
      ])
        await change().catch(({ code }) => failures.push(code))
    }
    t.same(await ended, [0, null])
    t.same(await rows('select points from users where id = 1'), [{ points: many }])
    t.ok(sessions.length > 0)
    await rows("update users set deleted_at = null, password = '' where id = 1")
    for (const refresh of sessions) t.equal((await post('/auth/refresh/', { refresh })).status, 401)
    const allowed = ['ACCOUNTS_CONFLICT', 'ACCOUNTS_NOT_FOUND', 'ACCOUNTS_USER_DISABLED', 'ACCOUNTS_UNAVAILABLE']
    t.same(
      [...new Set(failures)].filter((code) => !allowed.includes(code)),
      [],
    )
    t.same(await unequal(), [])
  })

  await t.test('what cannot be adopted is told by name', async (t) => {
    const db = await server.open(t)
    const told = (given: object, message: RegExp) =>
      t.rejects(adoptionSql(db, adoption('adopt', given) as Adoption), { name: 'TypeError', message })
    await runScript(
      db,
      `create table people (id integer, email text, state text, shown text generated always as (email));
      create table keyed (id int primary key, email text, password text) without rowid;
      create view seen as select * from people`,
    )
    await told({ table: 'nowhere' }, /adopt\.table: there is no table "nowhere"/)
    await told({ table: 'main.people' }, /adopt\.table: there is no table "main\.people"/)
    await told({ table: 'seen' }, /adopt\.table: there is no table "seen"/)
    await told({ table: 'people', schema: 'other' }, /adopt\.schema: leave it out; without schemas our tables stand/)
    await told({ table: 'people', password: 'email' }, /adopt\.id: "id" is no key by itself/)
    await told({ table: 'keyed' }, /adopt\.id: "id" has no default/)
    await told({ table: 'keyed', ids: 'uuid' }, /adopt\.id: "id" is int, not of the kind that adopt\.ids says: uuid/)
    await told({ table: 'keyed', ids: 'text', username: 'nick' }, /is int, not of the kind/)
    await runScript(
      db,
      `drop view seen;
      drop table people;
      create table people (id integer primary key, email text, state text, shown text generated always as (email))`,
    )
    const named = { table: 'people', password: 'email' }
    await told({ ...named, username: 'shown' }, /SQLite alone writes the column "shown"/)
    await told({ table: 'people' }, /adopt\.password: "people" has no column "password"/)
    await told({ ...named, active: 'state' }, /adopt\.active: "state" is no number but text/)
  })
})

/** Waits until a statement sleeps. */
async function untilStuck(db: AnyKysely): Promise<void> {
  await until(async () => {
    const { rows } = await sql`select 1 from information_schema.processlist where state = 'User sleep'`.execute(db)
    return rows.length > 0
  })
}
