import t, { type Test } from 'tap'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage } from '../../lib/contracts.ts'
import { type Answer, accountsOf, memoryApp, openDatabase, realApp, settableClock } from '../helpers/app.ts'
import { noPostgres } from '../helpers/helper.ts'
import { claimsOf, newMember } from '../helpers/members.ts'

const ada = { username: 'ada', email: 'ada@example.org', password: 'correct horse battery' }

t.test('round trips', { skip: noPostgres }, async (t) => {
  const clock = settableClock()
  // What the feed costs is counted in revocation.test.ts.
  const { app, name, get, post, statements } = await realApp(t, { clock, revocation: 'storage' })
  const accounts = accountsOf({ app, name })
  app.get('/me', { onRequest: accounts.authenticate }, async () => ({}))
  /** The statements, among them those of transactions, that a request sent to the pool. */
  async function during(request: () => Promise<Answer>, status: number): Promise<string[]> {
    statements.length = 0
    t.equal((await request()).status, status)
    return [...statements]
  }

  await t.test('[P15] a registration is one statement', async (t) => {
    const sent = await during(() => post('/api/register/', ada), 201)

    t.equal(sent.length, 1)
    t.match(sent[0], /^insert into "accounts_users"/)
  })

  const login = await post('/api/login/', ada)
  const { access, refresh } = login.body

  await t.test('[P15] a log-in is two statements, the user’s row and the session', async (t) => {
    const sent = await during(() => post('/api/login/', ada), 200)

    t.equal(sent.length, 2)
    t.match(sent[0], /^select .* left join "accounts_users" on "email_canonical" = \$1$/)
    t.match(sent[1], /^with "inserted" as \(insert into "accounts_sessions"/)
  })

  await t.test('[R-ENUM-1] a refused log-in is the same statement for a known and an unknown account', async (t) => {
    const known = await during(() => post('/api/login/', { ...ada, password: 'wrong horse battery' }), 401)
    const unknown = await during(() => post('/api/login/', { ...ada, email: 'bob@example.org' }), 401)

    t.equal(known.length, 1)
    t.same(unknown, known)
  })

  await t.test('[P15] a refresh is one statement', async (t) => {
    const sent = await during(() => post('/auth/refresh/', { refresh }), 200)

    t.equal(sent.length, 1)
    t.match(sent[0], /^update "accounts_sessions"/)
  })

  await t.test('without the feed an authenticated request is one read by primary key, at each request', async (t) => {
    for (let use = 0; use < 3; use++) {
      const sent = await during(() => get('/me', access), 200)
      t.equal(sent.length, 1)
      t.match(sent[0], /^select "id" from "accounts_sessions" where "id" = \$1 and /)
    }
    t.equal(
      (await during(() => get('/auth/user/', access), 200)).length,
      2,
      'and the user, where the user is asked for',
    )
  })

  await t.test('what is no good token costs no statement', async (t) => {
    const forged = access.replace(/.{5}$/, 'AAAAA')
    for (const token of [forged, 'x', refresh]) t.same(await during(() => get('/me', token), 401), [])
    t.same(await during(() => get('/me'), 401), [])
    t.same(await during(() => post('/auth/refresh/', { refresh: access }), 401), [])
    clock.pass(300_000)
    t.same(await during(() => get('/me', access), 401), [], 'an expired one')
  })
})

t.test(
  '[R-ENUM-10] a deleted and a disabled user’s good token is refused like a bad signature',
  { skip: noPostgres },
  async (t) => {
    const { app, name, db } = await realApp(t)
    const accounts = accountsOf({ app, name })
    const answerTo = async (token: string) => {
      const { statusCode, headers, body } = await app.inject({
        url: '/auth/user/',
        headers: { authorization: `Bearer ${token}` },
      })
      return { statusCode, body, names: Object.keys(headers).sort() }
    }
    const members = [await newMember(accounts), await newMember(accounts)] as const
    for (const { access } of members) t.equal((await answerTo(access)).statusCode, 200)
    const bad = await answerTo(`${members[0].access.replace(/.{5}$/, '')}AAAAA`)

    await db.deleteFrom('accounts_users').where('id', '=', members[0].user.id).execute()
    await db.updateTable('accounts_users').set({ active: false }).where('id', '=', members[1].user.id).execute()

    t.equal(bad.statusCode, 401)
    for (const { access } of members) t.same(await answerTo(access), bad)
  },
)

t.test('[R-SES-2] each log-in starts a session of its own, whatever the request says', async (t) => {
  const { post, get } = await memoryApp(t)
  await post('/api/register/', ada)
  const first = await post('/api/login/', ada)
  const sid = claimsOf(first.body.access).sid as string

  const bearer = { authorization: `Bearer ${first.body.access}` }
  const again = { ...ada, sid, sessionId: sid, session: sid, refresh: first.body.refresh }
  const others = [await post('/api/login/', ada), await post('/api/login/', again, bearer)]

  const ids = [sid, ...others.map(({ body }) => claimsOf(body.access).sid)]
  t.equal(new Set(ids).size, 3)
  for (const id of ids) t.match(id, /^[\w-]{22}$/, '128 random bits')
  t.equal((await get('/auth/user/', first.body.access)).status, 200, 'the earlier session goes on')
})

const stores: Record<string, (t: Test) => Promise<Storage>> = {
  memory: async () => memoryStorage(),
  PostgreSQL: async (t) => kyselyStorage((await openDatabase(t)).db),
}

for (const [store, open] of Object.entries(stores)) {
  const skip = store === 'PostgreSQL' && noPostgres
  t.test(`log-ins racing a password reset over the ${store}`, { skip }, async (t) => {
    await t.test('[R-SES-1] the session fence: a log-in behind a reset opens no session', async (t) => {
      const storage = await open(t)
      let reset = async () => {}
      const inserted: boolean[] = []
      // Verified with the old password; stored after the new one is set.
      const held: Storage = {
        ...storage,
        async insertSession(session, most) {
          await reset()
          const done = await storage.insertSession(session, most)
          inserted.push(done !== null)
          return done
        },
      }
      const { post, mailer } = await memoryApp(t, { storage: held })
      await post('/api/register/', ada)
      const { body } = await post('/auth/email_request/', { email: ada.email })
      await post('/auth/check_otp/', { token: body.token, otp: mailer.sent[0]?.code })
      reset = async () => {
        const set = { token: body.token, new_password: 'another horse battery' }
        t.equal((await post('/auth/reset_password/', set)).status, 200)
      }

      const answer = await post('/api/login/', ada)

      t.match(answer, { status: 401, body: { code: 'ACCOUNTS_CREDENTIALS_INVALID' } })
      t.same(inserted, [false])
      reset = async () => {}
      t.equal((await post('/api/login/', { ...ada, password: 'another horse battery' })).status, 200)
    })

    await t.test('[R-SES-1] no token of a log-in with the old password outlives the reset', async (t) => {
      const { post, get, mailer } = await memoryApp(t, { storage: await open(t) })
      await post('/api/register/', ada)
      let password = ada.password
      for (let round = 0; round < 4; round++) {
        const { body } = await post('/auth/email_request/', { email: ada.email })
        await post('/auth/check_otp/', { token: body.token, otp: mailer.sent.at(-1)?.code })
        const before = await post('/api/login/', { ...ada, password })
        const next = `${ada.password} ${round}`

        const [reset, ...logins] = await Promise.all([
          post('/auth/reset_password/', { token: body.token, new_password: next }),
          ...Array.from({ length: 6 }, () => post('/api/login/', { ...ada, password })),
          ...Array.from({ length: 6 }, () => post('/auth/refresh/', { refresh: before.body.refresh })),
        ])

        t.equal(reset?.status, 200)
        const opened = logins.filter(({ status }) => status === 200)
        for (const { body } of [before, ...opened]) {
          t.equal((await get('/auth/user/', body.access)).status, 401)
          t.equal((await post('/auth/refresh/', { refresh: body.refresh })).status, 401)
        }
        t.ok(logins.every(({ status }) => status === 200 || status === 401))
        t.equal((await post('/api/login/', { ...ada, password })).status, 401)
        password = next
      }
      t.equal((await post('/api/login/', { ...ada, password })).status, 200)
    })
  })
}
