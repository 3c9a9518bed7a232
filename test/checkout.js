// Copies of this checkout that may be broken on purpose.
import { cpSync, readFileSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
// Compiled tests know where their sources are.
const leftOut = ['.git', '.tap', 'bench', 'coverage', 'node_modules']

/** Copies the checkout, with its build, to a folder. */
export function copyCheckout(folder) {
  const filter = (path) => !leftOut.includes(relative(root, path))
  cpSync(root, folder, { recursive: true, preserveTimestamps: true, filter })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
}

/**
 * Replaces the one place of a file that reads like `find`, and returns what puts it back. The file keeps its time: a
 * build is not made anew for it.
 */
export function sabotage(folder, { file, find, replace }) {
  const path = join(folder, file)
  const text = readFileSync(path, 'utf8')
  const places = text.split(find).length - 1
  if (places !== 1) throw new Error(`${file} has ${places} places that read: ${find}`)
  const { atime, mtime } = statSync(path)
  function write(content) {
    writeFileSync(path, content)
    utimesSync(path, atime, mtime)
  }
  write(text.replace(find, () => replace))
  return () => write(text)
}
