const fp = require('fastify-plugin')
const { Pool } = require('pg')

module.exports = fp(
  async (app) => {
    const pool = new Pool({ connectionString: process.env.DATABASE_URL })
    pool.on('error', (error) => app.log.error(error))
    pool.on('connect', (client) => client.on('error', (error) => app.log.error(error)))
    app.decorate('pg', pool)
    app.addHook('onClose', () => pool.end())
  },
  { name: 'database' },
)
