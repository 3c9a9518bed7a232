import { Redis } from 'ioredis'
import type { Teardown } from './app.ts'
import { until } from './helper.ts'

/**
 * Sees the commands that reach a Redis of the test's own, each as its name and the sizes of its arguments. What a feed
 * sends every second is left out.
 */
export async function traceRedis(t: Teardown, url: string) {
  const redis = new Redis(url)
  const monitor = await monitorOf(redis)
  const lines: string[] = []
  let markers = 0
  monitor.on('monitor', (_time: string, args: string[], source: string) => {
    const name = args[0]!.toLowerCase()
    // Bytes of every argument, as MONITOR escapes them: sealed values are padded, so even these are equal.
    const sizes = args.slice(1).map((arg) => arg.replaceAll(/\\x[0-9a-f]{2}|\\./g, '.').length)
    if (source !== 'lua' && name !== 'publish') lines.push([name, ...sizes].join(' '))
  })
  /** Where the trace has got to; what others send meanwhile stands before or after it. */
  async function mark(): Promise<number> {
    markers++
    const line = `echo ${markers}`
    await redis.echo('x'.repeat(markers))
    await until(() => lines.includes(line))
    return lines.indexOf(line)
  }
  t.teardown(() => {
    redis.disconnect()
    monitor.disconnect()
  })
  /** The commands that came while `act` ran. */
  return async function commands<T>(act: () => Promise<T>) {
    const start = await mark()
    const result = await act()
    const end = await mark()
    return { result, seen: lines.slice(start + 1, end) }
  }
}

/** Watches the commands of a server. What ioredis sends on connecting must not come with the first reply. */
export async function monitorOf(redis: Redis): Promise<Redis> {
  await redis.ping()
  return redis.monitor()
}
