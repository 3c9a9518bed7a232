// More clients than the cores can hash for: 64 at a time, and thousands that come back as soon as they are refused.
import { setTimeout as sleep } from 'node:timers/promises'
import { credentialsOf, emailOf, logins, password } from '../databases.js'
import { alternate, medianOf, post, ratioOf, refreshRequests, runClient } from '../harness.js'
import { mib } from '../report.js'

// 429: with thousands under way, some are of the same user.
const overload = { allow: ['503', '429'] }

export const stormRows = [
  {
    id: 'P8',
    what: 'p99 of a guarded GET while 64 connections log in',
    target: '<= 10 ms',
    async measure(setup) {
      const { ours, ungated } = await smallStorm(setup)
      const p99 = medianOf(ours, 'p99')
      return {
        figure: `${p99.toFixed(1)} ms (without a queue ${medianOf(ungated, 'p99').toFixed(0)} ms)`,
        met: p99 <= 10,
      }
    },
  },
  {
    id: 'P9',
    what: 'logins in that storm / hand-written without a queue',
    target: '>= 0.95',
    async measure(setup) {
      const { ours, ungated } = await smallStorm(setup)
      const ratio = ratioOf(ours, ungated)
      const rates = `${medianOf(ours).toFixed(0)}/s to ${medianOf(ungated).toFixed(0)}/s`
      return { figure: `${ratio.toFixed(2)} (${rates})`, met: ratio >= 0.95 }
    },
  },
  {
    id: 'P10',
    what: 'peak memory in that storm',
    target: '<= idle + 60 MiB',
    async measure(setup) {
      const { memory } = await smallStorm(setup)
      const more = memory.peak - memory.idle
      return { figure: `idle (${mib(memory.idle)}) + ${mib(more)}`, met: more <= 60 * 2 ** 20 }
    },
  },
]

function smallStorm(setup) {
  return setup.remember('storm of 64', async () => {
    const off = { env: { GATE: 'off' } }
    const [accounts, hand] = await Promise.all([setup.start('accounts'), setup.start('hand-written', off)])
    const [{ access }] = await accounts.ask('sessions', [1])
    const { body } = await post(hand, '/login', credentialsOf(1))
    try {
      const rounds = await alternate(setup, {
        ours: () => stormOf(setup, accounts, logins('/api/login/'), access),
        ungated: () => stormOf(setup, hand, logins('/login'), body.access),
      })
      return { ...rounds, memory: await accounts.stat() }
    } finally {
      await Promise.all([accounts.stop(), hand.stop()])
    }
  })
}

async function stormOf(setup, service, requests, access) {
  const window = { warmup: setup.quick ? 0.5 : 1, seconds: setup.seconds }
  const [{ perSecond }, { p99 }] = await Promise.all([
    runClient(service, { ...window, ...overload, connections: 64, requests }),
    probe(window, service, access),
  ])
  return { perSecond, p99 }
}

/** One request each 2 ms over one connection: what somebody notices who does not log in. */
function probe({ warmup, seconds }, service, access) {
  const requests = [['GET', '/guarded', undefined, { authorization: `Bearer ${access}` }]]
  return runClient(service, { warmup, seconds, connections: 1, every: 2, requests })
}

// More users than the others have; nobody but the probe is the last of them.
const lastUser = 6001
const many = { data: 'many', size: { users: lastUser } }

const login = { what: 'login', requests: () => logins('/api/login/') }
const register = {
  what: 'register',
  requests: () => [['POST', '/api/register/', { username: 'n{n}', email: 'n{n}@bench.example', password }]],
}
// Each token is good for one reset, and a 400 from then on: there are more of them than a storm uses.
const resetPassword = {
  what: 'reset_password',
  env: { MAILS: 'kept' },
  users: { storm: 4500, calm: 1000, patient: 500 },
  allow: ['400'],
  async requests(service, ids) {
    const tokens = await service.ask('grants', ids.map(emailOf))
    return tokens.map((token) => ['POST', '/auth/reset_password/', { token, new_password: password }])
  },
}
// A change ends the session that asked, and its response has the tokens of the next.
const changePassword = {
  what: 'change_password (two hashes)',
  bearer: 'access',
  async requests(service, ids) {
    const pairs = await service.ask('sessions', ids)
    const body = { current_password: password, new_password: password }
    return pairs.map(({ access }) => ['POST', '/auth/change_password/', body, { authorization: `Bearer ${access}` }])
  },
}
const refresh = {
  what: 'refresh',
  chain: 'refresh',
  requests: refreshRequests,
}
const empty = { what: 'an empty POST', requests: () => [['POST', '/empty', {}]] }

const anHour = 3_600_000

export const hugeStormRows = [
  huge('1,000 connections', login, { connections: 1000 }),
  huge('5,000 connections', login, { connections: 5000 }),
  huge('1,000 connections, 10 pipelined', login, { connections: 1000, pipeline: 10 }, 'slow'),
  huge('5,000 connections, 10 pipelined', login, { connections: 5000, pipeline: 10 }, 'slow'),
  huge('1,000 connections, bodies 500 ms late', login, { connections: 1000, drip: 500 }, 'slow'),
  huge(
    '2,000 connections whose bodies never come, beside 64',
    login,
    { connections: 2000, drip: anHour, patient: true, others: 64 },
    'slow',
  ),
  huge('1,000 connections', register, { connections: 1000 }, 'slow'),
  huge('1,000 connections', resetPassword, { connections: 1000 }, 'slow'),
  huge('1,000 connections', changePassword, { connections: 1000 }, 'slow'),
  {
    id: 'P11',
    what: 'storm: 5,000 connections, refresh: goodput / capacity, and for an empty POST; GET p99',
    target: '>= 0.80 of what an empty POST keeps; <= 30 ms',
    slow: true,
    measure: measureRefreshes,
  },
]

function huge(size, kind, plan, slow) {
  return {
    id: 'P11',
    what: `storm: ${size}, ${kind.what}: goodput / capacity; GET p99`,
    target: '>= 0.90; <= 30 ms; whoever waits gets in',
    slow: slow !== undefined,
    measure: (setup) => measureHuge(setup, kind, plan),
  }
}

async function measureHuge(setup, kind, plan) {
  const service = await setup.start('accounts', { ...many, env: kind.env })
  try {
    const rounds = Math.min(setup.rounds, 3)
    const { storm } = await alternate({ rounds }, { storm: (round) => oneHugeStorm(setup, service, kind, plan, round) })
    const memory = await service.stat()
    const [ratio, p99, share] = ['ratio', 'p99', 'patientShare'].map((each) => medianOf(storm, each))
    const rates = `${medianOf(storm, 'goodput').toFixed(0)}/s of ${medianOf(storm, 'capacity').toFixed(0)}/s`
    // A quick storm ends before anybody's Retry-After does.
    const patient = setup.quick ? '' : `; ${Math.round(share * 100)} % of the patient got in`
    const peak = `peak ${mib(memory.peak)}`
    const figure = `${ratio.toFixed(2)}; ${p99.toFixed(1)} ms (${rates}${patient}; ${peak})`
    return { figure, met: ratio >= 0.9 && p99 <= 30 && (setup.quick || share >= 0.9) }
  } finally {
    await service.stop()
  }
}

async function measureRefreshes(setup) {
  const service = await setup.start('accounts', many)
  const plan = { connections: 5000, window: { warmup: 4, seconds: 8 } }
  const storm = (kind) => (round) => oneHugeStorm(setup, service, kind, plan, round)
  try {
    const rounds = await alternate({ rounds: 3 }, { refresh: storm(refresh), empty: storm(empty) })
    const [kept, keptEmpty] = [medianOf(rounds.refresh, 'ratio'), medianOf(rounds.empty, 'ratio')]
    const p99 = medianOf(rounds.refresh, 'p99')
    const rate = `${medianOf(rounds.refresh, 'goodput').toFixed(0)}/s`
    const figure = `${kept.toFixed(2)} and ${keptEmpty.toFixed(2)}; ${p99.toFixed(1)} ms (${rate})`
    return { figure, met: kept >= 0.8 * keptEmpty && p99 <= 30 }
  } finally {
    await service.stop()
  }
}

async function oneHugeStorm(setup, service, kind, { others = 10, window = windowOf(setup), ...plan }, round) {
  // Whoever is still held from the round before has to leave.
  if (round > 0) await sleep(1500)
  await setup.flush(service)
  const [{ access }] = await service.ask('sessions', [lastUser])
  const { good, bearer, chain } = kind
  const how = { good, bearer, chain, allow: [...overload.allow, ...(kind.allow ?? [])] }
  // Other users than in the storm: what they have asked for may still be under way then.
  const users = { storm: plan.connections, calm: 64, patient: others, ...kind.users }
  const requests = await requestsOf(service, kind, users)
  const calmWindow = { warmup: setup.quick ? 1 : 2, seconds: setup.quick ? 1.5 : 3 }
  const calm = await runClient(service, { ...calmWindow, ...how, connections: 64, requests: requests.calm })
  const storm = { ...window, ...how, ...plan, requests: requests.storm }
  const patient = { ...how, connections: others, patient: true, requests: requests.patient }
  const [impatient, guarded, waiting] = await Promise.all([
    runClient(service, storm),
    probe(window, service, access),
    // Not before the storm: the first to come would get in at once.
    sleep(window.warmup * 1000).then(() => runClient(service, { ...patient, seconds: window.seconds })),
  ])
  const goodput = impatient.perSecond + waiting.perSecond
  const capacity = calm.perSecond
  return { goodput, capacity, ratio: goodput / capacity, p99: guarded.p99, patientShare: waiting.servedShare }
}

/** Until everybody is connected and was refused or held once, it is no storm yet. */
function windowOf({ quick }) {
  return quick ? { warmup: 1.5, seconds: 2.5 } : { warmup: 4, seconds: 24 }
}

/** The requests of each group, whose users are nobody else's. */
async function requestsOf(service, kind, users) {
  const all = {}
  let first = 1
  for (const [group, count] of Object.entries(users)) {
    const ids = Array.from({ length: count }, (_, index) => first + index)
    all[group] = await kind.requests(service, ids)
    first += count
  }
  return all
}
