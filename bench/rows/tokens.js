// What goes without a hash: guards and refreshes.
import { generateKeyPairSync } from 'node:crypto'
import { credentialsOf, spread } from '../databases.js'
import { alternate, load, medianOf, post, ratioOf, refreshesOf, refreshRequests } from '../harness.js'

const connections = 32

export const tokenRows = [
  { id: 'P3', what: 'guarded GET / the same route open, HS256, feed on', target: '>= 0.85', measure: guard },
  { id: 'P4', what: 'the same with EdDSA', target: '>= 0.80', measure: guardBySignature },
  { id: 'P5', what: 'refresh (rotating) / an empty POST; CPU of one', measure: refresh },
  { id: 'P6', what: 'guarded GET / getSession of better-auth in an own route', target: '>= 45', measure: guardBeside },
  { id: 'P7', what: 'refresh / token route of better-auth', target: '>= 9', measure: refreshBeside },
]

async function guard(setup) {
  const hand = await setup.service('hand-written')
  const { body } = await post(hand, '/login', credentialsOf(1))
  const handBearer = { authorization: `Bearer ${body.access}` }
  const ofHand = () => load(setup, hand, { connections, requests: gets('/guarded', [handBearer]) })
  return guardOf(setup, await setup.service('accounts'), 0.85, !setup.quick && ofHand)
}

async function guardBySignature(setup) {
  const SIGNING_KEY = generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' })
  return guardOf(setup, await setup.service('accounts', { data: 'signing', env: { SIGNING_KEY } }), 0.8)
}

async function guardOf(setup, accounts, target, hand) {
  const bearers = await bearersOf(accounts)
  const rounds = await alternate(setup, {
    open: () => load(setup, accounts, { connections, requests: gets('/open', bearers) }),
    guarded: () => load(setup, accounts, { connections, requests: gets('/guarded', bearers) }),
    hand,
  })
  const ratio = ratioOf(rounds.guarded, rounds.open)
  const rates = `${rateOf(rounds.guarded)} of ${rateOf(rounds.open)}`
  const other = rounds.hand ? `; @fastify/jwt ${ratioOf(rounds.hand, rounds.open).toFixed(2)}` : ''
  return { figure: `${ratio.toFixed(2)} (${rates}${other})`, met: ratio >= target }
}

async function refresh(setup) {
  const accounts = await setup.service('accounts')
  const hand = await setup.service('hand-written')

  const handPairs = await Promise.all(Array.from({ length: connections }, () => post(hand, '/login', credentialsOf(1))))
  const handRequests = refreshesOf(
    handPairs.map(({ body }) => body),
    '/refresh',
  )
  const rounds = await alternate(setup, {
    empty: () => load(setup, accounts, { connections, requests: [['POST', '/empty', {}]] }),
    refresh: () => refreshes(setup, accounts),
    hand: !setup.quick && (() => load(setup, hand, { connections, chain: 'refresh', requests: handRequests })),
  })
  const ratio = ratioOf(rounds.refresh, rounds.empty)
  const cpu = medianOf(rounds.refresh, 'cpuUs')
  const other = rounds.hand ? `; hand-written ${ratioOf(rounds.hand, rounds.empty).toFixed(3)}` : ''
  const otherCpu = rounds.hand ? ` (hand-written ${medianOf(rounds.hand, 'cpuUs').toFixed(0)} µs)` : ''
  const rates = `${rateOf(rounds.refresh)} of ${rateOf(rounds.empty)}`
  return [
    { figure: `${ratio.toFixed(3)} (${rates}${other})`, target: '>= 0.11', met: ratio >= 0.11 },
    { figure: `${cpu.toFixed(0)} µs${otherCpu}`, target: '<= 220 µs', met: cpu <= 220 },
  ]
}

async function guardBeside(setup) {
  const accounts = await setup.service('accounts')
  const { service, cookies } = await signedUp(setup)
  const bearers = await bearersOf(accounts)
  const rounds = await alternate(setup, {
    ours: () => load(setup, accounts, { connections, requests: gets('/guarded', bearers) }),
    better: () => load(setup, service, { connections, requests: gets('/guarded', cookies) }),
  })
  return times(rounds, 45)
}

async function refreshBeside(setup) {
  const accounts = await setup.service('accounts')
  const { service, cookies } = await signedUp(setup)
  const rounds = await alternate(setup, {
    ours: () => refreshes(setup, accounts),
    better: () => load(setup, service, { connections, requests: gets('/api/auth/token', cookies) }),
  })
  return times(rounds, 9)
}

function times({ ours, better }, target) {
  const ratio = ratioOf(ours, better)
  const figure = `${ratio.toFixed(1)} x (${rateOf(ours)} to ${rateOf(better)})`
  return { figure, met: ratio >= target }
}

async function refreshes(setup, accounts) {
  const requests = await refreshRequests(accounts, spread(connections))
  return load(setup, accounts, { connections, chain: 'refresh', requests })
}

async function bearersOf(accounts) {
  const pairs = await accounts.ask('sessions', spread(connections))
  return pairs.map(({ access }) => ({ authorization: `Bearer ${access}` }))
}

const gets = (path, headers) => headers.map((each) => ['GET', path, undefined, each])

const rateOf = (rounds) => `${medianOf(rounds).toFixed(0)}/s`

function signedUp(setup) {
  return setup.remember('better-auth users', async () => {
    const service = await setup.service('better-auth')
    const signUp = async (_, index) => {
      const user = { name: `u${index}`, ...credentialsOf(index) }
      // As a browser would: it wants to know the page.
      const { headers } = await post(service, '/api/auth/sign-up/email', user, { origin: 'http://localhost' })
      const cookie = headers.getSetCookie().map((each) => each.split(';')[0])
      return { cookie: cookie.join('; ') }
    }
    const cookies = await Promise.all(Array.from({ length: 8 }, signUp))
    return { service, cookies }
  })
}
