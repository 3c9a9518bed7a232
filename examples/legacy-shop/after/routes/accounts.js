const bcrypt = require('@node-rs/bcrypt')

const rounds = Number(process.env.BCRYPT_ROUNDS ?? 10)

const login = {
  type: 'object',
  required: ['email', 'password'],
  properties: { email: { type: 'string', maxLength: 254 }, password: { type: 'string', maxLength: 72 } },
}

const registration = {
  type: 'object',
  required: ['email', 'password', 'name'],
  properties: {
    email: { type: 'string', format: 'email', maxLength: 254 },
    password: { type: 'string', minLength: 8, maxLength: 72 },
    name: { type: 'string', minLength: 1, maxLength: 100 },
  },
}

module.exports = async function routes(app) {
  app.post('/login', { schema: { body: login } }, async (request) => {
    const { access, refresh } = await app.accounts.login(request.body, request)
    return { token: access, refresh }
  })

  app.post('/register', { schema: { body: registration } }, async (request, reply) => {
    const { email, password, name } = request.body
    const insert = `insert into users (email, password_hash, name) values ($1, $2, $3)
      on conflict do nothing returning id, email, name`
    const [user] = (await app.pg.query(insert, [email, await bcrypt.hash(password, rounds), name])).rows
    if (!user) return reply.code(409).send({ message: 'This e-mail address has an account' })
    return reply.code(201).send(user)
  })
}
