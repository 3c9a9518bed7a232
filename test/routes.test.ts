import Fastify from 'fastify'
import t from 'tap'
import accounts from '../lib/index.ts'
import { memoryCache, memoryMailer, memoryStorage } from '../lib/adapters/memory.ts'

t.test('the six routes work end to end on the memory parts', async (t) => {
  const app = Fastify({logger: {level: 'warn'}})
  const mailer = memoryMailer()
  await app.register(accounts, { secret: 'test-secret-0123456789-abcdefghijklmnop', storage: memoryStorage(), cache: memoryCache(), mailer })
  t.teardown(() => app.close())
  const post = async (url: string, payload: object) => { const r = await app.inject({ method: 'POST', url, payload }); return [r.statusCode, r.json(), r.headers] }
  console.log(await post('/api/register/', { username: 'ada', password: 'correct horse', email: 'Ada@Example.org' }))
  console.log(await post('/api/register', { username: 5, password: 'x' }))
  const [, tokens] = await post('/api/login/', { email: 'ada@example.org', password: 'correct horse' }) as any
  console.log(tokens)
  console.log(await post('/auth/refresh/', { refresh: tokens.refresh }))
  const [, asked] = await post('/auth/email_request/', { email: 'ada@example.org' }) as any
  console.log(asked, mailer.sent)
  const code = mailer.sent[0]!.code
  console.log(await post('/auth/check_otp/', { token: asked.token, otp: code }))
  console.log(await post('/auth/reset_password/', { token: asked.token, new_password: 'short' }))
  console.log(await post('/auth/reset_password/', { token: asked.token, new_password: 'another horse' }))
  console.log(await post('/api/login/', { email: 'ada@example.org', password: 'correct horse' }))
  const [, two] = await post('/api/login/', { email: 'ada@example.org', password: 'another horse' }) as any
  console.log((await app.inject({ url: '/auth/user/', headers: { authorization: `Bearer ${two.access}` } })).json())
  console.log((await app.inject({ url: '/auth/user', headers: { authorization: `Bearer ${tokens.access}` } })).json())
  console.log((await app.inject({ url: '/auth/user'})).headers)
  console.log(await post('/auth/user', {}))
})
