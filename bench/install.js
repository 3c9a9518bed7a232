// Installs what the bench needs: its own dependencies, and this library from the tarball that a host would get.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const bench = import.meta.dirname
const root = join(bench, '..')
const quiet = ['--silent', '--no-audit', '--no-fund']

/** With `keep` the library stays as it was packed the last time. */
export function install({ keep }) {
  if (stale(root)) npm(root, 'ci', ...quiet)
  if (stale(bench)) npm(bench, 'ci', ...quiet)
  const installed = existsSync(join(bench, 'node_modules/fastify-accounts/dist/index.js'))
  if (!(keep && installed)) installLibrary()
}

function installLibrary() {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  try {
    const [{ filename }] = listOf(JSON.parse(npm(root, 'pack', '--json', '--silent', '--pack-destination', folder)))
    // Neither package.json nor the lockfile learns of it: nothing of this checkout is a dependency.
    npm(bench, 'install', '--no-save', ...quiet, join(folder, filename))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

// npm 12 prints an object by package name instead of a list.
function listOf(packed) {
  return Array.isArray(packed) ? packed : Object.values(packed)
}

function stale(folder) {
  const installed = join(folder, 'node_modules/.package-lock.json')
  return !existsSync(installed) || statSync(installed).mtimeMs < statSync(join(folder, 'package-lock.json')).mtimeMs
}

function npm(cwd, ...args) {
  return execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}
