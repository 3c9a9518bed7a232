import type { Cache, CodeRef } from '../contracts.ts'
import { connected, openRedis, type RedisSource, withoutArguments } from './redis-connection.ts'
import { scripts } from './redis-scripts.ts'

export { openRedis, type RedisSource }

/** What `redisCache` takes. */
export interface RedisCacheOptions {
  redis: RedisSource
  /**
   * The realm; every key starts with it.
   *
   * @default 'accounts'
   */
  name?: string
  /** Told of the first fault of each outage; the verbs reject by themselves. */
  onError?: (error: Error) => void
}

/**
 * Keeps one-time codes in Redis (6 or later; single, Sentinel or Cluster). Each verb is one script on one cluster slot.
 * Redis lifetimes only clean up: expiry is judged by the caller's clock. Opens a connection of its own and closes it.
 */
export function redisCache({ redis, name = 'accounts', onError }: RedisCacheOptions): Cache {
  const client = openRedis(redis, {}, onError)
  for (const [verb, lua] of Object.entries(scripts)) client.defineCommand(command(verb), { lua })

  async function run(verb: keyof typeof scripts, keys: string[], ...args: (string | number)[]): Promise<unknown> {
    await connected(client)
    const script = (client as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>)[command(verb)]!
    return script.call(client, keys.length, ...keys, ...args).catch((error) => {
      throw withoutArguments(error)
    })
  }

  const slot = (tag: string) => `${keyPart(name)}:{${keyPart(tag)}}`
  const record = ({ tag, purpose, tokenHash }: CodeRef) => `${slot(tag)}:${keyPart(purpose)}:${keyPart(tokenHash)}`
  const index = (tag: string, account: string) => `${slot(tag)}:index:${keyPart(account)}`

  return {
    async put({ purpose, tag, account, records, tries, expiresAt, grantMs }, now) {
      const keys = [index(tag, account), ...records.map(({ tokenHash }) => record({ purpose, tag, tokenHash }))]
      const values = records.flatMap(({ mac, subject }) => [mac.kid, mac.mac, subject])
      expect(await run('put', keys, now, expiresAt, grantMs, tries, ...values), ['OK'])
    },
    async guess(ref, macs, now) {
      const guesses = macs.flatMap(({ kid, mac }) => [kid, mac])
      return expect(await run('guess', [record(ref)], now, ...guesses), ['right', 'wrong', 'dead'])
    },
    async lease(ref, leaseId, until, now) {
      const subject = await run('lease', [record(ref)], now, leaseId, until)
      if (subject !== null && typeof subject !== 'string') throw unexpected()
      return subject
    },
    async giveBack(ref, leaseId, reason, now) {
      expect(await run('giveBack', [record(ref)], now, leaseId, reason), ['OK'])
    },
    async burn({ tag, account }) {
      expect(await run('burn', [index(tag, account)]), ['OK'])
    },
    async ping() {
      await connected(client)
      await client.ping().catch((error) => {
        throw withoutArguments(error)
      })
    },
    async close() {
      await client.quit().catch(() => {})
      if (client.status !== 'end') client.disconnect()
    },
  }
}

function command(verb: string): string {
  return `accounts:${verb}`
}

// Whatever a client sends as a tag stays inside its own part of the key, and inside the braces that choose the slot.
function keyPart(text: string): string {
  return text.replace(/[^\w-]/g, (unit) => `%${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

function expect<const Word extends string>(reply: unknown, words: readonly Word[]): Word {
  const word = words.find((candidate) => candidate === reply)
  if (word === undefined) throw unexpected()
  return word
}

function unexpected(): Error {
  return new Error('Redis answered something that no script of ours answers')
}
