// The quick start over Prisma:
//   DATABASE_URL=postgres://localhost/app REDIS_URL=redis://localhost:6379 ACCOUNTS_SECRET=… npm start
import fastifyRedis from '@fastify/redis'
import { PrismaPg } from '@prisma/adapter-pg'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { PrismaClient } from './generated/client.ts'
import { prismaStorage } from './prisma-storage.ts'

const { DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET, PORT = '3000' } = process.env
if (!DATABASE_URL || !REDIS_URL || !ACCOUNTS_SECRET) throw new Error('Set DATABASE_URL, REDIS_URL and ACCOUNTS_SECRET')

const app = Fastify({ logger: true })
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: DATABASE_URL }) })

await prisma.user.count() // loads Prisma's query compiler: the first request would wait for it
await app.register(fastifyRedis, { url: REDIS_URL })
await app.register(accounts, { secret: ACCOUNTS_SECRET, storage: prismaStorage(prisma) })

app.get('/hello', { onRequest: app.accounts.authenticate }, (request) => ({ hello: request.account.id }))
await app.listen({ port: Number(PORT) })

async function stop() {
  await app.close()
  await prisma.$disconnect()
}
process.once('SIGTERM', stop).once('SIGINT', stop)
