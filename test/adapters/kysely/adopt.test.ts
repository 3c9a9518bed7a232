import * as bcrypt from '@node-rs/bcrypt'
import { sql } from 'kysely'
import pg from 'pg'
import t, { type Test } from 'tap'
import Type from 'typebox'
import { realmOf } from '../../../lib/accounts.ts'
import { adoptionSql, checkAdoption, removalSql, repairAdoption } from '../../../lib/adapters/kysely/adopt.ts'
import { memoryCache } from '../../../lib/adapters/memory/index.ts'
import type { CredentialChange, User } from '../../../lib/contracts.ts'
import type { AccountsOptions } from '../../../lib/index.ts'
import { type Adoption, adoption } from '../../../lib/options/adoption.ts'
import { forms, judge } from '../../helpers/adoption.ts'
import { bearer, openApp, password } from '../../helpers/app.ts'
import { openFresh, openPostgres } from '../../helpers/databases.ts'
import { noPostgres, rounds, uniqueName, until } from '../../helpers/helper.ts'

t.jobs = 1

/** A table as an app of some years has it. */
const legacy = `
  create type member_role as enum ('member', 'staff');
  create table users (
    id serial primary key,
    email varchar(255) not null,
    password varchar(255) not null default '',
    login varchar(80),
    role member_role,
    deleted_at timestamptz,
    confirmed boolean not null default false,
    created_at timestamp not null default now(),
    company text,
    settings json,
    points integer not null default 0
  );
  create unique index on users (lower(email));
  create table orders (id serial primary key, user_id integer not null references users (id));`
const columns = {
  ...{ table: 'users', noPassword: '' as const, username: 'login', role: 'role', disabledAt: 'deleted_at' },
  ...{ verifiedAt: 'confirmed', createdAt: 'created_at', profile: { company: 'company', settings: 'settings' } },
}
const registration = {
  username: 'optional',
  profile: Type.Object({ company: Type.Optional(Type.String()), settings: Type.Optional(Type.Any()) }),
} as const

interface Shape {
  script?: string
  before?: string
  adopt?: Partial<Adoption> & { table: string }
  options?: Partial<AccountsOptions>
}

/** An app that has adopted a table, and a client of the host's own. */
async function open(t: Test, { script = legacy, before = '', adopt = columns as never, options = {} }: Shape = {}) {
  const { db, url } = await openFresh(t)
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  t.teardown(() => client.end())
  const hash = await bcrypt.hash(password, 4)
  await client.query((script + before).replaceAll('$HASH', hash))
  const adopted = adoption('adopt', adopt) as Adoption
  await client.query(await adoptionSql(db, adopted))
  const name = uniqueName()
  const host = await openApp(t, { name, db, adopt, cache: memoryCache(), registration, ...options })
  const rows = async (query: string, ...values: unknown[]) => (await client.query(query, values)).rows
  return {
    ...host,
    ...{ db, url, client, rows, hash, adopted },
    row: async (id: number) => (await rows('select * from users where id = $1', id))[0],
    findings: () => checkAdoption(db, adopted, judge),
    login: (email: string, typed = password) => host.post('/api/login/', { email, password: typed }),
  }
}

t.test('an adopted table', { skip: noPostgres }, async (t) => {
  await t.test('old users log in under their ids, and whoever was deleted does not', async (t) => {
    const { login, get, findings, rows, accounts } = await open(t, {
      before: `insert into users (email, password, login, role, deleted_at, confirmed, company, created_at) values
        ('Ada@Example.org', '$HASH', 'Ada', 'staff', null, true, 'Engines', '2020-02-03 04:05:06.789'),
        ('gone@example.org', '$HASH', 'gone', 'member', now(), true, null, now()),
        ('guest@example.org', '', null, null, null, false, null, now())`,
    })

    const { status, body } = await login('ADA@example.org')

    t.equal(status, 200)
    const profile = (await get('/auth/user/', body.access)).body
    t.match(profile, { id: 1, username: 'Ada', email: 'Ada@Example.org', company: 'Engines' })
    t.match(await accounts.users.find({ id: 1 }), { role: 'staff', createdAt: Date.UTC(2020, 1, 3, 4, 5, 6, 789) })
    t.equal((await login('gone@example.org')).status, 401)
    t.equal((await login('guest@example.org', '')).status, 401)
    t.same(await findings(), ['passwords: argon2: 1', 'passwords: bcrypt: 1', 'passwords: no password: 1'])
    t.match((await rows('select password from users where id = 1'))[0].password, /^\$argon2id/, 'a better hash')
  })

  await t.test('what users do is in the table of the host at once', async (t) => {
    const { post, patch, remove, row, accounts, login, findings, rows, client } = await openWithRequests(t)
    const registered = await post('/api/register/', {
      username: 'bob',
      email: 'Bob@example.org',
      password,
      company: 'Acme',
    })
    const { id } = registered.body
    t.match(await row(id), { email: 'Bob@example.org', login: 'bob', company: 'Acme', deleted_at: null, points: 0 })
    const { access } = (await login('bob@example.org')).body
    t.equal((await patch('/auth/user/', { company: 'Engines', username: 'bobby' }, access)).status, 200)
    t.match(await row(id), { login: 'bobby', company: 'Engines' })
    const changed = await post(
      '/auth/change_password/',
      { current_password: password, new_password: 'another horse battery' },
      bearer(access),
    )
    t.equal(changed.status, 200)
    const { password: stored } = await row(id)
    t.match(stored, /^\$argon2id/)
    await accounts.users.setRole(id, 'staff')
    await accounts.users.disable(id)
    const disabled = await row(id)
    t.equal(disabled.role, 'staff')
    t.type(disabled.deleted_at, Date)
    await accounts.users.enable(id)
    t.equal((await row(id)).deleted_at, null)
    t.same(
      (await findings()).filter((line) => !line.startsWith('passwords')),
      [],
    )

    await client.query('insert into orders (user_id) values ($1)', [id])
    const again = (await login('bob@example.org', 'another horse battery')).body.access
    t.match(await remove('/auth/user/', { password: 'another horse battery' }, again), { status: 409 })
    await client.query('delete from orders')
    t.equal((await remove('/auth/user/', { password: 'another horse battery' }, again)).status, 204)
    t.same(await rows('select * from users where id = $1', id), [])
  })

  await t.test('a user whom others refer to is kept, also where that is checked at the commit', async (t) => {
    const { accounts, remove, login, rows } = await openWithRequests(t, {
      before: `insert into users (email, password) values ('ada@example.org', '$HASH');
        insert into orders (user_id) values (1);
        alter table orders alter constraint orders_user_id_fkey deferrable initially deferred;`,
    })
    const { access } = (await login('ada@example.org')).body

    t.match(await remove('/auth/user/', { password }, access), { status: 409 })
    await t.rejects(accounts.users.delete(1), { code: 'ACCOUNTS_ACCOUNT_IN_USE' })
    t.equal((await login('ada@example.org')).status, 200)
    await rows('delete from orders')
    t.equal((await remove('/auth/user/', { password }, access)).status, 204)
  })

  await t.test('what the host does to a user is done to the account, and ends its sessions', async (t) => {
    const { client, hash, login, post, accounts, rows } = await open(t, {
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
      await client.query(change)
      t.same(await rows('select id from accounts.accounts_sessions where ended_at is null'), [], change)
      t.equal(await alive(session), 401, change)
      const { status, body } = await login(email, typed)
      t.equal(status, 200, change)
      session = body
    }
    t.equal((await login('ada@example.org')).status, 401)
    await client.query("update users set company = 'Engines', points = 5 where id = 1")
    t.equal(await alive(session), 200, 'what is no credential ends nothing')
    t.equal((await accounts.users.find({ id: 1 }))?.profile.company, 'Engines')
    await client.query('update users set deleted_at = now() where id = 1')
    t.equal(await alive(session), 401)
    t.equal((await login('grace@example.org', 'a third battery')).status, 401)
    await client.query('update users set deleted_at = null where id = 1')
    t.equal((await login('grace@example.org', 'a third battery')).status, 200)

    await client.query(`insert into users (email, password) values ('new@example.org', '${hash}')`)
    t.equal((await login('new@example.org')).status, 200)
    await client.query("delete from users where email = 'new@example.org'")
    t.equal((await login('new@example.org')).status, 401)
    t.equal(await accounts.users.find({ email: 'new@example.org' }), null)
  })

  await t.test('a statement of the host that we cannot follow still works, and is found', async (t) => {
    const loose = legacy.replace('create unique index on users (lower(email));', '')
    const { client, findings, login, rows, hash, db, adopted, accounts } = await open(t, {
      script: loose.replace('password varchar(255)', 'password char(60)'),
      before: `insert into users (email, password, login) values ('ada@example.org', '$HASH', 'ada'),
        ('Ada@Example.org', '$HASH', 'x'), ('', '$HASH', 'y'), ('bob@example.org', 'md5$nonsense', 'ADA'),
        ('ada@b\u00fccher.example', '$HASH', 'z'), ('kim@localhost', '$HASH', 'kim')`,
    })

    await client.query(`insert into users (email, password) values ('ADA@example.org', '${hash}')`)
    await client.query("update users set email = 'ada@EXAMPLE.org', company = 'Engines' where id = 4")

    t.equal((await rows('select * from users')).length, 7)
    t.equal((await login('ada@example.org')).status, 200)
    t.equal((await login('Kim@LOCALHOST')).status, 200, 'an address that registration would refuse')
    t.equal((await login('ada@b\u00fccher.example')).status, 401)
    const found = (await findings()).join('\n')
    t.match(found, 'column "password" is character(60): what we write may need 128')
    t.match(found, 'there is no unique index on lower(email)')
    t.match(found, /2 share an address|1 share an address/)
    t.match(found, '1 have no address, and no account: 3')
    t.match(found, '1 share a username but for its case; all but the first lose it: 1+4')
    t.match(found, /1 have a hash that cannot be verified: 4/)
    t.match(found, /1 have an address that is not ASCII.*: 5/)
    t.match(found, /3 have no account: 2, 3, 7/)
    t.match(found, '1 have a row and an account that differ: 4')
    await repairAdoption(db, adopted, forms)
    t.match(await accounts.users.find({ id: 4 }), { email: 'bob@example.org' }, 'an address of its own is kept')
    t.equal((await login('ada@b\u00fccher.example')).status, 200)
  })

  await t.test('where the host searches an address in lower case, new ones are written so', async (t) => {
    const { client, post, patch, login, row, rows, accounts, findings, mailer } = await openWithRequests(t, {
      script: legacy.replace('create unique index on users (lower(email));', 'create unique index on users (email);'),
      before: `insert into users (email, password) values
        ('Ada@Example.org', '$HASH'), ('Two@example.org', '$HASH'), ('two@example.org', '$HASH')`,
      adopt: { ...columns, emailMatch: 'exact' },
    })
    t.match(await findings(), [
      '2 have an address with a capital letter, not as emailMatch says: 1, 2',
      '1 share an address; the first of each gets the account: 3+2',
      /^passwords/,
      '1 have no account: 2',
    ])
    t.equal((await login('ada@example.ORG')).status, 200)

    const email = 'Bob@B\u00fccher.example'
    const { status, body } = await post('/api/register/', { username: 'bob', email, password })

    t.equal(status, 201)
    t.match(await rows("select id from users where email = 'bob@b\u00fccher.example'"), [{ id: body.id }])
    t.equal((await accounts.users.find({ id: body.id }))?.email, 'bob@b\u00fccher.example')
    const { access } = (await login(email)).body
    t.equal((await patch('/auth/user/', { company: 'Acme' }, access)).status, 200)
    const asked = await post('/auth/change_email/', { email: 'Bob@\u00dcBER.example', password }, bearer(access))
    const confirmed = () =>
      post('/auth/confirm_email/', { token: asked.body.token, otp: mailer.sent.at(-1)!.code }, bearer(access))
    await rows("insert into users (email, password) values ('bob@\u00fcber.example', '')")
    await client.query(`begin; set local fastify_accounts.taking = '1';
      delete from accounts.accounts_users where email = 'bob@\u00fcber.example'; commit`)
    t.match(await confirmed(), { status: 409 }, 'a row without an account has it')
    await rows("delete from users where password = ''")
    t.match(await confirmed(), { status: 200 })
    t.equal((await row(body.id)).email, 'bob@\u00fcber.example')
    t.equal((await login('BOB@\u00fcber.example')).status, 200)
    await accounts.users.import([{ email: 'Eve@Example.org', passwordHash: null }])
    t.match(await rows("select id from users where email = 'eve@example.org'"), [{}])
    t.notMatch((await findings()).join(), /differ|ASCII/)
    await client.query('drop index users_email_idx')
    t.match((await findings())[0], 'there is no unique index on email: one address may get two rows')
  })

  await t.test('a name that a row without an account has is left out of a change', async (t) => {
    const { post, login, row, mailer } = await open(t, {
      script: `${legacy} create unique index on users (login);`,
      before: `insert into users (email, password, login) values
        ('ada@example.org', '$HASH', 'ada@example.org'), ('', '', 'ada@new.example')`,
    })
    const { access } = (await login('ada@example.org')).body
    const { token } = (await post('/auth/change_email/', { email: 'ada@new.example', password }, bearer(access))).body

    const answer = await post('/auth/confirm_email/', { token, otp: mailer.sent.at(-1)!.code }, bearer(access))

    t.equal(answer.status, 200)
    t.match(await row(1), { email: 'ada@new.example', login: 'ada@example.org' })
  })

  await t.test('of those who share an address or a username, who may log in is named first', async (t) => {
    const { findings, login, get } = await open(t, {
      script: legacy.replace('create unique index on users (lower(email));', ''),
      before: `insert into users (email, password, login, deleted_at) values
        ('ada@example.org', '$HASH', 'ada', now()), ('Ada@example.org', '$HASH', 'Ada', null)`,
    })

    const found = await findings()

    t.ok(found.includes('1 share an address; the first of each gets the account: 2+1'))
    t.ok(found.includes('1 share a username but for its case; all but the first lose it: 2+1'))
    t.match((await get('/auth/user/', (await login('ada@example.org')).body.access)).body, { id: 2, username: 'Ada' })
  })

  await t.test('what no trigger saw is found, and repaired', async (t) => {
    const { client, findings, login, post, db, adopted } = await open(t, {
      before: `insert into users (email, password) values ('ada@example.org', '$HASH'), ('bob@example.org', '$HASH'),
        ('eve@example.org', '$HASH')`,
    })
    const session = (await login('ada@example.org')).body
    await client.query("set session_replication_role = 'replica'")
    await client.query("update users set email = 'grace@example.org' where id = 1; delete from users where id = 2")
    await client.query("insert into users (email, password) values ('new@example.org', 'x')")
    await client.query("set session_replication_role = 'origin'")

    const lines = (await findings()).filter((line) => / have /.test(line))
    t.match(lines, [
      /cannot be verified: 4/,
      '1 have no account: 4',
      '1 have an account but no row: 2',
      '1 have a row and an account that differ: 1',
    ])
    await repairAdoption(db, adopted, forms)

    t.same(
      (await findings()).filter((line) => / account/.test(line)),
      [],
    )
    t.equal((await post('/auth/refresh/', { refresh: session.refresh })).status, 401)
    t.equal((await login('grace@example.org')).status, 200)
    t.equal((await login('bob@example.org')).status, 401)
  })

  await t.test('the way back leaves the host with its table, up to date', async (t) => {
    const { client, db, adopted, post, rows } = await open(t)
    const { body } = await post('/api/register/', { username: 'bob', email: 'bob@example.org', password })

    await client.query(await removalSql(db, adopted))

    t.match(await rows('select id, email, login from users'), [{ id: body.id, email: 'bob@example.org', login: 'bob' }])
    await client.query(
      "insert into users (email) values ('next@example.org'); update users set points = 1; delete from users",
    )
    t.same(await rows("select relname from pg_class where relnamespace = 'accounts'::regnamespace"), [])
    t.same(await rows("select proname from pg_proc where proname like 'accounts%'"), [])
  })

  await t.test(
    'a change of ours waits for the host before it locks anything, so that neither waits for ever',
    async (t) => {
      const { client, rows, url, accounts } = await open(t, {
        before: `insert into users (email, password)
          select 'user' || n || '@example.org', '$HASH' from generate_series(1, 9) n`,
      })
      const { storage } = realmOf(accounts)
      const hashOf = async (id: number) => (await storage.findUserWithPassword(id))?.passwordHash as string
      const changes: ((id: number) => Promise<unknown>)[] = [
        (id) => accounts.users.setPassword(id, 'another horse battery'),
        (id) => accounts.users.setRole(id, 'staff'),
        (id) => accounts.users.disable(id),
        (id) => storage.updateUser({ id, profile: { company: 'Engines' } as never }),
        async (id) => storage.replacePasswordHash(id, await hashOf(id), 'better'),
        (id) => accounts.users.delete(id),
        // These meet a row that the host has only referred to.
        (id) => accounts.users.delete(id).catch(({ code }) => code),
        async (id) => storage.changeCredentials(movedTo(await storage.findUserById(id), `new${id}@example.org`)),
      ]
      const referring = changes.length - 2
      const watch = new pg.Client({ connectionString: url })
      await watch.connect()
      t.teardown(() => watch.end())
      for (const [index, change] of changes.entries()) {
        const id = index + 1
        await client.query('begin')
        // No column of ours.
        const first =
          index < referring ? 'update users set points = 1 where id = $1' : 'insert into orders (user_id) values ($1)'
        await client.query(first, [id])
        const ours = change(id)
        await until(async () => {
          const { rows: waiting } = await watch.query(
            "select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
          )
          return waiting.length === 1
        })
        await client.query('update users set login = $2, points = 1 where id = $1', [id, `name${id}`])
        await client.query('commit')
        await ours
      }
      t.match(await rows('select email, login from users where id >= 7 order by id'), [
        { email: 'user7@example.org', login: 'name7' },
        { email: 'new8@example.org', login: 'name8' },
        {},
      ])
      const changed = await rows('select * from users where points = 1 order by id')
      t.equal(changed.length, changes.length - 1)
      t.match(changed[0], { login: 'name1', password: /argon2/ })
      t.match(changed[4], { login: 'name5', password: 'better' })
    },
  )

  await t.test(
    'host and users change one user at once: nobody waits for ever, and both tables are equal',
    async (t) => {
      const { client, url, rows, findings, accounts, login, post, hash } = await open(t, {
        before: "insert into users (email, password) values ('ada@example.org', '$HASH')",
      })
      const other = new pg.Pool({ connectionString: url, max: 6 })
      other.on('error', () => {})
      t.teardown(() => other.end())
      const outcomes: Record<string, number> = {}
      const note = (what: string) => {
        outcomes[what] = (outcomes[what] ?? 0) + 1
      }
      for (let round = 0; round < rounds(300, 60); round++) {
        const session = await accounts.startSession(1)
        const statements = [
          `update users set password = '${hash}', points = points + 1 where id = 1`,
          `update users set email = 'ada${round % 7}@example.org' where id = 1`,
          "update users set company = 'Engines', deleted_at = null where id = 1",
          `update users set deleted_at = case when ${round % 2} = 1 then now() end where id = 1`,
        ]
        await Promise.all([
          ...statements.slice(round % 2).map((text) => other.query(text).catch(({ code }) => note(code))),
          accounts.users.setPassword(1, `correct horse battery ${round}`).catch(({ code }) => note(code)),
          accounts.users.setRole(1, 'staff').catch(({ code }) => note(code)),
          login(`ada${(round + 6) % 7}@example.org`),
          (round % 2 ? accounts.users.enable(1) : accounts.users.disable(1)).catch(({ code }) => note(code)),
        ])
        // All of them changed a credential.
        t.equal((await post('/auth/refresh/', { refresh: session.refresh })).status, 401)
        await client.query('update users set deleted_at = null where id = 1')
      }
      t.same(outcomes['40P01'], undefined, 'no deadlock reached the host')
      t.same(
        (await findings()).filter((line) => / account/.test(line)),
        [],
      )
      const alive =
        await rows(`select s.id from accounts.accounts_sessions s join accounts.accounts_users u on u.id = s.user_id
      where s.ended_at is null and s.credential_version <> u.credential_version`)
      t.same(alive, [], 'no session of an older credential is left open')
    },
  )

  for (const [kind, type] of [
    ['uuid', 'uuid primary key default gen_random_uuid()'],
    ['text', 'text primary key'],
    ['integer', 'integer generated always as identity primary key'],
  ] as const) {
    await t.test(`ids are as they are: ${type}`, async (t) => {
      const { post, login, rows, get } = await open(t, {
        script: `create schema shop;
          create table shop."Members" ("memberId" ${type}, mail text not null unique, hash text)`,
        adopt: { table: 'shop.Members', ids: kind, id: 'memberId', email: 'mail', password: 'hash' },
      })
      const { status, body } = await post('/api/register/', { username: 'bob', email: 'bob@example.org', password })
      t.equal(status, 201)
      t.match(await rows('select "memberId" as id, mail from shop."Members"'), [
        { id: body.id, mail: 'bob@example.org' },
      ])
      const { access } = (await login('bob@example.org')).body
      t.equal((await get('/auth/user/', access)).body.id, body.id)
      await rows(`update shop."Members" set mail = 'Bobby@example.org'`)
      t.equal((await login('bobby@example.org')).status, 200)
    })
  }

  await t.test(
    'columns of other kinds: a number for active, a time for verified, Django’s mark for no password',
    async (t) => {
      const { login, rows, accounts, post } = await open(t, {
        script: `create table members (id bigserial primary key, email text not null, password text not null,
        is_active smallint not null default 1, verified_at timestamptz, joined date not null default current_date,
        staff boolean not null, note varchar(20) not null);
        insert into members (email, password, is_active, verified_at, staff, note) values
        ('ada@example.org', '!x', 1, null, true, 'old'),
        ('bob@example.org', '$HASH', 0, now(), true, 'old')`.replaceAll('$HASH', await bcrypt.hash(password, 4)),
        adopt: {
          table: 'members',
          noPassword: '!',
          active: 'is_active',
          verifiedAt: 'verified_at',
          createdAt: 'joined',
          defaults: { staff: false, note: "a 'new' one" },
        },
        options: { registration: { username: false } },
      })
      t.equal((await login('bob@example.org')).status, 401)
      await accounts.users.enable(2)
      t.equal((await login('bob@example.org')).status, 200)
      t.equal((await rows('select is_active from members where id = 2'))[0].is_active, 1)
      t.match(await accounts.users.find({ id: 2 }), { emailVerifiedAt: Number })
      const { body } = await post('/api/register/', { email: 'new@example.org', password })
      t.match((await rows('select * from members where id = $1', body.id))[0], {
        is_active: 1,
        verified_at: null,
        joined: Date,
      })
      t.match((await rows('select staff, note from members where id = $1', body.id))[0], {
        staff: false,
        note: "a 'new' one",
      })
      await accounts.users.create({ email: 'none@example.org', verified: true })
      t.match(await rows("select password, verified_at from members where email like 'none%'"), [
        { password: '!', verified_at: Date },
      ])
    },
  )

  await t.test('columns that we cannot fill come from a function, in the same transaction', async (t) => {
    const seen: unknown[] = []
    const { post, rows, findings, accounts } = await open(t, {
      script: `${legacy}
        create table tenants (id serial primary key, host text not null);
        alter table users add tenant_id integer not null references tenants (id), add origin jsonb not null;`,
      adopt: {
        ...columns,
        async insert(trx, user, { request }) {
          seen.push(user)
          const host = request?.headers['x-tenant'] ?? 'none'
          const { id } = await trx
            .insertInto('public.tenants')
            .values({ host })
            .returning('id')
            .executeTakeFirstOrThrow()
          return { tenant_id: id, origin: JSON.stringify({ host }) }
        },
      },
    })
    const body = { email: 'Ada@example.org', password, company: 'Engines' }

    const registered = await post('/api/register/', body, { 'x-tenant': 'acme' })
    const taken = await post('/api/register/', { ...body, email: 'ada@Example.org' }, { 'x-tenant': 'other' })
    const created = await accounts.users.create({ email: 'bob@example.org' })

    t.match([registered.status, taken.status], [201, 409])
    t.strictSame(seen[0], { username: null, email: 'Ada@example.org', role: null, profile: { company: 'Engines' } })
    t.strictSame(await rows('select u.id, host, origin from users u join tenants t on t.id = tenant_id order by 1'), [
      { id: registered.body.id, host: 'acme', origin: { host: 'acme' } },
      { id: created.id, host: 'none', origin: { host: 'none' } },
    ])
    t.equal((await rows('select * from tenants')).length, 2, 'a refusal takes back what it did')
    t.match(await findings(), ['column "tenant_id" has no default: it is what "insert" answers', /"origin"/])
  })

  await t.test('the address of who was deleted softly is free where the table of the host has it so', async (t) => {
    const before = `insert into users (email, password, deleted_at) values ('Ada@example.org', '$HASH', now());`
    const several = legacy.replace('(lower(email));', '(lower(email)) where deleted_at is null;')
    const free = await open(t, { script: several, before })
    const kept = await open(t, { before })
    const register = ({ post }: typeof free) => post('/api/register/', { email: 'ada@example.org', password })

    const { status, body } = await register(free)
    t.equal(status, 201)
    t.match(await register(free), { status: 409 })
    t.match(await free.login('Ada@example.org'), { status: 200 })
    t.match(await free.rows('select id, deleted_at is null as active from users order by id'), [
      { id: 1, active: false },
      { id: body.id, active: true },
    ])
    t.match(await register(kept), { status: 409, body: { code: 'ACCOUNTS_EMAIL_TAKEN' } })
    t.match(await kept.rows('select a.id from users u join accounts.accounts_users a on a.id = u.id'), [{ id: '1' }])
  })

  await t.test('what does not fit is refused, never cut', async (t) => {
    const { login, rows, post } = await open(t, {
      script: `create table users (id serial primary key, email varchar(30) not null unique, password varchar(60));
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

  await t.test('what the host’s own triggers and defaults do is kept, on both sides', async (t) => {
    const { accounts, post, rows, client, findings, row } = await open(t, {
      script: `
        create table audit (what text);
        create function audited() returns trigger language plpgsql as $$
          begin insert into audit values (tg_op); return null; end $$;
        create function normalised() returns trigger language plpgsql as $$
          begin
            new.email := lower(new.email);
            if new.role = 'root' then new.role := old.role; end if;
            return new;
          end $$;
        create function late() returns trigger language plpgsql as $$
          begin
            update users set company = upper(company) where id = new.id and company <> upper(company);
            return null;
          end $$;
        create table users (id serial primary key, email text not null, password text,
          role text not null default 'member',
          company text not null default '', f boolean, settings jsonb);
        create trigger a_audit after insert or update on users for each row execute function audited();
        create trigger a_late after insert or update on users for each row execute function late();
        create trigger b_norm before insert or update on users for each row execute function normalised();`,
      adopt: { table: 'users', role: 'role', profile: { company: 'company', f: 'f', settings: 'settings' } },
      options: {
        registration: {
          username: false,
          profile: Type.Object({
            company: Type.Optional(Type.String()),
            f: Type.Optional(Type.Boolean()),
            settings: Type.Optional(Type.Any()),
          }),
        },
      },
    })
    const settings = { a: null, b: [1] }
    const { status, body } = await post('/api/register/', { email: 'Bob@Example.org', password, f: true, settings })
    t.equal(status, 201)
    t.match(await row(body.id), { email: 'bob@example.org', role: 'member', company: '', f: true, settings })
    t.match(await accounts.users.find({ id: body.id }), {
      email: 'bob@example.org',
      role: 'member',
      profile: { settings },
    })
    await accounts.users.setRole(body.id, 'root')
    t.equal((await accounts.users.find({ id: body.id }))?.role, 'member', 'the host has refused it')
    await client.query("insert into users (email, company) values ('Ada@example.org', 'acme')")
    t.match(await accounts.users.find({ email: 'ada@example.org' }), {
      email: 'ada@example.org',
      profile: { company: 'ACME' },
    })
    t.ok((await rows('select * from audit')).length >= 3)
    t.same(
      (await findings()).filter((line) => / account/.test(line)),
      [],
    )
  })

  await t.test('rows without an address, times without end, and deleted rows hold nobody up', async (t) => {
    const { client, login, findings, rows, hash } = await open(t, {
      script: `create table users (id serial primary key, email text, password text, created timestamptz,
          deleted_at timestamptz);
        create unique index on users (lower(email)) where deleted_at is null;
        insert into users (email, password, created, deleted_at) values ('ada@example.org', '$HASH', 'infinity', now()),
          ('ada@example.org', '$HASH', null, null), (null, '$HASH', now(), null), ('', '$HASH', now(), null)`,
      adopt: { table: 'users', createdAt: 'created', disabledAt: 'deleted_at' },
    })
    t.equal((await login('ada@example.org')).status, 200, 'the live one of two')
    await client.query('insert into users (email, password) values (null, $1)', [hash])
    await client.query("update users set email = 'eve@example.org' where id = 3")
    t.equal((await login('eve@example.org')).status, 200)
    await client.query('update users set deleted_at = now() where id = 3')
    await client.query("insert into users (email, password) values ('eve@example.org', $1)", [hash])
    t.equal((await login('eve@example.org')).status, 200, 'the live one of two')
    await client.query('update users set email = null where id = 2')
    t.equal((await login('ada@example.org')).status, 401)
    t.match((await findings()).join(), /have no account: 1, 2, 3, 4, 5/)
    t.equal((await rows('select * from users')).length, 6)
  })

  await t.test('keys change, addresses change places, and ids are imported', async (t) => {
    const { client, accounts, db, adopted, findings, rows } = await open(t, {
      script: legacy.replace('references users (id)', 'references users (id) on update cascade'),
      before: `insert into users (email, password, login) values ('ada@example.org', '$HASH', 'ada'),
        ('bob@example.org', '$HASH', 'bob')`,
    })
    await accounts.users.setRole(1, 'staff')
    await client.query('update users set id = 77 where id = 1')
    t.match(await accounts.users.find({ id: 77 }), { email: 'ada@example.org', username: 'ada', role: 'staff' })
    t.equal(await accounts.users.find({ id: 1 }), null)
    await client.query("set session_replication_role = 'replica'")
    await client.query("update users set email = 'x', login = 'x' where id = 2")
    await client.query("update users set email = 'bob@example.org', login = 'bob' where id = 77")
    await client.query("update users set email = 'ada@example.org', login = 'ada' where id = 2")
    await client.query("set session_replication_role = 'origin'")
    await repairAdoption(db, adopted, forms)
    t.same(
      (await findings()).filter((line) => / account/.test(line)),
      [],
    )
    t.match(await accounts.users.find({ email: 'bob@example.org' }), { id: 77, username: 'bob' })
    t.match(await rows('select email, login from users order by id'), [{ login: 'ada' }, { login: 'bob' }])

    t.match(await accounts.users.import([{ id: 4711, email: 'old@example.org' }]), [{ id: 4711 }])
    t.equal((await accounts.users.create({ email: 'next@example.org' })).id, 4712)
    t.equal((await rows('select * from users where id in (4711, 4712)')).length, 2)
  })

  await t.test('a repair keeps a username that the host has no column for', async (t) => {
    const { client, accounts, db, adopted } = await open(t, { adopt: { table: 'users' } })
    const { id } = await accounts.users.create({ email: 'ada@example.org', username: 'ada' })
    await client.query("set session_replication_role = 'replica'")
    await client.query("update users set email = 'grace@example.org'")
    await repairAdoption(db, adopted, forms)
    t.match(await accounts.users.find({ email: 'grace@example.org' }), { id, username: 'ada' })
  })

  await t.test('whoever may not write our tables cannot do it through our functions', async (t) => {
    const { client, url, rows } = await open(t, { before: "insert into users (email) values ('ada@example.org')" })
    await client.query(`create role report login; grant usage on schema accounts to report;
      grant select, update on users to report`)
    t.teardown(() => client.query('drop owned by report; drop role report').catch(() => {}))
    const report = new pg.Client({ connectionString: url.replace('postgres@', 'report@'), user: 'report' })
    await report.connect()
    await t.rejects(report.query('select accounts.accounts_take_over(u) from users u'), { code: '42501' })
    await report.query("update users set email = 'eve@example.org' where id = 1")
    await report.end()
    t.match(await rows('select email from accounts.accounts_users'), [{ email: 'eve@example.org' }])
  })

  await t.test('the statements may run again', async (t) => {
    const { client, db, adopted, findings, login, rows } = await open(t, {
      before: `insert into users (email, password, deleted_at) values ('ada@example.org', '$HASH', null),
        ('gone@example.org', '$HASH', now())`,
    })
    await client.query('alter table users disable trigger all')
    await client.query("insert into users (email, password) values ('new@example.org', 'x')")
    await client.query('drop trigger fastify_accounts_insert on users')
    t.match((await findings()).join(), /the triggers .*fastify_accounts_insert.* are missing or off/)
    const again = await adoptionSql(db, adopted)
    t.notMatch(again, 'create table')
    await client.query(again)
    t.same(
      (await findings()).filter((line) => / account|trigger/.test(line)),
      [],
    )
    t.equal((await login('ada@example.org')).status, 200)
    t.equal((await rows('select * from users')).length, 3)
    await t.rejects(adoptionSql(db, { ...adopted, schema: 'staff' }), {
      message: /adopt\.schema: the tables in "accounts" have adopted public\.users already/,
    })
  })

  for (const type of ['text', 'status', 'varchar(10)']) {
    await t.test(`a column of words tells who may log in: ${type}`, async (t) => {
      const { login, rows, accounts, findings } = await open(t, {
        script: `create type status as enum ('active', 'pending', 'blocked');
          create table users (id serial primary key, email text not null unique, password text, state ${type});
          insert into users (email, password, state) values ('ada@example.org', '$HASH', 'active'),
            ('bob@example.org', '$HASH', 'pending'), ('eve@example.org', '$HASH', null);`,
        adopt: { table: 'users', active: { column: 'state', enabled: 'active', disabled: 'blocked' } },
      })
      const answers = ['ada', 'bob', 'eve'].map(async (name) => (await login(`${name}@example.org`)).status)

      t.strictSame(await Promise.all(answers), [200, 401, 401])
      await accounts.users.disable(1)
      await accounts.users.setPassword(2, 'another horse battery')
      await accounts.users.enable(3)
      await accounts.users.create({ email: 'new@example.org' })
      const states = (await rows('select state from users order by id')).map(({ state }) => state)
      t.strictSame(states, ['blocked', 'pending', 'active', 'active'], 'a third word stays')
      t.same(
        (await findings()).filter((line) => / account/.test(line)),
        [],
      )
    })
  }

  await t.test('policies that hide rows are no reason to take accounts away', async (t) => {
    const { client, db, adopted, url, rows, accounts } = await open(t, {
      before: "insert into users (email, password) values ('ada@example.org', '$HASH')",
    })
    const role = `owner_${uniqueName()}`
    await client.query(`create role ${role} login;
      grant all on database ${new URL(url).pathname.slice(1)} to ${role};
      grant all on schema public, accounts to ${role};
      alter table users owner to ${role}; grant all on all tables in schema accounts to ${role};
      alter table users enable row level security, force row level security;
      create policy none on users using (false)`)
    const theirs = new URL(url)
    theirs.username = role
    const bound = openPostgres(theirs.href)

    const refused = { name: 'TypeError', message: /adopt\.table: policies of public\.users hide rows from the role/ }
    await t.rejects(repairAdoption(bound.db, adopted, forms), refused)
    await t.rejects(checkAdoption(bound.db, adopted, judge), refused)
    const script = await adoptionSql(db, adopted)
    await t.rejects(sql.raw(script.slice(script.indexOf('do $accounts$'))).execute(bound.db), {
      message: `fastify-accounts: policies of public.users hide rows from ${role}`,
    })
    t.equal((await rows('select * from accounts.accounts_users')).length, 1)
    await repairAdoption(db, adopted, forms)
    t.ok(await accounts.users.find({ id: 1 }), 'whom no policy binds sees all')
    await bound.close()
    await client.query(`reassign owned by ${role} to current_user; drop owned by ${role}; drop role ${role}`)
  })

  await t.test('a later version prints the migrations that the tables lack', async (t) => {
    const { client, db, adopted } = await open(t)
    await client.query("delete from accounts.accounts_migrations where name like '%0002%'")
    const again = await adoptionSql(db, adopted)
    t.notMatch(again, 'create table "accounts"."accounts_users"')
    t.match(again, /accounts_0002[\s\S]*create table "accounts"."accounts_outbox"/)
    await client.query('delete from accounts.accounts_migrations')
    await t.rejects(adoptionSql(db, adopted), {
      message: /"accounts"\.accounts_users is there, but was not finished: run/,
    })
  })

  await t.test('what cannot be adopted is told by name', async (t) => {
    const { db, url } = await openFresh(t)
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    t.teardown(() => client.end())
    const told = (given: object, message: RegExp) =>
      t.rejects(adoptionSql(db, adoption('adopt', given) as Adoption), { name: 'TypeError', message })
    await told({ table: 'nowhere' }, /adopt\.table: there is no table "nowhere"/)
    await client.query('create table people (id integer, email text, birth tsrange, tags text[])')
    await told({ table: 'people', password: 'email' }, /adopt\.id: "id" is no key by itself/)
    await client.query('alter table people add primary key (id)')
    await told({ table: 'people', password: 'email' }, /adopt\.id: "id" has no default/)
    await client.query('alter table people alter id add generated by default as identity')
    await told(
      { table: 'people', ids: 'uuid' },
      /adopt\.id: "id" is integer, not of the kind that adopt\.ids says: uuid/,
    )
    await told({ table: 'people', schema: 'public' }, /adopt\.schema: "public" is the schema of your table/)
    await told(
      { table: 'people', password: 'email', profile: { tags: 'tags' } },
      /adopt\.profile\.tags: "tags" is a list/,
    )
    await client.query('alter table people add shown text generated always as (email) stored')
    await told({ table: 'people', password: 'email', username: 'shown' }, /PostgreSQL alone writes the column "shown"/)
    await told({ table: 'people' }, /adopt\.password: "?public"?\."?people"? has no column "password"/)
    await told(
      { table: 'people', password: 'email', createdAt: 'id' },
      /adopt\.createdAt: "id" is no timestamp but integer/,
    )
  })
})

/** A change of a user's address. */
function movedTo(user: User | null, email: string): CredentialChange {
  const { id: userId, credentialVersion: fence } = user!
  const set = { email, emailCanonical: email, emailVerifiedAt: 1 }
  return { userId, fence, credentialVersion: fence + 1, now: 1, set, sessions: 'end', start: null, mails: [] }
}

/** `open` with the requests that `clientOf` has no verb for. */
async function openWithRequests(t: Test, shape: Shape = {}) {
  const opened = await open(t, shape)
  const send = (method: 'PATCH' | 'DELETE') => async (url: string, payload: object, access: string) => {
    const { statusCode } = await opened.app.inject({ method, url, payload, headers: bearer(access) })
    return { status: statusCode }
  }
  return { ...opened, patch: send('PATCH'), remove: send('DELETE') }
}
