// 10,000 users and their orders. Hashing 10,000 passwords would take a quarter of an hour, so they share a few.
const bcrypt = require('@node-rs/bcrypt')
const { Client } = require('pg')

// The passwords are `password-0` to `password-3`; over the years they were hashed by three libraries.
async function hashes() {
  const made = await Promise.all([0, 1, 2, 3].map((n) => bcrypt.hash(`password-${n}`, 4)))
  return made.map((hash, n) => hash.replace('$2b$', ['$2b$', '$2a$', '$2y$', '$2b$'][n]))
}

// Every 7th has an address in mixed case, every 11th an old one; every 50th has left, and every 400th came back.
const users = `
  insert into users (email, password_hash, name, role, deleted_at, created_at)
  select case when n % 7 = 0 then 'User' else 'user' end || n
      || case when n % 11 = 0 then '@oldmail.example' else '@example.com' end,
    ($1::text[])[n % 4 + 1], 'User ' || n, case when n <= 3 then 'admin' else 'customer' end,
    case when n % 50 = 0 then now() - n % 120 * interval '1 day' end,
    now() - n % 1000 * interval '1 day'
  from generate_series(1, 9980) n
  union all
  select 'USER' || n * 400 || '@example.com', ($1::text[])[1], 'User ' || n * 400, 'customer', null, now()
  from generate_series(1, 20) n`

const orders = `
  insert into orders (user_id, article, cents, created_at)
  select u.id, 'article ' || k, u.id % 90 * 100 + k, least(u.created_at + k * interval '1 day', now())
  from users u cross join generate_series(1, 3) k where u.id % 3 <> 0`

async function main() {
  const client = new Client({ connectionString: process.env.DATABASE_URL })
  await client.connect()
  await client.query(users, [await hashes()])
  await client.query(orders)
  await client.end()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
