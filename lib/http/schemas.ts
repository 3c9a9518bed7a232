import Type, { type TProperties, type TSchema } from 'typebox'
import type { User } from '../contracts.ts'
import { canonicalEmail } from '../core/email-address.ts'
import type { Realm } from '../core/realm.ts'
import { badUsername, usernameProblem } from '../core/usernames.ts'
import { type AccountsErrorCode, errorTable } from '../errors.ts'
import type { ResolvedOptions } from '../options/options.ts'

/** An address to register or to mail to. Any spelling of it names the same account. */
export const Email = Type.Refine(
  Type.String({ maxLength: 254, description: 'E-mail address', examples: ['ada@example.org'] }),
  (text) => canonicalEmail(text) !== null,
  () => 'must be an e-mail address',
)

/** A password as it is typed. The policy is not checked here, so that users with older passwords can log in. */
export const Password = Type.Refine(
  Type.String({
    format: 'password',
    maxLength: 1024,
    description: 'At most 1,024 UTF-16 units',
    examples: ['correct horse battery staple'],
  }),
  (text) => text.length <= 1024,
  () => 'must not be longer than 1024 UTF-16 units',
)

/** The token that a code belongs to. */
export const CodeToken = Type.String({ maxLength: 256, description: 'The token that the code was asked for with' })

/** A token pair. */
export const TokenPairBody = Type.Object({
  access: Type.String({ description: 'Bearer token for protected routes; short-lived' }),
  refresh: Type.Optional(Type.String({ description: 'Exchange it at the refresh route; keep the newest' })),
})

/** A response that is one sentence. */
export const MessageBody = Type.Object({ message: Type.String() })

/** A response with the token that belongs to the mailed code. */
export const MessageAndToken = Type.Object({
  ...MessageBody.properties,
  token: Type.String({ description: 'Goes with the code that was mailed' }),
})

/** The digits of a code; spaces are ignored. */
export function Otp(digits: number) {
  const pattern = `^(?:\\s*\\d){${digits}}\\s*$`
  return Type.Refine(
    Type.String({
      pattern,
      maxLength: 64,
      description: `${digits} digits; spaces are ignored`,
      examples: ['1234567890'.slice(0, digits)],
    }),
    (text) => new RegExp(pattern).test(text),
    () => `must be ${digits} digits`,
  )
}

/** A username: NFC, 1 to 64 code points, no control characters, no space at either end. */
export const Username = Type.Refine(
  Type.String({ maxLength: 256, description: '1 to 64 characters', examples: ['ada'] }),
  (text) => usernameProblem(text) === null,
  () => badUsername,
)

/** The members of a user in every response. */
export function userFields({ options: { registration }, storage }: Realm): TProperties {
  const { username, profile } = registration || { username: 'optional', profile: Type.Object({}) }
  return {
    id: storage.ids === 'integer' ? Type.Integer() : Type.String(),
    ...(username === false ? {} : { username: Type.Union([Type.String(), Type.Null()]) }),
    email: Type.String(),
    // Older rows may lack a field that is required now.
    ...Type.Partial(profile).properties,
  }
}

/** A user as responses show it: the members of `userFields` and nothing else. */
export function shownUser({ options: { registration } }: Realm, { id, username, email, profile }: User) {
  const named = Object.keys(registration ? registration.profile.properties : {})
  const kept = Object.entries(profile ?? {}).filter(([name]) => named.includes(name))
  const name = registration && registration.username === false ? {} : { username }
  return { id, ...name, email, ...Object.fromEntries(kept) }
}

/**
 * The errors of a route for its OpenAPI entry, grouped by status. Members are untyped and further ones are allowed, so
 * that an error format of the host passes unchanged.
 */
export function errorResponses(codes: AccountsErrorCode[], format: ResolvedOptions['errors']): Record<number, TSchema> {
  const rows = errorTable.filter(({ code }) => codes.includes(code))
  const described = (status: number) => rows.filter((row) => row.statusCode === status).map(({ code }) => code)
  return Object.fromEntries(
    rows.map(({ statusCode }) => [
      statusCode,
      Type.Object(errorMembers[format], { additionalProperties: true, description: described(statusCode).join(', ') }),
    ]),
  )
}

const errorNames = ['statusCode', 'code', 'error', 'message', 'errors', 'reasons']
const errorMembers = {
  fastify: untyped(errorNames),
  drf: untyped(['detail', 'code', 'messages', 'non_field_errors']),
}

function untyped(names: string[]): TProperties {
  return Object.fromEntries(names.map((name) => [name, Type.Optional(Type.Any())]))
}

/** The body of an error that no error handler has formatted: its named members, inherited ones too. */
export function errorBody(error: Error): Record<string, unknown> {
  return Object.fromEntries(errorNames.map((name) => [name, (error as unknown as Record<string, unknown>)[name]]))
}
