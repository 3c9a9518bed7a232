import t from 'tap'
import { openDatabase } from '../helpers/app.ts'
import { noPostgres, noRedis, startRedis, uniqueName, until } from '../helpers/helper.ts'
import { traceRedis } from '../helpers/redis-trace.ts'
import { instance, password } from '../helpers/reset-flow.ts'

// What each route costs in round trips: a promise of performance that no machine's speed can hide.
t.test('round trips of the routes', { skip: noPostgres || noRedis }, async (t) => {
  const { db, statements } = await openDatabase(t)
  const server = await startRedis()
  t.teardown(() => server.stop())
  const commands = await traceRedis(t, server.url)
  const acts = await instance(t, { name: uniqueName(), db, redis: server.url, mailer: undefined, throttle: {} })
  const { post, get, enrol } = acts
  const { email } = await enrol()
  const { email: stranger } = await enrol()
  async function counted(act: () => Promise<{ status: number; body: any }>) {
    const before = statements.length
    const { result, seen } = await commands(act)
    return { ...result, statements: statements.slice(before).map(String), seen: namesOf(seen) }
  }

  // The feed of ended sessions is listened to, and scripts and queue are known, before anything is counted.
  await until(async () => {
    const { access } = (await acts.login(email)).body
    return (await counted(() => get('/auth/user/', access))).statements.length === 1
  })
  await acts.check((await post('/auth/email_request/', { email })).body.token, '00000000')

  const registered = await counted(() =>
    post('/api/register/', { username: uniqueName(), email: 'new@example.org', password }),
  )
  const strange = await counted(() => acts.login(stranger))
  const loggedIn = await counted(() => acts.login(email))
  const refreshed = await counted(() => acts.refresh(loggedIn.body.refresh))
  const guarded = await counted(async () => ({
    status: 200,
    body: await acts.accounts.verifyToken(refreshed.body.access),
  }))
  const read = await counted(() => get('/auth/user/', refreshed.body.access))
  const asked = await counted(() => post('/auth/email_request/', { email }))
  const checked = await counted(() => acts.check(asked.body.token, '00000000'))

  t.match(registered, { status: 201, statements: [/^insert into "accounts_users"/] })
  t.match(loggedIn, {
    status: 200,
    statements: [
      /^select .+ left join "accounts_users" on "email_canonical"/,
      /^with "inserted" as \(insert into "accounts_sessions"/,
    ],
  })
  t.match(refreshed, { status: 200, statements: [/^update "accounts_sessions"/] })
  t.match(guarded, { body: { sessionId: String } })
  t.match(read, { status: 200, statements: [/^select .+ from "accounts_users"/] })
  t.match(asked, { status: 200, statements: [/^select .+ left join "accounts_users" on "email_canonical"/] })
  t.match(checked, { status: 400 })
  const sizes = { registered: 1, loggedIn: 2, refreshed: 1, guarded: 0, read: 1, asked: 1, checked: 0 }
  const all = { registered, loggedIn, refreshed, guarded, read, asked, checked }
  for (const [name, size] of Object.entries(sizes)) t.equal(all[name as keyof typeof all].statements.length, size, name)
  const noCommands = { refreshed, guarded, read }
  for (const [name, { seen }] of Object.entries(noCommands)) t.strictSame(seen, [], name)
  const scripts = (count: number) => Array(count).fill('evalsha')
  t.strictSame(registered.seen, scripts(1), 'the network is charged')
  t.strictSame(strange.seen, scripts(6), 'account and network are charged, then refunded, and the network is known')
  t.strictSame(loggedIn.seen, scripts(2), 'where it is known, the account is charged alone')
  t.strictSame(
    asked.seen.filter((name) => !counts.includes(name!)),
    scripts(3),
    'the network is charged, the code put, the mail added',
  )
  t.strictSame(checked.seen, ['evalsha'])
})

// How many mails wait is counted once a second, beside the requests.
const counts = ['multi', 'llen', 'zcard', 'lindex', 'exec']

// A connection that is watched may say so at any time.
function namesOf(commands: string[]): (string | undefined)[] {
  return commands.map((line) => line.split(' ')[0]).filter((name) => name !== 'ping')
}
