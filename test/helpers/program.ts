import { type ChildProcess, type ChildProcessWithoutNullStreams, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Teardown } from './app.ts'

/** A run of the built program. */
export interface Run {
  child: ChildProcess
  out(): string
  err(): string
  /** The exit code, once everything was printed. */
  ended: Promise<number | null>
}

/** Starts Node.js without what measures the coverage of the tests. */
export function spawnNode(args: string[], options: SpawnOptions): ChildProcessWithoutNullStreams {
  return spawn('env', ['-u', 'NODE_V8_COVERAGE', process.execPath, ...args], options) as ChildProcessWithoutNullStreams
}

/** Arguments of Node.js that print every module that is imported or required by one, for `loadedIn`. */
export function printingModules(): string[] {
  const hooks = `export async function resolve(specifier, context, next) {
    const found = await next(specifier, context)
    process._rawDebug('loaded ' + found.url)
    return found
  }`
  const spy = `import { createRequire, register } from 'node:module'
    register('data:text/javascript,' + encodeURIComponent(${JSON.stringify(hooks)}))
    const { cache } = createRequire(${JSON.stringify(import.meta.url)})
    process.on('exit', () => Object.keys(cache).forEach((name) => console.error('loaded ' + name)))`
  return ['--import', `data:text/javascript,${encodeURIComponent(spy)}`]
}

/** The packages and the modules of ours that a program under `printingModules` has loaded. */
export function loadedIn(err: string): { packages: Set<string | undefined>; ours: string[]; modules: string[] } {
  const modules = [...err.matchAll(/^loaded (.+)$/gm)].map(([, name]) => name!)
  const ours = modules.filter((name) => !name.includes('/node_modules/')).map((name) => name.replace(/.*\/dist\//, ''))
  const packages = new Set(modules.map((name) => /\/node_modules\/((@[^/]+\/)?[^/]+)/.exec(name)?.[1]))
  return { packages, ours, modules }
}

/** Runs a module on the built package, from its folder, as if a package were not installed; returns what it prints. */
export async function withoutPackage(t: Teardown, name: string, code: string): Promise<string> {
  const hidden = `
    import Module from 'node:module'
    const resolve = Module._resolveFilename
    Module._resolveFilename = (wanted, ...rest) => {
      if (wanted === ${JSON.stringify(name)}) throw new Error('not installed')
      return resolve(wanted, ...rest)
    }
    ${code}`
  const run = runNode(t, ['--input-type=module', '-e', hidden], {})
  await run.ended
  return run.out() + run.err()
}

/** Runs the built program as a container does: with no other environment, and `input` on its standard input. */
export function cli(
  t: Teardown,
  args: string[],
  env: Record<string, string> = {},
  { input = '' as string | Buffer, node = [] as string[] } = {},
): Run {
  return runNode(t, [...node, 'dist/cli.js', ...args], env, input)
}

/** Runs Node.js with no other environment, and `input` on its standard input. */
export function runNode(t: Teardown, args: string[], env: Record<string, string>, input: string | Buffer = ''): Run {
  const child = spawnNode(args, { env: { PATH: process.env.PATH, ...env } })
  t.teardown(() => child.kill('SIGKILL'))
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const text = { out: '', err: '' }
  child.stdout.setEncoding('utf8').on('data', (chunk) => {
    text.out += chunk
  })
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    text.err += chunk
  })
  const ended = once(child, 'close').then(([code]) => code as number | null)
  return { child, out: () => text.out, err: () => text.err, ended }
}

/** Runs the program to its end. */
export async function done(
  ...call: Parameters<typeof cli>
): Promise<{ code: number | null; out: string; err: string }> {
  const run = cli(...call)
  const code = await run.ended
  return { code, out: run.out(), err: run.err() }
}
