import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { memoryCache, memoryStorage } from '../../lib/adapters/memory/index.ts'
import { openDatabase } from '../helpers/app.ts'
import { noPostgres, redisUrl, sampled, stores, uniqueName } from '../helpers/helper.ts'
import { allRoutes } from '../helpers/inventory.ts'
import { newMember } from '../helpers/members.ts'
import { instance, newPassword } from '../helpers/reset-flow.ts'

type Parts = Parameters<typeof instance>[1]

const hostile: unknown[] = [
  ...[undefined, null, true, 0, -1, 2 ** 53, {}, [], [[]], [null], { length: 8 }, { toString: 'x' }],
  ...[
    '',
    ' ',
    '\0',
    'a\0b',
    '\ud800',
    '\udfff@example.com',
    '\u202e',
    '$ne',
    "' or 1=1 --",
    '{{7*7}}',
    '%00',
    '../../etc',
  ],
  ...[
    'a'.repeat(15_000),
    '1'.repeat(64),
    '\n'.repeat(64),
    '１２３４５６７８',
    '1234567\n',
    'a@b\r\nBcc: c@example.com',
  ],
  ...['ada@example.com,eve@example.com', ['ada@example.com', 'eve@example.com'], { $gt: '' }, { email: 'a@b.c' }],
]
const resetFields = {
  '/auth/email_request/': ['email'],
  '/auth/check_otp/': ['token', 'otp'],
  '/auth/reset_password/': ['token', 'new_password'],
}
const fields = {
  ...resetFields,
  '/auth/verify_email/': ['token', 'otp'],
  '/auth/resend_verification/': ['email', 'token'],
  '/auth/change_email/': ['email'],
  '/auth/confirm_email/': ['token', 'otp'],
}
const texts: string[] = JSON.parse(readFileSync(new URL('../vectors/blns.json', import.meta.url), 'utf8'))
const blns = sampled(texts, 30)

const backends = stores<[string, { skip?: string | false }, (t: Test) => Promise<Parts>]>([
  ['memory', {}, async () => ({ storage: memoryStorage(), cache: memoryCache() })],
  [
    'PostgreSQL and Redis',
    { skip: noPostgres },
    async (t) => ({ name: uniqueName(), db: (await openDatabase(t)).db, redis: redisUrl() }),
  ],
])

for (const [backend, options, parts] of backends) {
  t.test(`the routes with codes refuse hostile input on ${backend}`, options, async (t) => {
    const { app, accounts, enrol, ask, check, reset, login } = await instance(t, {
      ...(await parts(t)),
      ...allRoutes,
    })
    const { access } = await newMember(accounts)
    const { email } = await enrol()
    const { token, code } = await ask(email)
    const good = { email, token, otp: code, new_password: newPassword, password: 'the wrong password' }

    async function send(url: string, payload: string, type = 'application/json') {
      const headers = { 'content-type': type, authorization: `Bearer ${access}` }
      const answer = await app.inject({ method: 'POST', url, payload, headers })
      return { status: answer.statusCode, body: answer.json(), text: answer.body }
    }

    await t.test('any value in any field is a 400 with a code of ours, or accepted', async (t) => {
      for (const [url, names] of Object.entries(fields)) {
        for (const name of names) {
          for (const value of [...hostile, ...blns]) {
            // The grant must survive: only the field under test is hostile, and no token is good.
            const body = { ...good, token: `${'A'.repeat(22)}.${'B'.repeat(43)}`, [name]: value }
            const { status, body: answer, text } = await send(url, JSON.stringify(body))
            if (status !== 200) t.match(answer.code, /^ACCOUNTS_(VALIDATION|CODE_INVALID|PASSWORD_WRONG)$/)
            const fine = url === '/auth/change_email/' ? [400, 403] : [200, 400]
            if (!fine.includes(status)) t.fail(`${url} ${name} ${JSON.stringify(value)}: ${status} ${text}`)
          }
        }
      }
    })

    await t.test('a body that is no object of ours is 400, 413 or 415', async (t) => {
      const bodies = ['', '{', 'null', '[]', '1', '"x"', '{"__proto__":{"email":"a@example.com"}}', '{"a":1}{', '\0']
      bodies.push('{"constructor":{"prototype":{"x":1}}}', `${'['.repeat(5000)}${']'.repeat(5000)}`)
      for (const url of Object.keys(fields)) {
        for (const body of bodies) {
          const { status, body: answer } = await send(url, body)
          t.strictSame([status, answer.code], [400, 'ACCOUNTS_VALIDATION'], body.slice(0, 40))
        }
        const large = await send(url, JSON.stringify({ ...good, otp: '1'.repeat(10 * 2 ** 20) }))
        t.strictSame([large.status, large.body.code], [413, 'ACCOUNTS_BODY_TOO_LARGE'])
        const form = await send(url, 'email=a%40example.com', 'application/x-www-form-urlencoded')
        t.strictSame([form.status, form.body.code], [415, 'ACCOUNTS_MEDIA_TYPE_UNSUPPORTED'])
      }
    })

    await t.test('unknown members are ignored, and reach nothing', async (t) => {
      const extra = { ...good, id: 2, userId: 2, role: 'admin', purpose: 'verify', account: 'x', tag: 'x', tries: 99 }
      for (const [url, names] of Object.entries(resetFields)) {
        const body = { ...extra, ...Object.fromEntries(names.map((name) => [name, good[name as keyof typeof good]])) }
        t.equal((await send(url, JSON.stringify(body))).status, 200, url)
      }
      t.equal((await check(token, code)).status, 400, 'the grant is used')
      t.equal((await reset(token)).status, 400)
      t.equal((await login(email, newPassword)).status, 200)
    })
  })
}
