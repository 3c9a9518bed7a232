// Runs the files of migrations/ that have not run yet, each in a transaction.
const { readdirSync, readFileSync } = require('node:fs')
const path = require('node:path')
const { Client } = require('pg')

const folder = path.join(__dirname, 'migrations')

async function migrate(client) {
  await client.query('create table if not exists migrations (name text primary key)')
  const done = (await client.query('select name from migrations')).rows.map(({ name }) => name)
  for (const name of readdirSync(folder).sort()) {
    if (done.includes(name)) continue
    await client.query('begin')
    await client.query(readFileSync(path.join(folder, name), 'utf8'))
    await client.query('insert into migrations values ($1)', [name])
    await client.query('commit')
    console.log(name)
  }
}

async function main() {
  const client = new Client({ connectionString: process.env.DATABASE_URL })
  await client.connect()
  // Without a commit, the end of the connection rolls back.
  await migrate(client).finally(() => client.end())
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
