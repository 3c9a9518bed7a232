import Fastify from 'fastify'
import t from 'tap'
import Type from 'typebox'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage } from '../../lib/contracts.ts'
import { sweepOutbox } from '../../lib/core/outbox.ts'
import accounts from '../../lib/index.ts'
import { testOptions } from '../../lib/testing/index.ts'
import {
  accountActs,
  alive,
  backends,
  counted,
  dead,
  fateOf,
  newPassword,
  passwords,
  told,
} from '../helpers/account-acts.ts'
import { clientOf, memoryApp, realApp, secret } from '../helpers/app.ts'
import { noPostgres, redisUrl, uniqueName, until } from '../helpers/helper.ts'

const profile = Type.Object({
  company: Type.Optional(Type.Object({ name: Type.String({ maxLength: 80 }), city: Type.Optional(Type.String()) })),
  tags: Type.Optional(Type.Array(Type.Object({ text: Type.String() }))),
  ...Object.fromEntries(Array.from({ length: 8 }, (_, n) => [`field${n}`, Type.Optional(Type.Integer())])),
})
const registration = { profile, username: 'optional' as const }

/** What the storage, the tokens and the contract call things that no request may set. */
const internalNames = [
  ...['id', 'userId', 'user_id', 'sub', 'email', 'emailCanonical', 'email_canonical', 'new_email', 'password'],
  ...['passwordHash', 'password_hash', 'hash', 'new_password', 'usernameCanonical', 'username_canonical'],
  ...['emailVerifiedAt', 'email_verified_at', 'emailVerified', 'email_verified', 'verified', 'is_verified'],
  ...['credentialVersion', 'credential_version', 'cred_version', 'active', 'is_active', 'disabled', 'role', 'roles'],
  ...['permissions', 'is_admin', 'isAdmin', 'is_staff', 'is_superuser', 'profile', 'createdAt', 'created_at'],
  ...['expiresAt', 'expires_at', 'sessionId', 'session_id', 'authTime', 'auth_time', 'claims', 'fence', 'set'],
  ...['constructor', 'prototype', 'toString', 'profile.company', 'profile[company]'],
]
const values = [1, 0, -1, true, false, null, 'admin', '2999-01-01', ['admin'], { company: { name: 'B' } }]

for (const { on, open, skip } of backends) {
  t.test(`reading and changing one's account, on ${on}`, { skip }, async (t) => {
    const host = await open(t, { passwords, registration })
    const { member, rowOf, userOf, accounts } = accountActs(host)

    await t.test('PATCH changes what is given, PUT too, and both answer the account', async (t) => {
      for (const method of ['patch', 'put'] as const) {
        const user = await member({ profile: { field0: 1, company: { name: 'A', city: 'X' } } })
        const username = uniqueName().toUpperCase()

        const answer = await user[method]({ username, field1: 2 })

        const { id, email } = user
        const company = { name: 'A', city: 'X' }
        const expected = { id, username, email, field0: 1, field1: 2, company, email_verified: true }
        t.equal(answer.status, 200)
        t.strictSame(answer.body, { ...answer.body, ...expected })
        t.equal(Object.keys(answer.body).length, Object.keys(expected).length, 'and nothing else')
        t.strictSame((await user.read()).body, answer.body)
        t.strictSame(await fateOf(host, user), alive, 'the session goes on')
      }
    })

    await t.test('a member of the profile is replaced as a whole, without what the schema does not name', async (t) => {
      const user = await member({ profile: { company: { name: 'A', city: 'X' }, tags: [{ text: 'a' }] } })

      const { status } = await user.patch({
        company: { name: 'B', role: 'admin', deep: { er: 1 } },
        tags: [{ text: 'b', id: 1 }],
        unknown: 1,
      })

      t.equal(status, 200)
      t.strictSame((await rowOf(user.id))?.profile, { company: { name: 'B' }, tags: [{ text: 'b' }] })
    })

    await t.test('an update that names no field of its own changes nothing and answers the account', async (t) => {
      const user = await member({ profile: { field0: 1 } })
      const before = await rowOf(user.id)

      for (const body of [{}, { unknown: 1 }, { email: 'b@example.org' }]) {
        const answer = await user.patch(body)
        t.equal(told(answer), '200')
        t.strictSame(answer.body, (await user.read()).body)
      }

      t.strictSame(await rowOf(user.id), before)
    })

    await t.test('an invalid value is refused by the name of its field, and nothing is changed', async (t) => {
      const user = await member({ profile: { field0: 1 } })
      const before = await rowOf(user.id)
      const wrong: [field: string, body: object][] = [
        ['username', { username: '' }],
        ['username', { username: ' a' }],
        ['username', { username: 'a\0b' }],
        ['username', { username: 'a'.repeat(65) }],
        ['username', { username: null }],
        ['username', { username: 7 }],
        ['field0', { field0: '2' }],
        ['field0', { field0: null }],
        ['field0', { field0: 1.5, username: 'taken-by-nobody' }],
        ['company.name', { company: {} }],
        ['company.name', { company: { name: 'x'.repeat(81) } }],
        ['company', { company: { name: 'a\0' } }],
        ['company', { company: 'x' }],
        ['tags.1.text', { tags: [{ text: 'a' }, {}] }],
      ]

      for (const [field, body] of wrong) {
        for (const method of ['patch', 'put'] as const) {
          const answer = await user[method](body)
          t.equal(told(answer), '400 VALIDATION', JSON.stringify(body))
          t.strictSame(
            answer.body.errors.map((error: { field: string }) => error.field),
            [field],
            JSON.stringify(body),
          )
        }
      }
      for (const body of [undefined, [], 'null', '"x"', '[{"field0":2}]']) {
        const headers = { authorization: `Bearer ${user.access}`, 'content-type': 'application/json' }
        const answer = await host.send({ method: 'PATCH', url: '/auth/user/', headers, payload: body })
        t.equal(told(answer), '400 VALIDATION', JSON.stringify(body))
      }

      t.strictSame(await rowOf(user.id), before)
    })

    await t.test('a username that somebody has is refused in every spelling; one’s own may be respelled', async (t) => {
      const [one, other] = [await member({ username: uniqueName() }), await member()]
      const before = await rowOf(other.id)

      for (const username of [one.username, one.username.toUpperCase()]) {
        t.equal(told(await other.patch({ username, field0: 3 })), '409 USERNAME_TAKEN')
      }
      t.strictSame(await rowOf(other.id), before)

      const upper = other.username.toUpperCase()
      t.equal((await other.patch({ username: upper })).body.username, upper)
      t.equal(told(await one.patch({ username: uniqueName() })), '200')
      t.equal(told(await other.patch({ username: one.username })), '200', 'a name that was given up is free')
    })

    await t.test('[R-REG-2] no username has an @, unless it is the account’s own address', async (t) => {
      const [one, other] = [await member(), await member()]
      const before = await rowOf(other.id)

      for (const username of [one.email, 'a@b', '@', 'ada＠example.org', `${uniqueName()}@example.org`]) {
        const answer = await other.patch({ username })
        t.equal(told(answer), '400 VALIDATION', username)
        t.match(answer.body.errors, [{ field: 'username' }])
      }
      t.strictSame(await rowOf(other.id), before)

      const own = other.email.toUpperCase()
      t.equal((await other.patch({ username: own })).body.username, own)
    })

    await t.test('an update by a session that ended, or of older credentials, changes nothing', async (t) => {
      const [user, kept] = [await member(), await member()]
      const before = await rowOf(user.id)
      // Straight on the storage: the feed has not heard of it.
      await realmOf(accounts).storage.endSession(user.sessionId, user.id, Date.now())

      t.equal(told(await user.patch({ username: uniqueName(), field0: 1 })), '401 TOKEN_INVALID')

      t.strictSame(await rowOf(user.id), before)
      t.equal(told(await kept.confirmEmail(await kept.askEmail(`${uniqueName()}@example.org`))), '200')
      t.equal(told(await kept.patch({ field0: 1 })), '200')
    })

    await t.test('[R-REG-2] whoever changes the address keeps no name that was it, in whatever order', async (t) => {
      for (let round = 0; round < 20; round++) {
        const user = await member()
        const change = await user.askEmail(`${uniqueName()}@example.org`)

        const [confirmed] = await Promise.all([
          user.confirmEmail(change),
          ...[user.email, user.email.toUpperCase()].map((username) => user.patch({ username })),
        ])

        t.equal(told(confirmed), '200')
        t.not((await userOf(user.id)).username?.toLowerCase(), user.email)
      }
    })

    await t.test('parallel updates of different fields all stay', async (t) => {
      const user = await member({ profile: { company: { name: 'A' } } })

      const answers = await Promise.all(Array.from({ length: 8 }, (_, n) => user.patch({ [`field${n}`]: n })))

      t.strictSame(counted(answers), { 200: 8 })
      const fields = Object.fromEntries(Array.from({ length: 8 }, (_, n) => [`field${n}`, n]))
      t.strictSame((await realmOf(accounts).storage.findUserById(user.id))?.profile, {
        ...fields,
        company: { name: 'A' },
      })
    })

    await t.test('of 8 users who take one name at once exactly one gets it', async (t) => {
      const members = await Promise.all(Array.from({ length: 8 }, () => member()))
      const username = uniqueName()

      const answers = await Promise.all(members.map((user) => user.patch({ username })))

      t.strictSame(counted(answers), { 200: 1, '409 USERNAME_TAKEN': 7 })
    })

    await t.test('a user that is gone or disabled is a bad token for every verb', async (t) => {
      const [gone, disabled] = [await member(), await member()]
      const user = (await realmOf(accounts).storage.findUserById(gone.id))!
      // Straight on the storage: the feed has not heard of it.
      const deletion = { userId: gone.id, fence: user.credentialVersion, now: Date.now(), mails: [] }
      await gone.read()
      await disabled.read()
      await realmOf(accounts).storage.deleteUser(deletion)
      await accounts.users.disable(disabled.id)

      for (const { read, patch, put, remove, email } of [gone, disabled]) {
        const bodies = [{}, { field0: 1 }, { username: email }]
        t.equal(told(await read()), '401 TOKEN_INVALID')
        for (const body of bodies) t.equal(told(await patch(body)), '401 TOKEN_INVALID')
        t.equal(told(await put({ field0: 1 })), '401 TOKEN_INVALID')
        t.equal(told(await remove()), '401 TOKEN_INVALID')
      }
    })
  })

  t.test(`[R-SES-5] nothing but the allowed fields can be changed, on ${on}`, { skip }, async (t) => {
    const host = await open(t, { passwords, registration, account: { fields: ['company'] } })
    const { member, rowOf } = accountActs(host)
    const user = await member({ profile: { company: { name: 'A' }, field0: 1 } })
    const before = await rowOf(user.id)
    const columns = Object.keys(before ?? {})
    const names = [
      ...new Set([...columns, ...internalNames, 'username', 'tags', ...Object.keys(profile.properties)]),
    ].filter((name) => name !== 'company')
    t.ok(!('db' in host) || columns.includes('credential_version'), 'the columns of the database are posted')

    for (const method of ['PATCH', 'PUT'] as const) {
      for (const value of values) {
        const all = Object.fromEntries(names.map((name) => [name, value]))
        t.equal(told(await user.asked(method, '/auth/user/', all)), '200', JSON.stringify(value))
        const query = names.map((name) => `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`).join('&')
        t.equal(told(await user.asked(method, `/auth/user/?${query}`, {})), '200')
        t.strictSame(await rowOf(user.id), before, JSON.stringify(value))
      }
      for (const name of names) {
        for (const value of [1, 'admin', true]) await user.asked(method, '/auth/user/', { [name]: value })
        t.strictSame(await rowOf(user.id), before, name)
      }
    }

    const prototype = '{"__proto__":{"role":"admin"},"company":{"name":"B","__proto__":{"role":"admin"}}}'
    const headers = { authorization: `Bearer ${user.access}`, 'content-type': 'application/json' }
    const polluting = await host.send({ method: 'PATCH', url: '/auth/user/', headers, payload: prototype })
    t.equal(told(polluting), '400 VALIDATION')
    t.strictSame(await rowOf(user.id), before)

    t.equal(
      told(await user.patch({ ...Object.fromEntries(names.map((name) => [name, 1])), company: { name: 'B' } })),
      '200',
    )
    const after = await rowOf(user.id)
    t.strictSame(after, { ...before, profile: { company: { name: 'B' }, field0: 1 } }, 'an allowed one beside them is')
    t.strictSame(await fateOf(host, user), alive)
  })

  t.test(`deleting one's account, on ${on}`, { skip }, async (t) => {
    const host = await open(t, { passwords, registration })
    const { accounts, member, newSession, rowOf, login, askReset, check, reset, mailsTo, post } = accountActs(host)

    await t.test('[R-SES-6] [R-SES-9] without the password nothing is deleted, ended or mailed', async (t) => {
      const user = await member()
      const before = await rowOf(user.id)

      t.equal(told(await user.remove('a wrong password')), '403 PASSWORD_WRONG')
      for (const body of [undefined, {}, { password: null }, { password: 7 }, { current_password: 'x' }]) {
        t.equal(told(await user.asked('DELETE', '/auth/user/', body)), '400 VALIDATION')
      }
      t.equal(told(await host.send({ method: 'DELETE', url: '/auth/user/' })), '401 TOKEN_INVALID')

      t.strictSame(await rowOf(user.id), before)
      t.strictSame(await fateOf(host, user), alive)
      t.strictSame(mailsTo(user.email), [])
    })

    await t.test('[R-SES-8] [R-SES-9] a deletion removes the row, ends every session and mails a notice', async (t) => {
      const [user, bystander] = [await member(), await member()]
      const second = await newSession(user.id)

      const answer = await user.remove()

      t.strictSame([answer.status, answer.body], [204, undefined])
      t.equal(await rowOf(user.id), null)
      t.strictSame(mailsTo(user.email), ['account_deleted'])
      t.equal(told(await login(user.email)), '401 CREDENTIALS_INVALID')
      for (const session of [user, second]) t.strictSame(await fateOf(host, session), dead)
      t.strictSame(await fateOf(host, bystander), alive, 'and nobody else’s')
      const ends = await realmOf(accounts).storage.endedSince(0, 0)
      for (const { sessionId } of [user, second]) t.ok(ends.some(({ id }) => id === sessionId))
    })

    await t.test('[R-SES-8] no code, grant or token of a deleted account works for the next one', async (t) => {
      const email = `${uniqueName()}@example.org`
      const old = await member({ email })
      const codes = [await askReset(email), await askReset(email)] as const
      t.equal(told(await check(codes[1].token, codes[1].code)), '200')
      const change = await old.askEmail(`${uniqueName()}@example.org`)
      t.equal(told(await old.remove()), '204')

      const next = await member({ email })
      const before = await rowOf(next.id)

      for (const { token, code } of codes) t.equal(told(await check(token, code)), '400 CODE_INVALID')
      for (const { token } of codes) t.equal(told(await reset(token)), '400 CODE_INVALID')
      t.equal(told(await next.confirmEmail(change)), '400 CODE_INVALID')
      t.equal(told(await old.confirmEmail(change)), '401 TOKEN_INVALID')
      t.strictSame(await fateOf(host, old), dead)
      t.strictSame(await rowOf(next.id), before)
      t.strictSame(await fateOf(host, next), alive)
    })

    await t.test('an address and a name are free again after a deletion', async (t) => {
      const { email, username, remove } = await member()
      t.equal(told(await remove()), '204')

      const { status, body } = await post('/api/register/', { email, username, password: newPassword })

      t.equal(status, 201)
      t.match(body, { email, username })
      t.equal(told(await login(email, newPassword)), '200')
    })

    await t.test('of parallel deletions exactly one succeeds, and one notice is mailed', async (t) => {
      const user = await member()
      const sessions = [user, await newSession(user.id), await newSession(user.id)]

      const answers = await Promise.all(sessions.map(({ remove }) => remove()))

      t.strictSame(counted(answers), { 204: 1, '401 TOKEN_INVALID': 2 })
      t.strictSame(mailsTo(user.email), ['account_deleted'])
    })

    await t.test('a deletion whose password was changed meanwhile deletes nothing', async (t) => {
      const host = await open(t, { passwords })
      const { accounts, member, rowOf, mailsTo } = accountActs(host)
      accounts.addHook('beforeDelete', ({ user }) => accounts.users.setPassword(user.id, newPassword))
      const user = await member()

      const answer = await user.remove()

      t.equal(told(answer), '401 TOKEN_INVALID')
      t.not(await rowOf(user.id), null)
      t.strictSame(mailsTo(user.email), ['password_changed'])
    })

    await t.test('[R-SES-8] a mail that waits when the account is deleted is harmless', async (t) => {
      const [mailer, cache] = [memoryMailer(), memoryCache()]
      const state = { down: true }
      const put: typeof cache.put = (code, now) =>
        state.down ? Promise.reject(new Error('the cache is down')) : cache.put(code, now)
      const clock = () => Date.now() + (state.down ? 0 : 60_000)
      const send: typeof mailer.send = (message) =>
        state.down ? Promise.reject(new Error('the queue is down')) : mailer.send(message)
      const parts = { mailer: { ...mailer, send }, cache: { ...cache, put }, redis: undefined }
      const host = { ...(await open(t, { passwords, clock, ...parts })), mailer }
      const { accounts, member, rowOf, newUser, newSession } = accountActs(host)
      const [email, wanted] = [`${uniqueName()}@example.org`, `${uniqueName()}@example.org`]
      const user = await member({ email })
      const asked = await user.changeEmail(wanted)
      t.equal(told(await user.remove()), '204')
      t.strictSame(mailer.sent, [])

      state.down = false
      await sweepOutbox(realmOf(accounts))
      const next = await newUser({ email })
      const session = await newSession(next.id)
      const before = await rowOf(next.id)

      const mail = mailer.sent.find(({ to }) => to === wanted)
      t.match(mail?.code, /^\d{8}$/, 'it was sent after all')
      t.ok(mailer.sent.some(({ to, kind }) => to === email && kind === 'account_deleted'))
      const confirmed = await session.confirmEmail({ token: asked.body.token, code: mail?.code ?? '' })
      t.equal(told(confirmed), '400 CODE_INVALID')
      t.strictSame(await rowOf(next.id), before)
    })

    await t.test('with account.delete "deactivate" the row stays, disabled', async (t) => {
      const host = await open(t, { passwords, account: { delete: 'deactivate' } })
      const { accounts, member, newSession, rowOf, login, mailsTo, post, askReset, check } = accountActs(host)
      const user = await member()
      const second = await newSession(user.id)
      const code = await askReset(user.email)
      const stored = await realmOf(accounts).storage.findUserById(user.id)

      t.equal(told(await user.remove('a wrong password')), '403 PASSWORD_WRONG')
      t.strictSame(await fateOf(host, second), alive)
      const answer = await user.remove()

      t.strictSame([answer.status, answer.body], [204, undefined])
      const after = await realmOf(accounts).storage.findUserById(user.id)
      t.strictSame(after, { ...stored, active: false, credentialVersion: (stored?.credentialVersion ?? 0) + 1 })
      for (const session of [user, second]) t.strictSame(await fateOf(host, session), dead)
      t.equal(told(await login(user.email)), '401 CREDENTIALS_INVALID')
      t.equal(told(await check(code.token, code.code)), '400 CODE_INVALID')
      t.strictSame(mailsTo(user.email), ['reset', 'account_deleted'])
      const again = { email: user.email, username: uniqueName(), password: newPassword }
      t.equal(told(await post('/api/register/', again)), '409 EMAIL_TAKEN')

      await accounts.users.enable(user.id)
      for (const session of [user, second]) t.strictSame(await fateOf(host, session), dead, 'ended for good')
      t.equal(told(await login(user.email)), '200')
      t.not(await rowOf(user.id), null)
    })

    await t.test('with account.delete false there is no such route', async (t) => {
      const host = await open(t, { passwords, account: { delete: false } })
      const { member, rowOf } = accountActs(host)
      const user = await member()
      const before = await rowOf(user.id)

      t.equal((await user.remove()).status, 404)
      t.strictSame(await rowOf(user.id), before)
      t.strictSame(await fateOf(host, user), alive)
    })

    await t.test('[R-SES-4] ids of another user change nothing and are answered like missing ones', async (t) => {
      const [one, other] = [await member(), await member()]
      const second = await newSession(other.id)
      const before = [await rowOf(one.id), await rowOf(other.id)]
      const code = await other.askEmail(`${uniqueName()}@example.org`)
      const ids = { id: other.id, user_id: other.id, userId: other.id, sub: other.id, sid: other.sessionId }
      const foreign = { ...ids, session_id: other.sessionId, sessionId: other.sessionId }

      const missing = await one.asked('DELETE', `/auth/sessions/${'a'.repeat(22)}/`)
      const answers = [other, second].map(({ sessionId }) => one.asked('DELETE', `/auth/sessions/${sessionId}/`))
      t.equal(told(missing), '404 NOT_FOUND')
      for (const answer of await Promise.all(answers)) t.strictSame(plain(answer), plain(missing))
      for (const id of [other.id, other.sessionId]) {
        for (const method of ['GET', 'PATCH', 'PUT', 'DELETE'] as const) {
          t.equal((await one.asked(method, `/auth/user/${id}/`, { password: 'x' })).status, 404)
        }
      }
      t.equal((await one.asked('GET', `/auth/user/?id=${other.id}&user_id=${other.id}`)).body.id, one.id)
      t.equal((await one.asked('PATCH', `/auth/user/?id=${other.id}`, foreign)).body.id, one.id)
      t.equal(told(await one.confirmEmail(code)), '400 CODE_INVALID')
      t.strictSame(
        (await one.asked('GET', '/auth/sessions/')).body.map(({ id }: { id: string }) => id),
        [one.sessionId],
      )
      t.strictSame([await rowOf(one.id), await rowOf(other.id)], before)

      t.equal(told(await one.asked('POST', '/auth/logout_all/', foreign)), '204')
      const third = await newSession(one.id)
      t.equal(told(await third.asked('DELETE', '/auth/user/', { ...foreign, password: 'the old password' })), '204')
      t.strictSame(await rowOf(other.id), before[1])
      for (const session of [other, second]) t.strictSame(await fateOf(host, session), alive)
      t.equal(told(await other.confirmEmail(code)), '200', 'the pending change is as good as before')
    })
  })
}

/** An answer without what differs in every one. */
function plain({
  status,
  headers: { date, ...headers },
  body,
}: {
  status: number
  headers: Record<string, unknown>
  body: unknown
}) {
  return { status, headers, body }
}

t.test('[R-SES-4] the routes that take an id are those tried with a foreign one', async (t) => {
  const app = Fastify()
  const urls = new Set<string>()
  app.addHook('onRoute', ({ url, path }) => void (url.includes(':') && urls.add(path)))
  await app.register(accounts, { ...testOptions(), registration: { verifyEmail: true } })
  t.teardown(() => app.close())

  t.strictSame([...urls].sort(), ['/auth/sessions/:id', '/auth/sessions/:id/'])
})

t.test('an account that rows of the host refer to', { skip: noPostgres }, async (t) => {
  const host = await realApp(t, { passwords })
  const { accounts, member, newSession, rowOf, mailsTo, askReset, check, reset, login } = accountActs(host)
  const { db } = host

  for (const rule of ['no action', 'restrict', 'no action deferrable initially deferred']) {
    await t.test(`with "on delete ${rule}" it cannot be deleted, and nothing changes`, async (t) => {
      const table = uniqueName()
      await db.schema
        .createTable(table)
        .addColumn('user_id', 'bigint')
        .addForeignKeyConstraint(table, ['user_id'], 'accounts_users', ['id'], (key) => {
          const [action, deferred] = rule.split(' deferrable')
          const ruled = key.onDelete(action as 'restrict' | 'no action')
          return deferred ? ruled.deferrable().initiallyDeferred() : ruled
        })
        .execute()
      const user = await member()
      const second = await newSession(user.id)
      const { token, code } = await askReset(user.email)
      await db.insertInto(table).values({ user_id: user.id }).execute()
      const before = await rowOf(user.id)
      const waiting = await db.selectFrom('accounts_outbox').select('id').execute()

      t.equal(told(await user.remove()), '409 ACCOUNT_IN_USE')

      t.strictSame(await rowOf(user.id), before)
      for (const session of [user, second]) t.strictSame(await fateOf(host, session), alive)
      t.strictSame(mailsTo(user.email), ['reset'])
      t.strictSame(await db.selectFrom('accounts_outbox').select('id').execute(), waiting)
      await t.rejects(accounts.users.delete(user.id), { code: 'ACCOUNTS_ACCOUNT_IN_USE' })
      t.equal(told(await check(token, code)), '200', 'a code is as good as before')
      t.equal(told(await reset(token)), '200')

      await db.deleteFrom(table).execute()
      const { body } = await login(user.email, newPassword)
      const headers = { authorization: `Bearer ${body.access}` }
      const request = { method: 'DELETE', url: '/auth/user/', headers, payload: { password: newPassword } } as const
      t.equal(told(await host.send(request)), '204')
    })
  }
})

t.test('[R-SES-8] a user id that comes back never meets an old token or grant', { skip: noPostgres }, async (t) => {
  const cache = memoryCache()
  // Like a Redis that was restored from a snapshot: what was burnt is alive.
  const burn = async () => {
    throw new Error('the cache is down')
  }
  const host = await realApp(t, { passwords, redis: undefined, cache: { ...cache, burn } })
  const { member, newSession, rowOf, askReset, check, reset, userOf } = accountActs(host)
  const email = `${uniqueName()}@example.org`
  const old = await member({ email })
  const codes = [await askReset(email), await askReset(email)] as const
  await check(codes[0].token, codes[0].code)
  const change = await old.askEmail(`${uniqueName()}@example.org`)
  t.equal(told(await old.remove()), '204')

  const next = await member({ email })
  await host.db.updateTable('accounts_users').set({ id: old.id }).where('id', '=', next.id).execute()
  const session = await newSession(old.id)
  const before = await rowOf(old.id)

  t.equal((await userOf(old.id)).email, email)
  t.equal(told(await reset(codes[0].token)), '400 CODE_INVALID')
  t.equal(told(await check(codes[1].token, codes[1].code)), '200', 'the cache still knows it')
  t.equal(told(await reset(codes[1].token)), '400 CODE_INVALID')
  t.equal(told(await session.confirmEmail(change)), '400 CODE_INVALID')
  t.strictSame(await fateOf(host, old), dead)
  t.strictSame(await rowOf(old.id), before)
  t.strictSame(await fateOf(host, session), alive)
})

t.test('[R-SES-8] a deletion stops the access tokens on every instance', { skip: noPostgres }, async (t) => {
  const host = await realApp(t, { passwords })
  const app = Fastify()
  const { db, name } = host
  await app.register(accounts, { name, secret, db, redis: redisUrl(), mailer: memoryMailer(), passwords })
  t.teardown(() => app.close())
  const other = clientOf(app)
  const { member } = accountActs(host)
  const user = await member()
  // The guard alone decides: this route does not read the user.
  const read = async () => told(await other.get('/auth/sessions/', user.access))
  t.equal(await read(), '200')

  t.equal(told(await user.remove()), '204')

  await until(async () => (await read()) === '401 TOKEN_INVALID')
})

t.test('[R-REG-2] a name that was the address when it was judged is refused when the address is another', async (t) => {
  const storage = memoryStorage()
  const meanwhile: { act?: () => Promise<unknown> } = {}
  const slow: Storage = {
    ...storage,
    async updateUser(change) {
      await meanwhile.act?.()
      return storage.updateUser(change)
    },
  }
  const host = await memoryApp(t, { passwords, storage: slow })
  const { member, userOf } = accountActs(host)
  const user = await member()
  const change = await user.askEmail(`${uniqueName()}@example.org`)
  meanwhile.act = () => user.confirmEmail(change)

  t.equal(told(await user.patch({ username: user.email })), '400 VALIDATION')

  t.equal((await userOf(user.id)).username, user.username)
})

t.test('without usernames a posted one changes nothing', async (t) => {
  const host = await memoryApp(t, { passwords, registration: { username: false, profile } })
  const { member, rowOf } = accountActs(host)
  const user = await member()
  const before = await rowOf(user.id)

  const answer = await user.patch({ username: uniqueName() })

  t.equal(told(answer), '200')
  t.notOk('username' in answer.body)
  t.strictSame(await rowOf(user.id), before)
})
