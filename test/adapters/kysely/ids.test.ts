import pg from 'pg'
import t from 'tap'
import { realmOf } from '../../../lib/accounts.ts'
import { adoptionSql } from '../../../lib/adapters/kysely/adopt.ts'
import { memoryCache } from '../../../lib/adapters/memory/index.ts'
import type { Session, User } from '../../../lib/contracts.ts'
import { type Adoption, adoption } from '../../../lib/options/adoption.ts'
import { sampleSession } from '../../../lib/testing/samples.ts'
import { bearer, openApp, password } from '../../helpers/app.ts'
import { openFresh } from '../../helpers/databases.ts'
import { noPostgres, uniqueName } from '../../helpers/helper.ts'

// Ids of 32 bits, from a sequence that does not know of it.
const table = `
  create sequence user_numbers;
  create table users (id integer primary key default nextval('user_numbers'), email text not null, password text);`
const tooLarge = [2 ** 31, 2 ** 40, Number.MAX_SAFE_INTEGER]

t.test('an id past the column of an adopted table is nobody’s', { skip: noPostgres }, async (t) => {
  const { db, url } = await openFresh(t)
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  t.teardown(() => client.end())
  await client.query(table)
  const adopt = { table: 'users', noPassword: '' } as const
  await client.query(await adoptionSql(db, adoption('adopt', adopt) as Adoption))
  const parts = { db, adopt, cache: memoryCache(), revocation: 'none', eventLog: true } as const
  const { send, post, accounts } = await openApp(t, { name: uniqueName(), ...parts })
  const { users } = accounts
  const unknown = { code: 'ACCOUNTS_NOT_FOUND' }

  for (const id of tooLarge) {
    await t.test(`${id} in code of the host`, async (t) => {
      t.equal(await users.find({ id }), null)
      t.same(await users.list({ after: id }), [])
      t.same(await users.history(id), [])
      for (const act of ['disable', 'enable', 'delete'] as const) await t.rejects(users[act](id), unknown, act)
      await t.rejects(users.setRole(id, null), unknown)
      await t.rejects(users.setPassword(id, password), unknown)
      await t.rejects(accounts.startSession(id), unknown)
      t.equal(await users.verifyPassword(id, password), false)
    })

    await t.test(`${id} in an import, after which users still register`, async (t) => {
      const email = `${uniqueName()}@example.org`

      t.match(await users.import([{ email, id }, { email: `other-${email}` }]), [
        { refused: 'invalid' },
        { id: Number },
      ])

      t.equal((await post('/api/register/', { username: uniqueName(), email, password })).status, 201)
    })

    await t.test(`${id} in a token that is signed`, async (t) => {
      const now = Date.now()
      const times = { createdAt: now, authTime: now, lastUsedAt: now, expiresAt: now + 60_000 }
      const session: Session = sampleSession({ id, credentialVersion: 1 }, times)
      const headers = bearer(await realmOf(accounts).tokens.signAccess(session, {} as User))
      const requests = [
        { method: 'GET', url: '/auth/user/' },
        { method: 'PATCH', url: '/auth/user/', payload: { username: 'ada' } },
        { method: 'DELETE', url: '/auth/user/', payload: { current_password: password } },
        {
          method: 'POST',
          url: '/auth/change_password/',
          payload: { current_password: password, new_password: 'x'.repeat(20) },
        },
        {
          method: 'POST',
          url: '/auth/change_email/',
          payload: { current_password: password, new_email: 'a@example.org' },
        },
        { method: 'GET', url: '/auth/sessions/' },
        { method: 'DELETE', url: `/auth/sessions/${session.id}/` },
        { method: 'POST', url: '/auth/logout_all/' },
        { method: 'POST', url: '/auth/logout/', payload: {} },
      ] as const
      for (const request of requests) {
        const { status, body } = await send({ ...request, headers })
        t.ok(status < 500, `${request.method} ${request.url}: ${status} ${JSON.stringify(body)}`)
      }
    })
  }
})
