import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'

/** Who makes a message that a developer or an operator sees, and which of its arguments holds the words. */
const makers = new Map([
  ...['Error', 'TypeError', 'failure', 'usageError', 'fn', 'forbidden'].map((name) => [name, 0] as const),
  ...['text', 'optionalText', 'port', 'refuseProduction', 'wrongOption', 'wrongRequirement', 'invalid'].map(
    (name) => [name, 1] as const,
  ),
  ...['debug', 'info', 'warn', 'error', 'log'].map((level) => [level, 1] as const),
])

/** A message of the source: its fixed words, in order, without what is filled in. */
export interface SourceMessage {
  at: string
  words: string[]
}

/** Every message that the code in `lib/` can show, but for the contract suites. */
export function messagesIn(folder: string): SourceMessage[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !/^testing\/(?!index)/.test(name))
    .flatMap((name) => {
      const source = ts.createSourceFile(name, readFileSync(join(folder, name), 'utf8'), ts.ScriptTarget.ES2023, true)
      return messagesOf(source)
    })
}

function messagesOf(source: ts.SourceFile): SourceMessage[] {
  const found: SourceMessage[] = []
  function visit(node: ts.Node): void {
    const given = messageOf(node)
    if (given) {
      const at = `${source.fileName}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}`
      // A word alone is a code.
      const texts = textsOf(given, source).filter((words) => words.join('').includes(' '))
      found.push(...texts.map((words) => ({ at, words })))
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

function messageOf(node: ts.Node): ts.Expression | undefined {
  if (ts.isCallExpression(node) || ts.isNewExpression(node)) {
    const index = makers.get(nameOf(node.expression))
    return index === undefined ? undefined : (node.arguments?.[index] ?? node.arguments?.[0])
  }
  // A row of the table of events: its level and its words in the log.
  if (!ts.isArrayLiteralExpression(node) || node.elements.length !== 2) return undefined
  const [level, words] = node.elements
  return ts.isStringLiteral(level!) && /^(info|warn)$/.test(level.text) ? words : undefined
}

// `log.warn(…)` goes by the level, `log[level](…)` by the log.
function nameOf(callee: ts.Expression): string {
  if (ts.isIdentifier(callee)) return callee.text
  if (ts.isElementAccessExpression(callee)) return nameOf(callee.expression)
  return ts.isPropertyAccessExpression(callee) ? callee.name.text : ''
}

// The texts that an expression may be: of both branches of a choice, and of a constant of the same file.
function textsOf(node: ts.Expression, source: ts.SourceFile): string[][] {
  if (ts.isStringLiteralLike(node)) return [[node.text]]
  if (ts.isTemplateExpression(node)) return [[node.head.text, ...node.templateSpans.map(({ literal }) => literal.text)]]
  if (ts.isParenthesizedExpression(node)) return textsOf(node.expression, source)
  if (ts.isConditionalExpression(node)) return [node.whenTrue, node.whenFalse].flatMap((one) => textsOf(one, source))
  if (ts.isBinaryExpression(node)) {
    const [left = [], right = []] = [textsOf(node.left, source)[0], textsOf(node.right, source)[0]]
    return [[...left.slice(0, -1), `${left.at(-1) ?? ''}${right[0] ?? ''}`, ...right.slice(1)]]
  }
  if (!ts.isIdentifier(node)) return []
  return constantsOf(source)
    .filter(({ name }) => name.getText() === node.text)
    .flatMap(({ initializer }) => (initializer && !ts.isIdentifier(initializer) ? textsOf(initializer, source) : []))
}

function constantsOf(source: ts.SourceFile): ts.VariableDeclaration[] {
  const constants: ts.VariableDeclaration[] = []
  function visit(node: ts.Node): void {
    if (ts.isVariableDeclaration(node)) constants.push(node)
    ts.forEachChild(node, visit)
  }
  visit(source)
  return constants
}
