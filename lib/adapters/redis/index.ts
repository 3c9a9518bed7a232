import type { Cluster, Redis } from 'ioredis'
import type { Cache, Charge, CodeRef, Tally } from '../../contracts.ts'
import type { RedisSource } from '../../options/ports.ts'
import { redisChannel } from './channel.ts'
import { commandFault, connected, openBeside, openRedis } from './connection.ts'
import { scripts } from './scripts.ts'

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
  /** Called with the first fault of each outage; the verbs reject by themselves. */
  onError?: (error: Error) => void
}

/**
 * Keeps one-time codes and counts tries in Redis (6 or later; single, Sentinel or Cluster). Each verb is one script on
 * one cluster slot. The lifetimes of keys only clean up; the caller's clock decides what has expired. Opens a
 * connection of its own, a second one with the first listener, and closes both.
 */
export function redisCache({ redis, name = 'accounts', onError }: RedisCacheOptions): Cache {
  const client = openRedis(redis, {}, onError)
  const run = scriptRunner(client)
  const keys = keysOf(name)
  // Channels, unlike keys, are common to all databases of a server.
  const database = client.isCluster ? 0 : (client as Redis).options.db
  const channelName = `${keyPart(name)}:revocations:${database}`
  const channel = redisChannel(channelName, (overrides, report) => openBeside(client, overrides, report), onError)

  return {
    ...codeVerbs(run, keys),
    ...tallyVerbs(run, keys),
    async publish(text) {
      await connected(client)
      await reply(client.publish(channelName, text))
    },
    async subscribe(listener, restarted) {
      channel.subscribe(listener, restarted)
    },
    async ping() {
      await connected(client)
      return milliseconds(await reply(client.time()))
    },
    async close() {
      channel.close()
      await client.quit().catch(() => {})
      if (client.status !== 'end') client.disconnect()
    },
  }
}

function codeVerbs(run: RunScript, { record, index, chargedOf }: Keys) {
  return {
    async put({ purpose, tag, account, records, tries, expiresAt, grantMs, charge }, now) {
      const keys = [index(tag, account), ...records.map(({ tokenHash }) => record({ purpose, tag, tokenHash }))]
      const values = records.flatMap(({ mac, subject }) => [mac.kid, mac.mac, subject])
      const charged = charge ? chargedOf(charge) : { keys: [], values: [] }
      const all = [expiresAt, grantMs, tries, records.length, ...values, ...charged.values]
      const reply = await run('put', [...keys, ...charged.keys], now, ...all)
      const [endsAt, kind] = Array.isArray(reply) ? reply : []
      return { endsAt: wholeNumber(endsAt), decoy: expect(kind, ['code', 'decoy']) === 'decoy' }
    },
    async guess(ref, macs, now) {
      const guesses = macs.flatMap(({ kid, mac }) => [kid, mac])
      return expect(await run('guess', [record(ref)], now, ...guesses), ['right', 'wrong', 'exhausted', 'dead'])
    },
    async lease(ref, leaseId, until, now) {
      return textOrNull(await run('lease', [record(ref)], now, leaseId, until))
    },
    async giveBack(ref, leaseId, reason, now) {
      expect(await run('giveBack', [record(ref)], now, leaseId, reason), ['OK'])
    },
    async burn({ tag, account }) {
      expect(await run('burn', [index(tag, account)]), ['OK'])
    },
    async peek(ref, now) {
      return textOrNull(await run('peek', [record(ref)], now))
    },
  } satisfies Partial<Cache>
}

function tallyVerbs(run: RunScript, { tally, chargedOf }: Keys) {
  return {
    async charge(charge, now) {
      const { keys, values } = chargedOf(charge)
      const reply = await run('charge', keys, now, ...values)
      const [waitMs, known, share] = Array.isArray(reply) ? reply : []
      if (!(Number(share) >= 0)) throw unexpected()
      return {
        waitMs: wholeNumber(waitMs),
        known: expect(known, ['known', 'unknown']) === 'known',
        share: Number(share),
      }
    },
    async refund({ slot, tallies, known }, isKnown, now) {
      const all = known && isKnown ? known.tallies : tallies
      expect(
        await run(
          'refund',
          all.map(({ name }) => tally(slot, name)),
          now,
          ...all.flatMap(limitOf),
        ),
        ['OK'],
      )
    },
    async acquaint({ slot, list, client, until, alone }, now) {
      expect(await run('acquaint', [tally(slot, list)], now, client, until, alone ? 'alone' : ''), ['OK'])
    },
  } satisfies Partial<Cache>
}

type RunScript = ReturnType<typeof scriptRunner>

function scriptRunner(client: Redis | Cluster) {
  for (const [verb, lua] of Object.entries(scripts)) client.defineCommand(command(verb), { lua })
  return async (verb: keyof typeof scripts, keys: string[], ...args: (string | number)[]): Promise<unknown> => {
    await connected(client)
    const script = (client as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>)[command(verb)]!
    return reply(script.call(client, keys.length, ...keys, ...args))
  }
}

async function reply<T>(sent: Promise<T>): Promise<T> {
  try {
    return await sent
  } catch (error) {
    throw commandFault(error)
  }
}

function command(verb: string): string {
  return `accounts:${verb}`
}

type Keys = ReturnType<typeof keysOf>

function keysOf(name: string) {
  const slot = (tag: string) => `${keyPart(name)}:{${keyPart(tag)}}`
  const tally = (tag: string, name: string) => `${slot(tag)}:tally:${keyPart(name)}`
  return {
    record: ({ tag, purpose, tokenHash }: CodeRef) => `${slot(tag)}:${keyPart(purpose)}:${keyPart(tokenHash)}`,
    index: (tag: string, account: string) => `${slot(tag)}:index:${keyPart(account)}`,
    tally,
    /** What a script takes of a charge: the list's key and the known one's tallies come first. */
    chargedOf({ slot, tallies, known }: Charge) {
      const own = known?.tallies ?? []
      const all = [...own, ...tallies]
      const names = [...(known ? [known.list] : []), ...all.map(({ name }) => name)]
      const values = [known?.client ?? '', own.length, ...all.flatMap(limitOf)]
      return { keys: names.map((each) => tally(slot, each)), values }
    },
  }
}

// No tag that a client sends can leave its part of the key, nor the braces that choose the slot.
function keyPart(text: string): string {
  return text.replace(/[^\w-]/g, (unit) => `%${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

function expect<const Word extends string>(reply: unknown, words: readonly Word[]): Word {
  const word = words.find((candidate) => candidate === reply)
  if (word === undefined) throw unexpected()
  return word
}

function textOrNull(reply: unknown): string | null {
  if (reply !== null && typeof reply !== 'string') throw unexpected()
  return reply
}

function wholeNumber(reply: unknown): number {
  const value = typeof reply === 'string' ? Number(reply) : Number.NaN
  if (!Number.isSafeInteger(value)) throw unexpected()
  return value
}

function limitOf({ tries, windowMs }: Tally): number[] {
  return [tries, windowMs]
}

/** The reply to `TIME`: seconds and microseconds. */
function milliseconds(reply: unknown): number {
  const [seconds, micros] = Array.isArray(reply) ? reply.map(Number) : []
  const time = seconds! * 1000 + Math.floor(micros! / 1000)
  if (Number.isNaN(time)) throw unexpected()
  return time
}

function unexpected(): Error {
  return commandFault(new Error('Redis sent an unexpected reply'))
}
