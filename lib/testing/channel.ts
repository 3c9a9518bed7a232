import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cache } from '../contracts.ts'
import { type CacheCase, parallel, unique } from './codes.ts'

/** How texts are published and heard. */
export const channelCases: CacheCase[] = [
  {
    name: '[R-SES-1] every listener hears every text once, also those of its own publisher',
    async run(cache) {
      const heard = await parallel(3, () => listen(cache))
      const texts = Array.from({ length: 50 }, () => unique())

      await Promise.all(texts.map((text) => cache.publish(text)))

      await drained(cache, heard)
      for (const own of heard) assert.deepEqual(own.sort(), texts.toSorted())
    },
  },
  {
    name: 'the texts of one publisher are heard in their order',
    async run(cache) {
      const heard = await listen(cache)
      const texts = Array.from({ length: 50 }, () => unique())

      await Promise.all(texts.map((text) => cache.publish(text)))

      await drained(cache, [heard])
      assert.deepEqual(heard, texts)
    },
  },
  {
    name: 'hostile texts come back whole',
    async run(cache) {
      const heard = await listen(cache)
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

      await drained(cache, [heard])
      assert.deepEqual(heard, texts)
    },
  },
  {
    name: 'a text of before is not heard, and every listener is told when its listening begins',
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
    name: 'a listener that throws keeps no other from hearing, nor itself from hearing more',
    async run(cache) {
      const texts = [unique(), unique()]
      const seen: string[] = []
      const fail = (text: string) => {
        seen.push(text)
        throw new Error('a listener of the contract')
      }
      await cache.subscribe(fail, () => fail('restarted'))
      const heard = await listen(cache)

      for (const text of texts) await cache.publish(text)

      await drained(cache, [heard])
      assert.deepEqual(heard, texts)
      assert.deepEqual(seen.slice(0, 3), ['restarted', ...texts])
    },
  },
  {
    name: 'after close nothing is heard and nobody begins to listen',
    async run(cache) {
      const heard = await listen(cache)
      const late: string[] = []
      const publishing = cache.publish(unique()).catch(() => {})

      await cache.close()
      const before = heard.length
      await cache.subscribe((text) => late.push(text))
      await publishing
      await cache.publish(unique()).catch(() => {})

      await sleep(50)
      assert.equal(heard.length, before)
      assert.deepEqual(late, [])
    },
  },
]

/** What a new listener hears, from when its listening has begun. */
async function listen(cache: Cache): Promise<string[]> {
  const heard: string[] = []
  const begun = new Promise<void>((resolve) => {
    cache.subscribe((text) => heard.push(text), resolve).catch(() => {})
  })
  await within(begun)
  return heard
}

/** Publishes a last text and waits until everybody has heard it, and with it all before; takes it away again. */
async function drained(cache: Cache, heard: string[][]): Promise<void> {
  const last = unique()
  await cache.publish(last)
  const deadline = Date.now() + patienceMs
  while (!heard.every((texts) => texts.includes(last))) {
    if (Date.now() > deadline) throw new Error('A text was not heard.')
    await sleep(5)
  }
  for (const texts of heard) texts.splice(texts.indexOf(last), 1)
}

const patienceMs = 5000

function within(promise: Promise<void>): Promise<void> {
  const late = sleep(patienceMs, undefined, { ref: false }).then(() => {
    throw new Error('Listening has not begun.')
  })
  return Promise.race([promise, late])
}
