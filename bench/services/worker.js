// The mail worker of this library; it starts when it is told to.
import { startMailWorker } from 'fastify-accounts/worker'
import { answerBench } from './serve.js'

const { REDIS_URL, ACCOUNTS_SECRET, SMTP_URL } = process.env
const silent = { info() {}, warn: console.error, error: console.error }
let worker

answerBench(
  {},
  {
    start() {
      const from = 'Example <no-reply@example.com>'
      worker = startMailWorker({ redis: REDIS_URL, secret: ACCOUNTS_SECRET, transport: SMTP_URL, from, log: silent })
    },
    close: () => worker.close(),
  },
)
