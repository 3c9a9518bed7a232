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

/** Runs the built program as a container does: with no other environment, and `input` on its standard input. */
export function cli(
  t: Teardown,
  args: string[],
  env: Record<string, string> = {},
  { input = '' as string | Buffer, node = [] as string[] } = {},
): Run {
  const child = spawnNode([...node, 'dist/cli.js', ...args], { env: { PATH: process.env.PATH, ...env } })
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
