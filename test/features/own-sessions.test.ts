import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify, { type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { AccountEvent, Session, Storage } from '../../lib/contracts.ts'
import { purge } from '../../lib/core/housekeeping.ts'
import type { Realm } from '../../lib/core/realm.ts'
import plugin from '../../lib/index.ts'
import { createUser, testOptions } from '../../lib/testing/index.ts'
import { storedSession, storedUser } from '../../lib/testing/samples.ts'
import {
  accountActs,
  alive,
  backends,
  counted,
  dead,
  fateOf,
  password,
  passwords,
  told,
} from '../helpers/account-acts.ts'
import { accountsOf, clientOf, memoryApp, openDatabase, realApp, settableClock } from '../helpers/app.ts'
import { everything, noPostgres, rounds, sampled, until } from '../helpers/helper.ts'
import { claimsOf, newMember } from '../helpers/members.ts'

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour
const idle = 10 * day
const absolute = 30 * day

const modes = backends.flatMap((backend) => [true, false].map((rotate) => ({ ...backend, rotate })))

for (const { on, open, skip, rotate } of modes) {
  t.test(`sessions on ${on}, ${rotate ? 'with' : 'without'} rotation`, { skip }, async (t) => {
    // On a whole second, as tokens count.
    const clock = settableClock(Math.floor(Date.now() / 1000) * 1000)
    const asked: (FastifyRequest | null)[] = []
    const session = (request: FastifyRequest | null) => {
      asked.push(request)
      if (request === null) return {}
      if (request.headers['at-most']) return { perUser: Number(request.headers['at-most']) }
      const remember = request.headers['remember-me'] === 'yes'
      return remember ? { idle: (60 * day) / 1000, absolute: (90 * day) / 1000 } : { idle: 3600, absolute: 86_400 }
    }
    const host = await open(t, { clock, passwords, session, refresh: { rotate } })
    const { accounts, newUser, member, newSession, refresh } = accountActs(host)
    const ends: AccountEvent[] = []
    const reused: AccountEvent[] = []
    accounts.addHook('afterSessionEnd', (event) => ends.push(event))
    accounts.addHook('afterRefreshReuse', (event) => reused.push(event))

    type Member = Awaited<ReturnType<typeof newSession>>
    const listed = async ({ asked }: Pick<Member, 'asked'>) => (await asked('GET', '/auth/sessions/')).body
    const idsOf = async (session: Pick<Member, 'asked'>) => (await listed(session)).map(({ id }: { id: string }) => id)
    const logIn = (email: string, headers: Record<string, string> = {}) =>
      host.send({
        method: 'POST',
        url: '/api/login/',
        payload: { email, password },
        headers,
        remoteAddress: '::ffff:192.0.2.7',
      })
    const logout = (payload?: unknown, headers: Record<string, string> = {}, url = '/auth/logout/') =>
      host.send({ method: 'POST', url, payload: payload as object, headers })
    const bearer = ({ access }: { access: string }) => ({ authorization: `Bearer ${access}` })
    /** Refreshes, and answers what the client has from then on. */
    async function renewed(tokens: { access: string; refresh: string }) {
      const { status, body } = await refresh(tokens.refresh)
      if (status !== 200) throw new Error(`refresh answered ${status}`)
      return { access: body.access as string, refresh: (body.refresh ?? tokens.refresh) as string }
    }

    await t.test('[R-SES-3] a user sees the sessions that go on, the last used first', async (t) => {
      const { email } = await newUser()
      const stranger = await member()
      const begun = clock()
      const first = (await logIn(email, { 'user-agent': 'Firefox' })).body
      clock.pass(1000)
      const second = (await logIn(email, { 'user-agent': `Chrome ${'x'.repeat(300)}` })).body
      clock.pass(1000)
      await renewed(first)

      const list = (access: string) => host.send({ url: '/auth/sessions/', headers: bearer({ access }) })
      const time = (passed: number) => new Date(begun + passed).toISOString()
      const shown = [
        {
          ...{ id: claimsOf(first.access).sid, created_at: time(0), last_used_at: time(2000) },
          ...{ ip: '192.0.2.7', user_agent: 'Firefox', current: true },
        },
        {
          ...{ id: claimsOf(second.access).sid, created_at: time(1000), last_used_at: time(1000) },
          ...{ ip: '192.0.2.7', user_agent: `Chrome ${'x'.repeat(249)}`, current: false },
        },
      ]
      const answer = await list(first.access)
      t.strictSame([answer.status, answer.body], [200, shown])
      t.strictSame(
        (await list(second.access)).body.map(({ current }: { current: boolean }) => current),
        [false, true],
      )
      t.strictSame(await idsOf(stranger), [stranger.sessionId])
    })

    await t.test('[R-SES-3] a login past session.perUser ends the session that was used least recently', async (t) => {
      const { email } = await newUser()
      const old = (await logIn(email)).body
      clock.pass(1000)
      const used = (await logIn(email)).body
      clock.pass(1000)
      const renewedOld = await renewed(old)
      const seen = ends.length

      const last = (await logIn(email, { 'at-most': '2' })).body

      const read = (tokens: { access: string }) => host.send({ url: '/auth/user/', headers: bearer(tokens) })
      t.strictSame(
        [told(await read(used)), told(await refresh(used.refresh))],
        ['401 TOKEN_INVALID', '401 TOKEN_INVALID'],
      )
      t.strictSame([(await read(last)).status, (await read(renewedOld)).status], [200, 200])
      t.match(ends.slice(seen), [{ details: { reason: 'displaced', count: 1 }, userId: Number }])
      t.equal(ends.length, seen + 1)
    })

    await t.test('a session that is unused for its idle life is over, and each refresh begins it anew', async (t) => {
      const user = await member()
      clock.pass(idle - 1)
      const once = await renewed(user)
      clock.pass(idle - 1)
      const twice = await renewed(once)
      clock.pass(idle)

      t.equal(told(await refresh(twice.refresh)), '401 TOKEN_INVALID')
      const later = await newSession(user.id)
      t.strictSame(await idsOf(later), [later.sessionId])
    })

    await t.test('no refresh moves the absolute end of a session, nor does its last access token', async (t) => {
      const user = await member()
      let tokens = { access: user.access, refresh: user.refresh }
      for (let nines = 0; nines < 3; nines++) {
        clock.pass(9 * day)
        tokens = await renewed(tokens)
      }
      clock.pass(absolute - 27 * day - 1000)
      const last = await renewed(tokens)
      const read = () => host.send({ url: '/auth/user/', headers: bearer(last) })
      t.equal(told(await read()), '200')
      clock.pass(1000)

      t.equal(told(await read()), '401 TOKEN_EXPIRED')
      t.equal(told(await refresh(last.refresh)), '401 TOKEN_INVALID')
      const later = await newSession(user.id)
      t.strictSame(await idsOf(later), [later.sessionId])
    })

    await t.test('the lives of a session are what the option says of the request that starts it', async (t) => {
      const { id, email } = await newUser()
      asked.length = 0
      const short = (await logIn(email)).body
      const long = (await logIn(email, { 'remember-me': 'yes' })).body
      const plain = await accounts.startSession(id)
      t.strictSame(
        asked.map((request) => request?.url ?? null),
        ['/api/login/', '/api/login/', null],
      )

      clock.pass(hour)
      t.equal(told(await refresh(short.refresh)), '401 TOKEN_INVALID')
      clock.pass(idle - hour - 1)
      t.equal(told(await refresh(plain.refresh as string)), '200')
      clock.pass(49 * day)
      t.equal(told(await refresh(plain.refresh as string)), '401 TOKEN_INVALID')
      const kept = await renewed(long)
      clock.pass(31 * day)
      t.equal(told(await refresh(kept.refresh)), '401 TOKEN_INVALID', 'the absolute end, 90 days')
    })

    await t.test('[R-SES-3] every way to end a session ends its access and its refresh token', async (t) => {
      const ways: Record<string, (user: Member & { id: never }) => Promise<unknown>> = {
        'revoked /': ({ asked, sessionId }) => asked('DELETE', `/auth/sessions/${sessionId}/`),
        revoked: ({ asked, sessionId }) => asked('DELETE', `/auth/sessions/${sessionId}`),
        'logout access /': (user) => logout(undefined, bearer(user)),
        'logout access': (user) => logout(undefined, bearer(user), '/auth/logout'),
        'logout refresh /': (user) => logout({ refresh: user.refresh }),
        'logout refresh': (user) => logout({ refresh: user.refresh }, {}, '/auth/logout'),
        'logout_all /': ({ asked }) => asked('POST', '/auth/logout_all/'),
        logout_all: ({ asked }) => asked('POST', '/auth/logout_all'),
        admin: ({ id }) => accounts.users.endSessions(id),
      }
      for (const [way, end] of Object.entries(ways)) {
        const [user, stranger] = [await member(), await member()]
        const further = await newSession(user.id)
        ends.length = 0

        const answer = (await end(user as never)) as { status: number; body: unknown } | undefined

        const all = /all|admin/.test(way)
        const [reason] = way.split(' ')
        if (answer) t.strictSame([answer.status, answer.body], [204, undefined], way)
        t.strictSame(await fateOf(host, user), dead, way)
        t.strictSame(await fateOf(host, further), all ? dead : alive, `${way}: the user’s other session`)
        t.strictSame(await fateOf(host, stranger), alive, `${way}: somebody else`)
        t.match(ends, [{ userId: user.id, details: { reason, count: all ? 2 : 1 } }], way)
        t.equal(ends.length, 1)
      }
    })

    await t.test('[R-SES-4] a foreign session and a missing one are answered by equal bytes', async (t) => {
      const [user, stranger] = [await member(), await member()]
      const over = await member()
      await logout(undefined, bearer(over))
      ends.length = 0

      const answers = await Promise.all(
        [stranger.sessionId, over.sessionId, 'x'.repeat(22)].map(async (id) => {
          const url = `/auth/sessions/${id}/`
          const answer = await host.app.inject({ method: 'DELETE', url, headers: bearer(user) })
          const { date, ...headers } = answer.headers
          return { status: answer.statusCode, headers, body: answer.body }
        }),
      )

      t.match(answers[2], { status: 404, body: /"ACCOUNTS_NOT_FOUND"/ })
      t.strictSame(answers, [answers[2], answers[2], answers[2]])
      t.strictSame(ends, [])
      t.strictSame(await fateOf(host, stranger), alive)
    })

    await t.test('a session that has ended already is ended again without a fault, and told of once', async (t) => {
      const user = await member()
      const { sessionId, ...other } = await newSession(user.id)
      ends.length = 0

      for (const tail of ['/', '', '/']) {
        t.equal(told(await user.asked('DELETE', `/auth/sessions/${sessionId}${tail}`)), '204')
      }
      for (const url of ['/auth/logout/', '/auth/logout']) {
        t.equal(told(await logout(undefined, bearer(other), url)), '204', 'by an access token of an ended session')
        t.equal(told(await logout({ refresh: other.refresh }, {}, url)), '204')
      }

      t.equal(ends.length, 1)
      t.strictSame(await fateOf(host, user), alive)
    })

    await t.test('no id, however hostile, is a fault or ends a session', async (t) => {
      const user = await member()
      const { sessionId } = user
      const ids = [
        '%00',
        `${sessionId}%00`,
        `${sessionId}%20`,
        '%ED%A0%80',
        '%',
        '%zz',
        '..%2f..',
        '%2e%2e',
        ':id',
        '*',
      ]
      const texts = ['__proto__', 'constructor', 'null', '0', '-1', '1e999', 'NaN', '[object Object]', '😀', '\u202e']
      const sql = ["' or '1'='1", '"; drop table accounts_sessions; --', '${1}', '$1', '\\', '%', 'é']
      const long = [100, 101, 5000].map((length) => 'a'.repeat(length))
      const changed = sessionId.replace(/[a-z]/, (letter) => letter.toUpperCase())

      for (const id of [...ids, ...long, ...[...texts, ...sql, changed].map(encodeURIComponent)]) {
        for (const tail of ['', '/']) {
          const url = `/auth/sessions/${id}${tail}`
          const { statusCode } = await host.app.inject({ method: 'DELETE', url, headers: bearer(user) })
          t.ok([400, 404, 414].includes(statusCode), `${statusCode} ${url}`)
        }
      }

      t.strictSame(await idsOf(user), [sessionId])
    })

    await t.test('a logout needs no body, and takes every way of sending none', async (t) => {
      const json = { 'content-type': 'application/json' }
      const forms: [unknown, Record<string, string>][] = [
        [undefined, {}],
        [undefined, { 'content-length': '0' }],
        ['', json],
        ['', { ...json, 'content-length': '0' }],
        ['null', json],
        ['{}', json],
        ['{"all":true}', { 'content-type': 'application/json; charset=utf-8' }],
      ]
      for (const [payload, headers] of forms) {
        const user = await member()
        t.equal(told(await logout(payload, { ...headers, ...bearer(user) })), '204', String(payload))
        t.strictSame(await fateOf(host, user), dead)
      }
      const user = await member()
      const sent = await host.send({
        method: 'DELETE',
        url: `/auth/sessions/${user.sessionId}/`,
        payload: '',
        headers: { ...json, ...bearer(user) },
      })
      t.equal(told(sent), '204')
    })

    await t.test('what is no body of a logout is refused, whatever the access token, and ends nothing', async (t) => {
      const user = await member()
      const json = { 'content-type': 'application/json' }
      const wrong: [string, string, Record<string, string>?][] = [
        ['{"refresh":7}', '400 VALIDATION'],
        ['{"refresh":null}', '400 VALIDATION'],
        ['{"refresh":["x"]}', '400 VALIDATION'],
        ['[]', '400 VALIDATION'],
        ['"x"', '400 VALIDATION'],
        ['{', '400 VALIDATION'],
        [`{"refresh":"${'x'.repeat(8193)}"}`, '400 VALIDATION'],
        [`{"refresh":"${'x'.repeat(20_000)}"}`, '413 BODY_TOO_LARGE'],
        ['refresh=x', '415 MEDIA_TYPE_UNSUPPORTED', { 'content-type': 'application/x-www-form-urlencoded' }],
        ['{"refresh":""}', '401 TOKEN_INVALID'],
        ['{"refresh":"x.y.z"}', '401 TOKEN_INVALID'],
      ]
      for (const [payload, expected, type = json] of wrong) {
        t.equal(told(await logout(payload, { ...type, ...bearer(user) })), expected, payload.slice(0, 30))
      }
      t.strictSame(await fateOf(host, user), alive)
    })

    await t.test('a logout without a good token is refused and ends nothing', async (t) => {
      const user = await member()
      const forged = (token: string) => token.replace(/.{5}$/, 'AAAAA')
      const tries: [unknown, Record<string, string>][] = [
        [undefined, {}],
        [{}, {}],
        [undefined, { authorization: user.access }],
        [undefined, { authorization: 'Bearer ' }],
        [undefined, { authorization: 'Basic YTpi' }],
        [undefined, bearer({ access: forged(user.access) })],
        [undefined, bearer({ access: user.refresh })],
        [{ refresh: user.access }, {}],
        [{ refresh: forged(user.refresh) }, {}],
      ]
      for (const [payload, headers] of tries) {
        const answer = await logout(payload, headers)
        t.equal(told(answer), '401 TOKEN_INVALID')
        t.equal(answer.headers['www-authenticate'], 'Bearer')
      }
      for (const [method, url] of [
        ['POST', '/auth/logout_all/'],
        ['GET', '/auth/sessions/'],
        ['DELETE', `/auth/sessions/${user.sessionId}/`],
      ] as const) {
        t.equal(told(await host.send({ method, url })), '401 TOKEN_INVALID')
      }
      t.strictSame(await fateOf(host, user), alive)
    })

    await t.test('an expired access token is told so and ends nothing; its refresh token still does', async (t) => {
      const user = await member()
      clock.pass(300_000)

      t.equal(told(await logout(undefined, bearer(user))), '401 TOKEN_EXPIRED')
      t.equal(told(await user.asked('POST', '/auth/logout_all/')), '401 TOKEN_EXPIRED')
      const now = await renewed(user)
      t.equal(told(await logout({ refresh: now.refresh }, bearer(user))), '204')
      t.strictSame(await fateOf(host, now), dead)
    })

    await t.test('a token of an ended session ends no session that began later', async (t) => {
      const user = await member()
      await user.asked('POST', '/auth/logout_all/')
      const later = await newSession(user.id)

      t.equal(told(await user.asked('POST', '/auth/logout_all/')), '401 TOKEN_INVALID')
      t.equal(told(await user.asked('DELETE', `/auth/sessions/${later.sessionId}/`)), '401 TOKEN_INVALID')
      t.equal(told(await logout({ refresh: user.refresh })), '204')
      t.strictSame(await fateOf(host, later), alive)
    })

    await t.test('a logout takes a refresh token of any age', async (t) => {
      const user = await member()
      const once = await renewed(user)
      const newest = await renewed(once)
      clock.pass(minute)
      reused.length = 0

      t.equal(told(await logout({ refresh: user.refresh })), '204', 'the first one')
      t.strictSame(await fateOf(host, newest), dead)
      t.strictSame(reused, [], 'which is no sign of a theft')

      const over = await member()
      clock.pass(absolute + day + 1)
      t.equal(told(await logout({ refresh: over.refresh })), '204', 'one past its end')
      await purge(realmOf(accounts))
      t.equal(await realmOf(accounts).storage.endSession(over.sessionId, null, clock()), null)
      t.equal(told(await logout({ refresh: over.refresh })), '204', 'one whose session’s row is gone')
    })
  })
}

t.test('a refresh token of another realm, though of the same secret, ends nothing in either', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  const { secret } = testOptions()
  const realms = { accounts: testOptions(), staff: { ...testOptions(), prefix: '/staff', name: 'staff' } }
  for (const options of Object.values(realms)) await app.register(plugin, { ...options, secret })
  const { post } = clientOf(app)
  const [customer, clerk] = [await newMember(app.accounts), await newMember(accountsOf({ app, name: 'staff' }))]
  const out = (prefix: string, body: object, access?: string) =>
    post(`${prefix}/auth/logout/`, body, access ? { authorization: `Bearer ${access}` } : {})

  t.equal(told(await out('', { refresh: clerk.refresh })), '401 TOKEN_INVALID')
  t.equal(told(await out('/staff', { refresh: customer.refresh })), '401 TOKEN_INVALID')
  t.equal(told(await out('', {}, clerk.access)), '401 TOKEN_INVALID')
  t.equal(told(await out('/staff', {}, customer.access)), '401 TOKEN_INVALID')

  t.equal((await post('/auth/refresh/', { refresh: customer.refresh })).status, 200)
  t.equal((await post('/staff/auth/refresh/', { refresh: clerk.refresh })).status, 200)
})

t.test('a wrong answer of the option "session" is a fault that the log names, and starts no session', async (t) => {
  const lines: string[] = []
  const logger = { level: 'error', stream: { write: (line: string) => void lines.push(line) } }
  let answer: () => unknown = () => ({})
  const session = (() => answer()) as () => object
  const { app, post, send } = await memoryApp(t, { session, passwords }, { logger })
  const { storage } = realmOf(app.accounts)
  const user = await createUser(app, { password, verified: true })
  const wrong: [() => unknown, RegExp][] = [
    [() => ({ idle: 0 }), /option "session\.idle" must be a whole number/],
    [() => ({ idle: 7200, absolute: 3600 }), /option "session\.idle" must not be longer/],
    [() => ({ idel: 60 }), /option "session\.idel" is unknown/],
    [() => '1h', /option "session" must be/],
    [() => null, /option "session" must be/],
    [async () => ({ idle: 60 }), /option "session" must return/],
    [() => Promise.reject(new Error('late')), /option "session" must return/],
    [() => Object(null).of.request, /Cannot read properties/],
  ]

  for (const [given, message] of wrong) {
    answer = given
    lines.length = 0
    const refused = await post('/api/login/', { email: user.email, password })
    t.equal(told(refused), '500')
    t.equal(lines.filter((line) => /"login\\" failed/.test(line)).length, 1)
    t.match(JSON.parse(lines.find((line) => line.includes('failed')) as string).err.message, message)
    await t.rejects(app.accounts.startSession(user.id), { message })
  }
  t.strictSame(await storage.listSessions(user.id, 1000, Date.now()), [])

  answer = () => ({})
  const { body } = await post('/api/login/', { email: user.email, password })
  answer = () => ({ idle: 0 })
  const changed = await send({
    method: 'POST',
    url: '/auth/change_password/',
    payload: { current_password: password, new_password: 'another horse battery' },
    headers: { authorization: `Bearer ${body.access}` },
  })
  t.equal(told(changed), '200', 'its session lives as long as the one that asked')
})

t.test('startSession asks the option about the request that it is given', async (t) => {
  const clock = settableClock()
  const session = (request: FastifyRequest | null) => ({ idle: request?.headers['remember-me'] ? 7200 : 3600 })
  const { app, post } = await memoryApp(t, { session, clock })
  const user = await createUser(app)
  app.post('/sso', (request) => app.accounts.startSession(user.id, request))

  const plain = await post('/sso', {}, { 'user-agent': 'Firefox' })
  const remembered = await post('/sso', {}, { 'remember-me': 'yes' })
  const [first] = (await realmOf(app.accounts).storage.listSessions(user.id, 1000, clock())).filter(
    ({ userAgent }) => userAgent === 'Firefox',
  )
  clock.pass(3_600_000)

  t.match(first, { userId: user.id, userAgent: 'Firefox', ip: '127.0.0.1' })
  t.equal((await post('/auth/refresh/', plain.body)).status, 401)
  t.equal((await post('/auth/refresh/', remembered.body)).status, 200)
})

const stores: { on: string; skip: false | string; open(t: Test): Promise<() => Storage> }[] = [
  {
    on: 'memory',
    skip: false,
    async open() {
      const storage = memoryStorage()
      return () => storage
    },
  },
  {
    on: 'PostgreSQL',
    skip: noPostgres,
    async open(t) {
      const { db } = await openDatabase(t)
      return () => kyselyStorage(db)
    },
  },
]

for (const { on, skip, open } of stores) {
  t.test(`the removal of old sessions, on ${on}`, { skip }, async (t) => {
    const clock = settableClock(1_900_000_000_000)
    const another = await open(t)
    const storage = another()
    const user = await storedUser(storage)

    /** Stores sessions whose end is so long ago, and answers their ids. */
    async function ended(ago: number, count = 1): Promise<string[]> {
      const change: Partial<Session> = { expiresAt: clock() - ago }
      const ids: string[] = []
      while (ids.length < count) {
        const some = Array.from({ length: Math.min(50, count - ids.length) }, () =>
          storedSession(storage, change, user),
        )
        ids.push(...(await Promise.all(some)).map(({ id }) => id))
      }
      return ids
    }
    /** An instance, by what its removals work with, and how many rows each of them took. */
    function instance() {
      const own = another()
      const taken: number[] = []
      const counting: Storage = {
        ...own,
        async purge(limits) {
          t.match(limits, { now: clock(), limit: 1000 })
          taken.push(await own.purge(limits))
          return taken.at(-1) as number
        },
      }
      return { taken, realm: { storage: counting, options: { eventLog: false }, clock } as unknown as Realm }
    }
    const stored = async (ids: string[]) => {
      const found = await Promise.all(sampled(ids, 50).map((id) => storage.endSession(id, user.id, clock())))
      return found.filter((outcome) => outcome !== null).length
    }
    const open_ = [...(await ended(-day)), ...(await ended(-1))]
    const [recent] = await ended(day)
    const [over] = await ended(-hour)
    await storage.endSession(over as string, null, clock() - 20 * day)
    const many = rounds(2500, 1100)
    const kept = [...open_, recent as string, over as string]

    await t.test('old rows go in batches of 1,000, and none that is live or was lately', async (t) => {
      // docs: "removed a day after their absolute end"
      const old = await ended(day + 1, many)
      const { realm, taken } = instance()

      await purge(realm)

      t.strictSame(taken, everything ? [1000, 1000, 500] : [1000, 100])
      t.equal(await stored(old), 0)
      t.equal(await stored(kept), kept.length)
    })

    await t.test('two instances at once take each row once, and leave none', async (t) => {
      const old = await ended(day + 1, many)
      const instances = [instance(), instance()]

      await Promise.all(instances.map(({ realm }) => purge(realm)))

      const taken = instances.flatMap(({ taken }) => taken)
      t.equal(
        taken.reduce((sum, count) => sum + count, 0),
        many,
      )
      t.ok(
        taken.every((count) => count <= 1000),
        String(taken),
      )
      t.equal(await stored(old), 0)
      t.equal(await stored(kept), kept.length)
    })
  })
}

t.test('the timers of an instance', async (t) => {
  // Node.js warns that these are experimental.
  t.capture(process, 'emitWarning')
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
  const runs = { purge: 0, claimMails: 0 }
  let fails = false
  let hold: Promise<void> | undefined
  const storage = memoryStorage()
  const counted: Storage = {
    ...storage,
    async purge(limits) {
      runs.purge++
      await hold
      if (fails) throw new Error('connection lost')
      return storage.purge(limits)
    },
    claimMails(...page) {
      runs.claimMails++
      return storage.claimMails(...page)
    },
  }
  /** Lets time pass in small steps, with everything that becomes due. */
  async function pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 250) {
      mock.timers.tick(250)
      await turn()
    }
  }
  const { app } = await memoryApp(t, { storage: counted })
  await app.ready()

  await t.test('they begin with the app: rows about once a minute, mails about every five seconds', async (t) => {
    // docs: "up to 75 s later"
    await pass(44_750)
    t.equal(runs.purge, 0)
    await pass(30_250)
    t.equal(runs.purge, 1)
    t.ok(runs.claimMails >= 11 && runs.claimMails <= 20, `${runs.claimMails} sweeps in 75 s`)
    await pass(75_000)
    t.ok(runs.purge >= 2)
  })

  await t.test('a fault of the database does not stop them', async (t) => {
    fails = true
    await pass(75_000)
    fails = false
    const { purge } = runs
    await pass(75_000)
    t.ok(runs.purge > purge)
  })

  await t.test('they end with the app, also when it closes while they are at work', async (t) => {
    let release = () => {}
    hold = new Promise((resolve) => {
      release = resolve
    })
    const { purge } = runs
    while (runs.purge === purge) await pass(250)
    const closing = app.close()
    await turn()
    release()
    await closing

    const atEnd = { ...runs }
    await pass(150_000)
    t.strictSame(runs, atEnd)
  })
})

t.test('no timer of an instance keeps its process alive', async (t) => {
  const timers = () => process.getActiveResourcesInfo().filter((resource) => resource === 'Timeout').length
  const before = timers()
  const { app, get } = await memoryApp(t)
  const { access } = await newMember(app.accounts)
  t.equal((await get('/auth/user/', access)).status, 200, 'which starts the feed too')

  await until(() => timers() <= before)
})

t.test('races of a session’s end', { skip: noPostgres }, async (t) => {
  const host = await realApp(t, { passwords })
  const { accounts } = accountActs(host)
  const { send, db } = host
  const ends: AccountEvent[] = []
  accounts.addHook('afterSessionEnd', (event) => ends.push(event))
  host.app.get('/me', { onRequest: accounts.authenticate }, async () => ({}))
  const post = (url: string, payload: object | undefined, access?: string) =>
    send({ method: 'POST', url, payload, headers: access ? { authorization: `Bearer ${access}` } : {} })
  type Tokens = Awaited<ReturnType<typeof newMember>>
  const ways: ((user: Tokens) => ReturnType<typeof send>)[] = [
    ({ access }) => post('/auth/logout/', undefined, access),
    ({ refresh }) => post('/auth/logout/', { refresh }),
    ({ access }) => post('/auth/logout_all/', undefined, access),
    ({ access, sessionId }) =>
      send({ method: 'DELETE', url: `/auth/sessions/${sessionId}/`, headers: { authorization: `Bearer ${access}` } }),
  ]
  // All connections are open before it counts.
  await Promise.all(Array.from({ length: 50 }, () => newMember(accounts)))

  await t.test('50 logouts of one session at once are all 204, and one event', async (t) => {
    for (let round = 0; round < 5; round++) {
      const user = await newMember(accounts)
      ends.length = 0

      const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => ways[n % 2]!(user)))

      t.strictSame(counted(answers), { 204: 50 })
      t.match(ends, [{ sessionId: user.sessionId, userId: user.user.id, details: { reason: 'logout', count: 1 } }])
      t.equal(ends.length, 1)
    }
  })

  await t.test('[R-SES-1] no token is alive after a logout that races refreshes', async (t) => {
    const won = { refresh: 0, logout: 0 }
    for (let round = 0; round < rounds(100, 32); round++) {
      const user = await newMember(accounts)
      const refresh = () => post('/auth/refresh/', { refresh: user.refresh })
      const racers = [refresh, () => ways[round % ways.length]!(user), refresh, refresh]
      // The logout has each place in turn.
      const shift = Math.floor(round / ways.length) % racers.length
      const turned = [...racers.slice(shift), ...racers.slice(0, shift)]
      const answers = await Promise.all(turned.map((racer) => racer()))

      const [refreshed, others] = [
        answers.filter(({ body }) => body?.access),
        answers.filter(({ body }) => !body?.access),
      ]
      t.equal(others.filter(({ status }) => status === 204).length, 1)
      t.ok(
        others.every(({ status }) => status === 204 || status === 401),
        JSON.stringify(counted(others)),
      )
      won[refreshed.length > 0 ? 'refresh' : 'logout']++
      for (const { access, refresh } of [user, ...refreshed.map(({ body }) => body)]) {
        t.equal((await send({ url: '/me', headers: { authorization: `Bearer ${access}` } })).status, 401)
        t.equal(told(await post('/auth/refresh/', { refresh })), '401 TOKEN_INVALID')
      }
      const row = await db
        .selectFrom('accounts_sessions')
        .select('ended_at')
        .where('id', '=', user.sessionId)
        .executeTakeFirst()
      t.not(row?.ended_at, null)
    }
    t.comment(`refreshes came first in ${won.refresh} rounds, the logout in ${won.logout}`)
  })
})
