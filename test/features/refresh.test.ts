import fc from 'fast-check'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import type { Storage } from '../../lib/contracts.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { type Answer, accountsOf, memoryApp, openDatabase, settableClock, startServer } from '../helpers/app.ts'
import { noPostgres, redisUrl, rounds, uniqueName } from '../helpers/helper.ts'
import { claimsOf, newMember } from '../helpers/members.ts'

const second = 1000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour
/** One millisecond more than the window. */
const late = 30 * second + 1

/** An app over the storage, with a clock that stands, and a member of it. */
async function realm(t: Test, storage: Storage, options: Partial<AccountsOptions> = {}) {
  const clock = settableClock()
  const { app, get, post } = await memoryApp(t, { storage, clock, ...options })
  const accounts = accountsOf({ app })
  const member = await newMember(accounts)
  const refresh = (token: string) => post('/auth/refresh/', { refresh: token })
  /** Refreshes `times` times, one after the other, and answers the tokens: the first one is number 0. */
  async function rotated(times: number): Promise<string[]> {
    const tokens = [member.refresh]
    for (let step = 0; step < times; step++) tokens.push((await refresh(tokens.at(-1) as string)).body.refresh)
    return tokens
  }
  const session = async () => {
    const outcome = await storage.refreshSession(
      member.sessionId,
      2 ** 40,
      { rotate: true, graceMs: 0, lateReplays: 0 },
      clock(),
    )
    return outcome.result === 'ahead' ? outcome.session : null
  }
  return { clock, get, post, accounts, member, refresh, rotated, session }
}
type Realm = Awaited<ReturnType<typeof realm>>

function accepted(t: Test, answer: Answer, what: string): void {
  t.equal(answer.status, 200, `${what}: 200`)
  t.same(Object.keys(answer.body).sort(), ['access', 'refresh'])
}

function refused(t: Test, answer: Answer, what: string, code = 'ACCOUNTS_TOKEN_INVALID'): void {
  t.equal(answer.status, 401, `${what}: 401`)
  t.equal(answer.body.code, code, `${what}: ${code}`)
}

async function alive(t: Test, { get, member }: Realm, expected: boolean): Promise<void> {
  const { status } = await get('/auth/user/', member.access)
  t.equal(status, expected ? 200 : 401, expected ? 'the session goes on' : 'the session has ended')
}

const stories: Record<string, (t: Test, storage: Storage) => Promise<unknown>> = {
  async '[R-REF-6] a refresh answers a new pair of the same session with fresh iat and jti'(t, storage) {
    const { refresh, clock, get, member } = await realm(t, storage)
    clock.pass(hour)

    const answer = await refresh(member.refresh)

    accepted(t, answer, 'the first token')
    const before = claimsOf(member.access)
    const after = claimsOf(answer.body.access)
    t.equal(after.sid, before.sid)
    t.equal(after.sub, before.sub)
    t.equal(after.auth_time, before.auth_time, 'the password was not proved again')
    t.equal(after.iat, (before.iat as number) + 3600)
    t.equal(after.exp, (after.iat as number) + 300)
    t.not(after.jti, before.jti)
    t.not(answer.body.refresh, member.refresh)
    t.equal((await get('/auth/user/', answer.body.access)).status, 200)
  },

  async '[R-REF-6] no member of the request gets into a token'(t, storage) {
    const { post, member } = await realm(t, storage)
    const extra = { sub: '999', sid: 'x', jti: 'x', iat: 1, exp: 9e9, role: 'admin', counter: 7, claims: { a: 1 } }

    const { status, body } = await post('/auth/refresh/', { ...extra, refresh: member.refresh })

    t.equal(status, 200)
    const { jti, iat, exp, ...rest } = claimsOf(body.access)
    const { jti: _j, iat: _i, exp: _e, ...before } = claimsOf(member.access)
    t.same(rest, before)
    t.not(jti, 'x')
    t.not(iat, 1)
    t.not(exp, 9e9)
  },

  async 'a client that rotates refreshes all day, and each token works once more at once'(t, storage) {
    const { refresh, clock, member } = await realm(t, storage)
    let token = member.refresh

    for (let step = 0; step < 30; step++) {
      clock.pass(30 * minute)
      const answer = await refresh(token)
      accepted(t, answer, `refresh ${step}`)
      t.equal((await refresh(token)).body.refresh, answer.body.refresh, 'the same successor')
      token = answer.body.refresh
    }
  },

  async 'a token that comes back within the window gets the same successor without limit'(t, storage) {
    const { refresh, rotated, clock } = await realm(t, storage, { refresh: { lateReplays: 1 } })
    const [, , newest] = (await rotated(2)) as [string, string, string]
    const { body } = await refresh(newest)

    clock.pass(20 * second)
    for (let use = 0; use < 10; use++) t.equal((await refresh(newest)).body.refresh, body.refresh)
    clock.pass(10 * second)
    t.equal((await refresh(newest)).body.refresh, body.refresh, 'the last moment of the window')

    // Had a replay moved the window or been counted, the next two would not be the one that is left and reuse.
    clock.pass(1)
    t.equal((await refresh(newest)).body.refresh, body.refresh, 'the one late replay')
    clock.pass(late)
    refused(t, await refresh(newest), 'one more', 'ACCOUNTS_REFRESH_REUSED')
  },

  async '[R-REF-2] the newest token comes back late three times, and the fourth time ends the session'(t, storage) {
    // docs: "up to 3 times a session after 30 s"
    const opened = await realm(t, storage)
    const { refresh, rotated, clock } = opened
    const [, newest, next] = (await rotated(2)) as [string, string, string]

    for (let replay = 1; replay <= 3; replay++) {
      clock.pass(minute)
      const answer = await refresh(newest)
      accepted(t, answer, `late replay ${replay}`)
      t.equal(answer.body.refresh, next)
    }
    await alive(t, opened, true)
    clock.pass(minute)
    refused(t, await refresh(newest), 'late replay 4', 'ACCOUNTS_REFRESH_REUSED')

    await alive(t, opened, false)
    for (const token of [newest, next]) refused(t, await refresh(token), 'a token of the ended session')
  },

  async 'a burst of late replays counts once'(t, storage) {
    const { refresh, rotated, clock } = await realm(t, storage, { refresh: { lateReplays: 1 } })
    const [, newest] = (await rotated(2)) as [string, string]
    clock.pass(hour)

    const burst = await Promise.all(Array.from({ length: 20 }, () => refresh(newest)))
    clock.pass(30 * second)
    const again = await refresh(newest)
    clock.pass(1)
    const more = await refresh(newest)

    t.same(new Set(burst.map(({ status }) => status)), new Set([200]))
    t.equal(new Set(burst.map(({ body }) => body.refresh)).size, 1)
    accepted(t, again, 'within the window of the counted one')
    refused(t, more, 'after it', 'ACCOUNTS_REFRESH_REUSED')
  },

  async 'an advance does not reset the count of late replays'(t, storage) {
    const { refresh, rotated, clock } = await realm(t, storage, { refresh: { lateReplays: 1 } })
    const [, newest, next] = (await rotated(2)) as [string, string, string]
    clock.pass(hour)
    accepted(t, await refresh(newest), 'the late replay')
    accepted(t, await refresh(next), 'the advance')

    clock.pass(hour)

    refused(t, await refresh(next), 'a second late replay', 'ACCOUNTS_REFRESH_REUSED')
  },

  async 'a client that keeps its first token refreshes all day'(t, storage) {
    const opened = await realm(t, storage)
    const { refresh, clock, get, member } = opened

    for (let use = 0; use < 100; use++) {
      clock.pass(15 * minute)
      const { status, body } = await refresh(member.refresh)
      if (status !== 200) t.fail(`use ${use}: ${status}`)
      if (use % 20 === 0) t.equal((await get('/auth/user/', body.access)).status, 200)
    }
    t.match(await refresh(member.refresh), { status: 200 })
  },

  async 'a first token that was left behind is reuse like any other'(t, storage) {
    const opened = await realm(t, storage)
    const [first] = (await opened.rotated(2)) as [string]
    opened.clock.pass(late)

    refused(t, await opened.refresh(first), 'token 0 after token 1', 'ACCOUNTS_REFRESH_REUSED')

    await alive(t, opened, false)
  },

  async 'a token two behind within the window is refused and ends nothing'(t, storage) {
    const opened = await realm(t, storage)
    const { refresh, rotated, clock } = opened
    const [first, second_, newest, next] = (await rotated(3)) as [string, string, string, string]
    clock.pass(30 * second)

    refused(t, await refresh(first), 'three behind')
    refused(t, await refresh(second_), 'two behind')

    await alive(t, opened, true)
    t.equal((await refresh(newest)).body.refresh, next)
    accepted(t, await refresh(next), 'the next token')
  },

  async '[R-REF-3] a token used up long ago ends the session, and the end outlives the refusal'(t, storage) {
    const opened = await realm(t, storage)
    const { refresh, rotated, clock, session } = opened
    const tokens = await rotated(3)
    clock.pass(late)

    refused(t, await refresh(tokens[1] as string), 'two behind', 'ACCOUNTS_REFRESH_REUSED')

    await alive(t, opened, false)
    t.equal(await session(), null)
    for (const token of tokens) refused(t, await refresh(token), 'a token of the ended session')
  },

  async 'only the request that ends the session is told of reuse'(t, storage) {
    const { refresh, rotated, clock } = await realm(t, storage)
    const [, old] = (await rotated(4)) as [string, string]
    clock.pass(hour)

    const answers = await Promise.all(Array.from({ length: 20 }, () => refresh(old)))

    const codes = answers.map(({ body }) => body.code)
    t.equal(codes.filter((code) => code === 'ACCOUNTS_REFRESH_REUSED').length, 1)
    t.equal(codes.filter((code) => code === 'ACCOUNTS_TOKEN_INVALID').length, 19)
  },

  async 'a token ahead of its session is refused and ends nothing'(t, storage) {
    const opened = await realm(t, storage)
    const { refresh, rotated, accounts, session } = opened
    const tokens = await rotated(2)
    const row = await session()
    if (!row) return t.fail('no session')

    for (const counter of [3, 4, 1000]) {
      refused(
        t,
        await refresh(realmOf(accounts).tokens.signRefresh(row, counter)),
        `token ${counter} while token 1 is the newest`,
      )
    }

    await alive(t, opened, true)
    accepted(t, await refresh(tokens[2] as string), 'token 2')
  },

  async '[R-REF-2] with lateReplays 0 the first late replay ends the session, also of the first token'(t, storage) {
    for (const steps of [1, 3]) {
      const opened = await realm(t, storage, { refresh: { lateReplays: 0 } })
      const newest = (await opened.rotated(steps)).at(-2) as string
      opened.clock.pass(30 * second)
      accepted(t, await opened.refresh(newest), 'within the window')
      opened.clock.pass(1)

      refused(t, await opened.refresh(newest), 'after it', 'ACCOUNTS_REFRESH_REUSED')

      await alive(t, opened, false)
    }
  },

  async 'with rotate false a refresh answers access alone, and the token serves until the session ends'(t, storage) {
    const opened = await realm(t, storage, { refresh: { rotate: false }, session: { idle: 86_400 } })
    const { refresh, get, member, clock, accounts, session } = opened
    const row = await session()
    if (!row) return t.fail('no session')

    for (let use = 0; use < 10; use++) {
      clock.pass(20 * hour)
      const { status, body } = await refresh(member.refresh)
      t.equal(status, 200)
      t.same(Object.keys(body), ['access'])
      t.equal((await get('/auth/user/', body.access)).status, 200)
    }
    refused(t, await refresh(realmOf(accounts).tokens.signRefresh(row, 1)), 'a token that was never answered')
    clock.pass(day)
    refused(t, await refresh(member.refresh), 'after a day without use')
  },

  async 'sessions go on when rotation is switched off and on again'(t, storage) {
    const rotating = await realm(t, storage)
    const { clock, member, accounts } = rotating
    const [, , newest] = (await rotating.rotated(2)) as [string, string, string]
    const fixed = await memoryApp(t, { storage, clock, refresh: { rotate: false } })
    clock.pass(hour)

    for (let use = 0; use < 5; use++) {
      const { status, body } = await fixed.post('/auth/refresh/', { refresh: newest })
      t.equal(status, 200)
      t.same(Object.keys(body), ['access'])
      clock.pass(hour)
    }

    const answer = await rotating.refresh(newest)
    accepted(t, answer, 'the kept token, rotating again')
    t.equal(claimsOf(answer.body.access).sid, member.sessionId)
    t.ok(accounts)
  },

  async '[R-REF-4] a session that is not used ends, and each use puts the end off'(t, storage) {
    const opened = await realm(t, storage)
    const { refresh, clock, member } = opened

    clock.pass(10 * day - 1)
    const first = await refresh(member.refresh)
    accepted(t, first, 'the last moment')
    clock.pass(10 * day - 1)
    const next = await refresh(first.body.refresh)
    accepted(t, next, 'the last moment after that use')
    clock.pass(10 * day)

    refused(t, await refresh(next.body.refresh), 'ten days without use')
  },

  async '[R-REF-4] the absolute end is never put off'(t, storage) {
    const { refresh, clock, member } = await realm(t, storage)
    const { exp } = claimsOf(member.refresh)
    let token = member.refresh

    for (let use = 0; use < 5; use++) {
      clock.pass(5 * day)
      const { body } = await refresh(token)
      t.equal(claimsOf(body.refresh).exp, exp)
      token = body.refresh
    }
    clock.pass(5 * day - 2 * second)
    const last = await refresh(token)
    accepted(t, last, 'two seconds before the end')
    t.ok((claimsOf(last.body.access).exp as number) <= (exp as number), 'the access token ends with the session')
    clock.pass(2 * second)

    refused(t, await refresh(last.body.refresh), 'at the end')
  },

  async 'a refused refresh is no use of the session'(t, storage) {
    const { refresh, rotated, clock } = await realm(t, storage, { session: { idle: 30 } })
    const [first, , newest] = (await rotated(2)) as [string, string, string]
    clock.pass(29 * second)
    refused(t, await refresh(first), 'two behind')
    clock.pass(second)

    refused(t, await refresh(newest), 'thirty seconds without use')
  },

  async '[R-REF-7] a refresh needs no access token, and an access token is none'(t, storage) {
    const { post, get, member, refresh } = await realm(t, storage)
    const bearer = { authorization: `Bearer ${member.access}` }

    refused(t, await refresh(member.access), 'an access token in the body')
    t.match(await post('/auth/refresh/', {}, bearer), { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } })
    refused(t, await post('/auth/refresh/', { refresh: 'x' }, bearer), 'an access token in the header')
    refused(t, await get('/auth/user/', member.refresh), 'a refresh token as access token')
    accepted(t, await refresh(member.refresh), 'alone')
  },

  async 'what is no token is refused'(t, storage) {
    const { post, refresh, member } = await realm(t, storage)

    for (const value of [1, null, true, [member.refresh], { token: member.refresh }, undefined]) {
      const answer = await post('/auth/refresh/', { refresh: value })
      t.match(answer, { status: 400, body: { code: 'ACCOUNTS_VALIDATION' } }, JSON.stringify(value))
    }
    for (const token of ['', '.', '..', 'a.b.c', ` ${member.refresh}`, `${member.refresh}\n`, 'x'.repeat(8192)])
      refused(t, await refresh(token), JSON.stringify(token.slice(0, 20)))
    t.match(await refresh('x'.repeat(17_000)), { status: 413 })
    accepted(t, await refresh(member.refresh), 'the token itself')
  },

  async 'a phone that lost an answer goes on three hours later'(t, storage) {
    const { refresh, rotated, clock } = await realm(t, storage)
    const kept = (await rotated(3)).at(-1) as string
    const lost = await refresh(kept)
    clock.pass(3 * hour)

    const answer = await refresh(kept)

    accepted(t, answer, 'the token it still has')
    t.equal(answer.body.refresh, lost.body.refresh, 'the answer that got lost, once more')
    clock.pass(hour)
    accepted(t, await refresh(answer.body.refresh), 'and on')
  },

  async '[R-REF-2] honest owners are never logged out'(t, storage) {
    const life = 315_360_000
    const opened = await realm(t, storage, { session: { idle: life, absolute: life } })
    const { accounts, clock } = opened
    const delay = fc.oneof(fc.integer({ min: 0, max: 60 }), fc.integer({ min: 0, max: 9 * 86_400 }))
    const act = fc.oneof(
      fc.record({ act: fc.constantFrom('refresh', 'lost answer', 'two tabs', 'suspended phone'), delay }),
    )

    await fc.assert(
      fc.asyncProperty(fc.array(act, { minLength: 1, maxLength: 25 }), async (acts) => {
        let { refresh: token } = await newMember(accounts)
        let losses = 0
        for (const { act, delay } of acts) {
          clock.pass(delay * second)
          const loses = (act === 'lost answer' || act === 'suspended phone') && losses < 3
          const [answer, other] = await Promise.all([
            opened.refresh(token),
            act === 'two tabs' ? opened.refresh(token) : undefined,
          ])
          if (answer.status !== 200 || (other && other.body.refresh !== answer.body.refresh)) return false
          if (loses) losses++
          else token = answer.body.refresh
          if (act === 'suspended phone') clock.pass(3 * hour)
        }
        return (await opened.refresh(token)).status === 200
      }),
      { numRuns: rounds(60, 15) },
    )
    t.pass('in all those lives of a session')
  },

  async '[R-REF-2] a thief and an owner who take turns are found out at the fourth late replay'(t, storage) {
    // docs: "at the 4th late replay at the latest"
    const opened = await realm(t, storage)
    const { accounts, clock } = opened
    const delay = fc.integer({ min: 31, max: 3600 })

    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.record({ delay, tabs: fc.boolean() }), { minLength: 8, maxLength: 8 }),
        fc.constantFrom('owner', 'thief'),
        async (adopted, turns, begins) => {
          const tokens = { owner: (await newMember(accounts)).refresh, thief: '' }
          for (let step = 0; step < adopted; step++) {
            clock.pass(minute)
            tokens.owner = (await opened.refresh(tokens.owner)).body.refresh
          }
          tokens.thief = tokens.owner

          const codes: (string | undefined)[] = []
          let actor: 'owner' | 'thief' = begins as 'owner'
          for (const { delay, tabs } of turns) {
            clock.pass(delay * second)
            const copies = Array.from({ length: tabs ? 2 : 1 }, () => opened.refresh(tokens[actor]))
            const answers = await Promise.all(copies)
            const told = answers.find(({ body }) => body.code === 'ACCOUNTS_REFRESH_REUSED') ?? answers[0]
            codes.push(told?.body.code)
            tokens[actor] = told?.body.refresh ?? tokens[actor]
            actor = actor === 'owner' ? 'thief' : 'owner'
          }
          // Every second turn is a late replay; the fourth of them is the last turn.
          const ended = codes.pop() === 'ACCOUNTS_REFRESH_REUSED'
          return ended && codes.every((code) => code === undefined)
        },
      ),
      { numRuns: rounds(40, 10) },
    )
    t.pass('in all those thefts')
  },

  async '[R-REF-2] a thief who uses a stolen token twice is found out at the owner’s next refresh'(t, storage) {
    const opened = await realm(t, storage)
    const stolen = (await opened.rotated(2)).at(-1) as string
    const { body } = await opened.refresh(stolen)
    await opened.refresh(body.refresh)
    opened.clock.pass(late)

    refused(t, await opened.refresh(stolen), 'the owner', 'ACCOUNTS_REFRESH_REUSED')

    await alive(t, opened, false)
  },
}

t.test('refresh over the memory', async (t) => {
  for (const [title, story] of Object.entries(stories)) await t.test(title, (t) => story(t, memoryStorage()))
})

t.test('refresh over PostgreSQL', { skip: noPostgres }, async (t) => {
  const { db } = await openDatabase(t)
  for (const [title, story] of Object.entries(stories)) await t.test(title, (t) => story(t, kyselyStorage(db)))

  await t.test(
    '[R-REF-5] each refresh reads the user again: disabled, changed and deleted ones refresh nothing',
    async (t) => {
      const { refresh, accounts, clock } = await realm(t, kyselyStorage(db))
      const changes = {
        disabled: { active: false },
        'of another credential version': { credential_version: 5 },
      }

      for (const [what, change] of Object.entries(changes)) {
        const { user, refresh: token } = await newMember(accounts)
        const { body } = await refresh(token)
        await db.updateTable('accounts_users').set(change).where('id', '=', user.id).execute()
        clock.pass(minute)
        for (const one of [token, body.refresh]) refused(t, await refresh(one), what)
      }
      const { user, refresh: token } = await newMember(accounts)
      await db.deleteFrom('accounts_users').where('id', '=', user.id).execute()
      refused(t, await refresh(token), 'deleted')
    },
  )

  await t.test('[R-REF-3] the end of a session is in its row when the refusal is answered', async (t) => {
    const { refresh, rotated, clock, member } = await realm(t, kyselyStorage(db))
    const [, old] = (await rotated(3)) as [string, string]
    clock.pass(hour)

    refused(t, await refresh(old), 'reuse', 'ACCOUNTS_REFRESH_REUSED')

    const row = await db
      .selectFrom('accounts_sessions')
      .select('ended_at')
      .where('id', '=', member.sessionId)
      .executeTakeFirst()
    t.equal(Number(row?.ended_at), clock())
  })
})

t.test(
  '[R-REF-1] 50 parallel refreshes over two processes take one step and answer one refresh token',
  { skip: noPostgres },
  async (t) => {
    const { url, db } = await openDatabase(t)
    const settings = { DATABASE_URL: url, REDIS_URL: redisUrl(), OPTIONS: JSON.stringify({ name: uniqueName() }) }
    const [one, other] = await Promise.all([startServer(t, settings), startServer(t, settings)])
    const account = { username: 'ada', email: 'ada@example.org', password: 'correct horse battery' }
    t.equal((await one.post('/api/register/', account)).status, 201)
    const login = await other.post('/api/login/', account)
    const counter = async () => {
      const row = await db.selectFrom('accounts_sessions').select('counter').executeTakeFirstOrThrow()
      return Number(row.counter)
    }

    const refreshed = async (server: typeof one, refresh: string) => {
      let answer = await server.post('/auth/refresh/', { refresh })
      // A machine that is too busy says so, and its clients try again.
      for (let tries = 1; answer.status === 503 && tries < 10; tries++) {
        answer = await server.post('/auth/refresh/', { refresh })
      }
      return answer
    }

    let token: string = login.body.refresh
    for (let round = 0; round < 3; round++) {
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, index) => refreshed(index % 2 ? one : other, token)),
      )

      t.same(new Set(answers.map(({ status }) => status)), new Set([200]))
      t.equal(new Set(answers.map(({ body }) => body.refresh)).size, 1, 'one refresh token')
      const accesses = [...new Set(answers.map(({ body }) => body.access as string))]
      t.equal(accesses.length, 50, 'fifty access tokens')
      const uses = await Promise.all(
        accesses.map((access, index) => (index % 2 ? other : one).get('/auth/user/', access)),
      )
      t.same(new Set(uses.map(({ status }) => status)), new Set([200]), 'each of them usable')
      t.equal(await counter(), round, 'one step')
      token = answers[0]?.body.refresh
    }
  },
)
