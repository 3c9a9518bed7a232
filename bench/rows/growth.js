// Whether a request costs more when there are more users.
import { logins, mailRequests, spread } from '../databases.js'
import { alternate, load, medianOf, ratioOf, refreshRequests } from '../harness.js'
import { askForMails } from './mail.js'

// Less than this is more than the noise of the method.
const flat = 0.9
const few = { users: 1000, sessions: 5000 }
const many = { users: 1_000_000, sessions: 5_000_000 }

const operations = {
  login: (setup, service, users) => load(setup, service, { connections: 16, requests: logins('/api/login/', users) }),
  async refresh(setup, service, users) {
    const requests = await refreshRequests(service, spread(32, users))
    return load(setup, service, { connections: 32, chain: 'refresh', requests })
  },
  async GET(setup, service, users) {
    const pairs = await service.ask('sessions', spread(32, users))
    const requests = pairs.map(({ access }) => ['GET', '/auth/user/', undefined, { authorization: `Bearer ${access}` }])
    return load(setup, service, { connections: 32, requests })
  },
  email_request: (setup, service, users, round) =>
    askForMails(setup, service, mailRequests('/auth/email_request/', users), round),
}

export const growthRows = [
  { id: 'P14', what: 'growth of the table', target: `flat: >= ${flat}`, slow: true, measure: growth },
]

async function growth(setup) {
  const [small, large] = await Promise.all([
    setup.start('accounts', { data: 'small', size: few }),
    setup.start('accounts', { data: 'large', size: many }),
  ])
  const parts = []
  try {
    for (const [name, measure] of Object.entries(operations)) {
      const rounds = await alternate(setup, {
        few: (round) => measure(setup, small, few.users, round),
        many: (round) => measure(setup, large, many.users, round),
      })
      parts.push(part(name, rounds))
    }
  } finally {
    await Promise.all([small.stop(), large.stop()])
  }
  return parts
}

function part(name, rounds) {
  const ratio = ratioOf(rounds.many, rounds.few)
  const rates = `${medianOf(rounds.many).toFixed(0)}/s to ${medianOf(rounds.few).toFixed(0)}/s`
  const number = (count) => count.toLocaleString('en-GB')
  return {
    what: `${name} with ${number(many.users)} users and ${number(many.sessions)} sessions / with 1,000 and 5,000`,
    figure: `${ratio.toFixed(2)} (${rates})`,
    met: ratio >= flat,
  }
}
