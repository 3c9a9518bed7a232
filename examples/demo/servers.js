// The three servers beneath the app: a real one when its URL is given, an embedded stand-in otherwise.
import { buffer } from 'node:stream/consumers'
import { PGlite } from '@electric-sql/pglite'
import { createRedisMock } from 'js-redis-server'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import PostalMime from 'postal-mime'
import { SMTPServer } from 'smtp-server'

export async function startDatabase(url) {
  const pool = url ? realPool(url) : await embeddedPool()
  const db = new Kysely({ dialect: new PostgresDialect({ pool }) })
  return { db, close: () => db.destroy() }
}

function realPool(connectionString) {
  const pool = new pg.Pool({ connectionString })
  pool.on('error', (error) => console.error(error.message))
  pool.on('connect', (client) => client.on('error', (error) => console.error(error.message)))
  return pool
}

// PGlite has one session: whoever holds it keeps the others waiting until it is released, as a pool of one would.
async function embeddedPool() {
  const database = await PGlite.create()
  let free = Promise.resolve()
  async function connect() {
    const before = free
    let release
    free = new Promise((resolve) => {
      release = resolve
    })
    await before
    return { query, release }
  }
  async function query(text, values) {
    const { rows, affectedRows } = await database.query(text, values)
    return { command: /\w+/.exec(text)[0].toUpperCase(), rowCount: affectedRows ?? 0, rows }
  }
  return { connect, end: () => database.close() }
}

export async function startRedis(url) {
  if (url) return { url, close: async () => {} }
  const server = await createRedisMock()
  return { url: server.url, close: () => server.close() }
}

/** An SMTP server that keeps what it gets; `mails` is there only when it is the embedded one. */
export async function startMailCatcher(url) {
  if (url) return { url, close: async () => {} }
  const mails = []
  const server = new SMTPServer({
    disabledCommands: ['AUTH', 'STARTTLS'],
    disableReverseLookup: true,
    onData(stream, session, done) {
      read(stream, session).then((mail) => {
        mails.push(mail)
        done()
      }, done)
    },
  })
  await new Promise((resolve, reject) => {
    server.on('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  const { port } = server.server.address()
  return { url: `smtp://127.0.0.1:${port}`, mails, close: () => new Promise((resolve) => server.close(resolve)) }
}

async function read(stream, { envelope }) {
  const { subject, text, html } = await PostalMime.parse(await buffer(stream))
  return { to: envelope.rcptTo.map(({ address }) => address).join(', '), subject, text, html }
}
