module.exports = async function routes(app) {
  app.addHook('onRequest', app.authenticate)

  app.get('/me', async (request, reply) => {
    const select = 'select id, email, name, role, created_at from users where id = $1 and deleted_at is null'
    const [user] = (await app.pg.query(select, [request.user.id])).rows
    return user ?? reply.code(404).send({ message: 'No such user' })
  })

  // The row stays: orders refer to it, and the books need them.
  app.delete('/me', async (request, reply) => {
    await app.pg.query('update users set deleted_at = now() where id = $1', [request.user.id])
    return reply.code(204).send()
  })
}
