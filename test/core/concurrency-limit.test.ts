import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import t from 'tap'
import { createConcurrencyLimit } from '../../lib/core/concurrency-limit.ts'
import { bounded } from '../../lib/core/deadline.ts'

t.test('so many run at once, first come, first served', async (t) => {
  const limit = createConcurrencyLimit({ most: 2 })
  const order: number[] = []
  let [running, most] = [0, 0]
  const work = async (n: number) => {
    await limit.enter()
    order.push(n)
    most = Math.max(most, ++running)
    await sleep(2)
    running--
    limit.leave(false)
  }

  await Promise.all(Array.from({ length: 20 }, (_, n) => work(n)))

  t.equal(most, 2)
  t.same(
    order,
    order.toSorted((a, b) => a - b),
  )
  t.equal(limit.enter(), undefined, 'and then there is room at once')
})

t.test('after an outage fewer run, and more again while all goes well', async (t) => {
  const limit = createConcurrencyLimit({ most: 16, least: 4 })
  /** How many run at once. */
  const room = async () => {
    let entered = 0
    let turn = limit.enter()
    for (; !turn; turn = limit.enter()) entered++
    // Whoever waits has the first turn that is given back.
    limit.leave(false)
    await turn
    for (let n = 0; n < entered; n++) limit.leave(false)
    return entered
  }
  const call = (outage: boolean, times: number) => {
    for (let n = 0; n < times; n++) {
      limit.enter()
      limit.leave(outage)
    }
  }

  t.equal(await room(), 16)
  call(true, 1)
  t.equal(await room(), 8)
  call(true, 9)
  t.equal(await room(), 4)
  call(false, 200)
  t.equal(await room(), 16)
})

t.test('whoever finds no turn in time is refused, and takes none later', async (t) => {
  const limit = createConcurrencyLimit({ most: 1, patienceMs: 5 })
  limit.enter()

  await t.rejects(limit.enter()!, { code: 'ACCOUNTS_UNAVAILABLE', cause: { message: 'port is busy' } })

  limit.leave(false)
  t.equal(limit.enter(), undefined)
})

t.test('a storm of more calls than a port can do leaves nothing behind it, and cuts no feed', async (t) => {
  const lines: string[] = []
  const { log } = Fastify({ logger: { level: 'error', stream: { write: (line: string) => void lines.push(line) } } })
  // One at a time, as a pool of one connection would; what is abandoned is done all the same.
  let last = Promise.resolve()
  const port = {
    find: async () => {
      last = last.then(() => sleep(2))
      await last
    },
    publish: async () => {},
  }
  const { find, publish } = bounded(port, log)
  const wave = (count: number) => Promise.allSettled(Array.from({ length: count }, () => find()))

  const storm = wave(3000)
  const asked = performance.now()
  await publish()
  const beat = performance.now() - asked
  const outcomes = await storm
  const refused = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? outcome.reason : []))
  const after = await wave(50)

  t.ok(beat < 500, `${beat} ms`)
  t.ok(outcomes.length - refused.length > 200, `${outcomes.length - refused.length} of 3000 were done in time`)
  t.ok(refused.every(({ code, headers }) => code === 'ACCOUNTS_UNAVAILABLE' && headers['retry-after']))
  t.same(
    after.map(({ status }) => status),
    Array(50).fill('fulfilled'),
  )
  const busy = lines.filter((line) => line.includes('port is busy'))
  t.ok(busy.length >= 1 && busy.length <= 3, `${busy.length} lines for ${refused.length} refusals`)
})
