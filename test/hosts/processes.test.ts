import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { openDatabase, secret } from '../helpers/app.ts'
import { noPostgres, redisUrl, uniqueName } from '../helpers/helper.ts'

// These hosts import the built package `fastify-accounts`, and none of them calls process.exit().
async function run(host: string, env: Record<string, string> = {}) {
  const file = fileURLToPath(new URL(host, import.meta.url))
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [file], {
    env: { ...process.env, NODE_V8_COVERAGE: '', ACCOUNTS_SECRET: secret, ...env },
    timeout: 30_000,
  })
  return { ...JSON.parse(stdout), stderr }
}

t.test('a CommonJS host requires the package, and the process ends by itself', async (t) => {
  t.strictSame(await run('commonjs.cjs'), { statuses: [201, 200, 200, 401], id: 1, error: 401, stderr: '' })
})

t.test('a host that loads its plugins from a folder registers us in one of its files', async (t) => {
  t.strictSame(await run('autoload.js'), { statuses: [201, 200, 200, 401], stderr: '' })
})

t.test(
  'app.close() closes what we opened to Redis, and the process ends by itself',
  { skip: noPostgres },
  async (t) => {
    const { url } = await openDatabase(t)
    const env = { DATABASE_URL: url, REDIS_URL: redisUrl(), ACCOUNTS_NAME: uniqueName() }

    t.strictSame(await run('ending.js', env), { statuses: [200], stderr: '' })
  },
)

t.test('a host that cannot boot for a wrong option ends with its message', async (t) => {
  const failed = await run('commonjs.cjs', { ACCOUNTS_SECRET: 'short' }).catch((error) => error)

  t.equal(failed.code, 1)
  t.match(failed.stderr, /TypeError: fastify-accounts: option "secret" must be a random text of at least 32 bytes/)
})
