const order = {
  type: 'object',
  required: ['article', 'cents'],
  properties: { article: { type: 'string', minLength: 1, maxLength: 100 }, cents: { type: 'integer', minimum: 1 } },
}

module.exports = async function routes(app) {
  app.addHook('onRequest', app.authenticate)

  app.get('/orders', async (request) => {
    const select = 'select id, article, cents, created_at from orders where user_id = $1 order by id'
    return (await app.pg.query(select, [request.user.id])).rows
  })

  app.post('/orders', { schema: { body: order } }, async (request, reply) => {
    const { article, cents } = request.body
    const insert = 'insert into orders (user_id, article, cents) values ($1, $2, $3) returning id, article, cents'
    const { rows } = await app.pg.query(insert, [request.user.id, article, cents])
    return reply.code(201).send(rows[0])
  })
}
