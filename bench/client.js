// A client with as little work per request as possible, in a process of its own: `node client.js '<plan>'` prints one
// line of JSON. Each connection sends its next request when the response of the last one is there. A plan:
//
// port, connections  where to, and how many
// seconds, warmup    how long it measures, and how long before that it only sends
// requests           [[method, path, body, headers], …], each connection the next of them; `{n}` in a body is a number
//                    that no other request has
// pipeline           requests under way per connection
// drip               milliseconds between a head and its body
// every              milliseconds between a response and the next request
// patient            whether Retry-After is waited for
// chain, bearer      the member of a response that the next body, or the next Authorization header, has
// good               the statuses that count as done; by default those below 400
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'

const plan = JSON.parse(readFileSync(0, 'utf8'))
const { port, connections, seconds, warmup = 0, pipeline = 1, drip = 0, every = 0, chain, bearer } = plan
const good = (status) => plan.good?.includes(status) ?? status < '400'
const tag = `${process.pid}x${Date.now().toString(36)}x`

const started = performance.now()
const from = started + warmup * 1000
const until = from + seconds * 1000
const statuses = {}
const latencies = []
let total = 0
let sentRequests = 0
const served = new Set()

function bytesOf([method, path, body, headers = {}]) {
  const json = body === undefined ? '' : JSON.stringify(body).replaceAll('{n}', tag + sentRequests++)
  const lines = [`${method} ${path} HTTP/1.1`, 'host: localhost']
  lines.push(...Object.entries(headers).map((pair) => pair.join(': ')))
  if (json) lines.push('content-type: application/json', `content-length: ${Buffer.byteLength(json)}`)
  return { head: Buffer.from(`${lines.join('\r\n')}\r\n\r\n`), body: Buffer.from(json) }
}

const varied = JSON.stringify(plan.requests).includes('{n}')
const prepared = varied ? [] : plan.requests.map(bytesOf)
let turn = 0

// With a chain each connection has a request of its own, whose token changes; it outlives the socket.
function sourceOf(index) {
  if (!chain && !bearer) return { next: () => nextRequest(), learn() {} }
  const [method, path, body, headers] = plan.requests[index % plan.requests.length]
  let bytes = bytesOf([method, path, body, headers])
  return {
    next: () => bytes,
    learn(text) {
      const response = JSON.parse(text)
      const changed = chain ? { [chain]: response[chain] } : body
      bytes = bytesOf([method, path, changed, bearer ? { authorization: `Bearer ${response[bearer]}` } : headers])
    },
  }
}

function nextRequest() {
  const index = turn++ % plan.requests.length
  return varied ? bytesOf(plan.requests[index]) : prepared[index]
}

function open(index, source) {
  if (performance.now() >= until) return
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  const sent = []
  let rest = ''

  function send() {
    const { head, body } = source.next()
    sent.push(performance.now())
    if (!drip) return socket.write(body.length ? Buffer.concat([head, body]) : head)
    socket.write(head)
    setTimeout(() => socket.write(body), drip)
  }

  function record({ status, head, body }) {
    const now = performance.now()
    const ms = now - sent.shift()
    if (now >= until) return
    total++
    if (good(status)) served.add(index)
    if (status < '300') source.learn(body)
    if (now >= from) {
      statuses[status] = (statuses[status] ?? 0) + 1
      latencies.push([ms, status])
    }
    const wait = plan.patient && /\r\nretry-after: (\d+)/i.exec(head)?.[1]
    const pause = wait ? wait * 1000 : every
    if (pause) setTimeout(send, pause)
    else send()
  }

  socket.on('connect', () => {
    for (let one = 0; one < pipeline; one++) send()
  })
  socket.on('data', (chunk) => {
    rest += chunk.latin1Slice()
    for (;;) {
      const end = rest.indexOf('\r\n\r\n')
      if (end < 0) return
      const head = rest.slice(0, end)
      const stop = end + 4 + Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0)
      if (rest.length < stop) return
      const body = rest.slice(end + 4, stop)
      rest = rest.slice(stop)
      record({ status: head.slice(9, 12), head, body })
    }
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    setTimeout(open, 1, index, source)
  })
}

function report() {
  const times = latencies.map(([ms]) => ms).sort((a, b) => a - b)
  const done = latencies.filter(([, status]) => good(status)).length
  const p99 = times[Math.floor(times.length * 0.99)] ?? null
  console.log(
    JSON.stringify({ perSecond: done / seconds, total, statuses, servedShare: served.size / connections, p99 }),
  )
  process.exit()
}

// All at once would overflow the listen backlog.
for (let index = 0; index < connections; index++) {
  setTimeout(open, (index / connections) * Math.min(1000, connections), index, sourceOf(index))
}
setTimeout(report, (warmup + seconds) * 1000 + 50)
