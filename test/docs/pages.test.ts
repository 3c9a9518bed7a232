import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { memoryStorage } from '../../lib/adapters/memory/index.ts'
import { eventNames } from '../../lib/core/hooks.ts'
import { resolveOptions, routeNames } from '../../lib/options/options.ts'
import { pages, readPage, root, rowsOf } from '../helpers/pages.ts'

t.test('every link leads to a page and to a heading of it', async (t) => {
  const dead: string[] = []
  for (const [path, text] of [...pages, ['SECURITY.md', readPage('SECURITY.md')] as const]) {
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https:/.test(target)) continue
      const [file, anchor] = target.split('#')
      const linked = file ? join(dirname(path), file) : path
      if (!existsSync(root + linked)) dead.push(`${path}: ${target}`)
      else if (anchor && !anchorsOf(readPage(linked)).includes(anchor)) dead.push(`${path}: ${target}`)
    }
  }

  t.strictSame(dead, [])
})

// As GitHub makes them.
function anchorsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  )
}

t.test('every page is linked from the README and begins with the task that it helps with', async (t) => {
  for (const [path, text] of pages) {
    if (path === 'README.md') continue
    t.ok(pages.get('README.md')!.includes(`](${path})`), path)
    t.match(text, /^# .+\n\nThis page helps you to /, path)
  }
})

t.test('docs/options.md lists every option, with the default that holds', async (t) => {
  const rows = rowsOf(pages.get('docs/options.md')!)
  const needed = { secret: 'a-secret-of-more-than-32-bytes-0123456789', storage: memoryStorage() }
  const resolved = resolveOptions(needed) as unknown as Record<string, unknown>

  for (const [name, value] of leaves(resolved)) {
    const row = rows.map((cells) => cells.join(' ')).find((cells) => cells.includes(`\`${name}\``))
    t.ok(row, `${name} has a row`)
    if (['number', 'string', 'boolean'].includes(typeof value))
      t.ok(row?.includes(String(value)), `${name} shows ${value}`)
  }
})

t.test('[R-THR-8] every limit is documented with its option and the default that holds', async (t) => {
  const { throttle } = resolveOptions({ secret: 'a-secret-of-more-than-32-bytes-0123456789', storage: memoryStorage() })
  const rows = ['docs/options.md', 'docs/security.md'].map((page) => rowsOf(pages.get(page)!))

  t.ok(Object.keys(throttle).length >= 5)
  for (const [name, limit] of Object.entries(throttle)) {
    const { tries, seconds } = limit as { tries: number; seconds: number }
    const [option, control] = rows.map((all) => all.find((cells) => cells.includes(`\`throttle.${name}\``)))
    t.match(option, ['', `\`{ tries: ${tries}, seconds: ${seconds} }\``, /./].with(0, `\`throttle.${name}\``), name)
    t.match(control?.[1], new RegExp(`^${tries} in ${seconds === 3600 ? 'an hour' : `${seconds / 60} minutes`}`), name)
  }
})

/** Options that say who, where or how. Every other one is a control. */
const noControls = [
  ...['name', 'prefix', 'routes', 'secret', 'db', 'storage', 'redis', 'cache', 'mailer', 'adopt'],
  ...['roles', 'network', 'clock', 'mail', 'errors', 'openapi.securityScheme'],
  ...['tokens.issuer', 'tokens.audience', 'tokens.claims'],
  ...['registration.username', 'registration.profile', 'account.fields', 'account.delete'],
  ...['passwords.argon2.parallelism', 'passwords.legacy', 'browser.origins', 'eventLog.keep'],
]

t.test('[R-THR-8] every control has a row in the threat model, with the default that the code has', async (t) => {
  const rows = rowsOf(pages.get('docs/security.md')!).filter(([, option = '']) => /^`[\w.]+`$/.test(option))
  const needed = { secret: 'a-secret-of-more-than-32-bytes-0123456789', storage: memoryStorage() }
  const on = resolveOptions({ ...needed, browser: { origins: ['https://app.example.com'] }, eventLog: true })
  const defaults = new Map([...controlsOf(on), ...controlsOf(resolveOptions(needed))])

  const shown = rows.map(([, option = '', told = '']) => [option.slice(1, -1), told] as const)
  t.strictSame(shown.map(([name]) => name).toSorted(), [...defaults.keys()].toSorted())
  for (const [name, told] of shown) {
    t.ok(name === 'throttle' || spellings(defaults.get(name)).includes(told), `${name}: ${told}`)
  }
})

function controlsOf(resolved: ReturnType<typeof resolveOptions>): [string, unknown][] {
  const session = resolved.session(null)
  const tokens = { ...resolved.tokens, keys: resolved.tokens.keys.reveal().join() }
  const passwords = { ...resolved.passwords, pepper: resolved.passwords.pepper.length > 0 }
  const kept = ['context', 'origins', 'profile', 'throttle', ...noControls]
  return leaves({ ...resolved, session, tokens, passwords }, '', kept).filter(([name]) => !noControls.includes(name))
}

/** How the page may write a default. */
function spellings(value: unknown): string[] {
  if (typeof value === 'string') return [`\`${value}\``]
  if (Array.isArray(value)) return [value.join() || 'none']
  if (typeof value !== 'number') return [value === true ? 'on' : 'off']
  return [`${value}`, `${value} seconds`, `${value / 60} minutes`, `${value / 86_400} days`]
}

const whole = [
  'db',
  'storage',
  'redis',
  'cache',
  'mailer',
  'secret',
  'keys',
  'routes',
  'brand',
  'templates',
  'argon2',
  'pepper',
  'profile',
]

function leaves(options: Record<string, unknown>, path = '', kept = whole): [string, unknown][] {
  return Object.entries(options).flatMap(([name, value]): [string, unknown][] => {
    const grouped = typeof value === 'object' && value !== null && !kept.includes(name) && path !== 'throttle.'
    return grouped ? leaves(value as Record<string, unknown>, `${path}${name}.`, kept) : [[path + name, value]]
  })
}

t.test('docs/routes.md lists every name that the option "routes" takes', async (t) => {
  const named = rowsOf(pages.get('docs/routes.md')!).flatMap(([first = '']) => /^`(\w+)`( ✉)?$/.exec(first)?.[1] ?? [])

  t.strictSame(named.toSorted(), routeNames.toSorted())
})

t.test('docs/users.md lists every event with the details that its type has', async (t) => {
  const rows = rowsOf(pages.get('docs/users.md')!)
    .filter(([first = '']) => eventNames.some((name) => first === `\`${name}\``))
    .map(([first = '', details = '']) => [first.slice(1, -1), wordsIn(details)])

  t.strictSame(Object.fromEntries(rows), detailsOfEvents())
  t.equal(rows.length, eventNames.length)
})

function wordsIn(cell: string): string[] {
  return [...cell.matchAll(/`(\w+)`/g)].map(([, word]) => word as string)
}

/** Names and literal values of each event's details, in the order of the interface. */
function detailsOfEvents(): Record<string, string[]> {
  const source = ts.createSourceFile('hooks.ts', readPage('lib/core/hooks.ts'), ts.ScriptTarget.ES2023, true)
  const details = source.statements.find((one) => ts.isInterfaceDeclaration(one) && one.name.text === 'EventDetails')
  const purposes = /type CodePurpose = (.*)/.exec(readPage('lib/contracts.ts'))![1]!
  return Object.fromEntries(
    (details as ts.InterfaceDeclaration).members.map((member) => {
      const { name, type } = member as ts.PropertySignature
      const text = type!.getText(source).replaceAll('CodePurpose', purposes)
      return [name.getText(source), [...text.matchAll(/(\w+)(?=:)|'(\w+)'/g)].map(([, key, value]) => key ?? value)]
    }),
  ) as Record<string, string[]>
}

t.test('every figure that a test says it measures is in the documentation', async (t) => {
  const said = [...pages.values()].join('\n').replaceAll(/\s+/g, ' ')
  const measured = readdirSync(`${root}test`, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .flatMap((name) => [...readPage(`test/${name}`).matchAll(/^ *\/\/ docs: "(.+)"$/gm)])
    .map(([, figure]) => figure as string)

  t.ok(measured.length >= 10)
  t.strictSame(
    measured.filter((figure) => !said.includes(figure)),
    [],
  )
})
