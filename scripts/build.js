// Compiles lib/ to dist/ from scratch, so that no file of an older build is packed.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'

rmSync(new URL('../dist', import.meta.url), { recursive: true, force: true })
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
const { status } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {
  cwd: new URL('..', import.meta.url),
  stdio: 'inherit',
})
const cli = new URL('../dist/cli.js', import.meta.url)
if (existsSync(cli)) chmodSync(cli, 0o755)
process.exit(status ?? 1)
