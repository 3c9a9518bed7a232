// Ten minutes of everything, for memory that is never given back.
import { setTimeout as sleep } from 'node:timers/promises'
import { logins, mailRequests, password, spread } from '../databases.js'
import { runClient } from '../harness.js'
import { mib } from '../report.js'

const minutes = 10

export const soakRows = [{ id: 'SOAK', what: `memory over ${minutes} minutes of mixed load`, measure: soak }]

async function soak(setup) {
  // No token ends before the soak does: refusals make other garbage.
  const service = await setup.start('accounts', { env: { ACCESS_TTL: '3600' } })
  const pairs = await service.ask('sessions', spread(16))
  const seconds = minutes * 60
  const user = { username: 'n{n}', email: 'n{n}@bench.example', password }
  const guarded = pairs.map(({ access }) => ['GET', '/auth/user/', undefined, { authorization: `Bearer ${access}` }])
  const plans = [
    { connections: 4, requests: logins('/api/login/') },
    { connections: 2, requests: [['POST', '/api/register/', user]] },
    {
      connections: 16,
      chain: 'refresh',
      requests: pairs.map(({ refresh }) => ['POST', '/auth/refresh/', { refresh }]),
    },
    { connections: 16, requests: guarded },
    // No more than the queue takes, since no worker runs.
    {
      connections: 1,
      every: 100,
      requests: mailRequests('/auth/email_request/'),
    },
  ]
  try {
    const [memory] = await Promise.all([
      watch(service, seconds),
      ...plans.map((plan) => runClient(service, { seconds, ...plan })),
    ])
    const [early, late] = [memory[2], memory.at(-1)]
    const figure = `${mib(early)} after 2 minutes, ${mib(late)} at the end`
    return { figure, target: '<= 10 % more', met: late <= early * 1.1 }
  } finally {
    await service.stop()
  }
}

/** The memory at the start and after each minute. */
async function watch(service, seconds) {
  const memory = []
  for (let second = 0; second <= seconds - 5; second += 59) {
    memory.push((await service.stat()).rss)
    console.error(`    ${mib(memory.at(-1))}`)
    await sleep(59_000)
  }
  return memory
}
