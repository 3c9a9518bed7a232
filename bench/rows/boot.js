// How long a start takes, and what an idle process needs.
import { setTimeout as sleep } from 'node:timers/promises'
import { alternate, medianOf, ratioOf } from '../harness.js'
import { mib } from '../report.js'

export const bootRows = [{ id: 'P13', measure: boot, what: 'start and idle memory' }]

async function boot(setup) {
  const rounds = await alternate(setup, {
    ours: () => startOnce(setup, 'accounts'),
    plain: () => startOnce(setup, 'plain'),
  })
  const { ours, plain } = rounds
  const ratio = ratioOf(ours, plain, 'ms')
  const times = `${medianOf(ours, 'ms').toFixed(0)} ms to ${medianOf(plain, 'ms').toFixed(0)} ms`
  const idle = medianOf(ours, 'rss')
  return [
    {
      what: 'start to first response / plain Fastify with the same dependencies',
      figure: `${ratio.toFixed(2)} x (${times})`,
      target: '<= 1.2 x',
      met: ratio <= 1.2,
    },
    {
      what: 'idle memory',
      figure: `${mib(idle)} (plain ${mib(medianOf(plain, 'rss'))})`,
      target: '<= 110 MiB',
      met: idle <= 110 * 2 ** 20,
    },
  ]
}

async function startOnce(setup, name) {
  const options = { data: 'boot', size: { users: 100 } }
  // The database is made before the time runs.
  await setup.remember('boot', () => setup.start(name, options).then((service) => service.stop()))
  const from = performance.now()
  const service = await setup.start(name, options)
  const response = await fetch(`${service.url}/open`)
  const ms = performance.now() - from
  if (!response.ok) throw new Error(`${name}: ${response.status}`)
  await sleep(setup.quick ? 200 : 2000)
  const { rss } = await service.stat()
  await service.stop()
  return { ms, rss }
}
