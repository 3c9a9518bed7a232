import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t from 'tap'
import ts from 'typescript'
import { root, startExample as start } from '../helpers/examples.ts'
import { despiteLoad } from '../helpers/helper.ts'
import { spawnNode } from '../helpers/program.ts'

const account = { username: 'ann', email: 'ann@example.com', password: 'correct horse battery' }

t.test('the quick start serves the six routes and a protected one, and ends in order', async (t) => {
  const { post, open, stop } = await start(t, 'examples/quick-start/server.js')

  const registered = await post('/api/register/', account)
  const { access, refresh } = (await post('/api/login/', account)).body
  const hello = await open('/hello', access)
  const refreshed = await post('/auth/refresh/', { refresh })
  // The first one loads the queue.
  const asked = await despiteLoad(async () => {
    const answer = await post('/auth/email_request/', { email: account.email })
    if (answer.status === 503) throw Object.assign(new Error('busy'), { code: answer.body.code })
    return answer
  })
  const checked = await post('/auth/check_otp/', { token: asked.body.token, otp: '0000 0000' })
  const reset = await post('/auth/reset_password/', { token: asked.body.token, new_password: 'another password' })

  t.match(registered, { status: 201, body: { id: 1, username: 'ann', email: account.email } })
  t.match(hello, { status: 200, body: { hello: 1 } })
  t.match(await open('/hello'), { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' } })
  t.match(refreshed, { status: 200, body: { access: String, refresh: String } })
  t.match(asked, { status: 200, body: { message: 'Password reset link sent to email.', token: String } })
  t.match(checked, { status: 400, body: { code: 'ACCOUNTS_CODE_INVALID' } })
  t.match(reset, { status: 400, body: { code: 'ACCOUNTS_CODE_INVALID' } })
  t.equal(await stop(), 0)
})

t.test('a CommonJS host registers the plugin with require', async (t) => {
  const { post, open, stop } = await start(t, 'examples/commonjs/server.cjs')

  await post('/api/register/', account)
  const { access } = (await post('/api/login/', account)).body

  t.match(await open('/hello', access), { status: 200, body: { hello: 1 } })
  t.equal(await stop(), 0)
})

// CI compiles it with its own tsconfig.json.
t.test('the TypeScript host needs no cast and keeps its profile fields and claims', async (t) => {
  const source = readFileSync(`${root}/examples/typescript/server.ts`, 'utf8')
  t.notMatch(source, /\bas (?!const)|@ts-|\bany\b|!\./)
  const compilerOptions = { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true }
  const { outputText } = ts.transpileModule(source, { compilerOptions })
  const folder = t.testdir({ 'server.js': outputText })
  const { post, open, remove, stop } = await start(t, `${folder}/server.js`)
  const profile = { company: 'Analytical Engines', employees: 2 }

  const refused = await post('/api/register/', { ...account, ...profile, employees: 0 })
  const registered = await post('/api/register/', { ...account, ...profile })
  const { access } = (await post('/api/login/', account)).body
  const ordered = await post('/orders', { article: 'cog wheel' }, access)

  t.match(refused, { status: 400, body: { code: 'ACCOUNTS_VALIDATION', errors: [{ field: 'employees' }] } })
  t.match(registered, { status: 201, body: profile })
  t.match(await open('/auth/user/', access), { status: 200, body: { username: 'ann', ...profile } })
  t.match(ordered, { status: 201, body: { article: 'cog wheel', company: profile.company } })
  t.match(await open('/orders', access), { status: 200, body: [{ article: 'cog wheel' }] })
  const other = { ...account, ...profile, username: 'bob', email: 'bob@example.com' }
  await post('/api/register/', other)
  const foreign = (await post('/api/login/', other)).body.access
  t.match(await remove('/orders/1', foreign), { status: 404, body: { code: 'ACCOUNTS_NOT_FOUND' } })
  t.match(await remove('/orders/abc', access), { status: 400, body: { code: 'FST_ERR_VALIDATION' } })
  t.match(await remove('/orders/1', access), { status: 204 })
  t.match(await open('/orders', access), { status: 200, body: [] })
  t.equal(await stop(), 0)
})

t.test('an example that lacks a variable of the environment says which it needs', async (t) => {
  const files = ['quick-start/server.js', 'commonjs/server.cjs', 'config/app.js'].map((name) => `examples/${name}`)
  const env = { PATH: process.env.PATH, DATABASE_URL: 'postgres://127.0.0.1:1/app', REDIS_URL: 'redis://127.0.0.1:1' }

  for (const file of files) {
    const child = spawnNode([file], { cwd: root, env, stdio: ['ignore', 'ignore', 'pipe'] })
    const complaints: string[] = []
    child.stderr.setEncoding('utf8').on('data', (text) => complaints.push(text))
    const [code] = await once(child, 'close')
    t.equal(code, 1, file)
    t.match(complaints.join(''), /Set DATABASE_URL, REDIS_URL and ACCOUNTS_SECRET/)
  }
})
