// `npm run test:mutants` breaks the code on purpose, in one place at a time as mutants.js has it, and demands that the
// named test turns red. `npm run test:mutants -- throttle R-OTP` tries those whose file or test has one of the texts.
// It needs PostgreSQL and Redis, of the environment or installed. The last line says how many mutants were killed.
import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { copyCheckout, sabotage } from './checkout.js'
import { mutants } from './mutants.js'
import { startPostgres, startRedis } from './servers.js'

const jobs = 2

const folder = mkdtempSync(join(tmpdir(), 'accounts-mutants-'))
// PostgreSQL, which runs under another account, keeps its files in here.
chmodSync(folder, 0o711)
process.env.TMPDIR = folder

const wanted = process.argv.slice(2)
const named = ({ file, killedBy }) => wanted.some((part) => `${file} ${killedBy}`.includes(part))
const chosen = wanted.length > 0 ? mutants.filter(named) : mutants
const servers = []
const running = new Set()
let interrupted = false
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, interrupt)

const counts = { passed: 0, failed: 0 }
try {
  if (!chosen.length) throw new Error('there is no mutant of what was named')
  await main()
} catch (error) {
  counts.failed++
  console.error(interrupted ? 'interrupted' : error)
} finally {
  await Promise.allSettled(servers.map((server) => server.stop()))
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
}
console.log(`${counts.passed} passed, ${counts.failed} failed`)
process.exitCode = interrupted ? 130 : counts.failed ? 1 : 0

async function main() {
  process.env.TEST_DATABASE_URL ??= await share(startPostgres())
  process.env.TEST_REDIS_URL ??= await share(startRedis())
  const checkouts = Array.from({ length: jobs }, (_, n) => join(folder, `checkout${n}`))
  checkouts.forEach(copyCheckout)
  const green = await baseline(checkouts)
  await shareOut(checkouts, green, async (checkout, mutant) => {
    const started = performance.now()
    const fault = await survives(checkout, mutant).catch((error) => error.message)
    counts[fault ? 'failed' : 'passed']++
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    const { file, killedBy } = mutant
    console.log(`${fault ? 'FAIL' : ' ok '} ${file}: ${killedBy} (${seconds} s)`)
    if (fault) console.log(`       ${mutant.find}\n       -> ${mutant.replace}\n       ${fault}`)
  })
}

async function share(starting) {
  const server = await starting
  servers.push(server)
  return server.url
}

/** Those whose tests are green while nothing is broken; the others fail. */
async function baseline(checkouts) {
  const green = []
  const keyOf = (mutant) => `${mutant.test} ${pathOf(mutant).length}`
  const keys = new Set(chosen.map(keyOf))
  const groups = [...keys].map((key) => chosen.filter((mutant) => keyOf(mutant) === key))
  await shareOut(checkouts, groups, async (checkout, group) => {
    const { output, failed, passed } = await run(checkout, group)
    if (failed.length === 0 && passed > 0) return green.push(...group)
    counts.failed += group.length
    console.log(`FAIL ${group[0].test} is not green as it is\n${output}`)
  })
  return chosen.filter((mutant) => green.includes(mutant))
}

/** Why a mutant is not killed by the test that it names. */
async function survives(checkout, mutant) {
  const restore = sabotage(checkout, mutant)
  try {
    const { failed } = await run(checkout, [mutant])
    if (failed.some((title) => pathOf(mutant).every((part) => title.includes(part)))) return undefined
    return failed.length > 0 ? `another test turned red: ${failed.join('; ')}` : 'no test turned red'
  } finally {
    restore()
  }
}

async function shareOut(checkouts, all, work) {
  const waiting = all.values()
  await Promise.all(
    checkouts.map(async (checkout) => {
      for (const each of waiting) if (!interrupted) await work(checkout, each)
    }),
  )
  if (interrupted) throw new Error('interrupted')
}

/** Runs the tests that mutants name, which are in one file and equally deep in it. */
async function run(checkout, group) {
  const [first, ...others] = group.map(pathOf)
  // What tap takes: a pattern for each level of tests.
  const patterns = first.map((part, level) => [part, ...others.map((path) => path[level])].map(escaped).join('|'))
  const env = { ...process.env, TAP_GREP: patterns.join('\n') }
  const program = ['test/run.js', group[0].test]
  const child = spawn(process.execPath, program, { cwd: checkout, env, stdio: ['ignore', 'pipe', 2] })
  running.add(child)
  const output = await text(child.stdout)
  running.delete(child)
  const failed = [...output.matchAll(/^ {7}failed: (.*)$/gm)].map(([, title]) => title)
  return { output, failed, passed: Number(/^(\d+) passed, /m.exec(output)?.[1]) }
}

/** `killedBy` names a test within another one as the report does: `outer > inner`. */
function pathOf({ killedBy }) {
  return killedBy.split(' > ')
}

function escaped(literal) {
  return literal.replaceAll(/[.*+?^${}()|[\]\\/]/g, '\\$&')
}

async function interrupt() {
  interrupted = true
  for (const child of running) child.kill('SIGTERM')
}
