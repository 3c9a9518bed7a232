import { followMails } from './mails.js'
import { element, fill, json, mailCard, showExchange } from './show.js'

const state = { email: '', access: '', refresh: '', presented: [], mails: 0 }

// What each button sends, and what the page does with the answer. `after` may answer a sentence to show.
const calls = {
  register: {
    request: (fields) => post('/api/register/', fields),
    after(answer, { email, password }) {
      if (answer.status !== 201) return
      fill('login', { email, password })
      fill('emailRequest', { email })
      return 'The account exists. Log in with it in step 2, or register it once more to see how that is refused.'
    },
  },
  login: {
    request: (fields) => post('/api/login/', fields),
    after(answer, { email }) {
      if (answer.status !== 200) return
      Object.assign(state, { email, presented: [] })
      return takeTokens(answer.body)
    },
  },
  loginWrong: {
    request: (fields) => post('/api/login/', { ...fields, password: 'not the password' }),
    after: () => 'An address that nobody registered gets the very same answer, and takes as long.',
  },
  privateRoute: {
    request: () => ({ method: 'GET', path: '/private', bearer: state.access }),
    after: ({ status }) => status === 401 && 'The token has expired, its session has ended, or nobody is logged in.',
  },
  privateWithout: { request: () => ({ method: 'GET', path: '/private' }) },
  user: { request: () => ({ method: 'GET', path: '/auth/user/', bearer: state.access }) },
  refresh: {
    request: () => present(state.refresh),
    after: (answer) => answer.status === 200 && takeTokens(answer.body),
  },
  refreshAgain: {
    request: () => present(state.presented.at(-1)),
    after(answer) {
      if (answer.status !== 200) return
      const same = answer.body.refresh === state.refresh
      takeTokens(answer.body)
      return same && 'The refresh token in the answer is the one you already have, byte for byte.'
    },
  },
  refreshOld: {
    request: () => present(state.presented.at(-2)),
    after({ body }) {
      if (body.code !== 'ACCOUNTS_REFRESH_REUSED') {
        return 'Refused. Within half a minute it may be a request that was overtaken, so the session lives on.'
      }
      showEnd()
      return 'A token this old, this late: the session has ended. Log in again.'
    },
  },
  emailRequest: {
    request: (fields) => post('/auth/email_request/', fields),
    after(answer) {
      if (answer.status !== 200) return
      fill('checkOtp', { token: answer.body.token, otp: '' })
      fill('resetPassword', { token: answer.body.token })
      return 'The token is filled in below. The mail takes a moment; it appears in step 6.'
    },
  },
  emailRequestUnknown: {
    request: () => post('/auth/email_request/', { email: 'nobody@example.com' }),
    after: ({ status }) =>
      status === 200 && 'The same answer, and a token that no code will ever fit. No mail is sent.',
  },
  checkOtp: {
    request: (fields) => post('/auth/check_otp/', fields),
    after(answer, { token }) {
      if (answer.status !== 200) return
      fill('resetPassword', { token })
      return 'Right. The token now allows one new password, for ten minutes.'
    },
  },
  checkOtpWrong: { request: (fields) => post('/auth/check_otp/', { ...fields, otp: '0000 0000' }) },
  resetPassword: {
    request: (fields) => post('/auth/reset_password/', fields),
    after(answer, { new_password: password }) {
      if (answer.status !== 200) return
      fill('login', { password })
      showEnd()
      return 'Every session has ended: try the old access token, then log in with the new password in step 2.'
    },
  },
}

// Suggestions; a stranger may type what he likes.
fill('register', { username: 'ann', email: 'ann@example.com', password: 'correct horse battery' })
fill('login', { email: 'ann@example.com', password: 'correct horse battery' })
fill('emailRequest', { email: 'ann@example.com' })
fill('resetPassword', { new_password: 'a new and longer password' })

for (const form of document.querySelectorAll('form[data-call]')) {
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    run(form.dataset.call, form)
  })
}
for (const button of document.querySelectorAll('button[data-call]')) {
  button.addEventListener('click', () => run(button.dataset.call, button))
}
setInterval(showLives, 1000)
showTokens()
for await (const mails of followMails(readMails)) {
  showMails(mails)
  followLink()
}

async function run(name, element) {
  const section = element.closest('section')
  const buttons = [...section.querySelectorAll('button')].filter((button) => !button.disabled)
  const fields = Object.fromEntries(new FormData(section.querySelector('form') ?? undefined))
  for (const button of buttons) button.disabled = true
  try {
    const request = calls[name].request(fields)
    const answer = await send(request)
    const note = calls[name].after?.(answer, fields)
    showExchange(section.querySelector('.wire'), request, answer, note)
    if (answer.status < 300) section.classList.add('done')
  } finally {
    for (const button of buttons) button.disabled = false
    enableRefresh()
  }
}

function post(path, body) {
  return { method: 'POST', path, body }
}

function present(token) {
  if (token && !state.presented.includes(token)) state.presented.push(token)
  return post('/auth/refresh/', { refresh: token ?? '' })
}

async function send({ method, path, body, bearer }) {
  const headers = {}
  if (body) headers['content-type'] = 'application/json'
  if (bearer) headers.authorization = `Bearer ${bearer}`
  const begun = performance.now()
  try {
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) })
    const answer = { status: response.status, body: await response.json() }
    return { ...answer, ms: Math.round(performance.now() - begun) }
  } catch {
    return { status: 0, body: { message: 'No answer: does the demo still run?' }, ms: 0 }
  }
}

function takeTokens({ access, refresh }) {
  state.access = access
  state.refresh = refresh ?? state.refresh
  showTokens()
}

function showTokens() {
  const status = document.querySelector('.status')
  status.classList.toggle('in', state.access !== '')
  document.querySelector('#tokens').hidden = state.access === ''
  enableRefresh()
  if (state.access === '') return
  document.querySelector('#status').textContent = `Logged in as ${state.email}.`
  for (const kind of ['access', 'refresh']) {
    const { header, claims } = decode(state[kind])
    document.querySelector(`#${kind}-token`).textContent = `${json(header)}\n${json(claims)}`
  }
  showLives()
}

function showEnd() {
  document.querySelector('.status').classList.remove('in')
  document.querySelector('#status').textContent = 'The session has ended: log in again.'
  document.querySelector('#countdown').textContent = ''
}

function enableRefresh() {
  const need = { refresh: state.refresh, refreshAgain: state.presented.at(-1), refreshOld: state.presented.at(-2) }
  for (const [name, token] of Object.entries(need)) {
    document.querySelector(`button[data-call=${name}]`).disabled = !token
  }
}

function showLives() {
  if (state.access === '') return
  for (const kind of ['access', 'refresh']) {
    document.querySelector(`#${kind}-life`).textContent = `- ${lifeOf(state[kind])}`
  }
  const loggedIn = document.querySelector('.status.in')
  if (loggedIn) document.querySelector('#countdown').textContent = `The access token ${lifeOf(state.access)}.`
}

function lifeOf(token) {
  const left = Math.floor(decode(token).claims.exp - Date.now() / 1000)
  if (left < 0) return 'has expired'
  if (left >= 86_400) return `ends in ${Math.round(left / 86_400)} days`
  return `ends in ${Math.floor(left / 60)}:${String(left % 60).padStart(2, '0')}`
}

function decode(token) {
  const [header, claims] = token.split('.').map((part, index) => {
    if (index > 1) return null
    const bytes = atob(part.replaceAll('-', '+').replaceAll('_', '/'))
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (char) => char.charCodeAt(0))))
  })
  return { header, claims }
}

// Null means that no mail is caught here: SMTP_URL names a real server.
async function readMails() {
  const response = await fetch('/dev/mailbox')
  return response.ok ? response.json() : null
}

function showMails(mails) {
  const place = document.querySelector('#mailbox')
  if (mails === null) {
    document.querySelector('a[href="/dev/mailbox"]').hidden = true
    place.replaceChildren(
      element('p', { className: 'empty' }, 'SMTP_URL is set: the mail is in the mailbox it went to.'),
    )
  } else if (mails.length > 0) {
    if (state.mails === 0) place.replaceChildren()
    place.prepend(...mails.slice(state.mails).toReversed().map(mailCard))
    state.mails = mails.length
    document.querySelector('#step-mail').classList.add('done')
  }
}

// The link in the mail leads here, with a token of its own behind the "#", which browsers never send to a server.
function followLink() {
  const token = new URLSearchParams(location.hash.slice(1)).get('token')
  if (!token) return
  fill('checkOtp', { token })
  fill('resetPassword', { token })
  history.replaceState(null, '', '/reset')
  document.querySelector('#step-check').scrollIntoView()
}
