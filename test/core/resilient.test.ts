import Fastify from 'fastify'
import t from 'tap'
import { resilient } from '../../lib/adapter.ts'
import { bounded } from '../../lib/core/deadline.ts'
import { AccountsError } from '../../lib/errors.ts'

const failure = (code: string) => Object.assign(new Error(code), { code })
const retry = (error: unknown) => (error as { code: string }).code === 'deadlock'
const unavailable = (error: unknown) => (error as { code: string }).code === 'full'

/** A verb that fails with these codes first, and a count of its calls. */
function failing(...codes: string[]) {
  const calls: unknown[][] = []
  const verb = async (...given: unknown[]) => {
    calls.push(given)
    const code = codes[calls.length - 1]
    if (code) throw failure(code)
    return 'done'
  }
  return { calls, verb }
}

t.test('a verb that was rolled back is tried again with the same arguments, three times', async (t) => {
  const some = failing('deadlock', 'deadlock', 'deadlock')
  const many = failing(...Array(9).fill('deadlock'))
  const { addMails, ping } = resilient({ addMails: some.verb, ping: many.verb }, { retry, unavailable })

  t.equal(await addMails('mail'), 'done')
  t.same(some.calls, Array(4).fill(['mail']))
  await t.rejects(ping(), { code: 'deadlock' })
  t.equal(many.calls.length, 4)
})

t.test('an import is not tried again', async (t) => {
  const { calls, verb } = failing('deadlock')
  const { importUsers } = resilient({ importUsers: verb }, { retry, unavailable })

  await t.rejects(importUsers([]), { code: 'deadlock' })
  t.equal(calls.length, 1)
})

t.test('what cannot serve is unavailable, whether the adapter or the connection says so', async (t) => {
  const verbs = resilient(
    { ids: 'uuid', first: failing('full').verb, second: failing('ECONNREFUSED').verb, third: failing('other').verb },
    { unavailable },
  )

  t.equal(verbs.ids, 'uuid')
  for (const [verb, code] of [
    [verbs.first, 'full'],
    [verbs.second, 'ECONNREFUSED'],
  ] as const) {
    const error = await verb().catch((error: unknown) => error)
    t.type(error, AccountsError)
    t.match(error, { code: 'ACCOUNTS_UNAVAILABLE', cause: { code } })
  }
  await t.rejects(verbs.third(), { code: 'other' })
})

t.test('a verb that throws at once rejects', async (t) => {
  const { ping } = resilient({ ping: (): unknown => JSON.parse('') }, {})

  await t.rejects(ping() as Promise<unknown>, SyntaxError)
})

t.test('a storage may be an instance of a class, frozen, with state of its own', async (t) => {
  class Storage {
    readonly #ids = 'text'
    #calls = 0
    get ids(): string {
      return this.#ids
    }
    async ping(): Promise<number> {
      this.#calls++
      return this.more(1)
    }
    async more(than: number): Promise<number> {
      if (this.#calls < 2) throw failure('deadlock')
      return this.#calls + than
    }
  }
  const log = Fastify().log
  const verbs = bounded(Object.freeze(resilient(Object.freeze(new Storage()), { retry })), log)

  t.equal(verbs.ids, 'text')
  t.equal(await verbs.ping(), 3)
  t.equal(
    await bounded(Object.freeze(new Storage()), log)
      .more(1)
      .catch((error) => error.code),
    'deadlock',
  )
})
