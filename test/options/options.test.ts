import { inspect } from 'node:util'
import Fastify from 'fastify'
import { Kysely, PostgresDialect } from 'kysely'
import t from 'tap'
import Type, { type TSchema } from 'typebox'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import accounts, { type AccountsOptions } from '../../lib/index.ts'
import { resolveOptions, routeNames } from '../../lib/options/options.ts'
import { cheapHashes } from '../../lib/options/rules.ts'
import { createUser, loginAs } from '../../lib/testing/index.ts'
import { secret } from '../helpers/app.ts'
import { inProduction } from '../helpers/helper.ts'

const storage = memoryStorage()
const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: {} as never }) })

function resolve(options: Record<string, unknown>) {
  return resolveOptions({ secret, storage, ...options } as unknown as AccountsOptions)
}

/** The message of the TypeError that the options are refused with; empty when they are taken. */
function refusal(options: Record<string, unknown>): string {
  try {
    resolve(options)
    return ''
  } catch (error) {
    return error instanceof TypeError ? error.message : `not a TypeError: ${error}`
  }
}

// One option by its path, a value that is refused, and what the message says besides the path.
type Wrong = [path: string, given: unknown, says: RegExp]

const wrong: Wrong[] = [
  ['name', 'My App', /short camelCase name.*'My App'/],
  ['name', '', /camelCase/],
  ['name', 7, /7 was given/],
  ['prefix', 'v1', /path such as "\/v1", but 'v1'/],
  ['prefix', '/:tenant', /path such as/],
  ['prefix', null, /null was given/],
  ['routes', '/login', /must be an object with register, login/],
  ['routes.login', 'login', /path such as "\/login\/"/],
  ['routes.login', '/login/:id', /without parameters/],
  ['routes.login', null, /path, false or an object.*null/],
  ['routes.login', true, /path, false or an object.*true/],
  ['routes.login', [], /path, false or an object/],
  ['routes.login.url', ['/login'], /path such as/],
  ['routes.login.onRequest', 'hook', /hook or a list of hooks/],
  ['routes.login.onRequest', [() => {}, 1], /hook or a list of hooks/],
  ['routes.login.config', 'x', /must be an object/],
  ['routes.login.logLevel', 5, /log level/],
  ...routeNames.map((name): [string, unknown, RegExp] => [`routes.${name}`, 'x', /path such as "\/login\/"/]),
  ['db', {}, /Kysely instance/],
  ['storage', {}, /storage adapter.*missing: insertUser/],
  ['storage', db, /storage adapter such as kyselyStorage\(db\)/],
  ['storage.ids', undefined, /'integer', 'uuid' or 'text'/],
  ['redis', 5, /URL, an ioredis client/],
  ['redis', { cache: 'redis://localhost' }, /\{ cache, queue \}/],
  ['cache', { put() {} }, /missing: lease/],
  ['mailer', 'smtp://localhost', /mailer such as smtpMailer/],
  ['mailer', { send() {}, sendMail() {} }, /mailer such as smtpMailer/],
  ['tokens.issuer', 'two words', /printable ASCII/],
  ['tokens.audience', '', /printable ASCII/],
  ['tokens.accessTtl', '5m', /whole number from 1 to 86400, but '5m'/],
  ['tokens.accessTtl', 0, /whole number/],
  ['tokens.keys', 'hs256', /must be a key of Ed25519, P-256 or RSA .*a text of 5 characters that is no PEM/],
  ['tokens.claims', {}, /function \(user\) => claims/],
  ['session.idle', 1.5, /whole number/],
  ['session.idle', 2_592_001, /must not be longer than session.absolute \(2592000\)/],
  ['session.absolute', Number.POSITIVE_INFINITY, /whole number/],
  ['session.perUser', 0, /whole number from 1 to 1000/],
  ['session', 3600, /must be a function or an object with idle, absolute, perUser, but 3600/],
  ['session', null, /a function or an object/],
  ['session', () => '1h', /must be a function or an object with idle, absolute, perUser, but '1h'/],
  ['session', () => null, /a function or an object.*null/],
  ['session', async () => ({ idle: 60 }), /must return \{ idle, absolute, perUser \} at once, but a promise/],
  ['session', async (request: any) => ({ idle: request.headers.idle }), /at once, but a promise/],
  ['refresh.rotate', 'false', /true or false, but 'false'/],
  ['refresh.graceSeconds', -1, /whole number from 0 to 3600/],
  ['refresh.lateReplays', null, /whole number/],
  ['registration', true, /false or an object with username, profile/],
  ['registration.username', 'maybe', /'required' or 'optional' or false/],
  ['registration.profile', { company: Type.String() }, /Type.Object/],
  ['registration.verifyEmail', 'yes', /true or false, but 'yes'/],
  ['registration.concealExisting', 1, /true or false, but 1/],
  ['passwords.minLength', 6, /whole number from 8 to 128/],
  ['passwords.maxLength', 32, /whole number from 64 to 1024/],
  ['passwordReset', 'off', /false or an object with url/],
  ['passwordReset.url', 'http://example.org/reset', /https address/],
  ['passwordReset.url', 'https://example.org/#reset', /without a fragment/],
  ['passwordReset.url', 'https://user:pw@example.org/', /https address/],
  ['passwordReset.url', '/reset', /https address/],
  ['passwordReset.digits', 6, /whole number from 8 to 10/],
  ['passwordReset.ttl', 59, /whole number from 60/],
  ['passwordReset.tries', 11, /whole number from 1 to 10/],
  ['account', false, /an object with fields, delete/],
  ['account.fields', 'username', /list of names, but 'username'/],
  ['account.fields', ['username', 5], /list of names/],
  ['account.fields[0]', ['email'], /"username" or a field of registration.profile, but 'email'/],
  ['account.fields[1]', ['username', 'role'], /"username" or a field of registration.profile, but 'role'/],
  ['account.delete', true, /'row' or 'deactivate' or false, but true/],
  ['roles', ['admin'], /object such as \{ admin: \["\*"\]/],
  ['roles', null, /object such as/],
  ['roles.admin', 'orders:*', /must be a list such as \["orders:read"\], but 'orders:\*'/],
  [
    'roles.admin[0]',
    ['orders:**'],
    /must be words with ":" between them.*"\*" stands alone or last.*but 'orders:\*\*'/,
  ],
  ['roles.admin[1]', ['orders:read', 'orders:*:x'], /stands alone or last/],
  ['roles.admin[0]', ['ord*'], /stands alone or last/],
  ['roles.admin[0]', [''], /must be words/],
  ['roles.admin[0]', [['orders']], /must be words.*\[ 'orders' \]/],
  ['roles.admin[0]', [5], /must be words/],
  ['roles.a b', ['orders:*'], /must have a name of letters, digits/],
  ['mail.brand.name', 'a\nb', /name of at most 64/],
  ['mail.brand.logoUrl', 'http://example.org/logo.png', /https address/],
  ['mail.brand.color', 'blue', /colour such as/],
  ['mail.brand.supportEmail', 'support', /e-mail address/],
  ['mail.templates', [], /must be an object with reset, verify/],
  ['mail.templates.reset', 5, /function \(input\) => \(\{ subject, text, html \}\), but 5/],
  ['revocation', 'redis', /'feed' or 'storage' or 'none', but 'redis'/],
  ['revocation', false, /'feed' or 'storage' or 'none', but false/],
  ['passwords.context', 'Example', /must be a list of names/],
  ['passwords.legacy.form', '^sha', /must be a regular expression, but '\^sha'/],
  ['passwords.write', 'md5', /'argon2id' or 'bcrypt' or 'django', but 'md5'/],
  ['passwords.upgrade', 'no', /true or false/],
  ['adopt', true, /must be an object with table, schema, ids/],
  ['adopt.table', 'a.b.c', /must be the name of a table/],
  ['passwords.context[1]', ['Acme', 'TLA'], /must have at least 4 characters, but 'TLA' was given/],
  ['passwords.context', 'Acme', /must be a list of names/],
  ['passwords.breached', true, /must be a function \(prefix, signal\) => range/],
  ...(['login', 'account', 'network', 'register', 'mail', 'mailbox', 'change'] as const).flatMap((name): Wrong[] => [
    [`throttle.${name}`, true, /must be false or an object with tries, seconds/],
    [`throttle.${name}.tries`, 0, /whole number from 1 to 1000000/],
    [`throttle.${name}.seconds`, '15m', /whole number from 1 to 2592000/],
  ]),
  ['throttle', 5, /must be false or an object with login/],
  ['browser', true, /must be false or an object with origins, sameSite/],
  ['browser.origins', undefined, /must be a list of origins such as \["https:\/\/app.example.com"\]/],
  ['browser.origins', [], /must be a list of origins/],
  ['browser.origins', 'https://app.example.com', /must be a list of origins/],
  ...['*', 'null', 'app.example.com', 'http://app.example.com', 'capacitor://localhost', '', null, 7].map(
    (one): Wrong => ['browser.origins[0]', [one], /must be an https origin \(http on localhost, for development\)/],
  ),
  ...['/', '/app', '?a', '#a', ':443'].map(
    (end): Wrong => [
      ...(['browser.origins[1]', ['http://127.0.0.1:1', `https://app.example.com${end}`]] as const),
      /must be the origin alone, as browsers write it: "https:\/\/app.example.com", but/,
    ],
  ),
  [
    'browser.origins[0]',
    ['https://*.example.com'],
    /must name one host, without "\*", but 'https:\/\/\*\.example\.com'/,
  ],
  ['browser.origins[0]', ['https://a@app.example.com'], /"https:\/\/app.example.com"/],
  ['browser.origins[0]', ['https://APP.example.com'], /"https:\/\/app.example.com"/],
  ['browser.origins[0]', ['https://bücher.example'], /"https:\/\/xn--bcher-kva.example"/],
  ['eventLog', 'yes', /must be true, false or an object with keep, but 'yes'/],
  ['eventLog.keep', 3599, /whole number from 3600 to 315360000/],
  ['eventLog.keep', '90d', /whole number/],
  ['network', 'ip', /function \(request\) => string/],
  ['errors', 'django', /must be 'fastify' or 'drf', but 'django'/],
  ['openapi.securityScheme', 'a b', /security scheme/],
  ['clock', 1, /function \(\) => milliseconds/],
]

/** `{ a: { b: value } }` of 'a.b'; the place in a list is the value's own. */
function nested(path: string, value: unknown): Record<string, unknown> {
  const names = path.replace(/\[\d+\]$/, '').split('.')
  return names.reduceRight((inner, name) => ({ [name]: inner }), value) as Record<string, unknown>
}

t.test('a wrong option is a TypeError that names it in quotes, what was given and the fix', async (t) => {
  for (const [path, given, says] of wrong) {
    const options = path === 'storage.ids' ? { storage: { ...storage, ids: given } } : nested(path, given)
    const message = refusal(options)
    t.ok(message.startsWith(`fastify-accounts: option "${path}" `), `${path}: ${message}`)
    t.match(message, says)
  }
})

t.test('every option has a case of a wrong value', async (t) => {
  const { secret: _, storage: __, ...options } = resolve({})
  const paths = Object.entries(options).flatMap(([name, value]) => {
    const grouped = typeof value === 'object' && !['passwords', 'mail'].includes(name)
    return grouped ? Object.keys(value).map((key) => `${name}.${key}`) : [name]
  })

  for (const path of ['account.delete', 'routes.sessions', 'eventLog']) t.ok(paths.includes(path), path)
  t.strictSame(
    paths.filter((path) => !wrong.some(([named]) => named === path || named.startsWith(`${path}.`))),
    [],
  )
})

t.test('an unknown option is a TypeError with the names that there are', async (t) => {
  const unknown = [
    ['scret', 'secret'],
    ['dbs', 'db'],
    ['session.idel', 'idle'],
    ['registration.concealexisting', 'concealExisting'],
    ['account.field', 'fields'],
    ['eventLog.keeps', 'keep'],
    ['eventlog', 'eventLog'],
    ['role', 'roles'],
    ['mail.transports', 'transport'],
    ['passwordReset.URL', 'url'],
    ['passwordreset', 'passwordReset'],
    ['mail.brand.colour', 'color'],
    ['mail.templates.rest', 'reset'],
    ['passwords.argon2.memory', 'memoryCost'],
    ['routes.logIn', 'login'],
    ['routes.logoutall', 'logoutAll'],
    ['routes.session', 'sessions'],
    ['routes.login.path', 'url'],
  ] as const

  for (const [path, right] of unknown) {
    const [start, names] = refusal(nested(path, 1)).split('; the names are ')
    t.equal(start, `fastify-accounts: option "${path}" is unknown`)
    t.ok(names?.split(', ').includes(right), path)
  }
  t.equal(
    refusal({ routes: { login: { preHandler: () => {} } } }),
    'fastify-accounts: option "routes.login.preHandler" is unknown; the names are url, config, onRequest, logLevel',
  )
})

t.test('options of later versions are unknown, not ignored', async (t) => {
  for (const path of ['hooks']) {
    t.match(refusal(nested(path, {})), `option "${path}" is unknown`)
  }
})

t.test('options that contradict each other are refused', async (t) => {
  t.match(refusal({ db }), /option "storage" must be left out when "db" is given/)
  t.match(refusal({ storage: undefined }), /option "db" is required: pass your Kysely/)
  const parts = { cache: memoryCache(), mailer: memoryMailer(), redis: 'redis://localhost' }
  t.match(refusal(parts), /option "redis" must be left out when "cache" and "mailer" are given/)
  const concealing = { registration: { concealExisting: true, verifyEmail: false } }
  t.match(refusal(concealing), /option "registration.verifyEmail" must not be false with concealExisting/)
  t.equal(refusal({ registration: { concealExisting: true, verifyEmail: true } }), '')
})

t.test('only fields that accounts have may be allowed to change', async (t) => {
  const profile = Type.Object({ company: Type.String() })
  const fields = (registration: unknown, fields: string[]) => refusal({ registration, account: { fields } })

  t.equal(fields({ profile }, ['company', 'username']), '')
  t.equal(fields({ profile }, []), '')
  t.equal(fields(false, ['username']), '')
  t.match(fields({ profile, username: false }, ['username']), /option "account.fields\[0\]"/)
  t.match(fields({}, ['company']), /option "account.fields\[0\]"/)
  for (const name of ['id', 'password', 'password_hash', 'email', 'active', 'role', 'credentialVersion', '__proto__']) {
    t.match(fields({ profile }, ['company', name]), /option "account.fields\[1\]"/, name)
  }
})

t.test('the lives of sessions may be a function of the request, whose results are checked and completed', async (t) => {
  const idles = new Map<unknown, unknown>([
    [null, { idle: 60 }],
    ['remembered', { idle: 1000, absolute: 1000 }],
    ['short', { absolute: 3600 }],
    ['long', { idle: 2_592_001 }],
    ['misspelt', { idel: 60 }],
    ['text', '1h'],
    ['promise', Promise.reject(new Error('of the host'))],
  ])
  const { session } = resolve({ session: (request: unknown) => idles.get(request) })
  const asked = (request: unknown) => session(request as null)

  t.strictSame(asked(null), { idle: 60, absolute: 2_592_000, perUser: 100 })
  t.strictSame(asked('remembered'), { idle: 1000, absolute: 1000, perUser: 100 })
  t.strictSame(asked('short'), { idle: 3600, absolute: 3600, perUser: 100 })
  t.strictSame(asked('unknown'), { idle: 864_000, absolute: 2_592_000, perUser: 100 })
  t.throws(() => asked('long'), { name: 'TypeError', message: /option "session.idle" must not be longer/ })
  t.throws(() => asked('misspelt'), { name: 'TypeError', message: /"session.idel" is unknown; the names are/ })
  t.throws(() => asked('promise'), { name: 'TypeError', message: /option "session" must return .* at once/ })
  t.throws(() => asked('text'), { name: 'TypeError', message: /option "session" must be/ })
})

t.test('what a function returns without a request is checked at boot', async (t) => {
  const returning = (life: unknown) => refusal({ session: () => life })

  t.match(returning({ idle: -1 }), /option "session.idle" must be a whole number/)
  t.match(
    returning({ idle: 61, absolute: 60 }),
    /option "session.idle" must not be longer than session.absolute \(60\)/,
  )
  t.match(returning({ idel: 60 }), /option "session.idel" is unknown; the names are idle, absolute, perUser/)
  t.match(returning(Promise.reject(new Error('of the host'))), /option "session" must return .* at once/)
})

t.test('a function that reads the request is judged when there is one', async (t) => {
  const { session } = resolve({ session: (request: any) => ({ idle: request.idle }) })

  t.strictSame(session({ idle: 60 } as never), { idle: 60, absolute: 2_592_000, perUser: 100 })
  t.throws(() => session({ idle: '1h' } as never), { name: 'TypeError', message: /option "session.idle" must be/ })
})

t.test('an idle life that is left out follows a shorter absolute one', async (t) => {
  t.strictSame(resolve({ session: { absolute: 3600 } }).session(null), { idle: 3600, absolute: 3600, perUser: 100 })
  t.ok(Object.isFrozen(resolve({ session: { absolute: 3600 } }).session(null)))
  t.match(refusal({ session: { idle: 864_000, absolute: 3600 } }), /option "session.idle" must not be longer/)
})

t.test('profile fields with names of ours are refused', async (t) => {
  for (const name of ['id', 'username', 'email', 'password', 'email_verified', 'token', 'otp', 'access', 'refresh']) {
    const profile = Type.Object({ [name]: Type.String() })
    t.match(refusal({ registration: { profile } }), `option "registration.profile.${name}" is a field of ours`)
  }
  const profile = Type.Object(JSON.parse('{"__proto__":{"type":"string"}}'))
  t.match(refusal({ registration: { profile } }), 'option "registration.profile.__proto__" is a field of ours')
})

t.test('a table to adopt has a column for each name, and needs the Kysely of the app', async (t) => {
  const adopt = { table: 'users' }
  const taken = (given: object) => resolveOptions({ secret, db, adopt: { ...adopt, ...given } } as never).adopt

  t.match(taken({}), {
    table: 'users',
    schema: undefined,
    ids: 'integer',
    id: 'id',
    email: 'email',
    emailMatch: 'lower',
    password: 'password',
  })
  t.match(taken({ noPassword: '!', profile: { company: 'firm' } }), { noPassword: '!', profile: { company: 'firm' } })
  const said = (given: object) => {
    try {
      return taken(given) && ''
    } catch (error) {
      return (error as Error).message
    }
  }
  t.match(said({ active: 'a', disabledAt: 'b' }), 'option "adopt.disabledAt" must be left out when "active" is given')
  t.match(said({ active: { column: 'status', enabled: 'active' } }), 'option "adopt.active.disabled" must be a text')
  t.match(said({ active: 5 }), 'option "adopt.active" must be the name of a column')
  t.match(said({ profile: 'x' }), 'option "adopt.profile" must be an object by names')
  t.match(said({ profile: { company: 5 } }), 'option "adopt.profile.company" must be the name of a column')
  t.match(said({ defaults: { staff: null } }), 'option "adopt.defaults.staff" must be a text, a number, true or false')
  t.match(said({ emailMatch: 'upper' }), /option "adopt.emailMatch" must be 'lower' or 'exact'/)
  t.match(said({ noPassword: 'x' }), /option "adopt.noPassword" must be '' or '!' or undefined/)
  t.match(said({ insert: 'x' }), /option "adopt.insert" must be a function \(trx, user, \{ request \}\) => columns/)
  t.match(said({ column: 'x' }), 'option "adopt.column" is unknown')
  t.match(refusal({ adopt }), 'option "adopt" needs "db"; pass it to kyselyStorage() instead')
})

t.test('every right value is taken as it is', async (t) => {
  const given = {
    name: 'staff2',
    prefix: '/v1',
    routes: { login: '/v2/login', register: false, refresh: { config: { a: 1 }, onRequest: [], logLevel: 'warn' } },
    secret: [secret, `${secret}-before`] as const,
    redis: { cache: 'redis://localhost:1', queue: 'redis://localhost:2' },
    tokens: { issuer: 'https://a.example', audience: 'api', accessTtl: 60, claims: () => ({}) },
    session: { idle: 60, absolute: 60, perUser: 3 },
    refresh: { rotate: false, graceSeconds: 0, lateReplays: 0 },
    registration: {
      username: false,
      profile: Type.Object({ company: Type.String() }),
      verifyEmail: true,
      concealExisting: true,
    },
    passwords: {
      ...{ minLength: 15, maxLength: 64, context: ['Example'], breached: async () => '' },
      argon2: { memoryCost: 65_536, timeCost: 3, parallelism: 2 },
      pepper: [{ id: '2026_b-C', secret: `${secret}-pepper` }, null],
      legacy: { form: /^sha256:/g, verify: (stored: string, password: string) => stored === `sha256:${password}` },
      ...{ upgrade: false, write: 'argon2id' },
    } as const,
    throttle: {
      ...{ login: { tries: 1, seconds: 1 }, account: false, network: { tries: 1_000_000, seconds: 2_592_000 } },
      ...{ register: false, mail: false, mailbox: false, change: false },
    } as const,
    passwordReset: { url: 'http://localhost:3000/reset', digits: 10, ttl: 60, tries: 1 },
    account: { fields: ['company'], delete: 'deactivate' },
    roles: { admin: ['*'], 'support.2': ['orders:read', 'orders:*', 'a-b:c.d:*'], none: [] },
    browser: { origins: ['https://app.example.com', 'http://[::1]:5173'], sameSite: 'lax' },
    eventLog: { keep: 3600 },
    mail: { brand: { name: 'Ada & Söhne', logoUrl: 'https://a.example/l.png', color: '#05a', supportEmail: 'a@b.co' } },
    revocation: 'storage',
    network: () => 'net',
    errors: 'drf',
    openapi: { securityScheme: 'jwt' },
    clock: () => 5,
  }
  const resolved = resolve(given)
  const { secret: secrets, redis, storage: taken, db: _, cache, mailer, routes, ...others } = resolved
  const { session, roles, mail, tokens, passwords, adopt, ...rest } = others
  t.equal(adopt, undefined)
  const { keys, ...restOfTokens } = tokens
  const {
    secret: __,
    redis: pair,
    routes: asked,
    session: lives,
    roles: may,
    mail: looks,
    tokens: words,
    passwords: givenPasswords,
    ...expected
  } = given
  const [pepper, none] = passwords.pepper

  t.strictSame(secrets.reveal(), given.secret)
  t.strictSame(redis?.reveal(), pair)
  t.equal(taken, storage)
  t.match(routes, { login: { url: '/v2/login' }, register: false, refresh: asked.refresh })
  t.strictSame(session(null), lives)
  t.strictSame(Object.fromEntries(roles ?? []), may)
  t.strictSame(mail.brand, looks.brand)
  t.strictSame(keys.reveal(), ['secret'])
  const { legacy, ...restOfPasswords } = passwords
  t.ok(legacy?.form.test('sha256:x'))
  t.equal(await legacy?.verify('sha256:x', 'x'), true)
  const { legacy: ___, ...expectedPasswords } = givenPasswords
  t.strictSame(
    { ...restOfPasswords, pepper: [{ ...pepper, secret: pepper?.secret.reveal() }, none] },
    expectedPasswords,
  )
  t.strictSame({ ...rest, tokens: restOfTokens }, { ...expected, tokens: words })
})

t.test('what is left out has the defaults of the documentation', async (t) => {
  const options = resolve({})

  t.match(options, {
    name: 'accounts',
    prefix: '',
    tokens: { accessTtl: 300, issuer: undefined, audience: undefined },
    refresh: { rotate: true, graceSeconds: 30, lateReplays: 3 },
    registration: { username: 'required', verifyEmail: false, concealExisting: false },
    passwords: { minLength: 8, maxLength: 128, argon2: { memoryCost: 19_456, timeCost: 2, parallelism: 1 } },
    passwordReset: { digits: 8, ttl: 600, tries: 5, url: undefined },
    account: { delete: 'row', fields: undefined },
    roles: undefined,
    browser: false,
    eventLog: false,
    revocation: 'feed',
    errors: 'fastify',
    openapi: { securityScheme: 'bearerAuth' },
  })
  t.match(options.clock(), Number)
  t.strictSame(options.session(null), { idle: 864_000, absolute: 2_592_000, perUser: 100 })
  for (const on of [true, {}]) t.strictSame(resolve({ eventLog: on }).eventLog, { keep: 7_776_000 })
  t.strictSame(
    routeNames.map((name) => options.routes[name]),
    routeNames.map(() => ({ url: undefined, config: undefined, onRequest: undefined, logLevel: undefined })),
  )
})

t.test('[R-HASH-1] costs below the table of OWASP, or above what is verified, are refused', async (t) => {
  const least = [47_104, 19_456, 12_288, 9216, 7168]

  for (const [index, memoryCost] of least.entries()) {
    const timeCost = index + 1
    t.equal(refusal({ passwords: { argon2: { memoryCost, timeCost } } }), '', `${memoryCost} KiB, ${timeCost} passes`)
    const weaker = refusal({ passwords: { argon2: { memoryCost: memoryCost - 1, timeCost } } })
    t.match(weaker, /option "passwords.argon2.memoryCost" must be/, `${memoryCost - 1} KiB, ${timeCost} passes`)
  }
  t.match(refusal({ passwords: { argon2: { memoryCost: 7167, timeCost: 10 } } }), 'passwords.argon2.memoryCost')
  t.match(refusal({ passwords: { argon2: { memoryCost: 262_145 } } }), 'passwords.argon2.memoryCost')
  t.match(refusal({ passwords: { argon2: { timeCost: 11 } } }), 'passwords.argon2.timeCost')
  t.match(refusal({ passwords: { argon2: { timeCost: 1 } } }), 'passwords.argon2.memoryCost')
  t.match(refusal({ passwords: { argon2: { parallelism: 17 } } }), 'passwords.argon2.parallelism')
})

t.test('[R-HASH-1] the cheap hashes of our own tests are one object, and no option that looks alike', async (t) => {
  t.equal(refusal({ passwords: { argon2: cheapHashes } }), '')
  t.match(refusal({ passwords: { argon2: { ...cheapHashes } } }), 'passwords.argon2.memoryCost')
})

t.test('the given options are never changed, and the resolved ones cannot be', async (t) => {
  const given = Object.freeze({
    secret: Object.freeze([secret, `${secret}-before`]),
    storage,
    session: Object.freeze({ idle: 60 }),
    routes: Object.freeze({ login: Object.freeze({ url: '/in', config: Object.freeze({ a: 1 }) }) }),
    passwordReset: Object.freeze({ digits: 9 }),
    account: Object.freeze({ fields: Object.freeze(['username']) }),
    roles: Object.freeze({ admin: Object.freeze(['orders:*']) }),
    browser: Object.freeze({ origins: Object.freeze(['https://app.example.com']) }),
    eventLog: Object.freeze({ keep: 3600 }),
  })
  const before = inspect(given, { depth: 5 })

  const options = resolveOptions(given as unknown as AccountsOptions)

  t.equal(inspect(given, { depth: 5 }), before)
  const { session, routes, passwords, account, roles, eventLog, browser } = options
  const parts = [session(null), routes, routes.login, passwords.argon2, account, account.fields, eventLog, browser]
  for (const part of [options, ...parts, roles?.get('admin')]) t.ok(Object.isFrozen(part))
  t.not(account.fields, given.account.fields)
  t.not(roles?.get('admin'), given.roles.admin)
  t.ok(Object.isFrozen(options.secret.reveal()))
})

t.test('a part that is missing is an error at boot, never a default in memory', async (t) => {
  const parts = { secret, storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
  const boot = async (options: object) => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(accounts, options as AccountsOptions)
  }

  await t.rejects(boot({}), { name: 'TypeError', message: /option "secret" must be a random text.*but nothing/ })
  await t.rejects(boot({ ...parts, storage: undefined }), { name: 'TypeError', message: /option "db" is required/ })
  for (const part of ['cache', 'mailer']) {
    const message = /option "redis" is missing: pass a URL or an ioredis client, register @fastify\/redis before/
    await t.rejects(boot({ ...parts, [part]: undefined }), { name: 'TypeError', message })
  }
})

t.test('with all switched off that needs them, neither cache nor mailer is needed', async (t) => {
  const app = Fastify()
  t.teardown(() => app.close())
  const off = { passwordReset: false, routes: { changeEmail: false }, revocation: 'storage' } as const
  await app.register(accounts, { secret, storage: memoryStorage(), ...off })

  t.equal(realmOf(app.accounts).cache, undefined)
  t.equal(realmOf(app.accounts).mailer, undefined)
  for (const url of ['/auth/check_otp/', '/auth/change_email/', '/auth/confirm_email/']) {
    t.equal(app.hasRoute({ method: 'POST', url }), false, url)
  }
  const user = await createUser(app, { password: 'correct horse' })
  const headers = await loginAs(app, user)
  const payload = { current_password: 'correct horse', new_password: 'another horse' }
  const changed = await app.inject({ method: 'POST', url: '/auth/change_password/', payload, headers })
  t.equal(changed.statusCode, 200, 'what has a notice works without')
})

t.test('each of what needs a queue asks for it at boot when it is left on', async (t) => {
  const off = { passwordReset: false, routes: { changeEmail: false }, revocation: 'none' } as const
  const needing: Partial<AccountsOptions>[] = [
    { passwordReset: {} },
    { routes: {} },
    { revocation: 'feed' },
    { registration: { verifyEmail: true } },
    { registration: { concealExisting: true } },
  ]

  for (const options of needing) {
    const app = Fastify()
    t.teardown(() => app.close())
    const boot = async () => app.register(accounts, { secret, storage: memoryStorage(), ...off, ...options })
    const message = /option "redis" is missing.*nothing needs it with passwordReset: false/
    await t.rejects(boot(), { name: 'TypeError', message }, JSON.stringify(options))
  }
})

t.test('the memory parts refuse production unless one process is meant', async (t) => {
  t.teardown(inProduction())

  for (const part of [memoryStorage, memoryCache, memoryMailer]) {
    t.throws(() => part(), { name: 'TypeError', message: /singleProcess/ })
    t.doesNotThrow(() => part({ singleProcess: true }))
  }
})

t.test('a default of a profile field that cannot be honoured is an error at boot', async (t) => {
  const refused = (field: TSchema) => refusal({ registration: { profile: Type.Object({ field }) } })
  const nested = /option "registration\.profile\.field" must not have a default within/

  t.match(refused(Type.String({ default: 1 })), /option "registration\.profile\.field\.default" must match its schema/)
  t.match(refused(Type.Optional(Type.Integer({ default: null }))), /must match its schema/)
  t.match(refused(Type.Object({ name: Type.String({ default: 'x' }) })), nested)
  t.match(refused(Type.Array(Type.String({ default: 'x' }))), nested)
  t.match(refused(Type.Union([Type.Null(), Type.String({ default: 'x' })])), nested)
  t.equal(refused(Type.Object({ default: Type.String() })), '', 'a field of that name is none')
  t.equal(refused(Type.Object({ name: Type.String() }, { default: { name: 'x' } })), '')
})
