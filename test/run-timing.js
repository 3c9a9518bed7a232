// `npm run test:timing` measures whether the time of a response tells who has an account, or what is wrong with it.
// `npm run test:timing -- login check_otp` measures these alone. It needs installed PostgreSQL and Redis.
//
// A server in a process of its own, at the production cost of hashing, is asked over one connection of the loopback,
// one request at a time. A round asks for each kind once, in random order, so that what else the machine does meets all
// alike. Nothing is trimmed: medians and ranks do not feel the few that met the garbage collector. A kind is like the
// first one of its route when the 95 % bootstrap interval of the median difference within a round lies within 1 ms or
// 2 % of the median, whichever is more, and its times tell it apart no better than a coin does: an AUC from 0.45 to
// 0.55. A kind that is not is measured once again with fresh samples: noise does not come back, a leak does. It fails
// when the interval or the AUC lies beyond the bound; when the interval only reaches beyond it, the machine is too
// noisy to tell, and the kind is counted as skipped.
//
// The same is asked of a server without what makes the kinds alike, where they must be told apart, and the 99.8 %
// interval must exclude no difference, so that luck does not do: else the measurement shows nothing.
import { execFileSync } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import argon2 from '@node-rs/argon2'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { copyCheckout, sabotage } from './checkout.js'
import { startPostgres, startRedis } from './servers.js'
import { compare, openConnection, sample, startServer } from './timing.js'

// The standard error of an AUC is 0.009 after 2,000 pairs, 0.013 after 1,000: in both cases the bounds are far enough
// out. A round with hashes takes 30 times as long as one without, and all of it is to be done in six minutes.
const roundsOf = ({ hashing }) => (hashing ? 1000 : 2000)
const controlRounds = 500
const warmupRounds = 50
/** Each kind goes through so many accounts again and again, as whoever measures would. */
const members = 100

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'accounts-timing-'))
// PostgreSQL, which runs under another account, keeps its files in here.
chmodSync(folder, 0o711)
process.env.TMPDIR = folder

const password = 'this is not the password'
const address = (kind, n) => `${kind}${n % members}@example.com`
const named = (kind) => (n) => ({ email: address(kind, n) })
const login = (kind) => (n) => ({ email: address(kind, n), password })
const registration = (kind, name) => (n) => ({ ...login(kind)(n), username: `${name}${n % members}` })
// Four wrong guesses with each token, which has five.
const guess = (kind) => (n, tokens) => ({ token: tokens[kind][n >> 2], otp: `${randomInt(1e7, 1e8)}` })

/** `told` are the kinds that the control must tell from the first one. */
const families = [
  {
    path: '/api/login/',
    status: 401,
    hashing: true,
    kinds: {
      'wrong password': login('active'),
      'unknown address': login('nobody'),
      disabled: login('disabled'),
      'no password': login('passwordless'),
      unverified: login('unverified'),
    },
    told: ['unknown address', 'disabled', 'no password'],
  },
  {
    // A quarter of the stored hashes has another cost: whoever is unknown is taken for one of these as often.
    title: 'log-in, hashes of two costs',
    path: '/api/login/',
    status: 401,
    hashing: true,
    kinds: {
      'wrong password': (n) => login(n % 4 === 0 ? 'cheaper' : 'active')(n),
      // More of them than members, since each keeps its cost.
      'unknown address': (n) => ({ email: `nobody-${n}@example.com`, password }),
    },
    told: ['unknown address'],
  },
  {
    path: '/api/register/',
    status: 202,
    hashing: true,
    kinds: {
      new: registration('nobody', 'new'),
      'taken address': registration('active', 'new'),
      'unverified address': registration('unverified', 'new'),
      'taken username': registration('nobody', 'active'),
    },
    told: ['taken address', 'taken username'],
  },
  {
    path: '/auth/email_request/',
    status: 200,
    kinds: { known: named('active'), unknown: named('nobody'), disabled: named('disabled') },
    told: ['unknown', 'disabled'],
  },
  {
    path: '/auth/resend_verification/',
    status: 200,
    kinds: { unverified: named('unverified'), unknown: named('nobody'), verified: named('active') },
    told: ['unknown', 'verified'],
  },
  {
    path: '/auth/check_otp/',
    status: 400,
    kinds: { 'wrong code': guess('active'), decoy: guess('nobody') },
    told: ['decoy'],
  },
]

/** A line each of what makes kinds alike. */
const sabotages = [
  {
    file: 'lib/core/passwords.ts',
    find: 'const inVain = () => spent(decoy).catch(() => spent(form.decoy))',
    replace: 'const inVain = async () => false',
  },
  {
    file: 'lib/features/password-reset.ts',
    find: 'await post(realm, draft)',
    replace: 'if (user) await post(realm, draft)',
  },
  {
    file: 'lib/features/email-verification.ts',
    find: 'await post(realm, draft)',
    replace: 'if (user) await post(realm, draft)',
  },
  {
    file: 'lib/mail/letters.ts',
    find: 'await post(realm, { ...draft,',
    replace: 'if (!reason) await post(realm, { ...draft,',
  },
  {
    file: 'lib/core/codes.ts',
    find: 'const macs = realm.ring.map(',
    replace:
      'const known = await peekSubject(realm, purpose, token)\n' +
      '  if (known) await realm.storage.findUserByEmail(known.address)\n' +
      '  const macs = realm.ring.map(',
  },
]

// Counted as in production, and never refused.
const unlimited = { tries: 1_000_000, seconds: 900 }
const limits = ['login', 'account', 'network', 'register', 'mail', 'mailbox']
const options = {
  // The server's own are cheap.
  passwords: {},
  registration: { concealExisting: true },
  throttle: Object.fromEntries(limits.map((name) => [name, unlimited])),
}

const servers = new Set()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(name, async () => {
    await cleanUp()
    process.exit(130)
  })
}
const counts = { passed: 0, failed: 0, skipped: 0 }
try {
  await main()
} catch (error) {
  counts.failed++
  console.error(error)
} finally {
  await cleanUp()
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`)
process.exitCode = counts.failed ? 1 : 0

async function main() {
  const wanted = process.argv.slice(2)
  const chosen = families.filter(({ path }) => wanted.length === 0 || wanted.some((part) => path.includes(part)))
  if (!chosen.length) throw new Error('there is nothing to measure of what was named')
  const broken = join(folder, 'broken')
  copyCheckout(broken)
  for (const each of sabotages) sabotage(broken, each)
  for (const cwd of [root, broken]) execFileSync('npm', ['run', '--silent', 'build'], { cwd, stdio: ['ignore', 2, 2] })
  const [postgres, redis] = await Promise.all([startPostgres(), startRedis()])
  servers.add(postgres).add(redis)
  const env = {
    DATABASE_URL: postgres.url,
    REDIS_URL: redis.url,
    ACCOUNTS_SECRET: randomBytes(32).toString('base64url'),
  }
  await importUsers(env)
  print('milliseconds', 'median', 'difference', '95 % interval', 'AUC', '')
  for (const family of chosen) {
    await prove(family, env)
    await control(family, env, broken)
  }
}

async function prove(family, env) {
  const [first, ...others] = Object.keys(family.kinds)
  const once = await measure(root, env, family, [first, ...others], roundsOf(family))
  const doubtful = others.filter((kind) => !once[kind].alike)
  const again = doubtful.length > 0 ? await measure(root, env, family, [first, ...doubtful], roundsOf(family)) : {}
  for (const kind of others) {
    const last = again[kind] ?? once[kind]
    if (again[kind]) report(family, kind, once[kind], 'again')
    const verdict = last.alike ? 'passed' : last.different ? 'failed' : 'skipped'
    report(family, kind, last, verdict === 'skipped' ? 'skipped: noise' : verdict)
    counts[verdict]++
  }
}

/** Without what makes them alike, the kinds must not be. */
async function control(family, env, broken) {
  const compared = await measure(broken, env, family, Object.keys(family.kinds), controlRounds)
  for (const kind of family.told) {
    const verdict = compared[kind].toldApart ? 'passed' : 'failed'
    report(family, `control: ${kind}`, compared[kind], verdict === 'passed' ? 'told apart' : verdict)
    counts[verdict]++
  }
}

/** Compares the kinds with the first of them. */
async function measure(checkout, env, { path, kinds, status: expected }, names, rounds) {
  const name = `t${randomBytes(6).toString('hex')}`
  const server = await startServer(checkout, { ...env, OPTIONS: JSON.stringify({ ...options, name }) })
  servers.add(server)
  try {
    const { post, close } = await openConnection(server.port)
    const tokens = path === '/auth/check_otp/' ? await askForCodes(post, warmupRounds + rounds) : {}
    const times = await sample(names, warmupRounds + rounds, async (kind, round) => {
      for (let tries = 1; ; tries++) {
        const { status, ms, body } = await post(path, kinds[kind](round, tokens))
        if (status === expected) return ms
        // A machine that is too busy for a reply within half a second.
        if (status !== 503 || tries === 5) throw new Error(`${path} ${kind}: ${status} ${body}`)
      }
    })
    close()
    const [reference, ...others] = names.map((kind) => times.get(kind).subarray(warmupRounds))
    return Object.fromEntries(others.map((all, index) => [names[index + 1], compare(reference, all)]))
  } finally {
    servers.delete(server)
    await server.stop()
  }
}

/** Tokens of accounts and of addresses without one. */
async function askForCodes(post, guesses) {
  const tokens = { active: [], nobody: [] }
  for (let n = 0; n <= guesses / 4; n++) {
    for (const [kind, list] of Object.entries(tokens)) {
      const { body } = await post('/auth/email_request/', named(kind)(n))
      list.push(JSON.parse(body).token)
    }
  }
  return tokens
}

async function importUsers({ DATABASE_URL, REDIS_URL, ACCOUNTS_SECRET }) {
  const { createAccounts } = await import('fastify-accounts')
  const { migrateToLatest } = await import('fastify-accounts/kysely')
  const db = new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: DATABASE_URL }) }) })
  await migrateToLatest(db)
  const accounts = await createAccounts({ secret: ACCOUNTS_SECRET, db, redis: REDIS_URL })
  const hash = (cost) => argon2.hash('the right password', { parallelism: 1, ...cost })
  const current = await hash({ memoryCost: 19_456, timeCost: 2 })
  const cheaper = await hash({ memoryCost: 7168, timeCost: 5 })
  const imported = (kind, given) =>
    accounts.users.import(
      Array.from({ length: members }, (_, n) => ({ email: address(kind, n), username: `${kind}${n}`, ...given })),
    )
  await imported('active', { verified: true, passwordHash: current })
  await imported('cheaper', { verified: true, passwordHash: cheaper })
  await imported('passwordless', { verified: true })
  await imported('unverified', { passwordHash: current })
  for (const { id } of await imported('disabled', { verified: true, passwordHash: current })) {
    await accounts.users.disable(id)
  }
  await accounts.close()
  await db.destroy()
}

function report({ path, title = path }, kind, { reference, difference, interval, auc }, verdict) {
  const [low, high] = interval.map((ms) => ms.toFixed(3))
  print(`${title} ${kind}`, reference.toFixed(2), difference.toFixed(3), `${low} to ${high}`, auc.toFixed(3), verdict)
}

function print(what, ...columns) {
  console.log([what.padEnd(52), ...columns.map((column) => column.padStart(16))].join(' '))
}

async function cleanUp() {
  await Promise.allSettled([...servers].map((server) => server.stop()))
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
}
