// Pooled nodemailer alone, with as many connections as the mail worker has.
import { createTransport } from 'nodemailer'
import { answerBench } from './serve.js'

const transport = createTransport({
  url: process.env.SMTP_URL,
  pool: true,
  maxConnections: 5,
  maxMessages: Number.POSITIVE_INFINITY,
})

answerBench(
  {},
  {
    async send(count, bytes) {
      const mail = {
        from: 'Example <no-reply@example.com>',
        subject: '12345678 is your code',
        text: 'Your code is 12345678. It works for 10 minutes.\n'.repeat(8),
        html: '<p>Your code is <strong>12345678</strong>. It works for 10 minutes.</p>\n'.padEnd(Math.max(100, bytes)),
      }
      const send = (_, index) => transport.sendMail({ ...mail, to: `u${index}@bench.example` })
      await Promise.all(Array.from({ length: count }, send))
    },
  },
)
