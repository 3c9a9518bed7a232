import accounts from 'fastify-accounts'
import { memoryCache, memoryMailer, memoryStorage } from 'fastify-accounts/memory'
import fp from 'fastify-plugin'

export default fp(async (app) => {
  const parts = { storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
  await app.register(accounts, { secret: process.env.ACCOUNTS_SECRET, ...parts })
})
