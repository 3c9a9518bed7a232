import t from 'tap'
import { errorTable } from '../../lib/errors.ts'
import { messagesIn } from '../helpers/messages.ts'
import { pages, root, rowsOf } from '../helpers/pages.ts'

const rows = rowsOf(pages.get('docs/troubleshooting.md')!)

t.test('docs/troubleshooting.md lists every code with its status and text, and no other', async (t) => {
  const codes = rows.flatMap(([where = '', message]) => {
    const [, statusCode, code] = /^(\d{3}) `(ACCOUNTS_\w+)`$/.exec(where) ?? []
    return code ? [{ code, statusCode: Number(statusCode), message }] : []
  })

  t.strictSame(codes, errorTable)
})

t.test('docs/troubleshooting.md has every message of the code, with what to do about it', async (t) => {
  const lines = rows.map((cells) => cells.join(' ').replaceAll('\\|', '|'))
  const messages = messagesIn(`${root}lib`)

  t.ok(messages.length > 150)
  t.strictSame(
    messages
      .filter(({ words }) => !lines.some((line) => patternOf(words).test(line)))
      .map(({ at, words }) => `${at} ${words.join('…')}`),
    [],
  )
})

// The fixed words of a message, in order and in one row; what every message of ours begins with is left out.
function patternOf(words: string[]): RegExp {
  const [first = '', ...rest] = words
  const fixed = [first.replace(/^fastify-accounts: /, ''), ...rest].map((part) => part.trim().replaceAll(/\s+/g, ' '))
  return new RegExp(fixed.map((part) => part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('.*'))
}

t.test('every row of docs/troubleshooting.md has a cause', async (t) => {
  t.strictSame(
    rows.filter((cells) => cells.length !== 4 || cells.slice(0, 3).includes('')),
    [],
  )
})
