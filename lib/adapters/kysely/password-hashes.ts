import type { Kysely } from 'kysely'
import type { Storage } from '../../contracts.ts'
import { isValidId } from '../../core/storable.ts'
import { dialectOf } from './dialects.ts'
import { bound } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { withSavepoint } from './transactions.ts'

/** The verbs about stored password hashes. */
export function passwordHashVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']) {
  const { keyId, random } = dialectOf(db)
  const hashes = db.selectFrom('accounts_users').where('password_hash', 'is not', null)
  return {
    async replacePasswordHash(id, oldHash, newHash) {
      if (!isValidId(ids, id)) return false
      const { numUpdatedRows } = await withSavepoint(db, (joined) =>
        joined
          .updateTable('accounts_users')
          .set({ password_hash: bound(newHash) })
          .where('id', '=', id)
          .where('password_hash', '=', bound(oldHash))
          .executeTakeFirstOrThrow(),
      )
      return numUpdatedRows > 0
    },

    async countPasswordHashes() {
      const rows = await hashes
        .select(({ fn }) => [keyId.as('keyId'), fn.countAll().as('count')])
        .groupBy(keyId)
        .execute()
      return rows.map(({ keyId, count }) => ({ keyId, count: Number(count) }))
    },

    async samplePasswordHashes(most) {
      const rows = await hashes.select('password_hash as hash').orderBy(random).limit(bound(most)).execute()
      return rows.map(({ hash }) => hash as string)
    },
  } satisfies Partial<Storage>
}
