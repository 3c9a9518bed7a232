import t from 'tap'
import { memoryCache } from '../lib/adapters/memory-cache.ts'
import { cacheContract } from '../lib/testing/cache.ts'
import { inProduction } from './helper.ts'

for (const { name, run } of cacheContract) {
  t.test(`memory: ${name}`, () => run(memoryCache()))
}

t.test('in production the memory cache asks for its option by name', async (t) => {
  t.teardown(inProduction())

  t.throws(() => memoryCache(), { name: 'TypeError', message: /"singleProcess"/ })
  t.throws(() => memoryCache({ singleProcess: false }), { name: 'TypeError', message: /"singleProcess"/ })
  t.doesNotThrow(() => memoryCache({ singleProcess: true }))
})
