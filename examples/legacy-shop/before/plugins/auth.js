const jwt = require('@fastify/jwt')
const fp = require('fastify-plugin')

module.exports = fp(
  async (app) => {
    await app.register(jwt, { secret: process.env.JWT_SECRET, sign: { expiresIn: '12h' } })

    app.decorate('authenticate', async (request) => {
      await request.jwtVerify()
    })

    app.decorate('requireAdmin', async (request, reply) => {
      if (request.user.role !== 'admin') return reply.code(403).send({ message: 'For the staff alone' })
    })
  },
  { dependencies: ['database'] },
)
