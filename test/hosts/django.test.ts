import jwt from '@fastify/jwt'
import Fastify, { type FastifyInstance } from 'fastify'
import pg from 'pg'
import t, { type Test } from 'tap'
import ts from 'typescript'
import { adoptionSql, checkAdoption, removalSql } from '../../lib/adapters/kysely/adopt.ts'
import { memoryCache, memoryMailer } from '../../lib/adapters/memory/index.ts'
import plugin, { type AccountsOptions } from '../../lib/index.ts'
import { type Adoption, adoption } from '../../lib/options/adoption.ts'
import { judge } from '../helpers/adoption.ts'
import { bearer, clientOf, newPassword, password, secret } from '../helpers/app.ts'
import { openFresh } from '../helpers/databases.ts'
import { djangoSecret, noDjango, startDjango } from '../helpers/django.ts'
import { noPostgres } from '../helpers/helper.ts'
import { snippets } from '../helpers/pages.ts'

const skip = noPostgres || noDjango
t.jobs = 1

const page = snippets('ts').filter((snippet) => snippet.page === 'docs/from-django.md')
const [authUser, usersUser, byUsername, liveTokens] = page.map(({ code }) => code)

/** Runs a snippet of the page as it stands there, for what it hands back by name. */
async function runSnippet(t: Test, code: string, things: object, back = 'null'): Promise<any> {
  const options = { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext }
  const { outputText } = ts.transpileModule(code, { compilerOptions: options })
  const lines = outputText.replace('export {};', '').split('\n')
  const imports = lines.filter((line) => line.startsWith('import '))
  const body = lines.filter((line) => !line.startsWith('import '))
  const source = `${imports.join('\n')}
    export default async ({ ${Object.keys(things).join()} }) => { ${body.join('\n')}\nreturn ${back} }`
  const folder = t.testdir({ 'snippet.mjs': source })
  const { default: run } = await import(`${folder}/snippet.mjs?${lines.length}`)
  return run(things)
}

/** An app as the page makes it, on the database of a Django project. */
async function open(t: Test, model: 'auth.User' | 'users.User', more: Partial<AccountsOptions> = {}) {
  const { db, url } = await openFresh(t)
  const django = await startDjango(t, url, model, model === 'auth.User' ? undefined : 600_000)
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  t.teardown(() => client.end())
  const app = Fastify({ logger: { level: 'error', stream: process.stderr } })
  t.teardown(() => app.close())
  const mailer = memoryMailer()
  let adopted: Adoption | undefined
  async function accounts(app: FastifyInstance, given: AccountsOptions): Promise<void> {
    adopted = adoption('adopt', given.adopt)!
    await client.query(await adoptionSql(db, adopted))
    await app.register(plugin, { ...given, mailer, cache: memoryCache(), secret, throttle: false, ...more })
  }
  const start = async () => {
    const register = { register: accountsOf(app, accounts) }
    await runSnippet(t, model === 'auth.User' ? authUser! : usersUser!, { app: register, db, accounts: null })
  }
  const hashForm = (hash: string) => (hash.startsWith('!') ? null : hash.split('$')[0]!)
  const findings = () => checkAdoption(db, adopted!, { ...judge, hashForm })
  return { app, db, url, client, django, start, findings, mailer, adopted: () => adopted!, ...clientOf(app) }
}

// What the snippet registers, with parts in memory beside what it gives.
function accountsOf(app: FastifyInstance, register: (app: FastifyInstance, given: AccountsOptions) => Promise<void>) {
  return (_plugin: unknown, given: AccountsOptions) => register(app, given)
}

const forms = ['pbkdf2_sha256', 'pbkdf2_sha1', 'argon2', 'bcrypt_sha256', 'bcrypt']

t.test('the tables of a real Django project', { skip }, async (t) => {
  process.env.DJANGO_SECRET_KEY = djangoSecret
  t.teardown(() => delete process.env.DJANGO_SECRET_KEY)

  for (const model of ['auth.User', 'users.User'] as const) {
    const named = (name: string) => (model === 'auth.User' ? { username: name } : {})
    const who = (name: string) => ({ ...named(name), email: `${name}@example.org` })
    const loginName = (name: string) =>
      model === 'auth.User' ? { username: name } : { username: `${name}@example.org` }

    await t.test(`${model}: users of Django log in here, whatever their hash`, async (t) => {
      const { django, start, post, findings, app } = await open(t, model)
      const users = []
      for (const hasher of forms) users.push(await django('create', { ...who(hasher), hasher, password }))
      await django('create', who('unusable'))
      await django('create', { ...who('gone'), password, is_active: false })

      await start()

      const advice = (await findings()).filter((line) => !/^passwords: /.test(line))
      t.match(advice, model === 'auth.User' ? [/^column "username" has no default/, /no unique index on lower/] : [])
      const login = (name: string, typed = password) =>
        post(model === 'auth.User' ? '/api/token/' : '/api/login/', { email: `${name}@EXAMPLE.org`, password: typed })
      for (const [index, name] of forms.entries()) {
        const { status, body } = await login(name)
        t.equal(status, 200, name)
        t.equal((await app.accounts.verifyToken(body.access)).id, users[index].id)
        t.equal((await login(name, 'a wrong one')).status, 401)
      }
      t.equal((await login('gone')).status, 401)
      t.equal((await login('unusable', '')).status, 401)
      const after = await django('find')
      t.same(
        after.slice(0, forms.length).map(({ password }: { password: string }) => password),
        users.map(({ password }) => password),
        'hashes stay as they are',
      )
    })

    await t.test(`${model}: what happens here is so in Django, and the other way round`, async (t) => {
      const { db, django, start, post, send, get, mailer, app, client, adopted } = await open(t, model)
      await start()
      const url = model === 'auth.User' ? '/api/token/' : '/api/login/'
      const refreshUrl = model === 'auth.User' ? '/api/token/refresh/' : '/auth/refresh/'
      const email = 'ada@example.org'
      const login = async (typed: string, address = email) => post(url, { email: address, password: typed })
      const inDjango = (typed: string, name = 'ada') => django('log_in', { ...loginName(name), password: typed })

      const registered = await post('/api/register/', { ...who('ada'), password })
      const { id } = registered.body
      t.equal(registered.status, 201)
      t.match(await django('find', { id }), [{ ...who('ada'), is_active: true, is_staff: false, last_name: '' }])
      const [{ date_joined: joined }] = await django('find', { id })
      t.ok(Math.abs(joined * 1000 - Date.now()) < 60_000)
      const replaced = (await login(password)).body
      t.equal(await inDjango(password), id)
      t.equal(await inDjango('a wrong one'), null)

      // The page asks for the iterations of ours: a hash of another count is replaced by Django.
      const before = (await post(refreshUrl, { refresh: replaced.refresh })).status
      t.equal(before, model === 'auth.User' ? 401 : 200)
      const first = (await login(password)).body
      const change = { current_password: password, new_password: newPassword }
      t.equal((await post('/auth/change_password/', change, bearer(first.access))).status, 200)
      t.equal(await inDjango(newPassword), id)
      t.equal(await inDjango(password), null)
      const { token } = (await post('/auth/email_request/', { email })).body
      await post('/auth/check_otp/', { token, otp: mailer.sent.at(-1)!.code })
      t.equal((await post('/auth/reset_password/', { token, new_password: password })).status, 200)
      t.equal(await inDjango(password), id)

      let now = { email, password }
      const sessionEnds = async (command: string, values: object) => {
        await app.accounts.users.enable(id)
        const { refresh } = (await login(now.password, now.email)).body
        await django(command, { id, ...values })
        now = { ...now, ...values }
        return (await post(refreshUrl, { refresh })).status
      }
      t.equal(await sessionEnds('save', { last_name: 'Lovelace' }), 200)
      t.equal(await sessionEnds('save', { email: 'Countess@example.org' }), 401)
      t.equal((await login(password)).status, 401)
      t.equal((await login(password, 'countess@example.org')).status, 200)
      t.equal(await sessionEnds('save', { email }), 401)
      t.equal(await sessionEnds('save', { password: newPassword }), 401)
      t.equal((await login(newPassword)).status, 200)
      t.equal(await sessionEnds('update', { is_active: false }), 401)
      t.equal((await login(newPassword)).status, 401)
      await django('save', { id, is_active: true })
      const { access } = (await login(newPassword)).body
      t.match(await get('/auth/user/', access), { status: 200, body: { id, email } })

      await app.accounts.users.disable(id)
      t.match(await django('find', { id }), [{ is_active: false }])
      await app.accounts.users.enable(id)
      t.equal(await inDjango(newPassword), id)
      const remove = async (access: string) =>
        send({ method: 'DELETE', url: '/auth/user/', headers: bearer(access), payload: { password: newPassword } })
      await django('join_group', { id, name: 'editors' })
      const again = (await login(newPassword)).body.access
      t.match(await remove(again), { status: 409, body: { code: 'account_in_use' } })
      await django('delete', { id })
      t.equal((await login(newPassword)).status, 401)
      const other = (await post('/api/register/', { ...who('bob'), password })).body
      const bob = (await login(password, 'bob@example.org')).body.access
      t.equal(
        (await send({ method: 'DELETE', url: '/auth/user/', headers: bearer(bob), payload: { password } })).status,
        204,
      )
      t.same(await django('find', { id: other.id }), [])
      await post('/api/register/', { ...who('eve'), password })

      await app.close()
      await client.query(await removalSql(db, adopted()))
      t.ok(await inDjango(password, 'eve'), 'the way back')
      t.match(await django('save', { id: (await inDjango(password, 'eve')) as number, last_name: 'x' }), {
        last_name: 'x',
      })
    })
  }

  await t.test('live tokens of simplejwt are let in by the lines of the page', async (t) => {
    const { django, start, app, send, post, db } = await open(t, 'auth.User')
    const { id } = await django('create', { username: 'ada', email: 'ada@example.org', password })
    const gone = await django('create', { username: 'gone', email: 'gone@example.org', password })
    const [live, last] = [await django('tokens', { id }), await django('tokens', { id: gone.id })]
    await django('save', { id: gone.id, is_active: false })
    const signedIn = await runSnippet(t, liveTokens!, { app }, 'signedIn')
    await runSnippet(t, byUsername!, { app, db })
    await start()
    app.get('/orders', { onRequest: signedIn }, (request) => (request as unknown as { userId: unknown }).userId)
    const open_ = async (access: string) => {
      const { statusCode, body } = await app.inject({ url: '/orders', headers: bearer(access) })
      return statusCode === 200 ? Number(body) : JSON.parse(body)
    }
    await app.register(jwt, { secret: djangoSecret, namespace: 'django' } as never)
    const sign = (claims: object, key = djangoSecret) =>
      (app as any).jwt.django.sign({ token_type: 'access', jti: 'x', ...claims }, { key, expiresIn: 60 })
    const wrong = { code: 'token_not_valid', detail: 'Given token not valid for any token type' }

    t.equal(await open_(live.access), id)
    t.equal(await open_(sign({ user_id: id })), id)
    for (const refused of [
      ...[live.refresh, last.access, `${live.access}x`, 'x', sign({ user_id: 99 }), sign({ user_id: 'x' }), sign({})],
      ...[sign({ user_id: id }, 'another key of more than thirty-two characters'), sign({ user_id: id, iat: 1 })],
    ]) {
      t.match(await open_(refused), wrong)
    }
    t.strictSame((await send({ method: 'GET', url: '/orders' })).body, {
      detail: 'Authentication credentials were not provided.',
    })

    const exchanged = await post('/api/token/refresh/', { refresh: live.refresh })
    t.match(exchanged, { status: 200, body: { access: String, refresh: String } })
    t.equal(await open_(exchanged.body.access), id)
    t.equal((await post('/api/token/refresh/', { refresh: exchanged.body.refresh })).status, 200)
    for (const refresh of [live.access, last.refresh, 'x', '']) {
      t.strictSame((await post('/api/token/refresh/', { refresh })).body, {
        detail: 'Token is invalid or expired',
        code: 'token_not_valid',
      })
    }
    t.equal((await post('/api/token/', { username: 'ada', password })).status, 200)
    t.equal((await post('/api/token/', { username: 'nobody', password })).status, 401)
    t.equal((await post('/api/token/', { email: 'ada@example.org', password })).status, 200)
  })

  await t.test('each refusal is what real Django REST framework with simplejwt says', async (t) => {
    const more = { routes: {}, throttle: { login: { tries: 1, seconds: 60 } } } as Partial<AccountsOptions>
    const { django, start, app, send } = await open(t, 'users.User', more)
    await start()
    app.get('/guarded/', { onRequest: app.accounts.authenticate }, () => 'in')
    app.get('/admin/', { onRequest: app.accounts.require({ role: 'admin' }) }, () => 'in')
    const email = 'ada@example.org'
    const { id } = await django('create', { email, password })
    const ours = await app.accounts.startSession(id)
    const theirs = await django('tokens', { id })
    const json = 'application/json'

    /** A request to both, and whether body, status and headers are alike. */
    async function alike(method: 'GET' | 'POST', url: string, body: string, [here, there] = ['', ''], type = json) {
      const headers = { 'content-type': type }
      const [mine, real] = [
        await send({ method, url, payload: body, headers: { ...headers, ...(here && { authorization: here }) } }),
        await django('request', { method, url, body, type, ...(there && { HTTP_AUTHORIZATION: there }) }),
      ]
      t.strictSame(mine.body, real.body, `${url} ${body} ${here}`)
      t.equal(mine.headers['www-authenticate'], real.headers['www-authenticate'])
      return [mine.status, real.status]
    }
    const same = async (...request: Parameters<typeof alike>) => {
      const [mine, real] = await alike(...request)
      t.equal(mine, real, request.join(' '))
    }

    for (const body of [
      {},
      { email: 'x', password },
      { email: 'x', password: true },
      { password: 'short', email: 'a@b.co' },
    ])
      await same('POST', '/api/register/', JSON.stringify(body))
    for (const body of [{}, { email, password: 'a wrong one' }, { email: 'nobody@example.org', password: 'x' }])
      await same('POST', '/api/login/', JSON.stringify(body))
    for (const body of [{}, { refresh: 'x' }]) await same('POST', '/auth/refresh/', JSON.stringify(body))
    await same('POST', '/api/login/', 'null')
    await same('POST', '/api/login/', 'x', ['', ''], 'text/plain')
    for (const text of ['', 'Basic x', 'Bearer', 'Bearer a b', 'Bearer a'])
      await same('GET', '/guarded/', '', [text, text])
    await same('GET', '/admin/', '', [`Bearer ${ours.access}`, `Bearer ${theirs.access}`])
    t.strictSame(await alike('POST', '/api/register/', JSON.stringify({ email, password })), [409, 400])
    await django('request', { method: 'GET', url: '/limited/' })
    const limited = await django('request', { method: 'GET', url: '/limited/' })
    const refused = await send({ method: 'POST', url: '/api/login/', payload: { email, password: 'a wrong one' } })
    const sentence = (seconds: unknown) => `Request was throttled. Expected available in ${seconds} seconds.`
    t.strictSame([limited.status, limited.body.detail], [429, sentence(limited.headers['retry-after'])])
    t.strictSame([refused.status, refused.body], [429, { detail: sentence(refused.headers['retry-after']) }])
  })
})
