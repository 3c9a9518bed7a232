// A CommonJS host on the built package: prints what it saw as one line of JSON.
const Fastify = require('fastify')
const accounts = require('fastify-accounts')
const { memoryCache, memoryMailer, memoryStorage } = require('fastify-accounts/memory')

const app = Fastify()
const parts = { storage: memoryStorage(), cache: memoryCache(), mailer: memoryMailer() }
app.register(accounts, { secret: process.env.ACCOUNTS_SECRET, ...parts })
app.register(async () => {
  app.get('/mine', { onRequest: app.accounts.authenticate }, (request) => request.account)
})

async function main() {
  const body = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
  const register = await app.inject({ method: 'POST', url: '/api/register/', payload: body })
  const login = await app.inject({ method: 'POST', url: '/api/login/', payload: body })
  const headers = { authorization: `Bearer ${login.json().access}` }
  const mine = await app.inject({ url: '/mine', headers })
  const refused = await app.inject({ url: '/mine' })
  const { AccountsError } = accounts
  console.log(
    JSON.stringify({
      statuses: [register, login, mine, refused].map((answer) => answer.statusCode),
      id: mine.json().id,
      error: new AccountsError('ACCOUNTS_TOKEN_INVALID').statusCode,
    }),
  )
}

main()
