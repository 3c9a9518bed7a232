import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { memoryMailer } from '../../lib/adapters/memory/index.ts'
import type { Mailer } from '../../lib/contracts.ts'
import { memoryApp, settableClock } from '../helpers/app.ts'

// Figures of the documentation that no other test measures.

/** Lets time pass in small steps, with everything that becomes due. */
async function pass(ms: number, clock: ReturnType<typeof settableClock>): Promise<void> {
  for (let passed = 0; passed < ms; passed += 250) {
    clock.pass(250)
    mock.timers.tick(250)
    await turn()
  }
}

t.beforeEach((t) => {
  // Node.js warns that these are experimental.
  t.capture(process, 'emitWarning')
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
})

t.test('a mail that could not be queued leaves within a minute after it can be', async (t) => {
  // docs: "leave within a minute after the queue can be reached again"
  const clock = settableClock()
  const kept = memoryMailer()
  let down = true
  const mailer: Mailer = {
    ...kept,
    async send(message) {
      if (down) throw new Error('connection lost')
      await kept.send(message)
    },
    progress: async (ids) => ids.map(() => 'unknown' as const),
  }
  const { app, post } = await memoryApp(t, { clock, mailer, registration: { verifyEmail: true } })
  await app.ready()
  const registered = await post('/api/register/', {
    username: 'ada',
    email: 'ada@example.org',
    password: 'correct horse',
  })
  t.equal(registered.status, 201)
  await pass(120_000, clock)
  t.strictSame(kept.sent, [])

  down = false
  await pass(60_000, clock)

  t.ok(kept.sent.length > 0)
  t.match(kept.sent[0], { kind: 'verify', to: 'ada@example.org' })
})

t.test('health waits a second for a part that does not answer', async (t) => {
  // docs: "asks each for at most a second"
  const clock = settableClock()
  const mailer: Mailer = { ...memoryMailer(), ping: () => new Promise(() => {}) }
  const { app } = await memoryApp(t, { clock, mailer })
  await app.ready()
  let settled = false

  const health = app.accounts.health()
  void health.then(() => {
    settled = true
  })
  await pass(750, clock)
  t.notOk(settled)
  await pass(250, clock)

  t.ok(settled)
  t.match(await health, { status: 'degraded', storage: { ok: true }, mailer: { ok: false } })
})
