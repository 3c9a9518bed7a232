// Compiles lib/ and test/ once for all tests, which then run as plain JavaScript: a loader in each of their processes
// doubles the time of its start.
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const folder = '.tap/compiled'
const settings = 'tsconfig.json'

/** Compiles what has changed; needs no types, and does not check them. */
export async function compileTests() {
  const sources = ['lib', 'test'].flatMap(sourcesIn)
  const wanted = new Set(sources.map(compiledFile))
  for (const old of sourcesIn(folder).filter((file) => !wanted.has(file))) rmSync(old)
  const own = Math.max(changed(settings), changed('test/compile.js'))
  const stale = sources.filter((file) => changed(compiledFile(file)) <= Math.max(changed(file), own))
  if (!stale.length) return
  const { default: ts } = await import('typescript')
  const { target, verbatimModuleSyntax } = JSON.parse(readFileSync(settings, 'utf8')).compilerOptions
  const compilerOptions = {
    ...{ target, verbatimModuleSyntax, module: 'ESNext', allowJs: true, rewriteRelativeImportExtensions: true },
    ...{ inlineSourceMap: true, inlineSources: true },
  }
  for (const file of stale) {
    const { outputText } = ts.transpileModule(readFileSync(file, 'utf8'), {
      fileName: file,
      compilerOptions: { ...compilerOptions, sourceRoot: `${pathToFileURL(dirname(file))}/` },
    })
    // Files beside a source are found from where it stands.
    write(compiledFile(file), `import.meta.url=${JSON.stringify(pathToFileURL(file))};${outputText}`)
  }
}

/** Where a source is when it is compiled. */
export function compiledFile(file) {
  return join(folder, file.replace(/\.ts$/, '.js'))
}

function sourcesIn(dir) {
  if (!changed(dir)) return []
  return readdirSync(dir, { recursive: true })
    .filter((name) => /(?<!\.d)\.[jt]s$/.test(name))
    .map((name) => join(dir, name))
}

function changed(file) {
  return statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0
}

function write(file, text) {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
}
