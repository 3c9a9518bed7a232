import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import config from './accounts.config.js'

const app = Fastify({ logger: true })
await app.register(accounts, config)

app.get('/hello', { onRequest: app.accounts.authenticate }, (request) => ({ hello: request.account.id }))
await app.listen({ port: Number(process.env.PORT ?? '3000') })
