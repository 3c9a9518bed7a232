// Starts the demo as a stranger would and walks through it over HTTP; prints `N passed, N failed`.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { get } from 'node:http'
import { fileURLToPath } from 'node:url'
import { codeIn, followMails } from '../examples/demo/page/mails.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const email = 'Ann@example.com'
const password = 'correct horse battery'
const routes = [
  '/api/register/',
  '/api/login/',
  '/auth/refresh/',
  '/auth/email_request/',
  '/auth/check_otp/',
  '/auth/reset_password/',
]
const counts = { passed: 0, failed: 0 }
// The mails that the page shows.
let shown = []

// A process group of its own, because Ctrl-C reaches a whole group.
const demo = spawn('npm', ['run', '--silent', 'demo'], { cwd: root, env: demoEnv('0'), detached: true })
const exited = once(demo, 'exit')
const output = { stdout: '', stderr: '' }
for (const name of ['stdout', 'stderr']) {
  demo[name].setEncoding('utf8').on('data', (text) => {
    output[name] += text
  })
}

try {
  const origin = await until('the address', 180_000, () => /http:\/\/127\.0\.0\.1:\d+(?=\/)/.exec(output.stdout)?.[0])
  await drivePages(origin)
  followPage(origin)
  await driveDocumentation(origin)
  await driveMailbox(origin, await driveAccount(origin))
  for (const newPassword of ['the second new password', 'the third new password']) {
    await driveAnotherReset(origin, newPassword)
  }
  await drivePortInUse(origin)
} catch (error) {
  check('the demo was driven to its end', false, error)
}
await driveEnd()
if (counts.failed > 0 && output.stderr) console.log(output.stderr)
console.log(`${counts.passed} passed, ${counts.failed} failed`)
process.exit(counts.failed > 0 ? 1 : 0)

async function drivePages(origin) {
  const page = await fetch(`${origin}/`)
  const html = await page.text()
  check('the page is served', page.status === 200 && html.includes('<h1>fastify-accounts</h1>'))
  check('the page loads nothing from elsewhere', !/(?:src|href)="(?:https?:)?\/\//.test(html))
  check('the page allows nothing from elsewhere', page.headers.get('content-security-policy')?.includes("'self'"))
  for (const path of ['/client.js', '/mails.js', '/show.js', '/style.css', '/reset', '/docs']) {
    const { status } = await fetch(origin + path)
    check(`${path} is served`, status === 200, status)
  }
}

async function driveDocumentation(origin) {
  const { paths, components } = (await call(`${origin}/docs/json`)).body
  for (const path of routes) {
    const { requestBody, responses } = paths[path]?.post ?? {}
    const described = requestBody?.content['application/json']?.schema && schemaOf(responses?.[200] ?? responses?.[201])
    check(`${path} is documented with its body and its answer`, described)
  }
  check('the documentation has the bearer scheme', components.securitySchemes.bearerAuth?.scheme === 'bearer')

  // "Try it out" and "Execute", with nothing edited.
  const execute = (path, token) => call(origin + path, { method: 'POST', body: sampleBody(paths[path]), token })
  const registered = await execute('/api/register/')
  check('register works with what /docs proposes', registered.status === 201, registered)
  const login = await execute('/api/login/')
  check('login works with what /docs proposes', login.status === 200, login)
  const { access, refresh } = login.body
  const logout = await execute('/auth/logout/', access)
  check('logout works with what /docs proposes', logout.status === 204, logout)
  const after = await call(`${origin}/private`, { token: access })
  check('its access token is worthless then', is(after, 401, 'ACCOUNTS_TOKEN_INVALID'), after)
  const refreshed = await call(`${origin}/auth/refresh/`, { method: 'POST', body: { refresh } })
  check('its refresh token is worthless then', is(refreshed, 401, 'ACCOUNTS_TOKEN_INVALID'), refreshed)
}

// The body that Swagger UI proposes: the example of the whole, or one made of the examples of its members.
function sampleBody({ post }) {
  const { example, schema } = post.requestBody.content['application/json']
  return example ?? sample(schema)
}

function sample({ example, default: byDefault, enum: values, type, properties = {} }) {
  if (example !== undefined) return example
  if (type === 'object') return Object.fromEntries(Object.entries(properties).map(([name, of]) => [name, sample(of)]))
  return byDefault ?? values?.[0] ?? { string: 'string', integer: 0, number: 0, boolean: true, array: [] }[type]
}

function schemaOf(response) {
  return response?.content?.['application/json']?.schema
}

// Follows the mails as the page does, from its opening to the end of the demo.
async function followPage(origin) {
  try {
    for await (const mails of followMails(async () => (await call(`${origin}/dev/mailbox`)).body)) shown = mails
  } catch {
    // The demo has ended.
  }
}

async function driveAccount(origin) {
  const post = (path, body) => call(origin + path, { method: 'POST', body })
  const open = (path, token) => call(origin + path, { token })

  const registered = await post('/api/register/', { username: 'ann', email, password })
  check('register answers 201 with the user', registered.status === 201 && registered.body.email === email, registered)
  const twice = await post('/api/register/', { username: 'bob', email: 'ann@example.COM', password })
  check('the same address in another spelling is taken', is(twice, 409, 'ACCOUNTS_EMAIL_TAKEN'), twice)
  const wrong = await post('/api/login/', { email, password: 'not the password' })
  check('a wrong password is refused', is(wrong, 401, 'ACCOUNTS_CREDENTIALS_INVALID'), wrong)
  const login = await post('/api/login/', { email, password })
  check('login answers two tokens', login.status === 200 && login.body.access && login.body.refresh, login)

  const closed = await open('/private')
  check('the protected route is closed without a token', is(closed, 401, 'ACCOUNTS_TOKEN_INVALID'), closed)
  const opened = await open('/private', login.body.access)
  check('the access token opens it', opened.status === 200 && opened.body.user_id === registered.body.id, opened)
  const refreshed = await post('/auth/refresh/', { refresh: login.body.refresh })
  check('refresh answers another pair', refreshed.status === 200 && refreshed.body.refresh, refreshed)
  check('the refresh token is a new one', refreshed.body.refresh !== login.body.refresh)
  const user = await open('/auth/user/', refreshed.body.access)
  check('the refreshed access token opens the account', user.body.username === 'ann', user)

  const unknown = await post('/auth/email_request/', { email: 'nobody@example.com' })
  const asked = await post('/auth/email_request/', { email })
  const same = asked.status === 200 && unknown.status === 200 && asked.body.message === unknown.body.message
  check('email_request answers known and unknown addresses alike', same, [unknown, asked])
  return { token: asked.body.token, access: refreshed.body.access, refresh: refreshed.body.refresh }
}

async function driveMailbox(origin, { token, access, refresh }) {
  const post = (path, body) => call(origin + path, { method: 'POST', body })
  const mail = await until('the mail', 60_000, () => shown[0])
  const { to, subject, text, html } = mail
  const otp = codeIn(mail)
  check('one mail went out, to the stored address', shown.length === 1 && to === email && subject, shown)
  check('the code stands in both parts of the mail', otp && html.includes(otp), text)
  check('the token of the answer stands in no part of it', !text.includes(token) && !html.includes(token))
  const foreign = await statusWithHost(`${origin}/dev/mailbox`, 'evil.test')
  check('the mailbox is closed to a foreign host name', foreign === 403, foreign)
  const link = /\/reset#token=([\w.-]+)/.exec(text)?.[1]
  check('the link carries a token of its own', link && link !== token, text)

  const guessed = await post('/auth/check_otp/', { token, otp: otp === '0000 0000' ? '00000001' : '0000 0000' })
  check('a wrong code is refused', is(guessed, 400, 'ACCOUNTS_CODE_INVALID'), guessed)
  const checked = await post('/auth/check_otp/', { token, otp })
  check('the right code is accepted', checked.status === 200 && checked.body.message === 'OTP is valid.', checked)
  const change = { token, new_password: 'a new and longer password' }
  const reset = await post('/auth/reset_password/', change)
  check('reset_password sets the new password', reset.status === 200, reset)
  const again = await post('/auth/reset_password/', change)
  check('it does so once', is(again, 400, 'ACCOUNTS_CODE_INVALID'), again)

  const ended = await call(`${origin}/private`, { token: access })
  check('the old access token is worthless', ended.status === 401, ended)
  const old = await post('/auth/refresh/', { refresh })
  check('the old refresh token is worthless', is(old, 401, 'ACCOUNTS_TOKEN_INVALID'), old)
  const before = await post('/api/login/', { email, password })
  check('the old password is worthless', before.status === 401, before)
  const after = await post('/api/login/', { email, password: change.new_password })
  check('the new password logs in', after.status === 200, after)
}

// An earlier reset left its mail and its notice on the page.
async function driveAnotherReset(origin, newPassword) {
  const post = (path, body) => call(origin + path, { method: 'POST', body })
  await until('the notice of the last reset', 20_000, () => shown.length > 0 && !codeIn(shown.at(-1)))
  const { body: asked } = await post('/auth/email_request/', { email })
  const otp = await until('the mail of another reset', 20_000, () => codeIn(shown.at(-1)))
  const checked = await post('/auth/check_otp/', { token: asked.token, otp })
  check('the newest mail on the page has the code', checked.status === 200, [checked, shown])
  const reset = await post('/auth/reset_password/', { token: asked.token, new_password: newPassword })
  check('reset_password works again', reset.status === 200, reset)
  const login = await post('/api/login/', { email, password: newPassword })
  check('the newest password logs in', login.status === 200, login)
}

// fetch always sends the true Host.
function statusWithHost(url, host) {
  return new Promise((resolve, reject) => {
    get(url, { headers: { host } }, (response) => resolve(response.resume().statusCode)).on('error', reject)
  })
}

async function drivePortInUse(origin) {
  const { port } = new URL(origin)
  const second = spawn(process.execPath, ['examples/demo/demo.js'], { cwd: root, env: demoEnv(port) })
  let told = ''
  second.stderr.setEncoding('utf8').on('data', (text) => {
    told += text
  })
  const [code] = await once(second, 'close')
  check('a port in use is told in one line', code === 1 && /^Port \d+ is in use\..*\n$/.test(told), { code, told })
}

async function driveEnd() {
  const family = descendants(demo.pid)
  check('the mail worker is a process of its own', family.length > 1, family)
  if (demo.exitCode === null) process.kill(-demo.pid, 'SIGINT')
  await Promise.race([exited, sleep(12_000)])
  const left = await until('the end', 3000, () => !family.some(alive)).catch(() => false)
  check('Ctrl-C leaves no process behind', left, family.filter(alive))
  for (const pid of family.filter(alive)) process.kill(pid, 'SIGKILL')
  const printed = /^Building…\nStarting…\nThe demo is at [^\n]+\n$/.test(output.stdout)
  check('the demo prints what it does, and where it is', printed, output.stdout)
  check('the demo complains about nothing', output.stderr === '', output.stderr)
}

function demoEnv(PORT) {
  const { DATABASE_URL, REDIS_URL, SMTP_URL, ...env } = process.env
  return { ...env, PORT }
}

function descendants(pid) {
  const rows = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n')
  const pairs = rows.map((row) => row.trim().split(/\s+/).map(Number))
  const found = [pid]
  for (const parent of found) found.push(...pairs.filter(([, of]) => of === parent).map(([child]) => child))
  return found
}

function alive(pid) {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

async function call(url, { method = 'GET', body, token } = {}) {
  const headers = {
    ...(body && { 'content-type': 'application/json' }),
    ...(token && { authorization: `Bearer ${token}` }),
  }
  const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) })
  return { status: response.status, body: response.status === 204 ? null : await response.json() }
}

function is(answer, status, code) {
  return answer.status === status && answer.body.code === code
}

function check(promise, held, seen) {
  counts[held ? 'passed' : 'failed']++
  if (!held) console.log(`not ok: ${promise}\n`, seen)
}

async function until(what, ms, condition) {
  for (const end = Date.now() + ms; Date.now() < end; await sleep(100)) {
    const met = await condition()
    if (met) return met
    if (demo.exitCode !== null && what !== 'the end') throw new Error(`the demo ended before ${what} was there`)
  }
  throw new Error(`${what} is not there after ${ms} ms`)
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
