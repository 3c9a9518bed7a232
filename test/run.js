// `npm test` is the suite of a commit and `npm run test:all` the whole, with every variant and with coverage;
// `node test/run.js test/foo.test.ts` runs one file or folder, and with `--all` its variants. Each file is a process of
// its own.
import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { compiledFile, compileTests } from './compile.js'
import { readTests } from './read-tests.js'
import {
  findBinaries,
  findDjango,
  findPyJwt,
  freePort,
  processes,
  startMariadb,
  startPostgres,
  startRedis,
} from './servers.js'

const coverageFloor = 90
const jobs = 3
const secondsPerFile = process.argv.includes('--all') ? 600 : 300
const packages = {
  postgres: 'postgresql',
  redis: 'redis-server',
  mariadb: 'mariadb-server',
  chromium: 'chromium',
  pyjwt: 'python3-jwt python3-cryptography',
  django: 'python3-djangorestframework-simplejwt python3-psycopg2 python3-bcrypt python3-argon2',
}
const root = fileURLToPath(new URL('..', import.meta.url))
process.chdir(root)

const runId = randomBytes(8).toString('hex')
const folder = mkdtempSync(join(tmpdir(), 'accounts-test-'))
// PostgreSQL, which runs under another account, keeps its files in here.
chmodSync(folder, 0o711)
const coverageFolder = join(folder, 'coverage')
// Everything that the tests start inherits both, which is how what they leave behind is found.
process.env.TEST_RUN = runId
process.env.TMPDIR = folder

const servers = []
const running = new Set()
let interrupted = false
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => interrupt(name))
process.once('uncaughtException', async (error) => {
  console.error(error)
  await cleanUp()
  process.exit(1)
})

const named = process.argv.slice(2).filter((argument) => argument !== '--all')
const everything = process.argv.includes('--all')
const measured = everything && !named.length
if (everything) process.env.TEST_ALL = '1'
const filesWithSkips = []
const counts = { passed: 0, failed: 0, skipped: 0 }
try {
  await main()
} catch (error) {
  counts.failed++
  console.error(interrupted ? 'interrupted' : error)
} finally {
  await cleanUp()
}
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`)
process.exitCode = interrupted ? 130 : counts.failed ? 1 : 0

async function main() {
  const files = chosenFiles()
  if (!files.length) throw new Error('there is no test in what was named')
  const building = files.some(usesBuild) ? build() : Promise.resolve(true)
  await compileTests()
  const standIns = await provideServers({
    chromium: everything && files.some((file) => asks(file, /\bnoChromium\b/)),
    django: everything && files.some((file) => asks(file, /\bnoDjango\b/)),
    mariadb: files.some((file) => asks(file, /\b(?:noMariadb|import \{[^}]*\bdatabases\b)/)),
  })
  if (interrupted) throw new Error('interrupted')
  const skipped = files.filter((file) => needsMissingServer(file, standIns))
  const chosen = files.filter((file) => !skipped.includes(file))
  if (!(await building)) throw new Error('the build failed')
  for (const file of skipped)
    tally(file, { passed: [], failed: [], skipped: [{ title: 'the file', reason: 'it needs real servers' }] })
  await runFiles(chosen)
  reportLeftovers()
  if (measured && counts.failed === 0) checkCoverage()
  tellStandIns(standIns)
}

function chosenFiles() {
  if (!named.length) return testFiles('test')
  return named
    .map((file) => relative('.', file))
    .flatMap((file) => (statSync(file).isDirectory() ? testFiles(file) : [file]))
}

/** The largest first: most of them take the longest, and none should be left to run alone. */
function testFiles(dir) {
  return readdirSync(dir, { recursive: true })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(dir, name))
    .sort((one, other) => statSync(other).size - statSync(one).size)
}

async function provideServers({ chromium, django, mariadb }) {
  const wanted = {
    postgres: !process.env.TEST_DATABASE_URL,
    redis: !process.env.TEST_REDIS_URL,
    mariadb: mariadb && !process.env.TEST_MYSQL_URL,
    chromium,
  }
  const missing = () => Object.keys(wanted).filter((name) => wanted[name] && !findBinaries()[name])
  const lacking = () => [
    ...missing(),
    ...(findPyJwt() ? [] : ['pyjwt']),
    ...(django && !findDjango() ? ['django'] : []),
  ]
  if (process.env.CI === 'true' && process.getuid?.() === 0 && lacking().length) installServers(lacking())
  const standIns = missing()
  if (process.env.TEST_REQUIRE_REAL === '1' && lacking().length) {
    throw new Error(`TEST_REQUIRE_REAL=1, but ${lacking().join(' and ')} can be neither found nor installed`)
  }
  if (wanted.postgres && !standIns.includes('postgres')) process.env.TEST_DATABASE_URL = await share(startPostgres())
  if (wanted.mariadb && !standIns.includes('mariadb')) process.env.TEST_MYSQL_URL = await share(startMariadb())
  if (wanted.redis) process.env.TEST_REDIS_URL = await share(standIns.includes('redis') ? redisStandIn() : startRedis())
  if (!findBinaries().redis) process.env.TEST_REDIS_STANDIN = '1'
  return standIns
}

async function share(starting) {
  const server = await starting
  servers.push(server)
  return server.url
}

async function redisStandIn() {
  const { createRedisMock } = await import('js-redis-server')
  const mock = await createRedisMock({ port: await freePort() })
  const { host, port } = mock.addresses()[0]
  return { url: `redis://${host}:${port}`, stop: () => mock.close() }
}

function installServers(names) {
  // Debian starts what it installs; the tests want servers of their own and nothing else left running.
  const policy = '/usr/sbin/policy-rc.d'
  const script = existsSync(policy)
    ? ''
    : `trap 'rm -f ${policy}' EXIT; printf '#!/bin/sh\\nexit 101\\n' > ${policy}; chmod 755 ${policy};`
  const wanted = names.map((name) => packages[name]).join(' ')
  const install = `apt-get update && apt-get install -y --no-install-recommends ${wanted}`
  const env = { ...process.env, TMPDIR: '/tmp', DEBIAN_FRONTEND: 'noninteractive' }
  spawnSync('sh', ['-c', `${script} ${install}`], { stdio: ['ignore', 2, 2], env })
}

/** A file that asks `noPostgres` or `noRedis` skips what it must by itself. */
function needsMissingServer(file, standIns) {
  const text = readFileSync(file, 'utf8')
  const postgres =
    /\b(realApp|openDatabase|openFresh|freshDatabase|databaseUrl|startPostgres|startExample)\b/.test(text) &&
    !/\bnoPostgres\b/.test(text)
  const redis = /\bstartRedis\b/.test(text) && !/\bnoRedis\b/.test(text)
  return (postgres && standIns.includes('postgres')) || (redis && standIns.includes('redis'))
}

function tellStandIns(standIns) {
  if (!standIns.length || !filesWithSkips.length) return
  const titles = { postgres: 'PostgreSQL', redis: 'Redis', mariadb: 'MariaDB', chromium: 'Chromium' }
  const names = standIns.map((name) => titles[name]).join(' and ')
  console.log(`!!! WITHOUT A REAL ${names}, TESTS WERE SKIPPED IN ${filesWithSkips.join(', ')} !!!`)
}

/** A file that asks `noChromium` or `noDjango` uses it in the long run alone. */
function asks(file, pattern) {
  return pattern.test(readFileSync(file, 'utf8'))
}

/** Tests start child processes as users do: from dist/. */
function usesBuild(file) {
  return /dist\/|examples\/|demo|fastify-accounts|startServer/.test(readFileSync(file, 'utf8'))
}

/** Answers whether dist/ is what lib/ says. */
async function build() {
  const built = existsSync('dist/index.js') ? statSync('dist/index.js').mtimeMs : 0
  const sources = readdirSync('lib', { recursive: true }).map((name) => join('lib', name))
  const fresh = [...sources, 'tsconfig.json'].every((source) => statSync(source).mtimeMs < built)
  if (fresh) return true
  const [code] = await once(start('npm', ['run', '--silent', 'build'], { stdio: 'inherit' }), 'close')
  return code === 0
}

async function runFiles(files) {
  const waiting = files.values()
  const unsteady = []
  const work = async () => {
    for (const file of waiting) {
      const found = await runFile(file)
      if (interrupted) throw new Error('interrupted')
      if (found.failed.length && files.length > 1 && !seeksRaces(file)) unsteady.push({ file, found })
      else tally(file, found)
    }
  }
  await Promise.all(Array.from({ length: jobs }, work))
  // Three files at a time can starve a test of the processor: what failed beside others must pass alone, and is named.
  for (const { file, found } of unsteady) {
    report('BUSY', file, found)
    const alone = await runFile(file)
    if (interrupted) throw new Error('interrupted')
    tally(file, alone)
  }
}

/** What such a file loses beside others is a race, and lost. */
function seeksRaces(file) {
  return /\braces\b/.test(file)
}

async function runFile(file) {
  const env = {
    ...process.env,
    TAP: '1',
    TAP_TIMEOUT: secondsPerFile,
    ...(measured && { NODE_V8_COVERAGE: coverageFolder }),
  }
  const child = start(process.execPath, ['--enable-source-maps', compiledFile(file)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env,
  })
  // A file whose own time limit does not end it.
  const limit = setTimeout(() => child.kill('SIGKILL'), (secondsPerFile + 30) * 1000)
  const [found, [code, signal]] = await Promise.all([readTests(child.stdout), endOf(child)])
  clearTimeout(limit)
  const { passed, skipped, failed } = found
  if (code !== 0 && !failed.length) failed.push({ title: 'the file itself', details: `ended with ${signal ?? code}` })
  if (![...passed, ...skipped, ...failed].length) failed.push({ title: 'it ran no test', details: '' })
  return found
}

async function endOf(child) {
  const closed = once(child, 'close')
  const end = await once(child, 'exit')
  // Something that the file left behind may hold its output for ever.
  const limit = setTimeout(() => child.stdout.destroy(new Error('its output was held after its end')), 5000)
  await closed
  clearTimeout(limit)
  return end
}

function start(...program) {
  const child = spawn(...program)
  running.add(child)
  return child.once('close', () => running.delete(child))
}

function tally(file, found) {
  const { passed, failed, skipped } = found
  counts.passed += passed.length
  counts.failed += failed.length
  counts.skipped += skipped.length
  if (skipped.length) filesWithSkips.push(file)
  report(failed.length ? 'FAIL' : ' ok ', file, found)
}

function report(verdict, file, { passed, failed, skipped }) {
  console.log(`${verdict} ${file} (${passed.length} passed)`)
  for (const { title, reason } of skipped) console.log(`       skipped: ${title} (${reason})`)
  for (const { title, details } of failed)
    console.log(`       failed: ${title}\n${details.replace(/^/gm, '         ')}`)
}

function checkCoverage() {
  const c8 = createRequire(import.meta.url).resolve('c8/bin/c8.js')
  const args = ['report', `--temp-directory=${coverageFolder}`, '--check-coverage', `--lines=${coverageFloor}`]
  const { status } = spawnSync(
    process.execPath,
    [c8, ...args, '--all', '--src=lib', '--include=lib/**', '--exclude=lib/contracts.ts', '--exclude-after-remap'],
    {
      stdio: ['ignore', 1, 2],
    },
  )
  if (status === 0) return
  counts.failed++
  console.log(`FAIL fewer than ${coverageFloor} % of the lines of lib/ are covered`)
}

function reportLeftovers() {
  const kept = servers.map((server) => server.pid)
  const left = leftovers().filter(({ pid, parent }) => !kept.includes(pid) && !kept.includes(parent))
  const pids = left.map(({ pid }) => pid)
  for (const { pid, command } of left.filter(({ parent }) => !pids.includes(parent))) {
    counts.failed++
    console.log(`FAIL a test left a process behind: ${pid} ${command}`)
  }
}

/** Processes of this run: by the inherited environment, or, as servers overwrite theirs, by the working folder. */
function leftovers() {
  if (!existsSync('/proc/self/environ')) return []
  return processes()
    .filter(({ pid, state }) => pid !== process.pid && state !== 'Z')
    .filter(({ pid }) => ofProcess(pid, inheritsRun) || ofProcess(pid, worksInFolder))
    .map((entry) => ({ ...entry, command: ofProcess(entry.pid, readCommand) }))
}

function inheritsRun(path) {
  return readFileSync(`${path}/environ`, 'utf8').includes(`TEST_RUN=${runId}`)
}

function worksInFolder(path) {
  return readlinkSync(`${path}/cwd`).startsWith(folder)
}

function readCommand(path) {
  return readFileSync(`${path}/cmdline`, 'utf8').replaceAll('\0', ' ')
}

function ofProcess(pid, read) {
  try {
    return read(`/proc/${pid}`)
  } catch {
    // It has ended, or belongs to somebody else.
    return undefined
  }
}

async function interrupt(name) {
  interrupted = true
  for (const child of running) child.kill(name)
  await sleep(3000, undefined, { ref: false })
  for (const child of running) child.kill('SIGKILL')
}

async function cleanUp() {
  await Promise.allSettled(servers.map((server) => server.stop()))
  for (let round = 0; round < 50; round++) {
    const left = leftovers()
    if (!left.length) break
    for (const { pid } of left) ofProcess(pid, () => process.kill(pid, 'SIGKILL'))
    await sleep(20)
  }
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
}
