// The whole product on one machine, with nothing to install but this package: `npm run demo`.
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:net'
import { buildApp } from './app.js'
import { startDatabase, startMailCatcher, startRedis } from './servers.js'
import { startWorker } from './worker.js'

// What is to be stopped, in this order, once all of it runs.
let parts
let stopping = false

async function start() {
  const port = await findPort(process.env.PORT ?? '3000')
  console.log('Starting…')
  const origin = `http://127.0.0.1:${port}`
  const secret = randomBytes(32).toString('base64url')

  const [database, redis, smtp] = await Promise.all([
    startDatabase(process.env.DATABASE_URL),
    startRedis(process.env.REDIS_URL),
    startMailCatcher(process.env.SMTP_URL),
  ])
  const worker = startWorker({
    ACCOUNTS_NAME: 'accounts',
    ACCOUNTS_SECRET: secret,
    REDIS_URL: redis.url,
    SMTP_URL: smtp.url,
  })
  worker.exited.then((reason) => stopping || fail(`The mail worker ended: ${reason}`))

  const app = await buildApp({ db: database.db, redisUrl: redis.url, secret, origin, mails: smtp.mails })
  await app.listen({ host: '127.0.0.1', port })
  parts = [app, worker, database, redis, smtp]
  console.log(`The demo is at ${origin}/ - its API at ${origin}/docs - Ctrl-C stops it`)
}

// Asked before the slow parts start, so that a port in use is told at once; port 0 means any free one.
function findPort(text) {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  if (!(port <= 65_535)) return fail(`PORT must be a number from 0 to 65535, not "${text}".`)
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.on('error', (error) => (error.code === 'EADDRINUSE' ? fail(portInUse(port)) : reject(error)))
    probe.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      const { port: free } = probe.address()
      probe.close(() => resolve(free))
    })
  })
}

function portInUse(port) {
  return `Port ${port} is in use. Stop what listens there, or choose another: PORT=${port + 1} npm run demo`
}

function fail(reason) {
  console.error(reason)
  return stop(1)
}

// While the parts start there is nothing to finish, and a second Ctrl-C does not wait; the worker never outlives us.
async function stop(exitCode) {
  if (!parts || stopping) process.exit(exitCode)
  stopping = true
  setTimeout(() => process.exit(1), 12_000).unref()
  for (const part of parts) await part.close().catch((error) => console.error(error))
  process.exit(exitCode)
}

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => stop(0))

// A signal that is sent to npm alone ends npm and its shell, but is not passed on to here.
if (process.env.npm_lifecycle_event) {
  const shell = process.ppid
  const watch = setInterval(() => {
    if (process.ppid === shell) return
    clearInterval(watch)
    stop(0)
  }, 500)
}

start().catch(fail)
