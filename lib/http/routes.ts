import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify'
import type { Static, TSchema, TUnknown } from 'typebox'
import { type Client, clientOf } from '../core/client.ts'
import type { Place } from '../core/hash-queue.ts'
import type { Realm } from '../core/realm.ts'
import type { Account } from '../core/tokens.ts'
import { AccountsError, type AccountsErrorCode, isRefusal, loggable } from '../errors.ts'
import type { ResolvedOptions, RouteName } from '../options/options.ts'
import { admit, approach, depart, placeOf } from './admission.ts'
import { fitDocument } from './documents.ts'
import type { Guards } from './guards.ts'
import { errorAnswers, errorBody } from './schemas.ts'
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
  /** True for a route whose body may be left out. */
  bodyOptional?: boolean
  /** Status and schema of the response; a 204 has no body. */
  response: [status: number, schema: TSchema]
  /** The refusals that a client may branch on, beside those of every route. */
  refusals: AccountsErrorCode[]
  /** True for a route that hashes a password: it passes the queue's first door. */
  hashes?: boolean
  /** True for a route behind `authenticate`. */
  guarded?: boolean
  /** True for a route that reads the access token by itself, when there is one. */
  readsToken?: boolean
  /** Runs the use case and returns the body of the response. */
  run(call: RouteCall): Promise<unknown>
}

/** A request as a route gets it. */
export interface RouteCall<Body = never, OwnAccount = never> {
  body: Body
  /** Null on a route that is not guarded. */
  account: OwnAccount
  client: Client
  place: Place | undefined
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
 * Makes a Fastify scope our own: validator, serializer, parsers and error translation. A host's zod compiler, raw-body
 * parser or `*` parser does not reach it, and nothing in it reaches the host.
 */
export function isolate(scope: FastifyInstance, { openapi }: ResolvedOptions): void {
  fitDocument(scope, openapi.securityScheme)
  // @fastify/jwt writes to `app.jwt`; with one of our own no key of ours lands on the host's.
  shadow(scope, 'jwt', Object.create(null))
  scope.setValidatorCompiler(validatorCompiler)
  scope.setSerializerCompiler(() => serialize)
  scope.setReplySerializer(serialize)
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer', bodyLimit },
    strictJson(scope.getDefaultJsonParser('error', 'error')),
  )
  scope.setErrorHandler((error, _request, reply) => {
    const refusal = translate(error)
    // A host's error handler need not know `error.headers`, and without `reply.code` it must not turn this into a 200.
    if (isRefusal(refusal)) reply.code(refusal.statusCode)
    if (refusal instanceof AccountsError) reply.headers(refusal.headers)
    throw refusal
  })
  // Whoever answered: a hook of the host's may do so after a place was taken.
  scope.addHook('onResponse', async (request) => depart(request))
  scope.addHook('onSend', async (_request, reply) => {
    reply.headers({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
  })
}

/** Mounts a route at its path with and without the trailing slash, or as the option `routes` says. */
export function mount(
  scope: FastifyInstance,
  realm: Realm,
  accounts: Pick<Guards, 'authenticate'>,
  route: Route,
): void {
  const decoration = realm.options.routes[route.name]
  if (decoration === false) return
  const { config, logLevel, onRequest = [] } = decoration
  const url = (decoration.url ?? route.path).replace(/\/?$/, route.tail ? `/${route.tail}` : '$&')
  const definition = {
    method: route.method,
    bodyLimit,
    // A transform of the host's for all routes (zod's) need not know TypeBox.
    config: { swaggerTransform: false as const, ...config },
    logLevel,
    onRequest: [onRequest, route.guarded ? accounts.authenticate : [], route.hashes ? admit : []].flat(),
    preValidation: route.bodyOptional ? fillBody : [],
    preHandler: route.hashes ? approach : [],
    handler: answering(route, realm),
  }
  const schema: FastifySchema = schemaOf(route, realm)
  scope.route({ ...definition, url, schema })
  const twin = url.endsWith('/') ? url.slice(0, -1) : `${url}/`
  if (twin && !ignoresTrailingSlash(scope)) scope.route({ ...definition, url: twin, schema: hidden(schema) })
}

async function fillBody(request: FastifyRequest): Promise<void> {
  request.body ??= {}
}

function answering(route: Route, realm: Realm) {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    reply.code(route.response[0])
    try {
      const answer = await route.run(callOf(route, realm, request))
      return answer === undefined ? reply.send() : answer
    } catch (cause) {
      if (isRefusal(cause)) throw cause
      // What is not a refusal is a fault: the client learns nothing of it, the log learns all.
      request.log.error({ err: loggable(cause) }, `fastify-accounts: "${route.name}" failed`)
      throw new AccountsError('ACCOUNTS_UNAVAILABLE', { cause })
    } finally {
      depart(request)
    }
  }
}

function callOf({ guarded }: Route, realm: Realm, request: FastifyRequest): RouteCall {
  const { body, params } = request
  const account = guarded ? request.account : null
  return { body, account, client: clientOf(realm, request), place: placeOf(request), params, request } as RouteCall
}

function schemaOf(route: Route, { options }: Realm) {
  const common: AccountsErrorCode[] = ['ACCOUNTS_UNAVAILABLE']
  if (route.body) common.push('ACCOUNTS_VALIDATION', 'ACCOUNTS_BODY_TOO_LARGE', 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED')
  if (route.hashes) common.push('ACCOUNTS_OVERLOADED')
  if (route.guarded) common.push('ACCOUNTS_TOKEN_INVALID', 'ACCOUNTS_TOKEN_EXPIRED')
  const [status, answer] = route.response
  const scheme = { [options.openapi.securityScheme]: [] }
  return {
    tags: [options.name],
    summary: route.summary,
    // OpenAPI 3.1, Operation Object: the empty requirement makes security optional.
    security: route.readsToken ? [scheme, {}] : route.guarded ? [scheme] : [],
    ...(route.body && { body: route.body }),
    response: { [status]: answer, ...errorAnswers([...common, ...route.refusals]) },
  }
}

// `hide` is @fastify/swagger's.
function hidden(schema: FastifySchema): FastifySchema {
  return Object.assign({ hide: true }, schema)
}

function ignoresTrailingSlash({ initialConfig }: FastifyInstance): boolean {
  const { ignoreTrailingSlash, routerOptions } = initialConfig as {
    ignoreTrailingSlash?: boolean
    routerOptions?: { ignoreTrailingSlash?: boolean }
  }
  return Boolean(ignoreTrailingSlash || routerOptions?.ignoreTrailingSlash)
}

// Answers leave as they are: a serializer made from schemas fills in defaults and fails on what older schemas let in.
function serialize(payload: unknown): string {
  return JSON.stringify(payload instanceof Error ? errorBody(payload) : payload)
}

type ParserDone = (error: Error | null, body?: unknown) => void

// Read leniently, every byte that is no UTF-8 becomes one and the same character, and so one and the same password.
function strictJson(defaultParser: unknown) {
  const parse = defaultParser as (request: FastifyRequest, body: string, done: ParserDone) => void
  const utf8 = new TextDecoder('utf-8', { fatal: true })
  return (request: FastifyRequest, body: Buffer, done: ParserDone) => {
    // Some clients send the header always; a route that needs a body says so by its schema.
    if (body.length === 0) return done(null)
    try {
      parse(request, utf8.decode(body), done)
    } catch (cause) {
      done(notJson(cause))
    }
  }
}

function notJson(cause: unknown): AccountsError {
  return new AccountsError('ACCOUNTS_VALIDATION', { cause, errors: [{ field: '', message: 'must be JSON in UTF-8' }] })
}

function translate(error: unknown): unknown {
  const { code, statusCode } = error as { code?: string; statusCode?: number }
  if (error instanceof AccountsError || !code?.startsWith('FST_ERR_CTP_')) return error
  if (statusCode === 413) return new AccountsError('ACCOUNTS_BODY_TOO_LARGE', { cause: error })
  if (statusCode === 415) return new AccountsError('ACCOUNTS_MEDIA_TYPE_UNSUPPORTED', { cause: error })
  return notJson(error)
}

// Fastify inherits decorators through the prototype: an own property hides the parent's in this scope alone.
function shadow(scope: FastifyInstance, name: string, value: unknown): void {
  Object.defineProperty(scope, name, { value, configurable: true, writable: true })
}
