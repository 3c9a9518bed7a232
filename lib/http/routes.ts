import type {
  FastifyBaseLogger,
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  FastifySchema,
  RouteOptions,
} from 'fastify'
import Type, { type Static, type TSchema, type TUnknown } from 'typebox'
import { type Client, clientOf } from '../core/client.ts'
import type { Realm } from '../core/realm.ts'
import { doFrom, isFamiliar } from '../core/throttle.ts'
import type { Account } from '../core/tokens.ts'
import { AccountsError, type AccountsErrorCode, errorForClient, hostRefusal, isRefusal } from '../errors.ts'
import type { RouteName } from '../options/options.ts'
import { abandon, admission, release } from './admission.ts'
import { moveToCookie, refreshTokenOf, refuseForgery } from './browser.ts'
import type { SendError } from './drf-errors.ts'
import type { Guards } from './guards.ts'
import { errorBody, errorResponses } from './schemas.ts'
import { validatorCompiler } from './validation.ts'

/** One route of a feature. */
export interface Route {
  name: RouteName
  method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE'
  /** The default path, with its trailing slash. */
  path: string
  /** What follows the path, such as `:id/`. */
  tail?: string
  summary: string
  body?: TSchema
  /** True when the body may be left out. */
  bodyOptional?: boolean
  /** Status and schema of the response; a 204 has no body. */
  response: [status: number, schema: TSchema]
  /** The errors that a client may branch on, besides those of every route. */
  refusals?: AccountsErrorCode[]
  /** True for a route that hashes a password: the hash queue may refuse it before its body is parsed. */
  hashes?: boolean
  /** What a network may do so often. */
  limited?: 'register' | 'mail'
  /** True for a route behind `authenticate`. */
  guarded?: boolean
  /** True for a route that reads the access token by itself, when there is one. */
  readsToken?: boolean
  /** Seconds for which anybody may keep the response. */
  maxAge?: number
  /** True for a route with the refresh token in its body, which a page sends in its cookie. */
  takesRefresh?: boolean
  /** True for a route after which a page is not logged in any more. */
  endsLogin?: boolean
  /** Runs the use case and returns the body of the response. */
  run(call: RouteCall): Promise<unknown>
}

/** A request as a route gets it. */
export interface RouteCall<Body = never, OwnAccount = never> {
  body: Body
  /** Null on a route that is not guarded. */
  account: OwnAccount
  client: Client
  params: Record<string, string>
  request: FastifyRequest
}

interface TypedRoute<Body extends TSchema, Guarded extends boolean> extends Omit<Route, 'run'> {
  body?: Body
  guarded?: Guarded
  run(call: RouteCall<Static<Body>, Guarded extends true ? Account : null>): Promise<unknown>
}

/** Types the call of a route by its body and its guard. */
export function route<Body extends TSchema = TUnknown, const Guarded extends boolean = false>(
  given: TypedRoute<Body, Guarded>,
): Route {
  return given
}

const bodyLimit = 16_384

/**
 * Gives a Fastify scope its own validator, serializer, parsers and error translation. A host's zod compiler, raw-body
 * parser or `*` parser does not reach it, and nothing in it reaches the host. Its errors go to the error handler of the
 * host, unless there is a function that sends them.
 */
export function isolate(scope: FastifyInstance, sendError?: SendError): void {
  scope.setValidatorCompiler(validatorCompiler)
  scope.setSerializerCompiler(() => serialize)
  scope.setReplySerializer(serialize)
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer', bodyLimit },
    strictJson(scope.getDefaultJsonParser('error', 'error')),
  )
  scope.setErrorHandler((thrown, request, reply) => {
    const refusal = translate(hostRefusal(thrown))
    if (sendError) return sendError(refusal, request, reply)
    // A host's error handler need not know `error.headers`, and what is thrown here must never leave as a 200.
    if (isRefusal(refusal)) reply.code(refusal.statusCode).headers(refusal.headers ?? {})
    else reply.code(500)
    throw refusal
  })
  scope.addHook('onResponse', abandon)
  scope.addHook('onSend', async (_request, reply) => {
    reply.headers({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
  })
}

/** Mounts routes at their paths with and without the trailing slash, or as the option `routes` says. */
export function mount(scope: FastifyInstance, realm: Realm, accounts: Pick<Guards, 'authenticate'>, all: Route[]) {
  const swaggerTransform = securityTransform(scope.log, realm.options.openapi.securityScheme)
  const { admit, reserve, close } = admission((request) => isFamiliar(realm, clientOf(realm, request)))
  scope.addHook('preClose', close)
  for (const route of all) {
    const decoration = realm.options.routes[route.name]
    if (decoration === false) continue
    const { config, logLevel, onRequest = [] } = decoration
    const inCookie = Boolean(realm.options.browser && route.takesRefresh)
    const url = (decoration.url ?? route.path).replace(/\/?$/, route.tail ? `/${route.tail}` : '$&')
    const definition = {
      method: route.method,
      bodyLimit,
      config: { swaggerTransform, ...config },
      logLevel,
      onRequest: [
        onRequest,
        realm.options.browser && route.method !== 'GET' ? refuseForgery(realm, inCookie) : [],
        route.guarded ? accounts.authenticate : [],
        route.hashes ? admit : [],
      ].flat(),
      preValidation: route.bodyOptional || inCookie ? fillBody : [],
      preHandler: route.hashes ? reserve : [],
      handler: handlerOf(route, realm),
      // After the hook of the scope, which lets nothing be kept.
      onSend: route.maxAge ? cacheable(route.maxAge) : [],
    }
    const schema: FastifySchema = schemaOf(route, realm)
    addRoute(scope, route, { ...definition, url, schema })
    const twin = url.endsWith('/') ? url.slice(0, -1) : `${url}/`
    // `hide` is @fastify/swagger's.
    const hidden = Object.assign({ hide: true }, schema)
    if (twin && !ignoresTrailingSlash(scope)) addRoute(scope, route, { ...definition, url: twin, schema: hidden })
  }
}

function addRoute(scope: FastifyInstance, { name }: Route, options: RouteOptions): void {
  try {
    scope.route(options)
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code !== 'FST_ERR_DUPLICATED_ROUTE') throw cause
    const fix = `if it is the app's own, move ours with the option "prefix" or "routes.${name}"`
    throw new TypeError(`fastify-accounts: ${message}; ${fix}`, { cause })
  }
}

interface Rendering {
  schema: FastifySchema & { security?: unknown }
  url: string
  openapiObject?: { components?: { securitySchemes?: object } }
}

// For @fastify/swagger, which throws for a security scheme that the host's document does not declare. It also replaces
// a transform of the host for all routes (zod's), which need not know TypeBox.
function securityTransform(log: FastifyBaseLogger, scheme: string) {
  let warned = false
  return ({ schema, url, openapiObject }: Rendering) => {
    if (Object.hasOwn(openapiObject?.components?.securitySchemes ?? {}, scheme)) return { schema, url }
    const fix = 'declare it in components.securitySchemes, or name yours in the option openapi.securityScheme'
    if (!warned) log.warn(`fastify-accounts: @fastify/swagger has no security scheme "${scheme}": ${fix}`)
    warned = true
    const { security, ...open } = schema
    return { schema: open, url }
  }
}

function cacheable(seconds: number) {
  return async (_request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    if (reply.statusCode === 200) reply.header('cache-control', `public, max-age=${seconds}`)
  }
}

async function fillBody(request: FastifyRequest): Promise<void> {
  request.body ??= {}
}

function handlerOf(route: Route, realm: Realm) {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    reply.code(route.response[0])
    try {
      const call = callOf(route, realm, request)
      const result = await (route.limited
        ? doFrom(realm, route.limited, call.client, () => route.run(call))
        : route.run(call))
      const body = moveToCookie(realm, { request, reply, ends: Boolean(route.endsLogin) }, result)
      return body === undefined ? reply.send() : body
    } catch (error) {
      throw errorForClient(error, request.log, `"${route.name}"`)
    } finally {
      release(request)
    }
  }
}

function callOf({ guarded, takesRefresh, bodyOptional }: Route, realm: Realm, request: FastifyRequest): RouteCall {
  const { params } = request
  const body = takesRefresh ? { refresh: refreshTokenOf(realm, request, !bodyOptional) } : request.body
  const account = guarded ? request.account : null
  return { body, account, client: clientOf(realm, request), params, request } as RouteCall
}

function schemaOf(route: Route, { options }: Realm) {
  const common: AccountsErrorCode[] = ['ACCOUNTS_UNAVAILABLE']
  if (route.body) common.push('ACCOUNTS_VALIDATION', 'ACCOUNTS_BODY_TOO_LARGE', 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED')
  if (route.hashes) common.push('ACCOUNTS_OVERLOADED')
  if (route.limited) common.push('ACCOUNTS_TOO_MANY_REQUESTS')
  if (route.guarded) common.push('ACCOUNTS_TOKEN_INVALID', 'ACCOUNTS_TOKEN_EXPIRED')
  if (options.browser && route.method !== 'GET') common.push('ACCOUNTS_FORBIDDEN')
  const [status, response] = route.response
  const body = options.browser && route.takesRefresh && !route.bodyOptional ? Type.Partial(route.body!) : route.body
  const scheme = { [options.openapi.securityScheme]: [] }
  return {
    tags: [options.name],
    summary: route.summary,
    // OpenAPI 3.1, Operation Object: the empty requirement makes security optional.
    security: route.readsToken ? [scheme, {}] : route.guarded ? [scheme] : [],
    ...(body && { body }),
    response: { [status]: response, ...errorResponses([...common, ...(route.refusals ?? [])], options.errors) },
  }
}

function ignoresTrailingSlash({ initialConfig }: FastifyInstance): boolean {
  type Config = { ignoreTrailingSlash?: boolean; routerOptions?: { ignoreTrailingSlash?: boolean } }
  const { ignoreTrailingSlash, routerOptions } = initialConfig as Config
  return Boolean(ignoreTrailingSlash || routerOptions?.ignoreTrailingSlash)
}

// A serializer made from schemas would fill in defaults, and fail on rows that an older schema let in.
function serialize(payload: unknown): string {
  return JSON.stringify(payload instanceof Error ? errorBody(payload) : payload)
}

type ParserDone = (error: Error | null, body?: unknown) => void

const notJson = 'must be JSON in UTF-8'

function strictJson(defaultParser: unknown) {
  const parse = defaultParser as (request: FastifyRequest, body: string, done: ParserDone) => void
  // Decoded leniently, all bytes that are no UTF-8 would become the same character, and so the same password.
  const utf8 = new TextDecoder('utf-8', { fatal: true })
  return (request: FastifyRequest, body: Buffer, done: ParserDone) => {
    // Some clients always send the header; the schema of a route says whether it needs a body.
    if (body.length === 0) return done(null)
    try {
      const text = utf8.decode(body)
      parse(request, text, (error, value) => done(error && invalidBody(error, jsonProblem(text)), value))
    } catch (cause) {
      done(invalidBody(cause, notJson))
    }
  }
}

// Fastify's parser fails alike on what is no JSON and on keys that could reach a prototype.
function jsonProblem(text: string): string {
  try {
    JSON.parse(text)
    return 'must not have the key "__proto__" or "constructor.prototype"'
  } catch {
    return notJson
  }
}

function invalidBody(cause: unknown, message: string): AccountsError {
  return new AccountsError('ACCOUNTS_VALIDATION', { cause, errors: [{ field: '', message }] })
}

function translate(error: unknown): unknown {
  const { code, statusCode } = Object(error) as { code?: unknown; statusCode?: number }
  if (error instanceof AccountsError || !String(code).startsWith('FST_ERR_CTP_')) return error
  if (statusCode === 413) return new AccountsError('ACCOUNTS_BODY_TOO_LARGE', { cause: error })
  if (statusCode === 415) return new AccountsError('ACCOUNTS_MEDIA_TYPE_UNSUPPORTED', { cause: error })
  return invalidBody(error, notJson)
}
