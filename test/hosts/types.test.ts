import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { everything, longRun } from '../helpers/helper.ts'

// Each file of test/types is a host, compiled beside the built package `fastify-accounts` as npm would install it.
const root = fileURLToPath(new URL('../..', import.meta.url))
const hosts = readdirSync(join(root, 'test/types')).filter((name) => name.endsWith('.ts'))

/** A project with the built package and everything that is installed here, and another kysely if one is named. */
function project(t: { teardown(fn: () => void): void }, kysely = 'kysely'): string {
  const folder = mkdtempSync(join(tmpdir(), 'accounts-types-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const modules = join(folder, 'node_modules')
  mkdirSync(join(modules, 'fastify-accounts'), { recursive: true })
  for (const name of readdirSync(join(root, 'node_modules'))) {
    if (name !== 'kysely') symlinkSync(join(root, 'node_modules', name), join(modules, name))
  }
  symlinkSync(join(root, 'node_modules', kysely), join(modules, 'kysely'))
  for (const name of ['dist', 'package.json']) {
    cpSync(join(root, name), join(modules, 'fastify-accounts', name), { recursive: true })
  }
  cpSync(join(root, 'test/types'), folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  return folder
}

const options: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  strict: true,
  noUncheckedIndexedAccess: true,
  skipLibCheck: true,
  noEmit: true,
  types: ['node'],
}

// Parsed once for all hosts; what one of them declares is kept in its own program.
const parsed = new Map<string, ts.SourceFile | undefined>()
const compiler = ts.createCompilerHost(options)
const { getSourceFile } = compiler
compiler.getSourceFile = (name, ...rest) => {
  if (!parsed.has(name)) parsed.set(name, getSourceFile(name, ...rest))
  return parsed.get(name)
}

function complaints(folder: string, files: string[], more: ts.CompilerOptions = {}): string[] {
  const settings = { ...options, ...more, typeRoots: [join(root, 'node_modules/@types')] }
  const program = ts.createProgram(
    files.map((file) => join(folder, file)),
    settings,
    compiler,
  )
  return ts.getPreEmitDiagnostics(program).map(({ file, start = 0, messageText }) => {
    const line = file ? file.getLineAndCharacterOfPosition(start).line + 1 : 0
    return `${file?.fileName.split('/').at(-1)}:${line} ${ts.flattenDiagnosticMessageText(messageText, ' ')}`
  })
}

t.test('hosts compile against the built package without a cast, and mistakes do not', async (t) => {
  const folder = project(t)

  t.ok(hosts.length >= 7)
  for (const files of programs(folder)) t.strictSame(complaints(folder, files), [], files.join(' '))
})

/** Each host alone in the long run; on a commit the largest, and together those that declare nothing for all. */
function programs(folder: string): string[][] {
  if (everything) return hosts.map((host) => [host])
  const declares = (host: string) => /^declare module/m.test(readFileSync(join(folder, host), 'utf8'))
  return [['guards.ts'], hosts.filter((host) => !declares(host))]
}

longRun('the strictest host compiles', async (t) => {
  t.strictSame(complaints(project(t), ['guards.ts'], { exactOptionalPropertyTypes: true }), [])
})

// CI installs it.
const skip = !existsSync(join(root, 'node_modules/kysely-029')) && 'kysely 0.29 is not installed'

longRun('a host with kysely 0.29 compiles', { skip }, async (t) => {
  const folder = project(t, 'kysely-029')

  t.strictSame(complaints(folder, ['typed-database.ts']), [])
  t.strictSame(complaints(folder, ['quick-start.ts']), [])
})
