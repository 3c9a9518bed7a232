import t, { type Test } from 'tap'
import { secret } from '../helpers/app.ts'
import { freshDatabase, noPostgres, redisUrl, uniqueName } from '../helpers/helper.ts'
import { loadedIn, printingModules, runNode } from '../helpers/program.ts'

/** Runs a host that boots with these options and then does something, and returns what it has loaded. */
async function hostLoads(t: Test, options = '', then = '') {
  const { url, drop } = await freshDatabase()
  const program = `
    import Fastify from 'fastify'
    import { Kysely, PostgresDialect } from 'kysely'
    import pg from 'pg'
    import Type from 'typebox'
    import accounts from './dist/index.js'
    import { migrateToLatest } from './dist/adapters/kysely/index.js'
    const db = new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: '${url}' }) }) })
    await migrateToLatest(db)
    const app = Fastify()
    const shared = { db, secret: '${secret}', name: '${uniqueName()}', redis: '${redisUrl()}' }
    await app.register(accounts, { ...shared, ${options} })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const post = async (url, payload) => (await app.inject({ method: 'POST', url, payload })).statusCode
    ${then}
    await app.close()
    await db.destroy()`
  const run = runNode(t, [...printingModules(), '--input-type=module', '--eval', program], { NODE_ENV: 'production' })
  const code = await run.ended
  await drop()
  t.equal(code, 0, run.err().replace(/^loaded .*\n/gm, ''))
  return loadedIn(run.err())
}

t.test('an app that boots loads no queue, no transport and no cleaner of profiles', { skip: noPostgres }, async (t) => {
  const { packages, modules } = await hostLoads(t)

  for (const name of ['fastify', 'kysely', 'ioredis', 'typebox']) t.ok(packages.has(name), name)
  for (const name of ['bullmq', 'nodemailer']) t.notOk(packages.has(name), name)
  t.notOk(modules.some((name) => /\/typebox\/build\/(?:value|compile)\//.test(name)))
})

t.test('they are loaded by the first mail and by a profile', { skip: noPostgres }, async (t) => {
  const profile = `registration: { profile: Type.Object({ company: Type.String() }) }`
  // A machine that is busy may take longer than a request may, while it loads them.
  const mail = `
    let status
    for (let tries = 0; tries < 5 && status !== 200; tries++) {
      status = await post('/auth/email_request/', { email: 'ada@example.org' })
    }
    if (status !== 200) process.exit(3)`

  const { packages, modules } = await hostLoads(t, profile, mail)

  t.ok(packages.has('bullmq'))
  t.notOk(packages.has('nodemailer'))
  t.ok(modules.some((name) => /\/typebox\/build\/value\//.test(name)))
})
