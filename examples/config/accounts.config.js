// The options of the app, of the mail worker and of the command line:
//   fastify-accounts migrate --config examples/config/accounts.config.js
//   fastify-accounts worker --config examples/config/accounts.config.js
import { defineAccounts } from 'fastify-accounts'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'

const { DATABASE_URL, REDIS_URL, SMTP_URL, ACCOUNTS_SECRET } = process.env
const pool = new pg.Pool({ connectionString: DATABASE_URL }) // connects with the first statement: never in the worker
pool.on('error', (error) => console.error(error.message)) // without these two, a restart of PostgreSQL ends the process
pool.on('connect', (client) => client.on('error', (error) => console.error(error.message)))

export default defineAccounts({
  secret: ACCOUNTS_SECRET,
  db: new Kysely({ dialect: new PostgresDialect({ pool }) }),
  redis: REDIS_URL,
  roles: { admin: ['*'], support: ['orders:read'] },
  mail: {
    transport: SMTP_URL,
    from: 'Example <no-reply@example.com>',
    brand: { name: 'Example', color: '#0055aa', supportEmail: 'help@example.com' },
  },
})
