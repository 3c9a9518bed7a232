import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import files from 'node:fs/promises'
import { createServer } from 'node:http'
import { syncBuiltinESMExports } from 'node:module'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { brotliDecompressSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import { createPasswordPolicy, type Owner } from '../../lib/core/password-policy.ts'
import type { AccountsOptions } from '../../lib/index.ts'
import { resolveOptions } from '../../lib/options/options.ts'
import { bearer, memoryApp, secret } from '../helpers/app.ts'

const unicode: { length: { s: string; code_points: number }[] } = JSON.parse(
  readFileSync(new URL('../vectors/passwords-unicode.json', import.meta.url), 'utf8'),
)
const common = brotliDecompressSync(readFileSync(new URL('../../lib/core/common-passwords.br', import.meta.url)))
  .toString()
  .split('\n')

function policy(passwords: AccountsOptions['passwords'] = {}, brand = {}) {
  const options = resolveOptions({ secret, storage: memoryStorage(), passwords, mail: { brand } })
  const { refusals } = createPasswordPolicy(options)
  const faults: unknown[] = []
  return { faults, refusals: (password: string, owner: Owner = {}) => refusals(password, owner, (f) => faults.push(f)) }
}

t.test('[R-PW-1] length is counted in code points after NFC, and too much is refused, never cut off', async (t) => {
  const { refusals } = policy()
  const nist = policy({ minLength: 15, maxLength: 64 })
  const table: [string, number, string[]][] = [
    ['é', 7, ['too_short']],
    ['é', 8, []],
    ['a', 128, []],
    ['a', 129, ['too_long']],
    ['😀', 7, ['too_short']],
    ['😀', 8, []],
    ['😀', 128, []],
    ['😀', 129, ['too_long']],
    ['e\u0301', 7, ['too_short']],
    ['e\u0301', 128, []],
  ]
  for (const [unit, times, reasons] of table) t.same(await refusals(unit.repeat(times)), reasons, `${times} ${unit}`)
  t.same(await nist.refusals('fourteen chars'), ['too_short'])
  t.same(await nist.refusals('fifteen letters'), [])
  t.same(await nist.refusals(`${'fifteen letters'.repeat(5)}`), ['too_long'])
  for (const { s, code_points } of unicode.length) t.same(await refusals(s), code_points < 8 ? ['too_short'] : [], s)
})

t.test('[R-PW-2] nothing is asked of what a password is made of', async (t) => {
  const { refusals } = policy()

  for (const odd of [' '.repeat(8), '\0'.repeat(8), ' 1234567', 'ABCDEFGHXY', 'naïve phrase', '𝔘𝔫𝔦𝔠𝔬𝔡𝔢!']) {
    t.same(await refusals(odd), [], odd)
  }
})

t.test('[R-PW-4] a common password is refused, in any case', async (t) => {
  const { refusals } = policy()
  t.ok(common.length > 20_000 && common.every((line) => line.length >= 8 && line === line.toLowerCase()))
  t.equal(new Set(common).size, common.length)

  let refused = 0
  for (const password of common) if ((await refusals(password))[0] === 'common') refused++

  t.equal(refused, common.length)
  for (const password of ['PassWord1', 'QWERTYUIOP', 'Trustno1']) t.same(await refusals(password), ['common'], password)
  t.same(await refusals(`${common[0]} and more`), [])
})

t.test('[R-PW-4] a list that could not be read is a 503, and read again by the next request', async (t) => {
  const { post } = await memoryApp(t)
  const register = () => post('/api/register/', { username: 'ada', email: 'ada@example.org', password: 'trustno1' })
  const { readFile } = files
  files.readFile = () => Promise.reject<never>(Object.assign(new Error('too many open files'), { code: 'EMFILE' }))
  syncBuiltinESMExports()
  t.teardown(restore)
  function restore() {
    files.readFile = readFile
    syncBuiltinESMExports()
  }

  const failed = await Promise.all([register(), register()])
  restore()
  const next = await register()

  for (const one of failed) t.match(one, { status: 503, body: { code: 'ACCOUNTS_UNAVAILABLE' } })
  t.match(next, { status: 400, body: { reasons: ['common'] } })
})

t.test('[R-PW-4] where passwords are longer than the lists, patterns are refused', async (t) => {
  const nist = policy({ minLength: 15 })
  const patterns = [
    'aaaaaaaaaaaaaaa',
    'abcabcabcabcabcab',
    '1234123412341234',
    'abcdefghijklmnop',
    'ponmlkjihgfedcba',
    '123456789012345',
    'qwertyuiopasdfgh',
    'QWERTYUIOPasdfgh',
    'password1password1',
    'qwertyqwertyqwerty',
  ]

  for (const password of patterns) t.same(await nist.refusals(password), ['common'], password)
  for (const password of [
    'correct horse battery',
    'aaaaaaaaaaaaaab',
    'abcdefghijklmnq',
    '😀😁😂😃😄😅😆😇😈😉😊😋😌😍x',
  ]) {
    t.same(await nist.refusals(password), [], password)
  }
})

t.test('[R-PW-5] a password does not consist of the user’s or the product’s names', async (t) => {
  const { refusals } = policy({ context: ['Weyland'] }, { name: 'Nostromo' })
  const owner = { username: 'Ripley79', email: 'Ellen.Ripley@lv426.example.org' }
  const refused = [
    'ripley79',
    'ripley79 ripley79 ripley79 and',
    'RIPLEY79!',
    'ellen.ripley',
    'ellen.ripley-2179',
    'lv426.example.org',
    'Weyland1',
    'xxweylandxx',
    'NOSTROMO1',
    'my nostromo 12',
  ]
  const fine = ['weyland and the others', 'nostromo is a fine ship', 'a ripley79 of many words']

  for (const password of refused) t.same(await refusals(password, owner), ['context'], password)
  for (const password of fine) t.same(await refusals(password, owner), [], password)
  const others: [string, Owner][] = [
    ['navycorp1', { email: 'x@mail.navycorp.example' }],
    ['grace.hopper9', { email: 'grace.hopper+news@example.org' }],
    ['acmeshop1', {}],
    ['adalovelace', { username: 'Ada Lovelace' }],
  ]
  const shop = policy({}, { name: 'Acme Shop' })
  for (const [password, of] of others) t.same(await shop.refusals(password, of), ['context'], password)
  t.same(await shop.refusals('example1', { email: 'x@mail.example' }), [], 'everybody shares a top-level domain')
  t.same(await refusals('abacus12', { username: 'aba', email: 'a@b.example' }), [], 'short words are in many passwords')
})

t.test('[R-PW-4] a leaked password is refused, and only five digits of its hash are told', async (t) => {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url!)
    // SHA-1 of "a leaked password", among padding.
    response.end(`0000000000000000000000000000000000A:0\r\n7D3F0F2EEE8D9F8C7E2D0F6A5A0C2B1D3E4:3\r\n${suffix}:17\r\n`)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const range = `http://127.0.0.1:${(server.address() as AddressInfo).port}/range/`
  const { createHash } = await import('node:crypto')
  const sha1 = createHash('sha1').update('a leaked password').digest('hex').toUpperCase()
  const suffix = sha1.slice(5)
  const { refusals, faults } = policy({
    breached: async (prefix, signal) => (await fetch(range + prefix, { signal })).text(),
  })

  t.same(await refusals('a leaked password'), ['breached'])
  t.same(await refusals('a password of my own'), [])
  t.same(asked[0], `/range/${sha1.slice(0, 5)}`)
  t.same(faults, [])
  asked.length = 0
  t.same(await refusals('trustno1'), ['common'])
  t.same(asked, [], 'what is refused anyway is not asked for')
})

t.test('[R-PW-4] a breach check without a range lets the password pass after a second, and is told', async (t) => {
  const checks = {
    throws: () => {
      throw new Error('down')
    },
    rejects: () => Promise.reject(new Error('down')),
    hangs: () => sleep(60_000, '', { ref: false }),
    'is no text': () => Promise.resolve(404),
    'is empty': async () => '',
    'is a page': async () => '<!doctype html>\n<title>Log in to the network</title>\n<a href="http://192.0.2.1:80">',
    'has the prefix': async (prefix: string) => `${prefix}${'0'.repeat(35)}:1\n`,
    'has no counts': async () => `${'0'.repeat(35)}\n`,
  }
  for (const [name, breached] of Object.entries(checks)) {
    const { refusals, faults } = policy({ breached: breached as never })
    const from = performance.now()

    t.same(await refusals('a password of my own'), [], name)

    t.ok(performance.now() - from < 2500)
    t.match(faults, [Error], name)
  }
  const { refusals, faults } = policy({ breached: async () => `a note\r\n${'0'.repeat(35)}:0\r\n` })
  t.same(await refusals('a password of my own'), [])
  t.same(faults, [])
})

t.test('[R-PW-4] [R-PW-5] one policy on every way to set a password', async (t) => {
  const ways = await waysToSet(t)

  for (const [name, set] of Object.entries(ways)) {
    for (const [password, reason] of [
      ['trustno1', 'common'],
      ['owner.of.it', 'context'],
      ['leaked by many', 'breached'],
    ]) {
      t.same(await set(password!), [reason], `${name} ${password}`)
    }
  }
})

async function waysToSet(t: Test) {
  const { createHash } = await import('node:crypto')
  const sha1 = createHash('sha1').update('leaked by many').digest('hex').toUpperCase()
  const passwords = { argon2: undefined, breached: async () => `${sha1.slice(5)}:9` }
  const app = await memoryApp(t, { passwords })
  const { users } = app.accounts
  const email = 'owner.of.it@example.org'
  const password = 'correct horse battery'
  const { id } = await users.create({ username: 'owner', email, password })
  const reasonsOf = (answer: { body: { reasons?: string[] } }) => answer.body.reasons
  const thrown = (run: () => Promise<unknown>) =>
    run().then(
      () => [],
      (error) => error.reasons,
    )
  const concealed = await memoryApp(t, { passwords, registration: { concealExisting: true } })
  const register = ({ post }: typeof app, password: string) =>
    post('/api/register/', { username: 'another', email: 'owner.of.it@example.net', password })
  return {
    register: async (password: string) => reasonsOf(await register(app, password)),
    concealed: async (password: string) => reasonsOf(await register(concealed, password)),
    'change password': async (password: string) => {
      const { access } = (await app.post('/api/login/', { email, password: 'correct horse battery' })).body
      const body = { current_password: 'correct horse battery', new_password: password }
      return reasonsOf(await app.post('/auth/change_password/', body, bearer(access)))
    },
    reset: async (password: string) => {
      const { token } = (await app.post('/auth/email_request/', { email })).body
      const otp = app.mailer.sent.at(-1)!.code
      await app.post('/auth/check_otp/', { token, otp })
      return reasonsOf(await app.post('/auth/reset_password/', { token, new_password: password }))
    },
    'users.create': (password: string) => thrown(() => users.create({ email: 'owner.of.it@example.com', password })),
    'users.setPassword': (password: string) => thrown(() => users.setPassword(id, password)),
  }
}
