import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))

function readJson(name: string) {
  return JSON.parse(readFileSync(`${root}/${name}`, 'utf8'))
}

const manifest = readJson('package.json')
const lock: { packages: Record<string, { version: string; resolved?: string; integrity?: string; link?: boolean }> } =
  readJson('package-lock.json')

function packedFiles(): string[] {
  // Without the scripts: run.js has built dist/.
  const answer = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  // npm 11 answers a list, npm 12 an object by package name.
  const [packed] = Object.values(JSON.parse(answer)) as { files: { path: string }[] }[]
  return packed!.files.map(({ path }) => path)
}

t.test('[R-SUP-2] the package holds the build and the documents, no test, no source map', async (t) => {
  const pages = readdirSync(`${root}/docs`).map((name) => `docs/${name}`)
  const data = ['br', 'LICENSE.txt'].map((ending) => `dist/core/common-passwords.${ending}`)
  const documents = [...data, 'package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', ...pages]
  const files = packedFiles()

  t.strictSame(
    files.filter((path) => !documents.includes(path) && !/^dist\/[a-z0-9/-]+\.(js|d\.ts)$/.test(path)),
    [],
  )
  t.strictSame(
    documents.filter((path) => !files.includes(path)),
    [],
  )
})

t.test('the package says where its source is, and where to report a fault', async (t) => {
  const address = 'https://github.com/fastify-accounts/fastify-accounts'

  t.match(manifest, {
    homepage: `${address}#readme`,
    bugs: `${address}/issues`,
    repository: { type: 'git', url: `git+${address}.git` },
  })
  t.ok(readFileSync(`${root}/SECURITY.md`, 'utf8').includes(`(${address}/security/advisories/new)`))
})

t.test('every export and the binary are in the package', async (t) => {
  const files = packedFiles()
  const targets = [
    ...Object.values<string>(manifest.exports),
    manifest.main,
    manifest.types,
    manifest.bin[manifest.name],
  ]

  t.strictSame(
    targets.map((path) => path.replace('./', '')).filter((path) => !files.includes(path)),
    [],
  )
})

/** What a host can import, by name. A new one is a minor release, a lost one is a major release. */
const named: Record<string, string[]> = {
  '.': ['AccountsError', 'canonicalEmail', 'createAccounts', 'default', 'defineAccounts'],
  './adapter': ['isValidId', 'judgeToken', 'resilient', 'storable', 'storableUser'],
  './kysely': ['kyselyStorage', 'migrateToLatest', 'migrationSql', 'migrations', 'migrationsFor'],
  './redis': ['openRedis', 'redisCache'],
  './bullmq': ['mostWaiting', 'queueMailer'],
  './memory': ['memoryCache', 'memoryMailer', 'memoryStorage'],
  './smtp': ['mostDone', 'mostPending', 'smtpMailer'],
  './worker': ['startMailWorker'],
  './testing': [
    'cacheContract',
    'createUser',
    'loginAs',
    'mailbox',
    'mailerContract',
    'storageContract',
    'testOptions',
  ],
}

t.test('every subpath exports what is documented, and nothing else', async (t) => {
  const paths = Object.keys(manifest.exports).filter((path) => path !== './package.json')

  t.strictSame(paths.sort(), Object.keys(named).sort())
  for (const path of paths) {
    const exported = await import(`${root}/${manifest.exports[path]}`)
    t.strictSame(Object.keys(exported).sort(), named[path]?.toSorted(), path)
  }
})

t.test('[R-SUP-1] no installed package is below its floor', async (t) => {
  const floors = { 'fast-jwt': '6.3.6', fastify: '5.8.5', nodemailer: '9.0.5', kysely: '0.28.17' }
  const installed: typeof lock = readJson('node_modules/.package-lock.json')

  for (const [name, floor] of Object.entries(floors)) {
    const copies = [lock, installed].flatMap((tree) => copiesOf(name, tree))
    t.ok(copies.length >= 2, `${name} is installed`)
    t.strictSame(
      copies.filter((version) => !atLeast(version, floor)),
      [],
      `${name} >= ${floor}`,
    )
  }
})

function copiesOf(name: string, tree: typeof lock): string[] {
  const places = Object.entries(tree.packages).filter(([place]) => place.endsWith(`node_modules/${name}`))
  return places.map(([, { version }]) => version)
}

function atLeast(version: string, floor: string): boolean {
  return version.localeCompare(floor, 'en', { numeric: true }) >= 0
}

t.test('[R-SUP-1] the lockfile names content, not a registry', async (t) => {
  const packages = Object.entries(lock.packages).filter(([place]) => place !== '')

  t.ok(packages.length > 100)
  t.strictSame(
    packages.filter(([, { resolved }]) => resolved).map(([place]) => place),
    [],
  )
  t.strictSame(
    packages.filter(([, { integrity, link }]) => !integrity && !link).map(([place]) => place),
    [],
  )
})

t.test('[R-SUP-3] the plugin refuses a Fastify below its peer range', async (t) => {
  const { default: plugin } = await import('../../lib/index.ts')
  const meta = (plugin as unknown as Record<symbol, { fastify: string }>)[Symbol.for('plugin-meta')]

  t.equal(manifest.peerDependencies.fastify, '^5.8.5')
  t.equal(meta?.fastify, manifest.peerDependencies.fastify)
})
