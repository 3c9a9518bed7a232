import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'

const root = fileURLToPath(new URL('../..', import.meta.url))

interface Import {
  from: string
  /** A file of lib/, relative to it, or the name of a package. */
  to: string
  kind: 'value' | 'type' | 'dynamic'
}

function filesBelow(dir: string, ending: RegExp): string[] {
  return readdirSync(join(root, dir), { recursive: true, encoding: 'utf8' })
    .map((name) => join(dir, name))
    .filter((name) => ending.test(name) && !/node_modules|vectors/.test(name))
    .sort()
}

const sources = filesBelow('lib', /\.ts$/).map((name) =>
  ts.createSourceFile(relative('lib', name), readFileSync(join(root, name), 'utf8'), ts.ScriptTarget.Latest, true),
)
const imports = sources.flatMap(importsOf)

function importsOf(source: ts.SourceFile): Import[] {
  const found: Import[] = []
  function add(specifier: ts.Node | undefined, kind: Import['kind']): void {
    if (!specifier || !ts.isStringLiteral(specifier)) return
    found.push({ from: source.fileName, to: target(source.fileName, specifier.text), kind })
  }
  function visit(node: ts.Node): void {
    if (ts.isImportDeclaration(node)) add(node.moduleSpecifier, isTypeOnly(node.importClause) ? 'type' : 'value')
    if (ts.isExportDeclaration(node)) add(node.moduleSpecifier, node.isTypeOnly ? 'type' : 'value')
    if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node.argument.literal, 'type')
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      add(node.arguments[0], 'dynamic')
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

function isTypeOnly(clause: ts.ImportClause | undefined): boolean {
  if (!clause || clause.isTypeOnly) return clause !== undefined
  const bindings = clause.namedBindings
  if (clause.name || !bindings || !ts.isNamedImports(bindings)) return false
  return bindings.elements.length > 0 && bindings.elements.every((element) => element.isTypeOnly)
}

function target(from: string, specifier: string): string {
  if (specifier.startsWith('.')) return relative(resolve('/lib'), resolve('/lib', dirname(from), specifier))
  return specifier.startsWith('@') ? specifier.split('/', 2).join('/') : specifier.split('/', 1)[0]!
}

/** The floors of the house, from the top: a file imports from its own floor or from below. */
const floors = [
  ['cli.ts', 'cli/', 'testing/'],
  ['index.ts', 'standalone.ts', 'worker.ts'],
  ['plugin.ts'],
  ['accounts.ts', 'adapter.ts', 'ports.ts'],
  ['features/'],
  ['http/'],
  ['adapters/'],
  ['mail/'],
  ['core/'],
  ['options/'],
  ['contracts.ts', 'errors.ts'],
]

function roomOf(file: string): { room: string; floor: number } {
  const floor = floors.findIndex((rooms) => rooms.some((room) => file.startsWith(room)))
  const room = floors[floor]?.find((name) => file.startsWith(name))
  if (room === undefined) throw new Error(`${file} is in no room`)
  return { room, floor }
}

function isOurs({ to }: Import): boolean {
  return to.endsWith('.ts')
}

function shown({ from, to, kind }: Import): string {
  return `${from} -> ${to} (${kind})`
}

t.test('imports point down through the floors', async (t) => {
  const wrong = imports.filter((line) => isOurs(line) && roomOf(line.from).floor > roomOf(line.to).floor)

  t.ok(imports.length > 20, 'imports were found')
  t.strictSame(wrong.map(shown), [])
})

t.test('no feature imports another one, nor an adapter', async (t) => {
  const wrong = imports.filter(
    ({ from, to }) => from.startsWith('features/') && (to.startsWith('features/') || to.startsWith('adapters/')),
  )

  t.strictSame(wrong.map(shown), [])
})

/** What adapters know beside contracts, errors and the files of their own folder. */
const knownToAdapters = [
  'core/methods.ts',
  'core/refresh-rule.ts',
  'core/resilient.ts',
  'core/storable.ts',
  'core/tallies.ts',
  'options/adoption.ts',
  'options/ports.ts',
]
/** The mailers also take options and write mails, and the queue needs Redis. */
const knownToMailers = [
  ...knownToAdapters,
  'core/deadline.ts',
  'options/checks.ts',
  'options/rules.ts',
  'adapters/redis/connection.ts',
]

t.test('an adapter knows the contracts and its own folder', async (t) => {
  const wrong = imports.filter(({ from, to, kind }) => {
    if (!from.startsWith('adapters/') || !to.endsWith('.ts') || /^(contracts|errors)\.ts$/.test(to)) return false
    const mailer = /^adapters\/(bullmq|smtp)\.ts$/.test(from)
    if (mailer) return !knownToMailers.includes(to) && !to.startsWith('mail/')
    return dirname(from) !== dirname(to) && !knownToAdapters.includes(to) && kind !== 'dynamic'
  })

  t.strictSame(wrong.map(shown), [])
})

t.test('no module imports itself through others, not even for a type', async (t) => {
  const done = new Set<string>()
  const loops = sources.flatMap(({ fileName }) => loopsFrom([fileName], done))

  t.strictSame(loops, [])
})

function loopsFrom(path: string[], done: Set<string>): string[] {
  const file = path.at(-1) as string
  if (done.has(file)) return []
  const next = imports.filter((line) => isOurs(line) && line.from === file)
  const loops = next.flatMap(({ to }) =>
    path.includes(to) ? [[...path.slice(path.indexOf(to)), to].join(' -> ')] : loopsFrom([...path, to], done),
  )
  done.add(file)
  return loops
}

t.test('drivers are imported only where they are used', async (t) => {
  const drivers = ['bullmq', 'nodemailer', 'pg', 'kysely', 'ioredis']
  const users = /^(adapters\/|mail\/transport|worker|cli\/)/
  const wrong = imports.filter(({ from, to, kind }) => drivers.includes(to) && kind === 'value' && !users.test(from))

  t.strictSame(wrong.map(shown), [])
})

function codeLines(node: ts.Node, source: ts.SourceFile): Set<number> {
  const lines = new Set<number>()
  function visit(part: ts.Node): void {
    if (ts.isJSDoc(part)) return
    const children = part.getChildren(source)
    for (const child of children) visit(child)
    if (children.length || part.getStart(source) === part.end) return
    const last = source.getLineAndCharacterOfPosition(part.end).line
    for (let line = source.getLineAndCharacterOfPosition(part.getStart(source)).line; line <= last; line++) {
      lines.add(line)
    }
  }
  visit(node)
  return lines
}

t.test('files keep their budget of code lines', async (t) => {
  const sizes = sources.map((source) => ({ file: source.fileName, lines: codeLines(source, source).size }))

  t.strictSame(
    sizes.filter(({ lines }) => lines > 300),
    [],
  )
})

interface Measured {
  name: string
  lines: number
}

function functionsOf(source: ts.SourceFile): Measured[] {
  const found: Measured[] = []
  function visit(node: ts.Node): void {
    if (ts.isFunctionLike(node) && 'body' in node && node.body) {
      const line = source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1
      found.push({ name: `${source.fileName}:${line}`, lines: codeLines(node, source).size })
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

t.test('functions keep their budget of code lines', async (t) => {
  const functions = sources.flatMap(functionsOf)

  t.strictSame(
    functions.filter(({ lines }) => lines > 50),
    [],
  )
})

function calls(pattern: RegExp): string[] {
  return sources.flatMap((source) => {
    const found: string[] = []
    function visit(node: ts.Node): void {
      // The text of a name or an access, so that comments and strings do not count.
      const named = ts.isIdentifier(node) || ts.isPropertyAccessExpression(node)
      if (named && pattern.test(node.getText(source))) found.push(`${source.fileName}: ${node.getText(source)}`)
      ts.forEachChild(node, visit)
    }
    visit(source)
    return found
  })
}

t.test('[R-OTP-1] nothing random comes from Math.random or a UUID', async (t) => {
  t.strictSame(calls(/^(Math\.random|randomUUID|v4)$/), [])
})

t.test('[R-SQL-1] no SQL is built from text, but for the statements about a table of the host’s', async (t) => {
  t.strictSame(calls(/^sql\s*\.\s*(raw|lit)$/), ['adapters/kysely/adopt-table.ts: sql.raw'])
})

const written = ['lib', 'test', 'examples', 'scripts', 'bench'].flatMap((dir) => {
  const present = readdirSync(root).includes(dir)
  return present ? filesBelow(dir, /\.(ts|js|cjs|mjs|json|md|html|sh)$/) : []
})

t.test('no line is longer than 120 columns', async (t) => {
  const long = written
    .filter((name) => /\.(ts|js|cjs|mjs)$/.test(name))
    .flatMap((name) => {
      const lines = readFileSync(join(root, name), 'utf8').split('\n')
      return lines.flatMap((line, index) => (line.length > 120 ? [`${name}:${index + 1}`] : []))
    })

  t.strictSame(long, [])
})

t.test('no file names a folder of the machine it was written on', async (t) => {
  const machine = /(^|[\s'"`=(:])\/(work|home|root)\//m
  const top = readdirSync(root).filter((name) => /\.(md|json|ts|js)$/.test(name))
  const ci = readdirSync(root).includes('.ci') ? filesBelow('.ci', /./) : []
  const naming = [...written, ...top, ...ci].filter((name) => machine.test(readFileSync(join(root, name), 'utf8')))

  t.strictSame(naming, [])
})

t.test('every test file has a test', async (t) => {
  const files = filesBelow('test', /\.test\.ts$/)
  const empty = files.filter((name) => !/\b(test|longRun)\(/.test(readFileSync(join(root, name), 'utf8')))

  t.strictSame(empty, [])
})

/** The numbered security promises that hold so far; each is named by the title of a test that proves it. */
const promises = {
  ENUM: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  HASH: [1, 2, 3, 4, 5, 6, 7, 8],
  LOG: [1, 2, 3, 4, 5, 6],
  MAIL: [1, 2, 3, 4, 5],
  OTP: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
  PW: [1, 2, 3, 4, 5, 6, 7],
  REF: [1, 2, 3, 4, 5, 6, 7],
  REG: [1, 2, 3, 4, 5, 6, 7],
  SES: [1, 2, 3, 4, 5, 6, 7, 8, 9],
  SQL: [1, 2, 3, 4],
  SUP: [1, 2, 3],
  THR: [1, 2, 3, 4, 5, 7, 8, 9],
  TOK: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
  WEB: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
}

t.test('every promise has a test of its name', async (t) => {
  const files = [...filesBelow('test', /\.test\.ts$/), ...filesBelow('lib/testing', /\.ts$/)]
  const titles = files.map((name) => readFileSync(join(root, name), 'utf8')).join('\n')
  const ids = Object.entries(promises).flatMap(([group, numbers]) => numbers.map((number) => `[R-${group}-${number}]`))

  t.strictSame(
    ids.filter((id) => !titles.includes(id)),
    [],
  )
})
