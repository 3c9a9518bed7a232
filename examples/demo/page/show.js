// What the page shows, and nothing of what it knows.
import { codeIn } from './mails.js'

export function showExchange(place, { method, path, body, bearer }, { status, body: answered, ms }, note) {
  const badge = element(
    'span',
    { className: status > 0 && status < 300 ? 'badge' : 'badge bad' },
    `${status} - ${ms} ms`,
  )
  const title = element('h3', {}, element('span', {}, `${method} ${path}`), badge)
  const sent = [bearer && `Authorization: Bearer ${shorten(bearer)}`, body && json(body)].filter(Boolean).join('\n')
  const columns = element(
    'div',
    {},
    element('pre', {}, sent || 'no body, no token'),
    element('pre', {}, json(answered)),
  )
  place.replaceChildren(element('div', { className: 'exchange' }, title, columns))
  if (note) place.append(element('p', { className: 'note' }, note))
}

export function mailCard(mail) {
  const { to, subject, text, html } = mail
  const frame = element('iframe', { title: `Mail: ${subject}` })
  // No script of a mail runs, and its links open beside this page.
  frame.sandbox = 'allow-popups allow-popups-to-escape-sandbox'
  frame.srcdoc = `<base target="_blank">${html}`
  const plain = element('details', {}, element('summary', {}, 'The same mail as plain text'), element('pre', {}, text))
  const title = element('p', {}, element('strong', {}, subject), element('small', {}, `to ${to}`))
  const code = codeIn(mail)
  const header = element('header', {}, title, ...(code ? [useButton(code)] : []))
  return element('article', { className: 'mail' }, header, frame, plain)
}

function useButton(code) {
  const button = element('button', { type: 'button' }, `Use the code ${code}`)
  button.addEventListener('click', () => {
    fill('checkOtp', { otp: code })
    document.querySelector('#step-check').scrollIntoView({ behavior: 'smooth' })
  })
  return button
}

export function fill(call, values) {
  const { elements } = document.querySelector(`form[data-call=${call}]`)
  for (const [name, value] of Object.entries(values)) elements[name].value = value
}

const tokens = ['access', 'refresh', 'token']

export function json(value) {
  return JSON.stringify(value, (name, inner) => (tokens.includes(name) ? shorten(inner) : inner), 2)
}

export function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties)
  made.append(...children)
  return made
}

function shorten(text) {
  return text.length > 40 ? `${text.slice(0, 20)}…${text.slice(-8)}` : text
}
