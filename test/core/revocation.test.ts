import t from 'tap'
import { memoryCache, memoryStorage } from '../../lib/adapters/memory/index.ts'
import { bearer, settableClock } from '../helpers/app.ts'
import { fedFor, type Link, linkedInstances, openChannel, watchedInstance } from '../helpers/channel.ts'
import { until } from '../helpers/helper.ts'
import { claimsOf, newMember, sessionFor } from '../helpers/members.ts'

// The times of the feed are those of real timers: tests that wait for them do so side by side.
t.jobs = 20

t.test('[R-SES-1] what ends on one instance is refused by both at once', { buffered: true }, async (t) => {
  const { one, other } = await linkedInstances(t)
  const { access, sessionId } = await newMember(one.accounts)
  await until(() => fedFor(other, access))
  other.watch.blind = true

  await one.post('/auth/logout/', {}, bearer(access))
  t.equal(await one.me(access), 401, 'its own set is updated before it answers')
  await until(async () => (await other.me(access)) === 401)

  t.match(one.link.published, [new RegExp(sessionId)])
  t.match((await other.get('/me', access)).body, { code: 'ACCOUNTS_TOKEN_INVALID' })
})

t.test(
  'a text that was lost in a gap shorter than a heartbeat is found when listening begins again',
  { buffered: true },
  async (t) => {
    const { one, other } = await linkedInstances(t)
    const { access, user } = await newMember(one.accounts)
    await until(() => fedFor(other, access))
    other.watch.blind = true

    other.link.hears = false
    await one.accounts.users.endSessions(user.id)
    other.link.hears = true
    const { polls } = other.watch
    other.link.restart()
    // The next poll that was due anyway is further away.
    await until(() => other.watch.polls > polls, 6000)

    t.equal(await other.me(access), 401)
  },
)

t.test('a poll that began before a gap does not stand for what was lost in it', { buffered: true }, async (t) => {
  const hold = { next: false, release: () => {} }
  const storage = memoryStorage()
  const channel = openChannel()
  const links = [channel.link(), channel.link()] as const
  const slow = {
    ...storage,
    async endedSince(time: number, usedSince: number) {
      const ended = await storage.endedSince(time, usedSince)
      if (!hold.next) return ended
      hold.next = false
      await new Promise<void>((release) => Object.assign(hold, { release }))
      return ended
    },
  }
  const one = await watchedInstance(t, storage, { cache: { ...memoryCache(), ...verbs(links[0]) } })
  const other = await watchedInstance(t, slow, { cache: { ...memoryCache(), ...verbs(links[1]) } })
  const { access, user } = await newMember(one.accounts)
  await until(() => fedFor(other, access))

  hold.next = true
  links[1].restart()
  await until(() => !hold.next)
  links[1].hears = false
  await one.accounts.users.endSessions(user.id)
  links[1].hears = true
  other.watch.down = true
  links[1].restart()
  hold.release()

  await until(async () => (await other.me(access)) === 503)
  other.watch.down = false
  await until(async () => (await other.me(access)) === 401)
})

t.test('a link that hears everything too late is not trusted', { buffered: true }, async (t) => {
  const { one, other } = await linkedInstances(t)
  const { access, user } = await newMember(one.accounts)
  await until(() => fedFor(other, access))

  other.link.lateMs = 60_000
  await until(async () => !(await fedFor(other, access)))
  other.link.lateMs = 3500
  // Its heartbeats arrive again, one a second.
  const { length } = other.link.published
  await until(() => other.link.published.length > length + 6)
  t.notOk(await fedFor(other, access))
  await one.accounts.users.endSessions(user.id)
  other.watch.pollsDown = true
  other.link.lateMs = 60_000

  await until(async () => (await other.me(access)) === 401)
})

t.test(
  'while the feed is down a session is read once in two seconds, however many requests come',
  { buffered: true },
  async (t) => {
    const { one } = await linkedInstances(t)
    one.link.publishes = false
    const members = [await newMember(one.accounts), await newMember(one.accounts), await newMember(one.accounts)]
    const end = performance.now() + 5000

    await until(async () => {
      const all = members.flatMap(({ access }) => [one.me(access), one.me(access)])
      for (const status of await Promise.all(all)) t.equal(status, 200)
      return performance.now() > end
    })

    for (const { sessionId } of members) {
      const times = one.watch.reads.filter(({ id }) => id === sessionId).map(({ at }) => at)
      const pauses = times.slice(1).map((at, index) => at - times[index]!)
      t.ok(times.length >= 2, `${times.length} reads`)
      t.ok(
        pauses.every((pause) => pause >= 1990),
        `${pauses}`,
      )
    }
  },
)

t.test('a session that ends while the feed is down is refused within two seconds', { buffered: true }, async (t) => {
  // docs: "each session's row is read about every 2 s instead"
  const { one, other } = await linkedInstances(t)
  other.link.publishes = false
  other.link.hears = false
  const { access, user } = await newMember(one.accounts)
  t.equal(await other.me(access), 200)

  await one.accounts.users.endSessions(user.id)
  let lastLetIn = 0
  await until(async () => {
    const asked = performance.now()
    if ((await other.me(access)) === 401) return true
    lastLetIn = asked
  })

  const [first] = other.watch.reads
  t.ok(lastLetIn - first!.at < 2100, `${lastLetIn - first!.at} ms`)
})

t.test(
  'the feed is down when the own publishing link is, and back without a query afterwards',
  { buffered: true },
  async (t) => {
    const { one } = await linkedInstances(t)
    const { access } = await newMember(one.accounts)
    await until(() => fedFor(one, access))

    one.link.publishes = false
    // The next poll, which would find it too, is further away.
    await until(async () => !(await fedFor(one, access)), 6000)
    one.link.publishes = true

    await until(() => fedFor(one, access))
  },
)

t.test('what could not be told is told with the next heartbeat', { buffered: true }, async (t) => {
  const { one, other } = await linkedInstances(t)
  const { access, user } = await newMember(one.accounts)
  await until(async () => (await fedFor(one, access)) && (await fedFor(other, access)))
  other.watch.pollsDown = true
  other.watch.blind = true

  one.link.publishes = false
  await one.accounts.users.endSessions(user.id)
  t.equal(await one.me(access), 401, 'it knows by itself')
  t.equal(await other.me(access), 200)
  one.link.publishes = true

  await until(async () => (await other.me(access)) === 401)
})

t.test('a session that ended without a word is found by a poll within ten seconds', { buffered: true }, async (t) => {
  // docs: "knows of ended sessions within 15 s"
  const { storage, one } = await linkedInstances(t)
  const { access, user } = await newMember(one.accounts)
  await until(() => fedFor(one, access))
  one.watch.blind = true

  await storage.endSessions(user.id, Date.now())
  const ended = performance.now()
  await until(async () => (await one.me(access)) === 401)

  const ms = performance.now() - ended
  t.ok(ms < 14_000, `${ms} ms`)
})

t.test(
  '[R-SQL-4] without a database guards go on while the feed is up, and are 503 when it is down too',
  { buffered: true },
  async (t) => {
    const { one } = await linkedInstances(t)
    const { access } = await newMember(one.accounts)
    await until(() => fedFor(one, access))

    one.watch.down = true
    await until(() => one.watch.failedPolls > 0)
    await until(() => fedFor(one, access))

    one.link.hears = false
    await until(async () => (await one.me(access)) !== 200)
    const { status, body, headers } = await one.get('/me', access)
    t.match([status, body.code], [503, 'ACCOUNTS_UNAVAILABLE'])
    t.match(headers['retry-after'], /^[1-9]\d*$/)

    one.watch.down = false
    t.equal(await one.me(access), 200, 'a fault is not remembered')
  },
)

t.test('what the feed heard while it had no database, it does not forget', { buffered: true }, async (t) => {
  const { one, other } = await linkedInstances(t)
  const { access, user } = await newMember(one.accounts)
  await until(() => fedFor(other, access))

  other.watch.down = true
  await one.accounts.users.endSessions(user.id)
  await until(async () => (await other.me(access)) === 401)
  other.link.hears = false
  await until(() => other.watch.failedPolls > 0)

  t.equal(await other.me(access), 401)
})

t.test(
  '[R-SES-1] sessions that end in a transaction of the host’s are told by nobody before it commits',
  { buffered: true },
  async (t) => {
    const { storage, one, other } = await linkedInstances(t)
    const { access, user } = await newMember(one.accounts)
    await until(async () => (await fedFor(one, access)) && (await fedFor(other, access)))
    // A transaction that is rolled back: its changes reach nobody.
    const rolledBack = { ...storage, endSessions: async () => [sessionIdOf(access)] }

    await one.accounts.using(rolledBack).users.endSessions(user.id)

    t.same([await one.me(access), await other.me(access)], [200, 200])
    t.notMatch(one.link.published.join(), sessionIdOf(access))
  },
)

t.test(
  'after app.close() nothing is told or read any more, and what was announced before has been told',
  { buffered: true },
  async (t) => {
    const { one, other } = await linkedInstances(t)
    const { access, user } = await newMember(one.accounts)
    await until(async () => (await fedFor(one, access)) && (await fedFor(other, access)))

    await one.accounts.users.endSessions(user.id)
    await one.app.close()
    const told = one.link.published.length
    await until(async () => (await other.me(access)) === 401)
    const beats = other.link.published.length
    await until(() => other.link.published.length > beats + 1)

    t.equal(one.link.published.length, told)

    const unused = await linkedInstances(t)
    const member = await newMember(unused.one.accounts)
    await unused.one.app.close()
    await unused.one.accounts.verifyToken(member.access)
    t.same(unused.one.link.published, [], 'nor is it begun')
  },
)

t.test('[R-TOK-6] no forged token makes the feed ask for a session', { buffered: true }, async (t) => {
  const { one } = await linkedInstances(t)
  one.link.publishes = false
  const { access } = await newMember(one.accounts)
  const [head, , signature] = access.split('.')

  for (let n = 0; n < 1000; n++) {
    const payload = Buffer.from(JSON.stringify({ ...claimsOf(access), sid: `forged${n}` })).toString('base64url')
    if ((await one.me(`${head}.${payload}.${signature}`)) !== 401) t.fail('a forged token passed')
  }

  t.same(one.watch.reads, [])
})

t.test("revocation: 'storage' reads the row at each request and tells nobody", { buffered: true }, async (t) => {
  const { storage, one } = await linkedInstances(t, { revocation: 'storage' })
  const { access, user } = await newMember(one.accounts)

  for (let use = 1; use <= 3; use++) {
    t.equal(await one.me(access), 200)
    t.equal(one.watch.reads.length, use)
  }
  one.watch.down = true
  t.match(await one.get('/me', access), { status: 503, body: { code: 'ACCOUNTS_UNAVAILABLE' } })
  one.watch.down = false
  await storage.endSessions(user.id, Date.now())

  t.equal(await one.me(access), 401)
  t.same(one.link.published, [])
  t.equal(one.watch.polls, 0)
})

t.test("revocation: 'none' asks nobody: an access token works until it expires", { buffered: true }, async (t) => {
  const clock = settableClock()
  const { one } = await linkedInstances(t, { revocation: 'none', clock })
  const { access, refresh } = await newMember(one.accounts)
  one.watch.down = true

  t.equal((await one.post('/auth/logout/', {}, bearer(access))).status, 204)
  t.equal(await one.me(access), 200)
  t.equal((await one.post('/auth/refresh/', { refresh })).status, 401)
  clock.pass(300_000)

  t.match(await one.get('/me', access), { status: 401, body: { code: 'ACCOUNTS_TOKEN_EXPIRED' } })
  t.same([one.watch.reads, one.link.published], [[], []])
})

t.test('the end of one session leaves the user’s others alone', { buffered: true }, async (t) => {
  const { one, other } = await linkedInstances(t)
  const { user, access, sessionId } = await newMember(one.accounts)
  const second = await sessionFor(one.accounts, user)
  await until(() => fedFor(other, access))

  const { status } = await one.send({
    method: 'DELETE',
    url: `/auth/sessions/${sessionId}/`,
    headers: bearer(second.access),
  })

  t.equal(status, 204)
  await until(async () => (await other.me(access)) === 401)
  await until(() => fedFor(other, second.access))
})

function sessionIdOf(access: string): string {
  return claimsOf(access).sid as string
}

function verbs({ publish, subscribe }: Link) {
  return { publish, subscribe }
}
