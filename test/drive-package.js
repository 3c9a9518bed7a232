// Installs a tarball into an empty project, as a host does, and runs the quick start there twice beside a worker;
// prints `N passed, N failed`.
import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { SMTPServer } from 'smtp-server'
import { freePort, poll, startPostgres, startRedis } from './servers.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const tarball = resolve(process.argv[2])
const account = { username: 'ann', email: 'ann@example.com', password: 'correct horse battery' }
const newPassword = 'another good password'
const counts = { passed: 0, failed: 0 }
const project = mkdtempSync(join(tmpdir(), 'accounts-host-'))
const servers = []
const programs = []
const mails = []

try {
  install()
  const [one, other, worker] = await startAll()
  await drive(one, other)
  await driveReset(one, other)
  for (const program of [one, other, worker]) {
    program.child.kill('SIGTERM')
    const code = await Promise.race([program.ended, sleep(20_000, 'nothing: it runs on', { ref: false })])
    check(`${program.name} ends with 0`, code === 0, `${code}\n${program.output()}`)
  }
} catch (error) {
  check('the package was driven to its end', false, error)
  for (const { name, output } of programs) console.log(`${name}:\n${output()}`)
} finally {
  for (const { child } of programs) child.kill('SIGKILL')
  await Promise.allSettled(servers.map((server) => server.stop()))
  rmSync(project, { recursive: true, force: true })
}
console.log(`${counts.passed} passed, ${counts.failed} failed`)
process.exit(counts.failed > 0 ? 1 : 0)

function install() {
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }')
  cpSync(join(root, 'examples/quick-start/server.js'), join(project, 'server.js'))
  const packages = [tarball, 'fastify@5', '@fastify/redis@9', 'kysely@0.28', 'pg@8']
  execFileSync('npm', ['install', '--silent', '--no-audit', '--no-fund', ...packages], { cwd: project })
}

async function startAll() {
  const postgres = await started(startPostgres())
  const redis = await started(startRedis())
  const smtp = await startSmtp()
  const env = {
    PATH: process.env.PATH,
    DATABASE_URL: postgres.url,
    REDIS_URL: redis.url,
    ACCOUNTS_SECRET: randomBytes(32).toString('base64url'),
    SMTP_URL: smtp,
    MAIL_FROM: 'Example <no-reply@example.com>',
  }
  // The first migrates, the other finds its tables or waits for them.
  const hosts = await Promise.all(['one host', 'the other host'].map((name) => startHost(name, env)))
  const worker = run('the worker', ['node_modules/.bin/fastify-accounts', 'worker'], env)
  await poll(() => worker.output().includes('mail.ready'), 30_000)
  return [...hosts, worker]
}

async function started(starting) {
  const server = await starting
  servers.push(server)
  return server
}

async function startSmtp() {
  const port = await freePort()
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    async onData(stream, _session, done) {
      mails.push(Buffer.concat(await stream.toArray()).toString())
      done()
    },
  })
  server.listen(port, '127.0.0.1')
  servers.push({ stop: () => new Promise((closed) => server.close(closed)) })
  return `smtp://127.0.0.1:${port}`
}

async function startHost(name, env) {
  const port = await freePort()
  const host = run(name, ['server.js'], { ...env, PORT: String(port) })
  const origin = `http://localhost:${port}`
  await poll(async () => host.child.exitCode !== null || (await fetch(origin)).status === 404, 60_000)
  return { ...host, ...clientOf(origin) }
}

function run(name, args, env) {
  const child = spawn(process.execPath, args, { cwd: project, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk) => {
      text += chunk
    })
  }
  const program = { name, child, output: () => text, ended: once(child, 'close').then(([code]) => code) }
  programs.push(program)
  return program
}

function clientOf(origin) {
  async function call(path, init) {
    const response = await fetch(origin + path, init)
    return { status: response.status, body: await response.json() }
  }
  const headers = { 'content-type': 'application/json' }
  return {
    post: (path, body) => call(path, { method: 'POST', headers, body: JSON.stringify(body) }),
    get: (path, access) => call(path, { headers: { authorization: `Bearer ${access}` } }),
  }
}

async function drive(one, other) {
  const registered = await one.post('/api/register/', account)
  check('an account is registered on one host', registered.status === 201, registered)
  const login = await other.post('/api/login/', account)
  check('it logs in on the other', login.status === 200, login)
  const hello = await one.get('/hello', login.body.access)
  check('its token opens the protected route of both', hello.body.hello === 1, hello)
  const refreshed = await one.post('/auth/refresh/', { refresh: login.body.refresh })
  check('its session is refreshed', refreshed.status === 200, refreshed)
  const wrong = await one.post('/api/login/', { ...account, password: 'a wrong password' })
  check('a wrong password is 401', wrong.status === 401, wrong)
}

async function driveReset(one, other) {
  const { access } = (await one.post('/api/login/', account)).body
  const asked = await one.post('/auth/email_request/', { email: account.email })
  check('a reset is asked for', asked.status === 200 && asked.body.token, asked)
  await poll(() => mails.length > 0, 30_000)
  const [, first, last] = /\b(\d{4}) (\d{4})\b/.exec(mails[0])
  const { token } = asked.body
  const checked = await other.post('/auth/check_otp/', { token, otp: first + last })
  check('the mailed code is right', checked.status === 200, checked)
  const reset = await one.post('/auth/reset_password/', { token, new_password: newPassword })
  check('the password is reset', reset.status === 200, reset)
  await poll(async () => (await other.get('/hello', access)).status === 401, 5000)
  check('older tokens are refused on the other host', true)
  const old = await other.post('/api/login/', account)
  check('the old password is 401', old.status === 401, old)
  const login = await other.post('/api/login/', { ...account, password: newPassword })
  check('the new password logs in', login.status === 200, login)
}

function check(title, ok, details) {
  counts[ok ? 'passed' : 'failed']++
  console.log(`${ok ? ' ok ' : 'FAIL'} ${title}`)
  if (!ok) console.log(details)
}
