import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'
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

type Layer = 'contracts' | 'base' | 'core' | 'feature' | 'index' | 'outside' | 'testing'

const base = /^(errors|secrets|known-secrets|options|option-[a-z-]+|email-address|deadline|storable)\.ts$/
const outside = /^(adapters\/.*|worker|mail-[a-z-]+|cli(\/.*)?|testing\/.*)\.ts$/

function layerOf(file: string): Layer {
  if (/^(contracts|index|testing)\.ts$/.test(file)) return basename(file, '.ts') as Layer
  if (file.startsWith('features/')) return 'feature'
  if (base.test(file)) return 'base'
  return outside.test(file) ? 'outside' : 'core'
}

const mayImport: Record<Layer, Layer[]> = {
  contracts: [],
  base: ['contracts', 'base'],
  core: ['contracts', 'base', 'core'],
  feature: ['contracts', 'base', 'core'],
  index: ['contracts', 'base', 'core', 'feature'],
  outside: ['contracts', 'base', 'outside'],
  // What tests of hosts call starts sessions as a feature does.
  testing: ['contracts', 'base', 'core', 'outside'],
}

function isOurs({ to }: Import): boolean {
  return to.endsWith('.ts')
}

/** Options and ports name the types of what an adapter takes. */
function isExcepted({ from, to, kind }: Import): boolean {
  return kind === 'type' && /^(option|ports\.ts)/.test(from) && /^(adapters\/|mail-t)/.test(to)
}

function shown({ from, to, kind }: Import): string {
  return `${from} -> ${to} (${kind})`
}

t.test('imports point one way through the layers', async (t) => {
  const wrong = imports
    .filter((line) => isOurs(line) && line.kind !== 'dynamic' && !isExcepted(line))
    .filter(({ from, to }) => !mayImport[layerOf(from)].includes(layerOf(to)))

  t.ok(imports.length > 20, 'imports were found')
  t.strictSame(wrong.map(shown), [])
})

t.test('no module imports itself through others', async (t) => {
  const loops = sources.flatMap(({ fileName }) => loopFrom(fileName, [fileName]))

  t.strictSame(loops, [])
})

function loopFrom(start: string, path: string[]): string[] {
  const next = imports.filter((line) => isOurs(line) && line.kind === 'value' && line.from === path.at(-1))
  return next.flatMap(({ to }) => {
    if (to === start) return [[...path, to].join(' -> ')]
    return path.includes(to) ? [] : loopFrom(start, [...path, to])
  })
}

t.test('the core reaches adapters by the dynamic imports of one module', async (t) => {
  const reaching = imports.filter((line) => isOurs(line) && line.kind === 'dynamic' && layerOf(line.from) !== 'outside')

  t.ok(new Set(reaching.map(({ from }) => from)).size <= 1, reaching.map(shown).join(', '))
})

t.test('drivers are imported only where they are used', async (t) => {
  const drivers = ['bullmq', 'nodemailer', 'pg', 'kysely', 'ioredis']
  const wrong = imports.filter(
    ({ from, to, kind }) => drivers.includes(to) && kind !== 'type' && layerOf(from) !== 'outside',
  )

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

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0
}

t.test('files keep their budget of code lines', async (t) => {
  const sizes = sources.map((source) => ({ file: source.fileName, lines: codeLines(source, source).size }))

  t.strictSame(
    sizes.filter(({ lines }) => lines > 250),
    [],
  )
  t.ok(median(sizes.map(({ lines }) => lines)) <= 110, 'the median file')
})

interface Measured {
  name: string
  lines: number
  /** Callbacks are part of the function they stand in, and would make the median small for nothing. */
  callback: boolean
}

function functionsOf(source: ts.SourceFile): Measured[] {
  const found: Measured[] = []
  function visit(node: ts.Node): void {
    if (ts.isFunctionLike(node) && 'body' in node && node.body) {
      const line = source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1
      const callback = (ts.isArrowFunction(node) || ts.isFunctionExpression(node)) && ts.isCallExpression(node.parent)
      found.push({ name: `${source.fileName}:${line}`, lines: codeLines(node, source).size, callback })
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
  t.ok(median(functions.filter(({ callback }) => !callback).map(({ lines }) => lines)) <= 8, 'the median function')
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

t.test('[R-SQL-1] no SQL is built from text', async (t) => {
  t.strictSame(calls(/^sql\s*\.\s*(raw|lit)$/), [])
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
  const empty = files.filter((name) => !/\btest\(/.test(readFileSync(join(root, name), 'utf8')))

  t.strictSame(empty, [])
})

/** The numbered security promises that hold so far; each is named by the title of a test that proves it. */
const promises = {
  ENUM: [1, 2, 3, 4, 5, 6, 7, 9, 10],
  HASH: [1, 2, 3, 4, 6, 7, 8],
  LOG: [1, 2, 3, 4, 5, 6],
  MAIL: [1, 2, 3, 4, 5],
  OTP: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
  PW: [1, 2, 3, 6, 7],
  REF: [1, 2, 3, 4, 5, 6, 7],
  REG: [1, 2, 3, 4, 5, 6, 7],
  SES: [1, 2, 3, 4, 5, 6, 7, 8, 9],
  SQL: [1, 2, 3, 4],
  SUP: [1, 2, 3],
  TOK: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
  WEB: [1, 2, 3, 4, 5, 9, 10, 11],
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
