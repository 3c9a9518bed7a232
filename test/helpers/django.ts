import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { findDjango } from '../servers.js'
import type { Teardown } from './app.ts'
import { everything } from './helper.ts'

/** Why tests that need a real Django cannot run here, or false. They are in the long run. */
export const noDjango = !everything
  ? 'a Django project runs in the long run alone'
  : !findDjango() && 'no Python with Django, Django REST framework, simplejwt and psycopg2 on this machine'
if (noDjango && process.env.TEST_REQUIRE_REAL === '1' && everything) throw new Error(`TEST_REQUIRE_REAL=1: ${noDjango}`)

/** What Django signs with in these tests. */
export const djangoSecret = 'a-key-of-fifty-characters-as-startproject-makes-it!'

/** Starts test/hosts/django on a database, whose tables it makes; its own iterations of PBKDF2 unless given. */
export async function startDjango(t: Teardown, url: string, model: 'auth.User' | 'users.User', iterations?: number) {
  const program = fileURLToPath(new URL('../hosts/django/project.py', import.meta.url))
  const env = {
    ...{ PATH: process.env.PATH, DATABASE_URL: url, AUTH_USER_MODEL: model, DJANGO_SECRET_KEY: djangoSecret },
    ...{ PYTHONDONTWRITEBYTECODE: '1', ITERATIONS: iterations ? String(iterations) : '' },
  }
  const child = spawn(findDjango()!, [program], { env, stdio: ['pipe', 'pipe', 'ignore'] })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.stdin.end()
    await ended
  })
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()

  /** Runs a command of the project; one after the other. */
  async function run(name: string, values: object = {}): Promise<any> {
    child.stdin.write(`${JSON.stringify([name, values])}\n`)
    const { value, done } = await lines.next()
    if (done) throw new Error('the Django project has ended')
    const answer = JSON.parse(value)
    if (Array.isArray(answer)) return answer[0]
    throw new Error(answer.error)
  }
  await run('find')
  return run
}
