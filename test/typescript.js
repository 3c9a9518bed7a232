// Loads TypeScript for the tests, compiled once for all of them: tap's own loader keeps nothing, and spends seconds of
// each test file on the same hundred modules. `run.js` imports this into every process of a test.
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { register } from 'node:module'
import { fileURLToPath } from 'node:url'
import { isMainThread } from 'node:worker_threads'

if (isMainThread) {
  // Tap's own loader stays away.
  process.env.TAP_TYPE_STRIP_ONLY = '1'
  register(import.meta.url)
}

const folder = new URL('../.tap/compiled/', import.meta.url)
const settings = JSON.parse(readFileSync(new URL('../tsconfig.json', import.meta.url), 'utf8')).compilerOptions

export async function load(url, context, nextLoad) {
  if (!url.startsWith('file:') || !url.endsWith('.ts') || url.includes('/node_modules/')) return nextLoad(url, context)
  return { format: 'module', source: await compiled(url), shortCircuit: true }
}

async function compiled(url) {
  const fileName = fileURLToPath(url)
  const text = readFileSync(fileName, 'utf8')
  const key = createHash('sha256')
    .update([JSON.stringify(settings), fileName, text].join('\0'))
    .digest('hex')
  const kept = new URL(`${key}.js`, folder)
  try {
    return readFileSync(kept, 'utf8')
  } catch {
    const source = await compile(text, fileName)
    mkdirSync(folder, { recursive: true })
    // Moved into its place whole: other processes may be reading.
    const own = new URL(`${key}.${process.pid}`, folder)
    writeFileSync(own, source)
    renameSync(own, kept)
    return source
  }
}

async function compile(text, fileName) {
  const { default: ts } = await import('typescript')
  const { target, verbatimModuleSyntax } = settings
  const compilerOptions = { target, verbatimModuleSyntax, module: 'ESNext', inlineSourceMap: true, inlineSources: true }
  return ts.transpileModule(text, { fileName, compilerOptions }).outputText
}
