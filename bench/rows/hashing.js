// What hashing costs beside the hashes.
import { availableParallelism } from 'node:os'
import { logins, password } from '../databases.js'
import { alternate, load, medianOf, ratioOf } from '../harness.js'

const cores = availableParallelism()
const connections = 16
// A hundred requests a second are few to be compiled by.
const settle = 20
const newUser = { username: 'n{n}', email: 'n{n}@bench.example', password }

export const hashingRows = [
  {
    id: 'P1',
    what: `login / raw argon2 (${cores} at a time)`,
    target: '>= 0.85',
    measure: (setup) => compare(setup, logins('/api/login/'), logins('/login')),
  },
  {
    id: 'P2',
    what: `register / raw argon2 (${cores} at a time)`,
    target: '>= 0.85',
    measure: (setup) => compare(setup, [['POST', '/api/register/', newUser]], [['POST', '/register', newUser]]),
  },
]

async function compare(setup, ours, handWritten) {
  const [raw, accounts, unlimited, hand] = await Promise.all([
    setup.service('argon2', { prepare: false }),
    setup.service('accounts'),
    setup.service('accounts', { data: 'unlimited', env: { LIMITS: 'off' } }),
    setup.service('hand-written'),
  ])
  const from = (service, requests) => () => load(setup, service, { connections, settle, requests })
  const rounds = await alternate(setup, {
    raw: async () => ({ perSecond: await raw.ask('perSecond', setup.seconds) }),
    ours: from(accounts, ours),
    unlimited: !setup.quick && from(unlimited, ours),
    hand: !setup.quick && from(hand, handWritten),
  })
  const ratio = ratioOf(rounds.ours, rounds.raw)
  const beside = `${medianOf(rounds.ours).toFixed(0)}/s of ${medianOf(rounds.raw).toFixed(0)}/s`
  const shareOf = (other) => ratioOf(other, rounds.raw).toFixed(2)
  const others = setup.quick
    ? ''
    : `; without limits ${shareOf(rounds.unlimited)}; hand-written ${shareOf(rounds.hand)}`
  return { figure: `${ratio.toFixed(2)} (${beside}${others})`, met: ratio >= 0.85 }
}
