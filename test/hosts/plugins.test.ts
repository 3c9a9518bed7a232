import fastifyAuth from '@fastify/auth'
import fastifyJwt from '@fastify/jwt'
import rateLimit from '@fastify/rate-limit'
import Fastify, { type FastifyInstance } from 'fastify'
import rawBody from 'fastify-raw-body'
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import t from 'tap'
import { z } from 'zod'
import { AccountsError } from '../../lib/index.ts'
import { secret } from '../helpers/app.ts'
import { hostApp, liveThrough } from '../helpers/host-app.ts'
import { claimsOf } from '../helpers/members.ts'

const orders = ['before', 'after'] as const

for (const order of orders) {
  t.test(`[R-TOK-12] the host's own @fastify/jwt, registered ${order} us, stays as it is`, async (t) => {
    // The host's secret is ours, letter by letter: the keys differ all the same.
    const jwt = (app: FastifyInstance) => app.register(fastifyJwt, { secret })
    const alone = Fastify()
    await jwt(alone)
    await alone.ready()
    const host = await hostApp(t, {
      [order]: jwt,
      options: { tokens: { claims: () => ({ plan: 'pro' }) } },
    })
    const { app } = host

    t.strictSame(Reflect.ownKeys(app.jwt), Reflect.ownKeys(alone.jwt), 'no key of ours on app.jwt')
    const { access, refresh } = await liveThrough(t, host)
    for (const claims of [{ id: 1 }, claimsOf(access), claimsOf(refresh)]) {
      const foreign = app.jwt.sign(claims)
      t.match(await host.get('/auth/user/', foreign), { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' } })
      t.match(await host.post('/auth/refresh/', { refresh: foreign }), {
        status: 401,
        body: { code: 'ACCOUNTS_TOKEN_INVALID' },
      })
    }
    for (const ours of [access, refresh]) t.throws(() => app.jwt.verify(ours))
    await alone.close()
  })

  t.test(`request.user and request.jwtVerify stay the host's with @fastify/jwt ${order} us`, async (t) => {
    const jwt = (app: FastifyInstance) => app.register(fastifyJwt, { secret })
    const host = await hostApp(t, {
      [order]: jwt,
      ...(order === 'before' && { after: routes }),
    })
    if (order === 'after') return t.match(host.app.hasRequestDecorator('user'), true)
    const { access } = await liveThrough(t, host)
    const own = host.app.jwt.sign({ name: 'robot' })

    t.match(await host.get('/robots', own), { status: 200, body: { user: { name: 'robot' } } })
    t.match(await host.get('/robots', access), { status: 401, body: { code: 'FST_JWT_AUTHORIZATION_TOKEN_INVALID' } })
    t.match(await host.get('/people', access), { status: 200, body: { account: { id: 1 }, user: null } })
    t.match(await host.get('/people', own), { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' } })
  })

  t.test(`zod's compilers, set on the host ${order} us, do not reach our routes nor we its`, async (t) => {
    const zod = (app: FastifyInstance) => {
      app.setValidatorCompiler(validatorCompiler)
      app.setSerializerCompiler(serializerCompiler)
      const schema = { body: z.object({ age: z.coerce.number() }), response: { 200: z.object({ age: z.number() }) } }
      app.post('/zod', { schema }, async (request) => request.body)
    }
    const host = await hostApp(t, { [order]: zod })

    await liveThrough(t, host)
    t.match(await host.post('/zod', { age: '7' }), { status: 200, body: { age: 7 } })
    t.equal((await host.post('/zod', { age: 'old' })).status, 400)
    t.match(await host.post('/api/login/', { email: 5 }), {
      status: 400,
      body: { code: 'ACCOUNTS_VALIDATION', errors: [{ field: 'password' }, { field: 'email' }] },
    })
  })

  t.test(`raw bodies and a catch-all parser of the host, ${order} us, do not reach our routes`, async (t) => {
    const parsers = async (app: FastifyInstance) => {
      await app.register(rawBody, { global: true, runFirst: true })
      app.addContentTypeParser('*', (_request, payload, done) => {
        payload.resume()
        done(null, { parsedBy: 'host' })
      })
      app.post('/raw', async (request) => ({ body: request.body, raw: request.rawBody }))
    }
    const host = await hostApp(t, { [order]: parsers })
    const form = (url: string) =>
      host.send({ method: 'POST', url, headers: { 'content-type': 'application/x-yaml' }, payload: 'a: 1' })

    await liveThrough(t, host)
    t.match(await form('/api/login/'), { status: 415, body: { code: 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED' } })
    t.match(await form('/raw'), { status: 200, body: { body: { parsedBy: 'host' } } })
    t.match((await host.post('/raw', { a: 1 })).body, { body: { a: 1 }, raw: '{"a":1}' })
  })

  t.test(
    `[R-WEB-1] compilers, formatters and serializers of the host, ${order} us, do not reach our routes`,
    async (t) => {
      const loud = (app: FastifyInstance) => {
        app.setValidatorCompiler(() => () => ({ error: new Error('validated by the host') }))
        app.setSerializerCompiler(() => () => '"serialized by the host"')
        app.setReplySerializer(() => '"replied by the host"')
        app.setSchemaErrorFormatter(() => new Error('formatted by the host'))
      }
      const ajv = {
        customOptions: { coerceTypes: 'array' as const, removeAdditional: 'all' as const, allErrors: false },
      }
      const host = await hostApp(t, { [order]: loud, server: { ajv } })

      await liveThrough(t, host)
      t.match(await host.post('/api/login/', { email: ['ada@example.org'], password: 7 }), {
        status: 400,
        body: { code: 'ACCOUNTS_VALIDATION', errors: [{ field: 'email' }, { field: 'password' }] },
      })
    },
  )
}

t.test('a rate limit of the host counts both spellings of a path as one', async (t) => {
  const { post } = await hostApp(t, {
    before: (app) => app.register(rateLimit, { global: false }),
    options: { routes: { login: { config: { rateLimit: { max: 3, groupId: 'login' } } } } },
  })
  const login = (path: string) => post(path, { email: 'ada@example.org', password: 'correct horse' })

  t.same(
    await Promise.all([login('/api/login/'), login('/api/login'), login('/api/login/')].map(statusOf)),
    [401, 401, 401],
  )
  t.equal(await statusOf(login('/api/login')), 429)
  t.equal(await statusOf(login('/api/login/')), 429)
})

async function statusOf(answer: Promise<{ status: number }>): Promise<number> {
  return (await answer).status
}

function routes(app: FastifyInstance): void {
  app.get('/robots', { onRequest: (request) => request.jwtVerify() }, (request) => ({ user: request.user }))
  app.get('/people', { onRequest: app.accounts.authenticate }, (request) => ({
    account: request.account,
    user: request.user,
  }))
}

t.test('the guard composes with @fastify/auth, and the header of a refusal stays off a 200', async (t) => {
  const host = await hostApp(t, {
    before: (app) => app.register(fastifyAuth),
    async after(app) {
      const { authenticate } = app.accounts
      const key = async (request: { headers: Record<string, unknown> }) => {
        if (request.headers['x-key'] !== 'k') throw Object.assign(new Error('wrong key'), { statusCode: 403 })
      }
      await app.after()
      app.get('/or', { preHandler: app.auth([authenticate, key]) }, (request) => ({
        in: true,
        key: request.headers['x-key'],
      }))
      app.get('/last', { preHandler: app.auth([key, authenticate]) }, () => ({ in: true }))
      app.get('/and', { preHandler: app.auth([authenticate, key], { relation: 'and' }) }, (request) => request.account)
      app.get('/optional', { preHandler: app.auth([key, authenticate({ optional: true })]) }, () => ({ in: true }))
    },
  })
  const { access } = await liveThrough(t, host)
  const ask = (url: string, headers: Record<string, string>) => host.send({ url, headers })
  const bearer = { authorization: `Bearer ${access}` }

  const byKey = await ask('/or', { 'x-key': 'k' })
  t.match(byKey, { status: 200, body: { in: true } })
  t.notOk('www-authenticate' in byKey.headers)
  t.equal((await ask('/or', bearer)).status, 200)
  t.match(await ask('/or', {}), { status: 403 })
  const refused = await ask('/last', {})
  t.match(refused, { status: 401, body: { code: 'ACCOUNTS_TOKEN_INVALID' }, headers: { 'www-authenticate': 'Bearer' } })
  t.equal((await ask('/last', bearer)).status, 200)
  t.match(await ask('/and', { ...bearer, 'x-key': 'k' }), { status: 200, body: { id: 1 } })
  t.equal((await ask('/and', bearer)).status, 403)
  t.equal((await ask('/and', { 'x-key': 'k' })).status, 401)
  t.equal((await ask('/optional', {})).status, 200)
})

for (const order of orders) {
  t.test(`an error handler of the host, set ${order} us, formats refusals of its own guarded routes`, async (t) => {
    const seen: unknown[] = []
    const host = await hostApp(t, {
      before: order === 'before' ? handle : undefined,
      after(app) {
        if (order === 'after') handle(app)
        app.get('/mine', { onRequest: app.accounts.authenticate }, (request) => request.account)
      },
    })
    function handle(app: FastifyInstance): void {
      app.setErrorHandler((error, _request, reply) => {
        seen.push(error)
        const { statusCode = 500, code, headers } = error as AccountsError
        return reply
          .code(statusCode)
          .headers(headers ?? {})
          .send({ problem: { code, status: statusCode } })
      })
    }

    t.match(await host.get('/mine'), {
      status: 401,
      body: { problem: { code: 'ACCOUNTS_TOKEN_INVALID', status: 401 } },
      headers: { 'www-authenticate': 'Bearer' },
    })
    t.ok(seen[0] instanceof AccountsError)
  })
}
