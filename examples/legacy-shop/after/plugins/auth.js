const jwt = require('@fastify/jwt')
const accounts = require('fastify-accounts')
const fp = require('fastify-plugin')
const { Kysely, PostgresDialect } = require('kysely')
const config = require('../accounts.config')

module.exports = fp(
  async (app) => {
    await app.register(jwt, { secret: process.env.JWT_SECRET, sign: { expiresIn: '12h' } })
    const db = new Kysely({ dialect: new PostgresDialect({ pool: app.pg }) })
    await app.register(accounts, { ...config, db })

    app.decorate('authenticate', async (request) => {
      const account = await app.accounts.verifyToken(request.headers.authorization?.slice(7)).catch(() => null)
      request.user = account ? { id: account.id, ...account.claims } : await request.jwtVerify()
    })

    app.decorate('requireAdmin', async (request, reply) => {
      if (request.user.role !== 'admin') return reply.code(403).send({ message: 'For the staff alone' })
    })
  },
  { dependencies: ['database'] },
)
