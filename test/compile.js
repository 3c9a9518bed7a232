// Compiles lib/ and test/ once for all tests, which then run as plain JavaScript: a loader in each of their processes
// doubles the time of its start.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const folder = '.tap/compiled'
const { version } = createRequire(import.meta.url)('typescript/package.json')
const { target, verbatimModuleSyntax } = JSON.parse(readFileSync('tsconfig.json', 'utf8')).compilerOptions
const options = {
  ...{ target, verbatimModuleSyntax, module: 'ESNext', allowJs: true, rewriteRelativeImportExtensions: true },
  ...{ inlineSourceMap: true, inlineSources: true },
}
const way = [version, JSON.stringify(options), readFileSync(fileURLToPath(import.meta.url), 'utf8')].join('\0')

/** Compiles what has changed, by content; needs no types, and does not check them. */
export async function compileTests() {
  const sources = ['lib', 'test'].flatMap(sourcesIn)
  const wanted = new Set(sources.map(compiledFile))
  for (const old of sourcesIn(folder).filter((file) => !wanted.has(file))) rmSync(old)
  for (const file of sources) {
    const text = readFileSync(file, 'utf8')
    const mark = `/* ${createHash('sha256').update(`${way}\0${text}`).digest('hex')} */`
    const compiled = compiledFile(file)
    if (existsSync(compiled) && readFileSync(compiled, 'utf8').startsWith(mark)) continue
    write(compiled, mark + (await compile(text, file)))
  }
}

/** Where a source is when it is compiled. */
export function compiledFile(file) {
  return join(folder, file.replace(/\.ts$/, '.js'))
}

async function compile(text, fileName) {
  const { default: ts } = await import('typescript')
  const compilerOptions = { ...options, sourceRoot: `${pathToFileURL(dirname(fileName))}/` }
  const { outputText } = ts.transpileModule(text, { fileName, compilerOptions })
  // What stands beside a source is found from there.
  const filename = resolve(fileName)
  const meta = { url: pathToFileURL(filename), filename, dirname: dirname(filename) }
  return `Object.assign(import.meta,${JSON.stringify(meta)});${outputText}`
}

function sourcesIn(dir) {
  if (!existsSync(dir)) return []
  return readdirSync(dir, { recursive: true })
    .filter((name) => /(?<!\.d)\.[jt]s$/.test(name))
    .map((name) => join(dir, name))
}

// Moved into its place whole: other runs may be reading.
function write(file, text) {
  mkdirSync(dirname(file), { recursive: true })
  const own = `${file}.${process.pid}`
  writeFileSync(own, text)
  renameSync(own, file)
}
