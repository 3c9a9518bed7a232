import { Parser } from 'tap-parser'

/**
 * Reads the TAP that a test file prints. A test is a subtest without subtests of its own, or an assertion that stands
 * in no subtest. Answers the titles that passed, those that were skipped with a reason, those that failed with details.
 */
export async function readTests(output) {
  const found = { passed: [], failed: [], skipped: [] }
  const parser = new Parser()
  watch(parser, (point) => countPoint(point, found, point.name))
  parser.on('plan', ({ end, comment }) => {
    if (end === 0 && comment && comment !== 'no tests found') found.skipped.push({ title: 'the file', reason: comment })
  })
  try {
    for await (const chunk of output.setEncoding('utf8')) parser.write(chunk)
  } catch (error) {
    found.failed.push({ title: 'the file itself', details: error.message })
  }
  parser.end()
  if (!parser.ok && !found.failed.length) {
    found.failed.push({ title: 'the file itself', details: JSON.stringify(parser.results?.failures) })
  }
  return found
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
