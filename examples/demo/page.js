import { readFile } from 'node:fs/promises'

const files = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  // Where the link in the mail leads.
  '/reset': ['index.html', 'text/html; charset=utf-8'],
  '/client.js': ['client.js', 'text/javascript; charset=utf-8'],
  '/mails.js': ['mails.js', 'text/javascript; charset=utf-8'],
  '/show.js': ['show.js', 'text/javascript; charset=utf-8'],
  '/style.css': ['style.css', 'text/css; charset=utf-8'],
}

// The frame that shows a mail inherits this policy: no script and no picture from elsewhere, whatever the mail holds.
const policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"

export default async function page(app) {
  for (const [path, [file, type]] of Object.entries(files)) {
    const content = await readFile(new URL(`page/${file}`, import.meta.url))
    app.get(path, { schema: { hide: true } }, (_request, reply) =>
      reply
        .header('content-security-policy', policy)
        .header('referrer-policy', 'no-referrer')
        .header('cache-control', 'no-cache')
        .type(type)
        .send(content),
    )
  }
}
