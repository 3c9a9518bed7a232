import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import { jsonSchemaTransform, serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import t from 'tap'
import Type from 'typebox'
import { z } from 'zod'
import type { AccountsOptions } from '../../lib/index.ts'
import { hostApp, liveThrough } from '../helpers/host-app.ts'
import { allRoutes, bodied, defaultRoutes, inventory, type WireRoute } from '../helpers/inventory.ts'

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
  responses: Record<string, { description: string; content?: { 'application/json': { schema: Schema } } }>
}

interface Schema {
  type: string
  properties: Record<string, Schema>
  required: string[]
  items?: Schema
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
  return responses[status]?.content?.['application/json'].schema as Schema
}

/** A route of the inventory as the document names it. */
const named = ({ method, path }: WireRoute) => `${method} ${path.replace(':id', '{id}')}`

t.test('swagger of the host, registered before us, documents every route and no twin', async (t) => {
  const { all } = await documented(t, allRoutes)

  t.strictSame(all.map(({ route }) => route).sort(), inventory.map(named).sort())
})

t.test('every route is documented with tag, summary, body, response, refusals and security', async (t) => {
  const { find } = await documented(t, allRoutes)

  for (const route of inventory) {
    const operation = find(named(route))
    t.strictSame(operation.tags, ['accounts'], route.path)
    t.match(operation.summary, /^[A-Z].{10,}/)
    t.strictSame(operation.security, securityOf(route), route.path)
    t.strictSame(answerMembers(operation, route.status), route.answer, route.path)
    const common = route.body ? [413, 415, 503] : [503]
    const statuses = [route.status, ...route.refusals, ...common].map(String).sort()
    t.strictSame(Object.keys(operation.responses).sort(), statuses, named(route))
    if (route.body) t.strictSame(Object.keys(bodyOf(operation).properties).sort(), Object.keys(route.body).sort())
    t.strictSame(bodyOf(operation)?.required?.toSorted() ?? [], requiredOf(route), route.path)
  }
})

function securityOf({ guarded, name }: WireRoute): object[] {
  // Its token may be of either kind.
  if (name === 'logout') return [{ bearerAuth: [] }, {}]
  return guarded ? [{ bearerAuth: [] }] : []
}

function answerMembers(operation: Operation, status: number): string[] {
  const answer = answerOf(operation, status) as Schema | undefined
  return Object.keys((answer?.items ?? answer)?.properties ?? {}).sort()
}

function requiredOf({ name, body = {}, partial }: WireRoute): string[] {
  if (name === 'resendVerification') return ['email']
  return partial ? [] : Object.keys(body).sort()
}

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
  t.strictSame(find('DELETE /v1/auth/sessions/{id}/').security, [{ jwt: [] }])
  t.strictSame(Object.keys(bodyOf(find('PATCH /v1/auth/user/')).properties).sort(), ['company', 'size'])
  t.strictSame(answerMembers(find('PUT /v1/auth/user/'), 200), ['company', 'email', 'email_verified', 'id', 'size'])
  t.match(bodyOf(find('POST /v1/auth/confirm_email/')).properties.otp?.pattern, /\{10\}/)
  t.match(bodyOf(find('POST /v1/auth/check_otp/')).properties.otp?.pattern, /\{10\}/)
  t.strictSame(
    all.map(({ route }) => route).filter((route) => /login|sign-in|refresh/.test(route)),
    ['POST /v1/sign-in'],
  )
})

t.test('options of the account life show in the documents', async (t) => {
  const concealed = await documented(t, { registration: { concealExisting: true } })
  const closed = await documented(t, { account: { fields: [], delete: false } })
  const byDefault = await documented(t)

  const { responses } = concealed.find('POST /api/register/')
  t.strictSame(
    Object.keys(responses).sort(),
    ['202', '400', '413', '415', '429', '503'],
    'it never tells of a conflict',
  )
  t.notOk(concealed.find('POST /api/login/').responses[403], 'nor of an unverified account')
  t.strictSame(bodyOf(closed.find('PATCH /auth/user/')).properties, {})
  t.equal(closed.find('DELETE /auth/user/'), undefined)
  t.notOk(byDefault.find('POST /api/login/').responses[403])
  t.strictSame(answerMembers(byDefault.find('POST /api/register/'), 201), ['email', 'id', 'username'])
})

t.test('passwords are documented as passwords', async (t) => {
  const { find } = await documented(t)

  const fields = bodied.flatMap((route) => {
    const names = Object.keys(route.body).filter((name) => name.endsWith('password'))
    return names.map((name) => [named(route), name] as const)
  })

  t.ok(fields.length >= 7)
  for (const [route, field] of fields) {
    t.match(bodyOf(find(route)).properties[field], { type: 'string', format: 'password' }, route)
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
      options: allRoutes,
    })

    const all = await operations(host.app)
    t.equal(all.length, inventory.length)
    t.strictSame(
      all.filter(({ security }) => security?.length),
      [],
    )
  }
})

t.test("zod's transform, which cannot read our schemas, leaves our routes documented", async (t) => {
  const host = await hostApp(t, { before: (app) => zodHost(app, jsonSchemaTransform) })

  await liveThrough(t, host)
  const routes = (await operations(host.app)).map(({ route }) => route)
  t.strictSame(routes.sort(), [...defaultRoutes.map(named), 'GET /zod'].sort())
})

async function zodHost(app: FastifyInstance, transform: typeof jsonSchemaTransform): Promise<void> {
  app.setValidatorCompiler(validatorCompiler)
  app.setSerializerCompiler(serializerCompiler)
  await app.register(swagger, { openapi, transform })
  app.get('/zod', { schema: { response: { 200: z.object({ a: z.string() }) } } }, () => ({ a: 'b' }))
}
