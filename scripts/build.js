// Compiles lib/ to dist/ from scratch, so that no file of an older build is packed. The new build takes the old one's
// place at once, so that a process started meanwhile finds one or the other.
import { spawnSync } from 'node:child_process'
import { chmodSync, renameSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

process.chdir(fileURLToPath(new URL('..', import.meta.url)))
const fresh = `dist.${process.pid}`
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
const { status } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', '--outDir', fresh], {
  stdio: 'inherit',
})
if (status === 0) {
  chmodSync(`${fresh}/cli.js`, 0o755)
  rmSync('dist', { recursive: true, force: true })
  renameSync(fresh, 'dist')
}
rmSync(fresh, { recursive: true, force: true })
process.exit(status ?? 1)
