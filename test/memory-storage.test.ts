import t from 'tap'
import { memoryStorage } from '../lib/adapters/memory.ts'
import { sampleUser } from '../lib/testing/samples.ts'
import { storageContract } from '../lib/testing/storage.ts'
import { inProduction } from './helper.ts'

for (const ids of ['integer', 'uuid'] as const) {
  // One store for all cases, twice over: the suite may run again on the same store.
  const storage = memoryStorage({ ids })
  for (const round of ['', ', again']) {
    for (const { name, run } of storageContract) t.test(`memory, ${ids}${round}: ${name}`, () => run(storage))
  }
}

t.test('a verb of the memory storage is done within the tick of its call', async (t) => {
  const storage = memoryStorage()
  const user = sampleUser()

  const inserted = storage.insertUser(user)
  user.email = 'changed@example.org'
  const found = storage.findUserByEmail(user.emailCanonical)

  t.match(await found, { email: /@Example\.org$/ })
  t.match(await inserted, { id: 1 })
})

t.test('in production the memory storage asks for its option by name', async (t) => {
  t.teardown(inProduction())

  t.throws(() => memoryStorage(), { name: 'TypeError', message: /"singleProcess"/ })
  t.throws(() => memoryStorage({ singleProcess: false }), { name: 'TypeError', message: /"singleProcess"/ })
  t.doesNotThrow(() => memoryStorage({ singleProcess: true }))
})
