import type { FastifyInstance, FastifyReply, FastifyRequest, onRequestAsyncHookHandler } from 'fastify'
import { invalid } from '../core/new-user.ts'
import type { Realm } from '../core/realm.ts'
import { AccountsError } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'

/** The origin of the page that sends a request, when the option `browser` lists it; null for everything else. */
function pageOf({ browser }: ResolvedOptions, { headers: { origin } }: FastifyRequest): string | null {
  return browser && origin !== undefined && browser.origins.includes(origin) ? origin : null
}

// RFC 6265bis 4.1.3.2: no other host and no page without TLS can set a cookie of this prefix.
function cookieName({ name }: ResolvedOptions, page: string): string {
  return isSecure(page) ? `__Host-${name}-refresh` : `${name}-refresh`
}

function isSecure(page: string): boolean {
  return page.startsWith('https:')
}

// Only what the grammar allows is trimmed: a name that begins with another kind of space escapes the browser's prefix
// rule, and must not be taken for ours.
function cookiesOf({ headers: { cookie = '' } }: FastifyRequest, name: string): string[] {
  const cookies = cookie.split(/;[ \t]*/)
  return cookies.filter((text) => text.startsWith(`${name}=`)).map((text) => text.slice(name.length + 1))
}

function setCookie(options: ResolvedOptions, page: string, reply: FastifyReply, token: string, seconds: number): void {
  const sameSite = options.browser && options.browser.sameSite === 'lax' ? 'Lax' : 'Strict'
  const attributes = `Path=/; Max-Age=${seconds}; HttpOnly; SameSite=${sameSite}${isSecure(page) ? '; Secure' : ''}`
  reply.header('set-cookie', `${cookieName(options, page)}=${token}; ${attributes}`)
}

/**
 * Makes an `onRequest` hook of a route that changes something: where the cookie of a page comes along, only a page of
 * the listed origins may act.
 *
 * @throws {AccountsError} ACCOUNTS_FORBIDDEN, ACCOUNTS_MEDIA_TYPE_UNSUPPORTED
 */
export function refuseForgery({ options }: Realm, readsCookie: boolean): onRequestAsyncHookHandler {
  const { origins } = options.browser || { origins: [] }
  const names = [...new Set(origins.map((page) => cookieName(options, page)))]
  return async (request) => {
    const { headers } = request
    if (!pageOf(options, request)) {
      const withCookie = names.some((name) => cookiesOf(request, name).length > 0)
      if (withCookie) throw forbidden('the refresh cookie came without an Origin of the option "browser"')
    } else if (headers['sec-fetch-site'] === 'cross-site') {
      throw forbidden('the page is on another site than this server, where browsers keep no SameSite cookie')
    } else if (readsCookie && headers['content-type'] === undefined) {
      // Fastify itself refuses all others that are not JSON.
      throw new AccountsError('ACCOUNTS_MEDIA_TYPE_UNSUPPORTED')
    }
  }
}

/**
 * The refresh token of a request: a page's is in its cookie, anybody else's in the body, and never in both.
 *
 * @throws {AccountsError} ACCOUNTS_VALIDATION, ACCOUNTS_FORBIDDEN, and ACCOUNTS_TOKEN_INVALID without the cookie of a
 * page that needs it
 */
export function refreshTokenOf({ options }: Realm, request: FastifyRequest, needed: boolean): string | undefined {
  const { refresh } = request.body as { refresh?: string }
  const page = pageOf(options, request)
  if (!page) {
    if (needed && refresh === undefined) throw invalid('refresh', 'is required')
    return refresh
  }
  if (refresh !== undefined) throw invalid('refresh', 'must be left out: the cookie has it')
  const [token, ...others] = cookiesOf(request, cookieName(options, page))
  if (others.length > 0) throw forbidden('the refresh cookie came twice')
  if (needed && token === undefined) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return token
}

/** Moves the refresh token in the body of a response to a page into its cookie; `ends` removes the cookie. */
export function moveToCookie(
  { options, tokens, clock }: Realm,
  { request, reply, ends }: { request: FastifyRequest; reply: FastifyReply; ends: boolean },
  body: unknown,
): unknown {
  const page = pageOf(options, request)
  if (!page) return body
  if (ends) setCookie(options, page, reply, '', 0)
  const { refresh, ...rest } = Object(body) as { refresh?: string }
  if (refresh === undefined) return body
  const { expiresAt } = tokens.verifyRefresh(refresh)
  setCookie(options, page, reply, refresh, expiresAt - Math.floor(clock() / 1000))
  return rest
}

function forbidden(reason: string): AccountsError {
  return new AccountsError('ACCOUNTS_FORBIDDEN', { cause: new Error(`fastify-accounts: ${reason}`) })
}

/** Warns when pages of any origin may read what the app responds to a user's cookies. It asks the app once. */
export function warnOfOpenCors(scope: FastifyInstance): void {
  const origin = 'https://any-origin.invalid'
  const headers = { origin, 'access-control-request-method': 'POST' }
  scope.addHook('onReady', async () => {
    // Not awaited, since `inject` waits until the app is ready; and an app may be closed before that.
    const probe = scope.inject({ method: 'OPTIONS', url: `${scope.prefix}/auth/refresh/`, headers })
    probe.then(
      ({ headers: allowed }) => {
        const open = allowed['access-control-allow-origin'] === origin
        if (!open || allowed['access-control-allow-credentials'] !== 'true') return
        const fix = 'name your origins there too, such as { origin: ["https://app.example.com"], credentials: true }'
        scope.log.warn(
          `fastify-accounts: CORS lets every origin use cookies here, whatever the option "browser" says; ${fix}`,
        )
      },
      () => {},
    )
  })
}
