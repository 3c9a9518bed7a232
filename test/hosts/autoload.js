// A host that loads its plugins from a folder with @fastify/autoload, on the built package.
import { join } from 'node:path'
import autoload from '@fastify/autoload'
import Fastify from 'fastify'

const app = Fastify()
app.register(autoload, { dir: join(import.meta.dirname, 'plugins') })
app.register(autoload, { dir: join(import.meta.dirname, 'routes') })
await app.ready()
const body = { username: 'ada', email: 'ada@example.org', password: 'correct horse' }
const register = await app.inject({ method: 'POST', url: '/api/register/', payload: body })
const login = await app.inject({ method: 'POST', url: '/api/login/', payload: body })
const headers = { authorization: `Bearer ${login.json().access}` }
const answers = [register, login, await app.inject({ url: '/mine', headers }), await app.inject('/mine')]
console.log(JSON.stringify({ statuses: answers.map((answer) => answer.statusCode) }))
