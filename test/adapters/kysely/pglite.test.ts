import t from 'tap'
import { kyselyStorage, migrateToLatest, migrations } from '../../../lib/adapters/kysely/index.ts'
import { storageContract } from '../../../lib/testing/storage.ts'
import { openPglite } from '../../helpers/databases.ts'

t.test('PGlite', async (t) => {
  const db = await openPglite(t)
  const storage = kyselyStorage(db)

  t.strictSame(await migrateToLatest(db), Object.keys(migrations))
  t.strictSame(await migrateToLatest(db), [])
  for (const { name, run } of storageContract) await t.test(name, () => run(storage))
})
