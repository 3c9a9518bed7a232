import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import { errorTable } from '../../lib/errors.ts'
import { resolveOptions } from '../../lib/options/options.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const readme = readFileSync(`${root}README.md`, 'utf8')
const snippets = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code as string)

// What the snippets take for granted: the host's own things.
const globals = `
import type { FastifyInstance, onRequestHookHandler } from 'fastify'
import type { Kysely } from 'kysely'
import type plugin from 'fastify-accounts'
declare global {
  const app: FastifyInstance & { auth(guards: onRequestHookHandler[]): onRequestHookHandler }
  const db: Kysely<any>
  const staffDb: Kysely<any>
  const accounts: typeof plugin
  const apiKey: onRequestHookHandler
  function ownerOf(orderId: string): Promise<number | string>
  function orderOf(orderId: string): Promise<string>
  function ordersOf(id: number | string): Promise<string[]>
  function newsFor(id: number | string): Promise<string[]>
  function newsForVisitors(): Promise<string[]>
}
export {}
`

t.test('every snippet of the README compiles against the built package', async (t) => {
  // In the package's own folder, where its name means itself.
  const folder = `${root}.tap/readme`
  mkdirSync(folder, { recursive: true })
  writeFileSync(`${folder}/globals.ts`, globals)
  const files = snippets.map((code, index) => {
    const file = `${folder}/snippet-${index}.ts`
    writeFileSync(file, `${code}\nexport {}\n`)
    return file
  })
  // Declarations are merged into a whole program.
  const merging = files.filter((_, index) => snippets[index]?.includes('declare module'))

  t.ok(files.length >= 8)
  t.ok(merging.length > 0)
  t.same(failures([...files.filter((file) => !merging.includes(file)), `${folder}/globals.ts`]), [])
  for (const file of merging) t.same(failures([file, `${folder}/globals.ts`]), [])
})

function failures(files: string[]): string[] {
  const program = ts.createProgram(files, {
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: ['node'],
  })
  return ts
    .getPreEmitDiagnostics(program)
    .map(({ file, messageText }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`)
}

t.test('the quick start is the example of that name, in at most 20 lines', async (t) => {
  const [, quickStart = ''] = /```js\n(.*?)```/s.exec(readme) ?? []

  t.equal(quickStart, readFileSync(`${root}examples/quick-start/server.js`, 'utf8'))
  t.ok(quickStart.trimEnd().split('\n').length <= 20)
})

t.test('the README lists every code with its status, and no other', async (t) => {
  const rows = [...readme.matchAll(/^\| `(ACCOUNTS_\w+)` \| (\d+) \|/gm)].map(([, code, status]) => [
    code,
    Number(status),
  ])

  t.same(
    rows,
    errorTable.map(({ code, statusCode }) => [code, statusCode]),
  )
})

t.test('the README lists every option, with the default that holds', async (t) => {
  const table = readme.slice(readme.indexOf('## Options'), readme.indexOf('## Routes'))
  const needed = { secret: 'a-secret-of-more-than-32-bytes-0123456789', storage: memoryStorage() }
  const resolved = resolveOptions(needed) as unknown as Record<string, unknown>

  for (const [name, value] of leaves(resolved)) {
    const row = table.split('\n').find((line) => line.includes(`\`${name}\``))
    t.ok(row, `${name} has a row`)
    if (['number', 'string', 'boolean'].includes(typeof value))
      t.ok(row?.includes(String(value)), `${name} shows ${value}`)
  }
})

const whole = [
  'db',
  'storage',
  'redis',
  'cache',
  'mailer',
  'secret',
  'routes',
  'brand',
  'templates',
  'argon2',
  'profile',
]

function leaves(options: Record<string, unknown>, path = ''): [string, unknown][] {
  return Object.entries(options).flatMap(([name, value]): [string, unknown][] => {
    const grouped = typeof value === 'object' && value !== null && !whole.includes(name)
    return grouped ? leaves(value as Record<string, unknown>, `${path}${name}.`) : [[path + name, value]]
  })
}
