// Measures this library beside a hand-written service, better-auth, raw argon2 and raw nodemailer, on this machine.
//
//   npm run bench                 everything, about half an hour; writes bench/RESULTS.md
//   npm run bench -- --quick      one round of a second each, without P14 and most of P11, a minute: for a first look
//   npm run bench -- P3 P5        these rows only
//   npm run bench -- --soak       ten minutes of mixed load, for the memory
//   npm run bench -- --keep …     the library as it was packed the last time
//
// It installs what it needs into bench/, and starts a PostgreSQL and a Redis of its own from the installed binaries.
// Servers, services and clients are processes of their own and share the cores, so only ratios are worth quoting. The
// exit code is 1 when a row could not be measured; a missed target is not a failure.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bench, install } from './install.js'

const flag = { type: 'boolean', default: false }
const { values, positionals } = parseArgs({ options: { quick: flag, soak: flag, keep: flag }, allowPositionals: true })
const wanted = positionals.map((name) => name.toUpperCase())

console.error('Installing…')
install(values)
// Only now can what was installed be imported.
const { openBench } = await import('./harness.js')
const { rowsOf } = await import('./rows/index.js')
const { machineOf, tableOf } = await import('./report.js')

const rows = rowsOf(values).filter(({ id, slow }) =>
  wanted.length > 0 ? wanted.includes(id) : !(values.quick && slow),
)
if (rows.length === 0) throw new Error(`there is no row ${wanted.join(', ')}`)

const opening = openBench(values)
for (const signal of ['SIGINT', 'SIGTERM']) {
  // Not once: npm passes the signal on as well, and a second one would leave the servers behind.
  process.on(signal, async () => {
    const opened = await opening.catch(() => undefined)
    await opened?.close()
    process.exit(130)
  })
}
const setup = await opening

const started = performance.now()
const results = []
try {
  for (const row of rows) results.push(...(await measure(row)))
  const seconds = Math.round((performance.now() - started) / 1000)
  const text = `${machineOf(setup, values)} It took ${seconds} s.\n\n${tableOf(results)}\n`
  console.log(`\n${text}`)
  if (wanted.length === 0 && !values.quick && !values.soak) keep(text)
} finally {
  await setup.close()
}
process.exit(results.some(({ error }) => error) ? 1 : 0)

/** Replaces the last full run in the file of results; the sections below it stay. */
function keep(text) {
  const file = join(bench, 'RESULTS.md')
  const [, ...sections] = readFileSync(file, 'utf8').split(/^(?=## )/m)
  const all = [`# Results of the last full run\n\n${text}`, ...sections]
  writeFileSync(file, `${all.map((section) => section.trim()).join('\n\n')}\n`)
}

async function measure(row) {
  const from = performance.now()
  console.error(`${row.id}: ${row.what}`)
  try {
    const measured = [await row.measure(setup)].flat().map((part) => ({ ...row, ...part }))
    for (const { figure } of measured) console.error(`    ${figure}`)
    console.error(`    ${Math.round((performance.now() - from) / 1000)} s`)
    return measured
  } catch (error) {
    // Another row may do well.
    console.error(error)
    return [{ ...row, error }]
  }
}
