import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { sql } from 'kysely'
import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import { bounded } from '../../lib/core/deadline.ts'
import { purge } from '../../lib/core/housekeeping.ts'
import { AccountsError } from '../../lib/errors.ts'
import type { Accounts } from '../../lib/index.ts'
import { type Answer, accountsOf, memoryApp, realApp } from '../helpers/app.ts'
import { noPostgres, uniqueName } from '../helpers/helper.ts'

const { log } = Fastify({ logger: false })
const ada = { username: 'ada', email: 'ada@example.com', password: 'correct horse battery' }
const slowMs = 1200

interface Host {
  post(url: string, payload: unknown): Promise<Answer>
  accounts: Accounts
}

/** Logs in over and over until the work is done, and some more; answers how often each status came. */
async function loginsDuring({ post }: Host, work: Promise<unknown>): Promise<Record<number, number>> {
  let done = false
  const settled = work.finally(() => {
    done = true
  })
  const counts: Record<number, number> = {}
  for (let after = 0; after < 5; after += done ? 1 : 0) {
    const { status } = await post('/api/login/', ada)
    counts[status] = (counts[status] ?? 0) + 1
    await sleep(20)
  }
  await settled
  return counts
}

/** Three imports of 500 users, and three rounds of what cleans up, all at once. */
async function manyBatches({ accounts }: Host) {
  const realm = realmOf(accounts)
  const users = () => Array.from({ length: 500 }, () => ({ email: `${uniqueName()}@example.com` }))
  const imports = [1, 2, 3].map(() => accounts.users.import(users()))
  const [imported] = await Promise.all([Promise.all(imports), ...[1, 2, 3].map(() => purge(realm))])
  return imported.flat()
}

async function pausesNobody(t: Test, host: Host): Promise<void> {
  const work = manyBatches(host)

  const counts = await loginsDuring(host, work)

  const imported = await work
  t.equal(imported.length, 1500)
  t.strictSame(
    imported.filter((outcome) => !('id' in outcome)),
    [],
  )
  t.strictSame(Object.keys(counts), ['200'])
  t.ok(counts[200]! > 5, `${counts[200]} logins`)
}

t.test('imports and purges that take longer than a second pause nobody (memory)', async (t) => {
  const storage = memoryStorage()
  const { importUsers, purge } = storage
  const slow = {
    importUsers: (...given: Parameters<typeof importUsers>) => sleep(slowMs).then(() => importUsers(...given)),
    purge: (...given: Parameters<typeof purge>) => sleep(slowMs).then(() => purge(...given)),
  }
  const host = await memoryApp(t, { storage: { ...storage, ...slow } })
  t.equal((await host.post('/api/register/', ada)).status, 201)

  await pausesNobody(t, { ...host, accounts: host.app.accounts })
})

t.test(
  'imports and purges that take longer than a second pause nobody (PostgreSQL)',
  { skip: noPostgres },
  async (t) => {
    const host = await realApp(t)
    const accounts = accountsOf(host)
    t.equal((await host.post('/api/register/', ada)).status, 201)
    const seconds = sql.lit(slowMs / 1000)
    await sql`create function slow() returns trigger language plpgsql as
    $$ begin perform pg_sleep(${seconds}); return null; end $$`.execute(host.db)
    for (const [event, table] of [
      ['insert', 'accounts_users'],
      ['delete', 'accounts_events'],
      ['delete', 'accounts_sessions'],
    ] as const) {
      await sql`create trigger slow after ${sql.raw(event)} on ${sql.table(table)}
      for each statement execute function slow()`.execute(host.db)
    }

    await pausesNobody(t, { ...host, accounts })
  },
)

t.test('three calls in a row that take too long pause a port, and no call of work in batches', async (t) => {
  const hang = () => new Promise<never>(() => {})
  const calls: string[] = []
  const port = bounded(
    {
      find() {
        calls.push('find')
        return hang()
      },
      purge: async () => void calls.push('purge'),
      settleMails: hang,
    },
    log,
  )
  const late = { code: 'ACCOUNTS_UNAVAILABLE', cause: { name: 'TimeoutError' } }

  await Promise.all([1, 2, 3].map(() => t.rejects(port.settleMails(), late)))
  await Promise.all([1, 2, 3].map(() => t.rejects(port.find(), late)))
  const oneCall = t.rejects(port.find(), late, 'one call a second is let through')
  await t.rejects(port.find(), { code: 'ACCOUNTS_UNAVAILABLE', cause: { message: 'port is paused' } })
  await port.purge()

  t.strictSame(calls, ['find', 'find', 'find', 'find', 'purge'])
  await oneCall
})

t.test('[R-HASH-5] the count of password hashes may read a large table', async (t) => {
  const counts = [{ keyId: null, count: 1 }]
  const port = bounded({ countPasswordHashes: () => sleep(slowMs).then(() => counts) }, log)

  t.equal(await port.countPasswordHashes(), counts)
})

t.test(
  'an outage is unavailable, with the fault as its cause; any other fault is a bug and stays as it is',
  async (t) => {
    const down = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
    const refused = new AccountsError('ACCOUNTS_EMAIL_TAKEN')
    const bug = new TypeError('x is not a function')
    const faults = { down, refused, bug }
    const port = bounded({ fail: async (name: keyof typeof faults) => Promise.reject(faults[name]) }, log)
    const thrown = (name: keyof typeof faults) => port.fail(name).catch((error) => error)

    t.match(await thrown('down'), { code: 'ACCOUNTS_UNAVAILABLE', cause: down })
    t.equal(await thrown('refused'), refused)
    t.equal(await thrown('bug'), bug)
  },
)
