import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import t from 'tap'
import { storageContract } from '../../lib/testing/storage.ts'
import { openFresh } from '../helpers/databases.ts'
import { root } from '../helpers/examples.ts'
import { everything, noPostgres } from '../helpers/helper.ts'

const skip = everything ? noPostgres : 'it installs Prisma from npm; in the long run, with --all'

t.test('the storage over Prisma keeps the whole contract and serves the six routes', { skip }, async (t) => {
  const { url, db } = await openFresh(t)
  const folder = installed(mkdtempSync(join(tmpdir(), 'custom-storage-')))
  t.teardown(() => rmSync(folder, { recursive: true }))
  await sql.raw(readFileSync(join(folder, 'schema.sql'), 'utf8')).execute(db)
  const env = { ...process.env, DATABASE_URL: url, NODE_V8_COVERAGE: '', PRISMA_SCHEMA_ENGINE_BINARY: process.execPath }
  const run = (...args: string[]) => spawnSync('npm', args, { cwd: folder, env, encoding: 'utf8' })

  const built = run('run', 'build')
  t.equal(built.status, 0, built.stdout + built.stderr)
  const tested = run('test')

  const counts = Object.fromEntries(
    [...tested.stdout.matchAll(/^(?:#|ℹ) (pass|fail|skipped) (\d+)$/gm)].map((m) => m.slice(1)),
  )
  t.strictSame(counts, { pass: String(storageContract.length + 2), fail: '0', skipped: '0' }, tested.stdout)
  t.equal(tested.status, 0, tested.stderr)
})

/** A copy of the example with its packages, and this one as it would be published. */
function installed(folder: string): string {
  cpSync(join(root, 'examples/custom-storage'), folder, { recursive: true })
  const npm = (cwd: string, ...args: string[]) => execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: 'pipe' })
  const tarball = npm(root, 'pack', '--silent', '--ignore-scripts', '--pack-destination', folder).trim()
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  manifest.dependencies['fastify-accounts'] = `file:${tarball}`
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest))
  npm(folder, 'install', '--no-audit', '--no-fund', '--prefer-offline')
  return folder
}
