import { createSession } from '/session.js'

const session = createSession({ cookie: true, onLogout: () => say('You are logged out.') })
const entrance = document.querySelector('#entrance')

entrance.addEventListener('submit', async (event) => {
  event.preventDefault()
  const { email, password } = Object.fromEntries(new FormData(entrance))
  if (event.submitter.name === 'register') {
    const headers = { 'content-type': 'application/json' }
    const body = JSON.stringify({ username: email.split('@')[0], email, password })
    const response = await fetch('/api/register/', { method: 'POST', headers, body })
    if (!response.ok) return say((await response.json()).message)
  }
  const response = await session.login({ email, password })
  say(response.ok ? 'You are logged in.' : (await response.json()).message)
})
document.querySelector('#hello').addEventListener('click', hello)
document.querySelector('#logout').addEventListener('click', () => session.logout())
hello()

async function hello() {
  const response = await session.fetch('/hello')
  say(response.ok ? `Hello, user ${(await response.json()).hello}.` : 'Please log in.')
}

function say(text) {
  document.querySelector('#says').textContent = text
}
