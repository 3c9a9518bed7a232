import type { FastifyInstance } from 'fastify'
import type { AccountsOptions, RouteName } from '../../lib/index.ts'
import { createUser, loginAs } from '../../lib/testing/index.ts'
import { newKey, pemOf } from './keys.ts'

/** A route as clients see it. */
export interface WireRoute {
  name: RouteName
  method: 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE'
  /** The default path. */
  path: string
  /** Behind the access token. */
  guarded: boolean
  /** A body of the right shape, if the route takes one. */
  body?: Record<string, string>
  /** Whether members of the body, or all of it, may be left out. */
  partial?: 'members' | 'body'
  /** The status of the answer, and its members. */
  status: number
  answer: string[]
  /** The statuses of its own refusals. */
  refusals: number[]
}

const user = ['email', 'email_verified', 'id', 'username']
const pair = ['access', 'refresh']
const told = ['message', 'token']
const [email, password, otp, token] = ['ada@example.org', 'correct horse', '12345678', 'x']
const open = { method: 'POST', guarded: false } as const
const guarded = { method: 'POST', guarded: true } as const
const account = { name: 'user', path: '/auth/user/', guarded: true } as const
const update = { ...account, body: { username: 'ada' }, partial: 'members', status: 200, answer: user } as const
const proof = { body: { token, otp }, status: 200, answer: ['message'] }

/** Every route there is, with `verifyEmail` and `tokens.keys`. */
export const inventory: WireRoute[] = [
  {
    ...{ ...open, name: 'register', path: '/api/register/', body: { username: 'ada', email, password } },
    ...{ status: 201, answer: ['email', 'id', 'token', 'username'], refusals: [400, 409, 429] },
  },
  {
    ...{ ...open, name: 'login', path: '/api/login/', body: { email, password } },
    ...{ status: 200, answer: pair, refusals: [400, 401, 403, 429] },
  },
  {
    ...{ ...open, name: 'refresh', path: '/auth/refresh/', body: { refresh: 'x' } },
    ...{ status: 200, answer: pair, refusals: [400, 401] },
  },
  {
    ...{ ...open, name: 'emailRequest', path: '/auth/email_request/', body: { email } },
    ...{ status: 200, answer: told, refusals: [400, 429] },
  },
  { ...open, name: 'checkOtp', path: '/auth/check_otp/', ...proof, refusals: [400] },
  {
    ...{ ...open, name: 'resetPassword', path: '/auth/reset_password/', body: { token, new_password: password } },
    ...{ status: 200, answer: ['message'], refusals: [400] },
  },
  { ...open, name: 'verifyEmail', path: '/auth/verify_email/', ...proof, refusals: [400] },
  {
    ...{ ...open, name: 'resendVerification', path: '/auth/resend_verification/', body: { email, token } },
    ...{ partial: 'members', status: 200, answer: told, refusals: [400, 429] },
  },
  { ...account, method: 'GET', status: 200, answer: user, refusals: [401] },
  { ...update, method: 'PATCH', refusals: [400, 401, 409] },
  { ...update, method: 'PUT', refusals: [400, 401, 409] },
  { ...account, method: 'DELETE', body: { password }, status: 204, answer: [], refusals: [400, 401, 403, 409, 429] },
  {
    ...{ ...guarded, name: 'changePassword', path: '/auth/change_password/' },
    ...{ body: { current_password: password, new_password: password } },
    ...{ status: 200, answer: ['access', 'message', 'refresh'], refusals: [400, 401, 403, 429] },
  },
  {
    ...{ ...guarded, name: 'changeEmail', path: '/auth/change_email/', body: { email, password } },
    ...{ status: 200, answer: told, refusals: [400, 401, 403, 429] },
  },
  { ...guarded, name: 'confirmEmail', path: '/auth/confirm_email/', ...proof, refusals: [400, 401, 409] },
  {
    ...{ ...open, name: 'logout', path: '/auth/logout/', body: { refresh: 'x' }, partial: 'body' },
    ...{ status: 204, answer: [], refusals: [400, 401] },
  },
  { ...guarded, name: 'logoutAll', path: '/auth/logout_all/', status: 204, answer: [], refusals: [401] },
  {
    ...{ name: 'sessions', method: 'GET', path: '/auth/sessions/', guarded: true, status: 200 },
    ...{ answer: ['created_at', 'current', 'id', 'ip', 'last_used_at', 'user_agent'], refusals: [401] },
  },
  {
    ...{ name: 'sessions', method: 'DELETE', path: '/auth/sessions/:id/', guarded: true },
    ...{ status: 204, answer: [], refusals: [401, 404] },
  },
  {
    ...{ name: 'jwks', method: 'GET', path: '/.well-known/jwks.json', guarded: false, status: 200 },
    ...{ answer: ['keys'], refusals: [] },
  },
]

/** Options under which every route of the inventory is mounted. */
export const allRoutes = {
  registration: { verifyEmail: true },
  tokens: { keys: pemOf(newKey('EdDSA')) },
} as const satisfies Partial<AccountsOptions>

/** The routes that are mounted without any option. */
export const defaultRoutes = inventory.filter(
  ({ name }) => !['verifyEmail', 'resendVerification', 'jwks'].includes(name),
)

/** The routes that take a body. */
export const bodied = inventory.filter((route): route is WireRoute & Required<Pick<WireRoute, 'body'>> =>
  Boolean(route.body),
)

/** A path with and without its trailing slash. */
export function spellings(path: string): string[] {
  return [path, path.endsWith('/') ? path.slice(0, -1) : `${path}/`]
}

/** Logs a fresh user in, and answers the headers that open what is guarded to it. */
export async function opener(app: FastifyInstance) {
  const headers = await loginAs(app, await createUser(app, { verified: true, password }))
  return (route: { guarded: boolean }): Record<string, string> => (route.guarded ? headers : {})
}
