import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import t from 'tap'
import ts from 'typescript'
import { pages, readPage, root, snippets } from '../helpers/pages.ts'

// What the snippets take for granted: the host's own things.
const globals = `
import type { FastifyInstance, FastifyRequest, onRequestHookHandler } from 'fastify'
import type { Kysely } from 'kysely'
import type plugin from 'fastify-accounts'
declare global {
  const app: FastifyInstance & { auth(guards: onRequestHookHandler[]): onRequestHookHandler }
  const db: Kysely<any>
  const staffDb: Kysely<any>
  const memberDb: Kysely<any>
  const accounts: typeof plugin
  const apiKey: onRequestHookHandler
  const email: string
  const password: string
  function createSession(options: { onLogout(): void }): {
    login(body: { email: string; password: string }): Promise<Response>
    fetch(path: string): Promise<Response>
  }
  function provedUser(request: FastifyRequest): Promise<number>
  function isHuman(proof: unknown): Promise<boolean>
  function ownerOf(orderId: number): Promise<number | string>
  function orderOf(orderId: number): Promise<string>
  function ordersOf(id: number | string): Promise<string[]>
  function newsFor(id: number | string): Promise<string[]>
  function newsForVisitors(): Promise<string[]>
}
export {}
`

t.test('every TypeScript snippet of the README and of docs/ compiles against the built package', async (t) => {
  // In the package's own folder, where its name means itself.
  const folder = `${root}.tap/snippets`
  mkdirSync(folder, { recursive: true })
  writeFileSync(`${folder}/globals.ts`, globals)
  const files = snippets('ts').map(({ page, code }, index) => {
    const file = `${folder}/${page.replaceAll(/\W/g, '-')}-${index}.ts`
    writeFileSync(file, `${code}\nexport {}\n`)
    return file
  })

  t.ok(files.length >= 20)
  t.strictSame(failures([...files, `${folder}/globals.ts`]), [])
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

t.test('every JavaScript snippet is an example, word for word', async (t) => {
  const examples = readdirSync(`${root}examples`, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.js'))
    .map((name) => readPage(`examples/${name}`))

  t.strictSame(
    snippets('js').filter(({ code }) => !examples.includes(code)),
    [],
  )
})

t.test('the README begins with the two commands and the quick start, in at most 30 lines', async (t) => {
  const shell = snippets('sh').filter(({ page }) => page === 'README.md')
  const [quickStart] = snippets('js')

  t.strictSame(
    shell.slice(0, 2).map(({ code }) => code),
    ['npm ci && npm run demo\n', 'npm ci && npm test\n'],
  )
  t.equal(quickStart?.code, readPage('examples/quick-start/server.js'))
  t.ok(quickStart!.code.trimEnd().split('\n').length <= 30)
  t.ok(pages.get('README.md')!.split('\n').length <= 220)
})
