import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import { jsonSchemaTransform, serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import t from 'tap'
import Type from 'typebox'
import { z } from 'zod'
import type { AccountsOptions } from '../lib/index.ts'
import { hostApp, liveThrough } from './host-app.ts'

const bearer = { type: 'http', scheme: 'bearer' } as const
const openapi = {
  components: { securitySchemes: { bearerAuth: bearer, jwt: bearer } },
} as const

const document = (app: FastifyInstance) => app.register(swagger, { openapi })

interface Operation {
  tags: string[]
  summary: string
  security: object[]
  requestBody?: { required: boolean; content: { 'application/json': { schema: Schema } } }
  responses: Record<string, { description: string; content: { 'application/json': { schema: Schema } } }>
}

interface Schema {
  type: string
  properties: Record<string, Schema>
  required: string[]
  maxLength?: number
  pattern?: string
  format?: string
}

async function operations(app: FastifyInstance) {
  await app.ready()
  const { paths } = app.swagger() as unknown as { paths: Record<string, Record<string, Operation>> }
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ route: `${method.toUpperCase()} ${path}`, ...operation })),
  )
}

async function documented(t: Parameters<typeof hostApp>[0], options: Partial<AccountsOptions> = {}) {
  const { app } = await hostApp(t, { before: document, options })
  const all = await operations(app)
  return { all, find: (route: string) => all.find((operation) => operation.route === route) as (typeof all)[number] }
}

function bodyOf({ requestBody }: Operation): Schema {
  return requestBody?.content['application/json'].schema as Schema
}

function answerOf({ responses }: Operation, status: number): Schema {
  return responses[status]?.content['application/json'].schema as Schema
}

const guarded = ['GET /auth/user/']
const table: [route: string, body: string[], status: number, answer: string[], refusals: string[]][] = [
  ['POST /api/register/', ['email', 'password', 'username'], 201, ['email', 'id', 'username'], ['400', '409']],
  ['POST /api/login/', ['email', 'password'], 200, ['access', 'refresh'], ['400', '401']],
  ['POST /auth/refresh/', ['refresh'], 200, ['access', 'refresh'], ['400', '401']],
  ['POST /auth/email_request/', ['email'], 200, ['message', 'token'], ['400']],
  ['POST /auth/check_otp/', ['otp', 'token'], 200, ['message'], ['400']],
  ['POST /auth/reset_password/', ['new_password', 'token'], 200, ['message'], ['400']],
  ['GET /auth/user/', [], 200, ['email', 'email_verified', 'id', 'username'], ['401']],
]

t.test('swagger of the host, registered before us, documents the seven routes and no twin', async (t) => {
  const { all } = await documented(t)

  t.strictSame(all.map(({ route }) => route).sort(), table.map(([route]) => route).sort())
})

t.test('every route is documented with tag, summary, body, answer, refusals and security', async (t) => {
  const { find } = await documented(t)

  for (const [route, body, status, answer, refusals] of table) {
    const operation = find(route)
    t.strictSame(operation.tags, ['accounts'], route)
    t.match(operation.summary, /^[A-Z].{10,}/)
    t.strictSame(operation.security, guarded.includes(route) ? [{ bearerAuth: [] }] : [])
    t.strictSame(Object.keys(answerOf(operation, status).properties).sort(), answer)
    const common = body.length ? ['413', '415', '503'] : ['503']
    t.strictSame(Object.keys(operation.responses).sort(), [String(status), ...refusals, ...common].sort(), route)
    if (body.length) {
      t.strictSame(bodyOf(operation).required.toSorted(), body)
      t.equal(operation.requestBody?.required, true)
    }
  }
})

t.test('each documented refusal names its codes and the members of an error', async (t) => {
  const { find } = await documented(t)
  const { responses } = find('POST /api/register/')

  t.equal(responses['409']?.description, 'ACCOUNTS_EMAIL_TAKEN, ACCOUNTS_USERNAME_TAKEN')
  t.equal(responses['400']?.description, 'ACCOUNTS_VALIDATION, ACCOUNTS_PASSWORD_REFUSED')
  t.equal(responses['503']?.description, 'ACCOUNTS_OVERLOADED, ACCOUNTS_UNAVAILABLE')
  const { properties } = answerOf(find('POST /api/register/'), 400)
  t.strictSame(Object.keys(properties), ['statusCode', 'code', 'error', 'message', 'errors', 'reasons'])
})

t.test('options show in the documents: profile, username, digits, realm, security scheme, routes', async (t) => {
  const profile = Type.Object({ company: Type.String({ maxLength: 80 }), size: Type.Optional(Type.Integer()) })
  const { find, all } = await documented(t, {
    name: 'staff',
    prefix: '/v1',
    registration: { profile, username: false },
    passwordReset: { digits: 10 },
    openapi: { securityScheme: 'jwt' },
    routes: { login: '/sign-in', refresh: false },
  })
  const register = find('POST /v1/api/register/')

  t.strictSame(register.tags, ['staff'])
  t.strictSame(bodyOf(register).required.toSorted(), ['company', 'email', 'password'])
  t.equal(bodyOf(register).properties.company?.maxLength, 80)
  t.strictSame(Object.keys(answerOf(register, 201).properties).sort(), ['company', 'email', 'id', 'size'])
  t.strictSame(find('GET /v1/auth/user/').security, [{ jwt: [] }])
  t.match(bodyOf(find('POST /v1/auth/check_otp/')).properties.otp?.pattern, /\{10\}/)
  t.strictSame(
    all.map(({ route }) => route).filter((route) => /login|sign-in|refresh/.test(route)),
    ['POST /v1/sign-in'],
  )
})

t.test('passwords are documented as passwords', async (t) => {
  const { find } = await documented(t)

  for (const [route, field] of [
    ['POST /api/register/', 'password'],
    ['POST /api/login/', 'password'],
    ['POST /auth/reset_password/', 'new_password'],
  ] as const) {
    t.match(bodyOf(find(route)).properties[field], { type: 'string', format: 'password' })
  }
})

t.test('swagger of the host, registered after us, breaks nothing', async (t) => {
  const host = await hostApp(t, {
    async after(app) {
      await document(app)
      app.get('/own', { schema: { summary: 'Own route' } }, () => 'own')
    },
  })

  await liveThrough(t, host)
  t.ok((await operations(host.app)).some(({ route }) => route === 'GET /own'))
})

t.test('documents of a host that declares no security scheme are written, without the lock', async (t) => {
  for (const components of [undefined, {}, { securitySchemes: { key: { type: 'apiKey', name: 'k', in: 'header' } } }]) {
    const host = await hostApp(t, {
      before: (app) => app.register(swagger, { openapi: { components } as object }),
    })

    const all = await operations(host.app)
    t.equal(all.length, table.length)
    t.strictSame(all.find(({ route }) => guarded.includes(route))?.security, undefined)
  }
})

t.test("zod's transform, which cannot read our schemas, leaves our routes documented", async (t) => {
  const host = await hostApp(t, { before: (app) => zodHost(app, jsonSchemaTransform) })

  await liveThrough(t, host)
  const routes = (await operations(host.app)).map(({ route }) => route)
  t.strictSame(routes.sort(), [...table.map(([route]) => route), 'GET /zod'].sort())
})

async function zodHost(app: FastifyInstance, transform: typeof jsonSchemaTransform): Promise<void> {
  app.setValidatorCompiler(validatorCompiler)
  app.setSerializerCompiler(serializerCompiler)
  await app.register(swagger, { openapi, transform })
  app.get('/zod', { schema: { response: { 200: z.object({ a: z.string() }) } } }, () => ({ a: 'b' }))
}
