import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { inspect } from 'node:util'
import Fastify from 'fastify'
import { Kysely, PostgresDialect } from 'kysely'
import t from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../../lib/adapters/memory/index.ts'
import accounts, { type AccountsOptions } from '../../lib/index.ts'
import { resolveOptions } from '../../lib/options/options.ts'
import { secret } from '../helpers/app.ts'

const storage = memoryStorage()

function refusal(given: unknown): string {
  try {
    resolveOptions({ secret: given, storage } as AccountsOptions)
    return ''
  } catch (error) {
    return error instanceof TypeError ? error.message : `not a TypeError: ${error}`
  }
}

const random = randomBytes(32)
const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })

t.test(
  '[R-TOK-7] secrets that are short, repetitive, asymmetric or no text are refused, and never shown',
  async (t) => {
    const wrong: [given: unknown, says: RegExp][] = [
      [undefined, /nothing was given/],
      ['', /0 bytes/],
      [random.toString('base64url').slice(0, 31), /31 bytes/],
      // As hexadecimal digits it looks twice as long as it is.
      [random.toString('hex').slice(0, 62), /31 bytes/],
      ['a'.repeat(64), /repetitive/],
      ['secret'.repeat(10), /repetitive/],
      ['change-me-in-production-change-me-in-production', /repetitive/],
      [`${random.toString('base64')} ${random.toString('base64')}`, /repetitive/],
      ['put-a-long-and-random-secret-here-please', /placeholder/],
      ['d0088d5c-b93a-4679-9ea8-b1412f63724d', /16 bytes/],
      [`  ${random.toString('base64url').slice(0, 30)}  `, /30 bytes/],
      ['abcabcabdabcabcabdabcabcabdabcabc', /repetitive/],
      [random, /type object/],
      [{}, /type object/],
      [12_345_678_901_234, /type number/],
      [privateKey.export({ type: 'pkcs8', format: 'pem' }), /asymmetric key/],
      [publicKey.export({ type: 'spki', format: 'pem' }), /asymmetric key/],
      [[], /list of 0/],
      [[secret, `${secret}1`, `${secret}2`], /list of 3/],
      [[secret, undefined], /nothing was given/],
    ]

    for (const [given, says] of wrong) {
      const message = refusal(given)
      t.match(message, /^fastify-accounts: option "secret(\[1\])?" must be/)
      t.match(message, says)
      if (typeof given === 'string' && given) t.notOk(message.includes(given.slice(0, 12)), 'the secret is not shown')
    }
  },
)

t.test('[R-TOK-7] every published secret is refused, alone and as the previous one', async (t) => {
  const published = readFileSync(new URL('../vectors/jwt-known-secrets-32plus.txt', import.meta.url), 'utf8')
    .split('\n')
    .filter(Boolean)

  t.equal(published.length, 1857)
  t.strictSame(
    published.filter((given) => !refusal(given).includes('option "secret" must')),
    [],
  )
  t.strictSame(
    published.filter((given) => !refusal([secret, `${given.trim()}\n`]).includes('option "secret[1]" must')),
    [],
  )
})

t.test('[R-TOK-7] random secrets of 32 bytes are taken in every common spelling', async (t) => {
  for (const encoding of ['hex', 'base64', 'base64url'] as const) t.equal(refusal(random.toString(encoding)), '')
  t.equal(refusal([secret, random.toString('hex')]), '')
  t.equal(refusal('correct horse battery staple and 4 more'), '')
  t.equal(refusal('correct horse battery staple and some more'), '')
  const many = Array.from({ length: 1000 }, () => randomBytes(32).toString('base64url'))
  t.strictSame(many.map(refusal).filter(Boolean), [])
})

function pepperRefusal(pepper: unknown, secrets: unknown = secret): string {
  try {
    resolveOptions({ secret: secrets, storage, passwords: { pepper } } as AccountsOptions)
    return ''
  } catch (error) {
    return error instanceof TypeError ? error.message : `not a TypeError: ${error}`
  }
}

t.test('[R-HASH-5] peppers that are weak, alike, or secrets of the tokens are refused, and never shown', async (t) => {
  const [canary, other] = [randomBytes(32).toString('base64url'), randomBytes(32).toString('base64url')]
  const [known = ''] = readFileSync(new URL('../vectors/jwt-known-secrets-32plus.txt', import.meta.url), 'utf8').split(
    '\n',
  )
  const [id, shape] = ['2026', /^"passwords\.pepper" must be \{ id, secret \} or a list of these/]
  const wrong: [given: unknown, says: RegExp, secrets?: unknown][] = [
    ...[null, [], [null], canary, 7, true, () => canary].map((given): [unknown, RegExp] => [given, shape]),
    [[canary], /^"passwords\.pepper\[0\]" must be \{ id, secret \} or a list/],
    [[{ id, secret: canary }, undefined], /^"passwords\.pepper\[1\]" must be .+ type undefined/],
    [[[canary]], /^"passwords\.pepper\[0\]\.0" is unknown; the names are id, secret/],
    [Promise.resolve(canary), /^"passwords\.pepper\.id" must be 1 to 16 letters, digits, "_" or "-", .+ undefined/],
    [{ secret: canary }, /^"passwords\.pepper\.id" must be 1 to 16/],
    ...['', 'a b', 'ä', 'x'.repeat(17), 'a,b', canary, 2026].map((id): [unknown, RegExp] => [
      [{ id, secret: other }],
      /^"passwords\.pepper\[0\]\.id" must be 1 to 16/,
    ]),
    [{ id }, /^"passwords\.pepper\.secret" must be a random text of at least 32 bytes.+ nothing was given/],
    [{ id, secret: canary.slice(0, 31) }, /31 bytes/],
    [{ id, secret: known }, /^"passwords\.pepper\.secret" must be a random text/],
    [{ id, secret: 'a'.repeat(64) }, /repetitive/],
    [{ id, secret: Buffer.from(canary) }, /type object/],
    [[null, { id, secret: `${canary}\n` }], /^"passwords\.pepper\[1\]\.secret" must not begin or end with white space/],
    [{ id, secret: canary, salt: 'x' }, /^"passwords\.pepper\.salt" is unknown/],
    [
      [
        { id, secret: canary },
        { id, secret: other },
      ],
      /^"passwords\.pepper" must not have two with the same id or secret/,
    ],
    [
      [
        { id, secret: canary },
        { id: '2025', secret: canary },
      ],
      /same id or secret/,
    ],
    [[null, { id, secret: canary }, null], /same id or secret/],
    [{ id, secret }, /^"passwords\.pepper" must not have the secret of the option "secret"/],
    [
      [
        { id, secret: canary },
        { id: 'b', secret: other },
      ],
      /the secret of the option "secret"/,
      [secret, `${other}\n`],
    ],
  ]

  for (const [given, says, secrets] of wrong) {
    const message = pepperRefusal(given, secrets).replace(/^fastify-accounts: option /, '')
    t.match(message, says)
    for (const text of [canary, other, secret]) t.notOk(message.includes(text.slice(0, 12)), 'no secret is shown')
  }
  for (const good of [undefined, { id, secret: `${canary}, and a comma` }, [null, { id: '-', secret: canary }]]) {
    t.equal(pepperRefusal(good), '')
  }
})

t.test('[R-LOG-6] printed options, accounts and apps show no secret', async (t) => {
  const password = 'pool-password-canary'
  const pool = { connectionString: `postgres://u:${password}@localhost/x`, connect() {}, end() {} }
  const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: pool as never }) })
  const redis = `redis://u:${password}@localhost:1`
  const transport = { host: 'localhost', auth: { user: 'u', pass: password } }
  const mail = { transport: transport as never, from: `${password}@example.org` }
  const pepper = randomBytes(32).toString('base64url')
  const passwords = { pepper: [{ id: 'canary-id', secret: pepper }, null] }
  const options = resolveOptions({ secret: [secret, `${secret}-before`], db, redis, mail, passwords })
  const app = Fastify()
  t.teardown(() => app.close())
  const parts = { storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
  await app.register(accounts, { secret, ...parts, passwords })

  const printed = [options, realmOf(app.accounts).options, app.accounts, app].map((value) =>
    inspect(value, { depth: 12, showHidden: true, maxStringLength: null }),
  )
  const texts = [
    ...printed,
    JSON.stringify(options),
    JSON.stringify(realmOf(app.accounts).options),
    String(options.secret),
  ]

  t.match(inspect(options), /secret: \[redacted\]/)
  t.match(inspect(options), /db: \[redacted\]/)
  t.match(inspect(options), /redis: \[redacted\]/)
  t.match(inspect(options, { depth: 4 }), /pepper: \[ \{ id: 'canary-id', secret: \[redacted\] \}, null \]/)
  t.match(JSON.stringify(options), '"secret":"[redacted]"')
  for (const text of texts) {
    t.notOk(text.includes(secret))
    t.notOk(text.includes(password))
    t.notOk(text.includes(pepper))
  }
})
