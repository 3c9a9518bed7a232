import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cache } from '../contracts.ts'
import { type CacheCase, parallel, unique } from './codes.ts'

/** The part of `cacheContract` about texts that are published. */
export const channelCases: CacheCase[] = [
  {
    name: '[R-SES-1] every listener gets every text once, also those of its own publisher',
    async run(cache) {
      const received = await parallel(3, () => listen(cache))
      const texts = Array.from({ length: 50 }, () => unique())

      await Promise.all(texts.map((text) => cache.publish(text)))

      await drained(cache, received)
      for (const own of received) assert.deepEqual(own.sort(), texts.toSorted())
    },
  },
  {
    name: 'the texts of one publisher arrive in their order',
    async run(cache) {
      const received = await listen(cache)
      const texts = Array.from({ length: 50 }, () => unique())

      await Promise.all(texts.map((text) => cache.publish(text)))

      await drained(cache, [received])
      assert.deepEqual(received, texts)
    },
  },
  {
    name: 'hostile texts come back whole',
    async run(cache) {
      const received = await listen(cache)
      const texts = [
        '',
        ' ',
        '\0',
        '\r\n',
        '*1\r\n$4\r\nPING\r\n',
        '"',
        '{}',
        '__proto__',
        'é\u202e😀',
        'x'.repeat(1e5),
      ]

      for (const text of texts) await cache.publish(text)

      await drained(cache, [received])
      assert.deepEqual(received, texts)
    },
  },
  {
    name: 'a text published before does not arrive, and every listener learns when its listening begins',
    async run(cache) {
      const first = await listen(cache)
      const before = unique()
      await cache.publish(before)
      await drained(cache, [first])

      const second = await listen(cache)

      await drained(cache, [first, second])
      assert.deepEqual([first, second], [[before], []])
    },
  },
  {
    name: 'a listener that throws gets the next text all the same, and so do the others',
    async run(cache) {
      const texts = [unique(), unique()]
      const seen: string[] = []
      const fail = (text: string) => {
        seen.push(text)
        throw new Error('a listener of the contract')
      }
      await cache.subscribe(fail, () => fail('restarted'))
      const received = await listen(cache)

      for (const text of texts) await cache.publish(text)

      await drained(cache, [received])
      assert.deepEqual(received, texts)
      assert.deepEqual(seen.slice(0, 3), ['restarted', ...texts])
    },
  },
  {
    name: 'after close no text arrives and no listening begins',
    async run(cache) {
      const received = await listen(cache)
      const late: string[] = []
      const publishing = cache.publish(unique()).catch(() => {})

      await cache.close()
      const before = received.length
      await cache.subscribe((text) => late.push(text))
      await publishing
      await cache.publish(unique()).catch(() => {})

      await sleep(50)
      assert.equal(received.length, before)
      assert.deepEqual(late, [])
    },
  },
]

/** The texts that a new listener gets, once its listening has begun. */
async function listen(cache: Cache): Promise<string[]> {
  const received: string[] = []
  const begun = new Promise<void>((resolve) => {
    cache.subscribe((text) => received.push(text), resolve).catch(() => {})
  })
  await within(begun)
  return received
}

/** Publishes a last text and waits until every listener has it, and with it all before; removes it again. */
async function drained(cache: Cache, received: string[][]): Promise<void> {
  const last = unique()
  await cache.publish(last)
  const deadline = Date.now() + patienceMs
  while (!received.every((texts) => texts.includes(last))) {
    if (Date.now() > deadline) throw new Error('A text did not arrive.')
    await sleep(5)
  }
  for (const texts of received) texts.splice(texts.indexOf(last), 1)
}

const patienceMs = 5000

function within(promise: Promise<void>): Promise<void> {
  const late = sleep(patienceMs, undefined, { ref: false }).then(() => {
    throw new Error('Listening has not begun.')
  })
  return Promise.race([promise, late])
}
