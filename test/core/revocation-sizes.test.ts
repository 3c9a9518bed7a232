import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import { createRevocation, type RevocationParts } from '../../lib/core/revocation.ts'
import { settableClock } from '../helpers/app.ts'
import { openChannel, watchedStorage } from '../helpers/channel.ts'

t.test('100,000 sessions while the feed is down leave no more behind than 10,000', async (t) => {
  const { revocation, watch } = feedOf(settableClock(), { publishes: false })
  // A read is remembered for two seconds, which a busy machine may need for these alone.
  const stopped = performance.now()
  performance.now = () => stopped
  t.teardown(() => delete (performance as { now?: unknown }).now)
  const ask = (n: number) => revocation.alive(`session ${n}`, 1)
  await ask(0)
  const before = heapUsed()

  for (let n = 0; n < 100_000; n++) await ask(n)
  watch.reads.length = 0

  const grown = (heapUsed() - before) / 2 ** 20
  t.ok(grown < 25, `${grown} MiB`)
  for (const n of [99_999, 95_000]) await ask(n)
  t.equal(watch.reads.length, 0, 'the latest are remembered')
  for (const n of [0, 50_000]) await ask(n)
  t.equal(watch.reads.length, 2, 'older ones are not')
  await revocation.close()
})

t.test('ended sessions are remembered until their last access token has expired, and then forgotten', async (t) => {
  const clock = settableClock()
  const { revocation } = feedOf(clock, { publishes: true })
  const ids = Array.from({ length: 10_000 }, (_, n) => `session ${n}`)
  // With the next end what is old enough is forgotten, so that no more is kept than ends within that time.
  const refused = (end: string) => {
    revocation.announce([end])
    return ids.filter((id) => revocation.alive(id, 1) === false).length
  }

  revocation.announce(ids)
  clock.pass(359_999)
  t.equal(refused('one'), 10_000)
  clock.pass(1)

  t.equal(refused('two'), 0)
  t.equal(revocation.alive('one', 1), false)
  await revocation.close()
})

t.test('the end of very many sessions at once is told in texts of a moderate size', async (t) => {
  const { revocation, link } = feedOf(settableClock(), { publishes: true })
  const ids = Array.from({ length: 200_000 }, (_, n) => String(n).padStart(22, '-'))

  revocation.announce(ids)
  await revocation.close()

  const told = link.published.flatMap((text) => JSON.parse(text).ended)
  t.same(new Set(told), new Set(ids))
  for (const { length } of link.published) t.ok(length < 2 ** 20, `${length}`)
})

/** A feed by itself, over a storage in which every session goes on. */
function feedOf(clock: () => number, { publishes }: { publishes: boolean }) {
  const link = Object.assign(openChannel().link(), { publishes })
  const watch = watchedStorage({ ...memoryStorage(), sessionActive: async () => true })
  const options = { revocation: 'feed', tokens: { accessTtl: 300 } } as RevocationParts['options']
  const log = {} as RevocationParts['log']
  return { link, watch, revocation: createRevocation({ options, storage: watch.storage, cache: link, log, clock }) }
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

function heapUsed(): number {
  collectGarbage()
  return process.memoryUsage().heapUsed
}
