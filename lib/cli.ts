#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type Command, commands, helpText } from './cli/commands.ts'
import { flagTypes } from './cli/config.ts'
import { errorLine, print, usageError } from './cli/output.ts'

// A reader that stops early, such as `head`, is no fault, and what was begun is finished.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

try {
  await run()
} catch (error) {
  const { line, exitCode } = errorLine(error)
  process.stderr.write(`${line}\n`)
  process.exitCode = exitCode
}

async function run(): Promise<void> {
  const { values, positionals } = readArguments()
  const { help: wantsHelp, version: wantsVersion, ...flags } = values
  if (wantsVersion) return print(version())
  if (wantsHelp || positionals[0] === 'help') return print(helpText())
  const { name, command, given } = commandOf(positionals)
  refuseExtras(name, command, { flags: Object.keys(flags), given })
  try {
    await command.run(flags, given)
  } finally {
    if (flags.config !== undefined) leave()
  }
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { ...flagTypes, help: { type: 'boolean', short: 'h' }, version: { type: 'boolean', short: 'v' } },
    })
  } catch (error) {
    const [problem] = (error as Error).message.split(/\.(?: To specify|\n)/)
    throw usageError(`${problem}; see fastify-accounts --help`)
  }
}

function commandOf(words: string[]): { name: string; command: Command; given: string[] } {
  const [first, second] = words
  if (first === undefined) throw usageError(`a command is missing\n\n${helpText()}`)
  for (const [length, name] of [first, `${first} ${second}`].entries()) {
    if (Object.hasOwn(commands, name)) return { name, command: commands[name]!, given: words.slice(length + 1) }
  }
  const actions = Object.keys(commands).filter((name) => name.startsWith(`${first} `))
  if (actions.length === 0) {
    const names = new Set(Object.keys(commands).map((name) => name.split(' ', 1)[0]))
    throw usageError(`unknown command "${first}"; the commands are ${[...names].join(', ')}`)
  }
  const problem = second === undefined ? `"${first}" needs an action` : `unknown action "${second}"`
  throw usageError(`${problem}; the actions are ${actions.map((name) => name.split(' ')[1]).join(', ')}`)
}

// A surplus argument is not repeated: it may be a password.
function refuseExtras(name: string, { takes, flags }: Command, call: { flags: string[]; given: string[] }): void {
  const foreign = call.flags.find((flag) => !(flags as string[]).includes(flag))
  if (foreign !== undefined) throw usageError(`--${foreign} does not belong to "${name}"; see fastify-accounts --help`)
  if (call.given.length === takes.length && !call.given.includes('')) return
  throw usageError(`the call is: fastify-accounts ${[name, ...takes].join(' ')}; see fastify-accounts --help`)
}

// The module of a config may hold connections of its own open, which would keep the process. Later, because the exit
// code is not set yet, and after what was printed has left.
function leave(): void {
  setImmediate(() => process.stdout.write('', () => process.exit()))
}

function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  return version
}
