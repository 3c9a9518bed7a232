// DATABASE_URL names an empty database with the tables of schema.sql.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { PrismaPg } from '@prisma/adapter-pg'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { storageContract, testOptions } from 'fastify-accounts/testing'
import { PrismaClient } from './generated/client.ts'
import { prismaStorage } from './prisma-storage.ts'

const { DATABASE_URL: connectionString } = process.env
if (!connectionString) throw new Error('Set DATABASE_URL')

// Fifty callers wait for ten connections: longer than Prisma lets them by default, on a machine with other work.
const transactionOptions = { maxWait: 20_000, timeout: 20_000 }
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString }), transactionOptions })
before(async () => {
  await prisma.user.count() // loads the query compiler of Prisma
})
after(() => prisma.$disconnect())

for (const { name, run } of storageContract) test(name, () => run(prismaStorage(prisma)))

test('the six routes', async (t) => {
  const { mailer, ...options } = testOptions()
  const app = Fastify()
  await app.register(accounts, { ...options, mailer, storage: prismaStorage(prisma) })
  t.after(() => app.close())
  const call = async (url: string, payload: object) => {
    const response = await app.inject({ method: 'POST', url, payload })
    return { status: response.statusCode, ...response.json() }
  }
  const username = `ada-${Date.now()}`
  const ada = { username, email: `${username}@example.org`, password: 'correct horse battery' }

  assert.equal((await call('/api/register/', ada)).status, 201)
  assert.equal((await call('/api/register/', ada)).status, 409)
  const { refresh } = await call('/api/login/', ada)
  assert.equal((await call('/auth/refresh/', { refresh })).status, 200)
  const { token } = await call('/auth/email_request/', { email: ada.email })
  const otp = mailer.sent.at(-1)?.code
  assert.equal((await call('/auth/check_otp/', { token, otp })).status, 200)
  const password = 'another good password'
  assert.equal((await call('/auth/reset_password/', { token, new_password: password })).status, 200)
  assert.equal((await call('/auth/refresh/', { refresh })).status, 401)
  assert.equal((await call('/api/login/', ada)).status, 401)
  assert.equal((await call('/api/login/', { ...ada, password })).status, 200)
})

test('without a database every verb says that it is unavailable', async () => {
  const adapter = new PrismaPg({ connectionString: 'postgres://127.0.0.1:1/none' })
  const storage = prismaStorage(new PrismaClient({ adapter }))

  const verbs = [storage.ping, () => storage.findUserById(1), () => storage.endSessions(1, 1)]
  for (const verb of verbs) await assert.rejects(verb, { code: 'ACCOUNTS_UNAVAILABLE' })
})
