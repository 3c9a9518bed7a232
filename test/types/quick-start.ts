// The quick start of the README, without one cast.
import fastifyRedis from '@fastify/redis'
import Fastify from 'fastify'
import accounts, { AccountsError, type AccountsErrorCode } from 'fastify-accounts'
import { migrateToLatest } from 'fastify-accounts/kysely'
import { type MailTemplates, startMailWorker } from 'fastify-accounts/worker'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'

const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) })
const app = Fastify({ logger: true })
await app.register(fastifyRedis, { url: process.env.REDIS_URL! })
await migrateToLatest(db)
await app.register(accounts, { secret: process.env.ACCOUNTS_SECRET!, db })
app.get('/orders', { onRequest: app.accounts.authenticate }, (request) => orders(request.account.id))
app.get('/later', { preHandler: [app.accounts.authenticate] }, async ({ account }) => account.sessionId)
app.get('/news', { onRequest: app.accounts.authenticate({ optional: true }) }, async ({ accountOrNull }) => {
  const id: number | string | undefined = accountOrNull?.id
  return { id }
})
app.addHook('onRequest', app.accounts.authenticate)
app.addHook('preHandler', app.accounts.authenticate({ optional: true }))
app.setErrorHandler((error, _request, reply) => {
  if (!(error instanceof AccountsError)) throw error
  const code: AccountsErrorCode = error.code
  const fields: string[] | undefined = error.errors?.map(({ field }) => field)
  return reply.code(error.statusCode).headers(error.headers).send({ code, fields, reasons: error.reasons })
})

const templates: MailTemplates = {
  reset: ({ code, minutes }) => ({
    subject: 'Your code',
    text: `${code}, for ${minutes} minutes`,
    html: `<b>${code}</b>`,
  }),
}
startMailWorker({
  redis: process.env.REDIS_URL!,
  secret: process.env.ACCOUNTS_SECRET!,
  transport: process.env.SMTP_URL!,
  from: 'Example <no-reply@example.com>',
  templates,
})

function orders(id: number | string) {
  return { id }
}
