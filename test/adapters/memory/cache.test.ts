import { once } from 'node:events'
import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { memoryCache } from '../../../lib/adapters/memory/cache.ts'
import { cacheContract } from '../../../lib/testing/cache.ts'
import { inProduction } from '../../helpers/helper.ts'

for (const { name, run } of cacheContract) {
  t.test(`memory: ${name}`, () => run(memoryCache()))
}

t.test('[R-SES-1] a text is heard in a later tick, by the listeners of its cache alone', async (t) => {
  const [cache, stranger] = [memoryCache(), memoryCache()]
  const heard: string[] = []
  await cache.subscribe((text) => heard.push(text))
  await stranger.subscribe((text) => heard.push(`stranger ${text}`))

  const publishing = cache.publish('ended')
  t.same(heard, [])
  await publishing
  await setImmediate()

  t.same(heard, ['ended'])
})

t.test('a listener that throws is told by a warning', async (t) => {
  const cache = memoryCache()
  await cache.subscribe(() => {
    throw new Error('broken listener')
  })

  const [warning] = await Promise.all([once(process, 'warning'), cache.publish('text')])

  t.match(warning, [{ message: /broken listener/ }])
})

t.test('in production the memory cache asks for its option by name', async (t) => {
  t.teardown(inProduction())

  t.throws(() => memoryCache(), { name: 'TypeError', message: /"singleProcess"/ })
  t.throws(() => memoryCache({ singleProcess: false }), { name: 'TypeError', message: /"singleProcess"/ })
  t.doesNotThrow(() => memoryCache({ singleProcess: true }))
})
