// The whole product on one machine, with nothing to install but this package: `npm run demo`.
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:net'
import { buildApp } from './app.js'
import { startDatabase, startMailCatcher, startRedis } from './servers.js'
import { startWorker } from './worker.js'

// In the order in which they were started; stopped from the last to the first.
const started = []
let stopping

function keep(part) {
  started.push(part)
  return part
}

async function start() {
  const port = await findPort(process.env.PORT ?? '3000')
  const origin = `http://127.0.0.1:${port}`
  const secret = randomBytes(32).toString('base64url')

  const [database, redis, smtp] = await Promise.all([
    startDatabase(process.env.DATABASE_URL).then(keep),
    startRedis(process.env.REDIS_URL).then(keep),
    startMailCatcher(process.env.SMTP_URL).then(keep),
  ])
  if (stopping) return
  const env = { ACCOUNTS_SECRET: secret, REDIS_URL: redis.url, SMTP_URL: smtp.url, MAIL_FROM: process.env.MAIL_FROM }
  const worker = keep(startWorker(env))
  worker.exited.then((reason) => stopping ?? fail(new Error(`The mail worker ended: ${reason}`)))

  const app = await buildApp({ db: database.db, redisUrl: redis.url, secret, origin, mails: smtp.mails })
  keep(app)
  if (stopping) return
  await app.listen({ host: '127.0.0.1', port })
  console.log(`The demo is at ${origin}/ - its API at ${origin}/docs - Ctrl-C stops it`)
}

// Asked before the slow parts start, so that a port in use is told at once; port 0 means any free one.
function findPort(text) {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  if (!(port <= 65_535)) throw new Error(`PORT must be a number from 0 to 65535, not "${text}".`)
  return new Promise((resolve, reject) => {
    const probe = createServer().on('error', reject)
    probe.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      const { port: free } = probe.address()
      probe.close(() => resolve(free))
    })
  })
}

function stop() {
  stopping ??= stopAll()
  return stopping
}

async function stopAll() {
  setTimeout(() => process.exit(1), 12_000).unref()
  for (const part of started.reverse()) {
    await part.close().catch((error) => console.error(error))
  }
}

async function fail(error) {
  console.error(error.code === 'EADDRINUSE' ? portInUse(error.port) : error)
  await stop()
  process.exit(1)
}

function portInUse(port) {
  return `Port ${port} is in use. Stop what listens there, or choose another: PORT=${port + 1} npm run demo`
}

async function quit() {
  // The second Ctrl-C does not wait.
  if (stopping) process.exit(1)
  await stop()
  process.exit(0)
}

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, quit)

// A signal that is sent to npm alone ends npm and its shell, but is not passed on to here.
if (process.env.npm_lifecycle_event) {
  const shell = process.ppid
  const watch = setInterval(() => {
    if (process.ppid === shell) return
    clearInterval(watch)
    quit()
  }, 500)
}

start().catch(fail)
