// An app on a phone: it sends no Origin, so tokens are in bodies, and it keeps them where the system keeps secrets.
// node phone.js http://localhost:3000 ada@example.org 'correct horse'
const [origin, email, password] = process.argv.slice(2)

const login = await post('/api/login/', { email, password })
const refreshed = await post('/auth/refresh/', { refresh: login.refresh })
const headers = { authorization: `Bearer ${refreshed.access}` }
const { hello } = await (await fetch(`${origin}/hello`, { headers })).json()
console.log(`Hello, user ${hello}.`)
await post('/auth/logout/', { refresh: refreshed.refresh })
console.log('The phone is logged out.')

async function post(path, body) {
  const headers = { 'content-type': 'application/json' }
  const response = await fetch(origin + path, { method: 'POST', headers, body: JSON.stringify(body) })
  if (!response.ok) throw new Error(`${path} is ${response.status} ${await response.text()}`)
  return response.status === 204 ? null : response.json()
}
