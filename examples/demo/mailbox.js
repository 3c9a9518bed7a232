// Shows the caught mails. Whoever reads them can reset any password: loopback only, and never in production.
export default async function mailbox(app, { mails, hosts }) {
  const loopback = new Set(['127.0.0.1', '::1', '::ffff:127.0.0.1'])

  app.get('/dev/mailbox', { schema: { summary: 'The caught mails', tags: ['host'], response } }, (request, reply) => {
    // A page of a foreign site can make its own name point at 127.0.0.1 (DNS rebinding), but then it is in "Host".
    if (!hosts.includes(request.headers.host) || !loopback.has(request.socket.remoteAddress)) {
      return reply.code(403).send({ statusCode: 403, error: 'Forbidden', message: `Open it at http://${hosts[0]}/` })
    }
    return reply.header('cache-control', 'no-store').send(mails)
  })
}

const text = { type: 'string' }
const response = {
  200: { type: 'array', items: { type: 'object', properties: { to: text, subject: text, text, html: text } } },
}
