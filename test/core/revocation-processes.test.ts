import { once } from 'node:events'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import type { User } from '../../lib/contracts.ts'
import { sampleUser } from '../../lib/testing/samples.ts'
import { openDatabase, startServer } from '../helpers/app.ts'
import { faultProxy, noPostgres, redisUrl, rounds, uniqueName, until } from '../helpers/helper.ts'
import { catchMails } from '../helpers/mail-catch.ts'
import { sessionFor } from '../helpers/members.ts'
import { instance, newPassword, password } from '../helpers/reset-flow.ts'

interface Member {
  id: number
  email: string
  access: string
  refresh: string
  sessionId: string
}

// Both wait most of their time.
t.jobs = 2

t.test('over two processes', { skip: noPostgres, buffered: true }, async (t) => {
  const { start, newMember, feedUp, sent } = await realm(t)
  const [one, other] = [await start(), await start()]

  const ends: Record<string, (member: Member) => Promise<number>> = {
    logout: ({ access }) => one.send('POST', '/auth/logout/', access),
    'logout by the refresh token': ({ refresh }) => one.send('POST', '/auth/logout/', null, { refresh }),
    logout_all: ({ access }) => one.send('POST', '/auth/logout_all/', access),
    'the end of one session': ({ access, sessionId }) => one.send('DELETE', `/auth/sessions/${sessionId}/`, access),
    'a password change': ({ access }) =>
      one.send('POST', '/auth/change_password/', access, { current_password: password, new_password: newPassword }),
    'a password reset': async ({ email }) => {
      const { body } = await one.post('/auth/email_request/', { email })
      await until(() => sent.some(({ to, code }) => to === email && code))
      const { code } = sent.findLast(({ to }) => to === email)!
      await one.send('POST', '/auth/check_otp/', null, { token: body.token, otp: code })
      return one.send('POST', '/auth/reset_password/', null, { token: body.token, new_password: newPassword })
    },
    'the deletion of the account': ({ access }) => one.send('DELETE', '/auth/user/', access, { password }),
    'the disabling of the account': ({ id }) => one.send('POST', `/host/disable/${id}`, null, {}),
    'a reused refresh token': async ({ refresh }) => {
      const second = await one.post('/auth/refresh/', { refresh })
      await one.post('/auth/refresh/', { refresh: second.body.refresh })
      const { status, body } = await one.post('/auth/refresh/', { refresh })
      return body.code === 'ACCOUNTS_REFRESH_REUSED' ? 204 : status
    },
  }

  await feedUp(other)
  const all: number[] = []
  for (const [name, end] of Object.entries(ends)) {
    await t.test(`[R-SES-1] ${name} stops the access token on the other instance in less than 100 ms`, async (t) => {
      // docs: "mostly within 100 ms in the others"
      const times: number[] = []
      for (let round = 0; round < rounds(12, 6); round++) {
        const member = await newMember()
        for (const server of [one, other]) t.equal(await server.me(member.access), 200)

        const status = await end(member)

        t.ok(status === 204 || status === 200, `${status}`)
        times.push(await timeUntilRefused(other, member.access))
        t.equal(await one.me(member.access), 401)
        t.equal((await other.post('/auth/refresh/', { refresh: member.refresh })).status, 401)
      }
      // The worst of a busy machine is the machine's.
      t.ok(median(times) < 100, `${times}`)
      all.push(...times)
    })
  }
  t.comment(`${all.length} rounds: median ${median(all)} ms, worst ${Math.max(...all)} ms`)

  await t.test('an instance that stood still lets no ended session pass when it goes on', async (t) => {
    const { access } = await newMember()
    await until(async () => (await other.me(access)) === 200)

    other.child.kill('SIGSTOP')
    t.equal(await one.send('POST', '/auth/logout/', access), 204)
    const asked = performance.now()
    const answer = other.me(access)
    await until(() => performance.now() - asked > 3000)
    other.child.kill('SIGCONT')

    t.equal(await answer, 401)
  })
})

t.test(
  '[R-SES-1] what a publisher that was killed between commit and publication had to tell is known in ten seconds',
  { skip: noPostgres, buffered: true },
  async (t) => {
    // docs: "within 15 s when the process that ended it died at that moment"
    const { start, newMember, feedUp } = await realm(t)
    const proxy = await faultProxy(Number(new URL(redisUrl()).port))
    t.teardown(() => proxy.close())
    const through = Object.assign(new URL(redisUrl()), { port: String(proxy.port) }).href
    const [killed, other] = [await start(through), await start()]
    const [ended, idle] = [await newMember(), await newMember()]
    await feedUp(other)
    for (const server of [killed, other]) t.equal(await server.me(ended.access), 200)

    proxy.mode = 'freeze'
    t.equal(await killed.send('POST', '/auth/logout/', ended.access), 204)
    const exited = once(killed.child, 'exit')
    killed.child.kill('SIGKILL')
    await exited
    const ms = await timeUntilRefused(other, ended.access)

    t.comment(`refused after ${ms} ms`)
    t.ok(ms < 14_000, `${ms} ms`)
    t.equal(await other.me(idle.access), 200)
  },
)

/** What processes of one host share, and a maker of members who are logged in. */
async function realm(t: Test) {
  const { url, db } = await openDatabase(t)
  const name = uniqueName()
  const sent = catchMails(t, { redis: redisUrl(), name })
  const { accounts } = await instance(t, { name, db, redis: redisUrl(), revocation: 'none' })
  const passwordHash = await realmOf(accounts).passwords.hash(password)

  async function newMember(): Promise<Member> {
    const stored = await realmOf(accounts).storage.insertUser({ ...sampleUser(), passwordHash })
    if (typeof stored === 'string') throw new Error(stored)
    const user = (await realmOf(accounts).storage.findUserById(stored.id)) as User
    return { id: Number(user.id), email: user.email, ...(await sessionFor(accounts, user)) }
  }
  async function start(redis = redisUrl()) {
    const OPTIONS = JSON.stringify({ name, refresh: { graceSeconds: 0 } })
    const server = await startServer(t, { DATABASE_URL: url, REDIS_URL: redis, OPTIONS })
    async function send(method: string, path: string, access: string | null, body?: object): Promise<number> {
      const headers = {
        ...(body && { 'content-type': 'application/json' }),
        ...(access && { authorization: `Bearer ${access}` }),
      }
      const answer = await fetch(server.address + path, { method, headers, body: body && JSON.stringify(body) })
      await answer.arrayBuffer()
      return answer.status
    }
    return { ...server, send, me: (access: string) => send('GET', '/host/me', access) }
  }
  /** Waits until an instance reads no row: it lets one pass whose session ended behind everybody's back. */
  async function feedUp({ me }: { me(access: string): Promise<number> }) {
    await until(async () => {
      const { access, sessionId } = await newMember()
      await realmOf(accounts).storage.endSession(sessionId, null, Date.now())
      return (await me(access)) === 200
    })
  }
  return { start, newMember, feedUp, sent }
}

async function timeUntilRefused({ me }: { me(access: string): Promise<number> }, access: string): Promise<number> {
  const started = performance.now()
  await until(async () => (await me(access)) === 401)
  return Math.round(performance.now() - started)
}

function median(times: number[]): number {
  return times.toSorted((one, other) => one - other)[Math.floor(times.length / 2)]!
}
