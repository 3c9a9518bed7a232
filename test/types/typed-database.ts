// A host whose Kysely knows its tables; compiled with kysely 0.28 and 0.29.
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { type AccountsTables, kyselyStorage, migrateToLatest, migrations } from 'fastify-accounts/kysely'
import { type Generated, Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'

interface Database extends AccountsTables {
  orders: { id: Generated<number>; user_id: number; total: string }
}

const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) })
await migrateToLatest(db)
await migrateToLatest(db, { ids: 'uuid' })
console.log(Object.keys(migrations))
const app = Fastify()
await app.register(accounts, { secret: 'x', db, redis: 'redis://localhost' })
await app.register(accounts, { name: 'staff', secret: 'x', storage: kyselyStorage(db, { ids: 'uuid' }) })
await db.transaction().execute(async (transaction) => {
  const user = await kyselyStorage(transaction).findUserByEmail('a@b.co')
  return transaction.selectFrom('orders').where('user_id', '=', Number(user?.id)).selectAll().execute()
})
const buyers = db
  .selectFrom('orders')
  .innerJoin('accounts_users', 'accounts_users.id', 'orders.user_id')
  .select(['orders.total', 'accounts_users.email'])
const [buyer]: { total: string; email: string }[] = await buyers.execute()
console.log(buyer)
// @ts-expect-error ids are integer or uuid
kyselyStorage(db, { ids: 'bigint' })
