// What hashing costs beside the hashes.
import { availableParallelism } from 'node:os'
import { logins, password } from '../databases.js'
import { alternate, load, medianOf, ratioOf } from '../harness.js'

const cores = availableParallelism()
const connections = 16
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
  const [raw, accounts, hand] = await Promise.all([
    setup.service('argon2', { prepare: false }),
    setup.service('accounts'),
    setup.service('hand-written'),
  ])
  const rounds = await alternate(setup, {
    raw: async () => ({ perSecond: await raw.ask('perSecond', setup.seconds) }),
    ours: () => load(setup, accounts, { connections, requests: ours }),
    hand: !setup.quick && (() => load(setup, hand, { connections, requests: handWritten })),
  })
  const ratio = ratioOf(rounds.ours, rounds.raw)
  const beside = `${medianOf(rounds.ours).toFixed(0)}/s of ${medianOf(rounds.raw).toFixed(0)}/s`
  const other = rounds.hand ? `; hand-written ${ratioOf(rounds.hand, rounds.raw).toFixed(2)}` : ''
  return { figure: `${ratio.toFixed(2)} (${beside}${other})`, met: ratio >= 0.85 }
}
