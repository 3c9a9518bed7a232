import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

/** The README and the pages of docs/, by their paths. */
export const pages = new Map(
  ['README.md', ...readdirSync(`${root}docs`).map((name) => `docs/${name}`)].map((path) => [path, readPage(path)]),
)

export function readPage(path: string): string {
  return readFileSync(root + path, 'utf8')
}

/** The code blocks of a language in every page. */
export function snippets(language: string): { page: string; code: string }[] {
  return [...pages].flatMap(([page, text]) =>
    [...text.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms'))].map(([, code]) => ({
      page,
      code: code as string,
    })),
  )
}

/** The cells of the table rows of a text. */
export function rowsOf(text: string): string[][] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .map((line) =>
      line
        .slice(1, -1)
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim()),
    )
}
