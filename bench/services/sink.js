// A mail server that takes every mail and keeps none: SMTP as far as nodemailer speaks it on a local connection.
import { createServer } from 'node:net'
import { answerBench } from './serve.js'

let seen = fresh()

function fresh() {
  return { count: 0, bytes: 0, last: 0 }
}

function take(bytes) {
  seen.last = performance.now()
  seen.count++
  seen.bytes += bytes
}

const replies = { EHLO: '250-sink\r\n250 PIPELINING', DATA: '354 Go on', QUIT: '221 Bye' }

function talk(socket) {
  let rest = ''
  let inMail = false
  socket.on('error', () => {})
  socket.write('220 sink ESMTP\r\n')
  socket.on('data', (chunk) => {
    rest += chunk.latin1Slice()
    for (;;) {
      const end = rest.indexOf(inMail ? '\r\n.\r\n' : '\r\n')
      if (end < 0) return
      const verb = inMail ? 'MAIL' : rest.slice(0, 4).toUpperCase()
      if (inMail) take(end)
      rest = rest.slice(end + (inMail ? 5 : 2))
      inMail = verb === 'DATA'
      socket.write(`${replies[verb] ?? '250 OK'}\r\n`)
    }
  })
}

const server = createServer({ noDelay: true }, talk)
server.listen(0, '127.0.0.1', () =>
  answerBench(
    { port: server.address().port },
    {
      seen: () => seen,
      forget() {
        seen = fresh()
      },
    },
  ),
)
