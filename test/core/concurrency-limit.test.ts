import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import { createConcurrencyLimit } from '../../lib/core/concurrency-limit.ts'
import { bounded } from '../../lib/core/deadline.ts'

const { log: silentLog } = Fastify({ logger: false })

/** A limit, and what it logs. */
function limited(options: Parameters<typeof createConcurrencyLimit>[1]) {
  const lines: unknown[] = []
  return { lines, limit: createConcurrencyLimit({ error: (line: unknown) => void lines.push(line) }, options) }
}

/** Work that knows how much of it runs at once. */
function counted(work: (n: number) => Promise<unknown>) {
  const seen = { running: 0, most: 0, order: [] as number[] }
  const run = async (n: number) => {
    seen.order.push(n)
    seen.most = Math.max(seen.most, ++seen.running)
    await work(n).finally(() => seen.running--)
  }
  return { seen, run }
}

function wave(count: number, call: (n: number) => Promise<unknown>) {
  return Promise.allSettled(Array.from({ length: count }, (_, n) => call(n)))
}

t.test('so many run at once, first come, first served', async (t) => {
  const { limit } = limited({ most: 2 })
  const { seen, run } = counted(() => sleep(2))

  await wave(20, bounded({ run }, silentLog, limit).run)

  t.equal(seen.most, 2)
  t.same(
    seen.order,
    seen.order.toSorted((a, b) => a - b),
  )
  t.equal(limit.enter(), undefined, 'and then there is room at once')
})

t.test('whatever fails gives its turn back, and slows nobody down', async (t) => {
  const { limit } = limited({ most: 2 })
  const { seen, run } = counted(async () => {
    await sleep(2)
    throw Object.assign(new Error('refused'), { code: 'ECONNREFUSED' })
  })

  const outcomes = await wave(20, bounded({ run }, silentLog, limit).run)

  t.ok(outcomes.every(({ status }) => status === 'rejected'))
  t.equal(seen.order.length, 20)
  t.equal(seen.most, 2)
})

t.test('when calls take too long half as many run, and more again while all goes well', async (t) => {
  const { limit } = limited({ most: 16 })
  const slow = counted(() => sleep(1100))
  const fast = counted(() => sleep(2))
  const port = bounded({ slow: slow.run, fast: fast.run }, silentLog, limit)

  // Together, which halves it once, and too few for a pause.
  await wave(2, port.slow)
  await wave(9, port.fast)
  t.equal(fast.seen.most, 8)
  await wave(300, port.fast)
  t.equal(fast.seen.most, 16)
})

t.test('it never falls below what makes it rise again', async (t) => {
  const { limit } = limited({ most: 16, least: 4, patienceMs: 5 })
  for (let n = 0; n < 5; n++) {
    limit.enter()
    limit.leave(true)
    await sleep(10)
  }
  const { seen, run } = counted(() => sleep(1))

  await wave(4, bounded({ run }, silentLog, limit).run)

  t.equal(seen.most, 4)
})

t.test('whoever finds no turn in time is refused, takes none later, and is logged once', async (t) => {
  const { limit, lines } = limited({ most: 1, patienceMs: 20 })
  limit.enter()

  const refused = await wave(50, async () => limit.enter())

  t.ok(refused.every((outcome) => outcome.status === 'rejected' && outcome.reason.code === 'ACCOUNTS_UNAVAILABLE'))
  t.match(refused[0], { reason: { cause: { message: 'port is busy' }, headers: { 'retry-after': /^[123]$/ } } })
  t.ok(lines.length >= 1 && lines.length <= 2, `${lines.length} lines`)
  limit.leave(false)
  t.equal(limit.enter(), undefined)
})

t.test(
  'a storm of more calls than a pool can do leaves nothing behind it, and stops neither feed nor health',
  async (t) => {
    // One at a time, as a pool of one connection would; what is abandoned is done all the same.
    let last = Promise.resolve()
    const port = {
      find: async () => {
        last = last.then(() => sleep(2))
        await last
      },
      endedSince: async () => {},
      ping: async () => 0,
    }
    const { find, endedSince, ping } = bounded(port, silentLog, limited({}).limit)

    const storm = wave(3000, find)
    const asked = performance.now()
    await Promise.all([endedSince(), ping()])
    const polled = performance.now() - asked
    const outcomes = await storm
    const after = await wave(50, find)

    t.ok(polled < 500, `${polled} ms`)
    const done = outcomes.filter(({ status }) => status === 'fulfilled').length
    t.ok(done > 200, `${done} of 3000 were done in time`)
    t.same(
      after.map(({ status }) => status),
      Array(50).fill('fulfilled'),
    )
  },
)
