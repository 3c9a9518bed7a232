/**
 * Counts the tests in the output of tap while it comes in: a test is a subtest without subtests of its own, or an
 * assertion that stands in no subtest. A file that ran no test has failed.
 */
export function countTests(parser, files, told) {
  const missing = new Set(files)
  watch(parser, (point) => {
    if (!missing.delete(point.name)) return
    told(point.name, countFile(point))
  })
  return {
    write: (chunk) => parser.write(chunk),
    end() {
      parser.end()
      for (const file of missing) told(file, countFile({ name: file, ok: false, children: [] }))
    },
  }
}

function watch(parser, told) {
  let children
  parser.on('child', (child) => {
    const points = []
    children = points
    watch(child, (point) => points.push(point))
  })
  parser.on('assert', ({ name, ok, skip, todo, diag }) => {
    told({ name, ok, skip, todo, diag, children })
    children = undefined
  })
}

function countFile(file) {
  const found = { passed: [], failed: [], skipped: [] }
  for (const point of file.children ?? []) countPoint(point, found, point.name)
  if (typeof file.skip === 'string' && file.skip !== 'no tests found') {
    found.skipped.push({ title: 'the file', reason: file.skip })
  }
  if (!file.ok && !found.failed.length) found.failed.push({ title: 'the file itself', details: ended(file) })
  if (Object.values(found).every((list) => !list.length)) found.failed.push({ title: 'it ran no test', details: '' })
  return found
}

function ended({ diag }) {
  return diag ? `ended with ${diag.signal ?? `status ${diag.exitCode}`}` : 'tap did not run it'
}

function countPoint(point, found, title) {
  const tests = (point.children ?? []).filter((child) => child.children || child.skip || child.todo)
  const failedBefore = found.failed.length
  for (const test of tests) countPoint(test, found, `${title} > ${test.name}`)
  if (point.skip || point.todo) found.skipped.push({ title, reason: point.skip || `to do: ${point.todo}` })
  else if (!point.ok && found.failed.length === failedBefore) found.failed.push({ title, details: describe(point) })
  else if (point.ok && !tests.length) found.passed.push(title)
}

function describe(point) {
  const assertions = point.children?.filter((child) => !child.ok && !child.todo) ?? []
  return (assertions.length ? assertions : [point])
    .map(({ name, diag }) => {
      const { source, diff, stack, at, ...rest } = diag ?? {}
      const where = stack || (at && `${at.fileName}:${at.lineNumber}`)
      return [name, diff, where, Object.keys(rest).length ? JSON.stringify(rest) : ''].filter(Boolean).join('\n')
    })
    .join('\n')
}
