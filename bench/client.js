// A client with as little work per request as possible, in a process of its own: `node client.js '<plan>'` prints one
// line of JSON. A plan: { port, connections, seconds, warmup, pipeline, requests: [[method, path, body, headers]…],
// drip: ms between header and body, patient: whether Retry-After is heeded }.
import { connect } from 'node:net'

const plan = JSON.parse(process.argv[2])
const { port, connections, seconds, warmup = 0, pipeline = 1, drip = 0, every = 0 } = plan
const texts = plan.requests.map(textOf)

function textOf([method, path, body, headers = {}]) {
  const json = body === undefined ? '' : JSON.stringify(body)
  const lines = [
    `${method} ${path} HTTP/1.1`,
    'host: localhost',
    ...Object.entries(headers).map((pair) => pair.join(': ')),
  ]
  if (json) lines.push('content-type: application/json', `content-length: ${Buffer.byteLength(json)}`)
  return { head: Buffer.from(`${lines.join('\r\n')}\r\n\r\n`), body: Buffer.from(json) }
}

const started = performance.now()
const from = started + warmup * 1000
const until = from + seconds * 1000
const statuses = {}
const latencies = []
let next = 0
let broken = 0

function open() {
  if (performance.now() >= until) return
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  socket.setMaxListeners(0)
  const sent = []
  let rest = ''
  let chained = plan.chain && texts[next++ % texts.length]
  function send() {
    const { head, body } = chained || texts[next++ % texts.length]
    sent.push(performance.now())
    if (!drip) return socket.write(body.length ? Buffer.concat([head, body]) : head)
    socket.write(head)
    setTimeout(() => socket.write(body), drip)
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
      const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0)
      if (rest.length < end + 4 + length) return
      // A rotating token: the answer holds what the next request sends.
      if (plan.chain && head.startsWith('HTTP/1.1 200')) {
        const { [plan.chain]: value } = JSON.parse(rest.slice(end + 4, end + 4 + length))
        chained = textOf(['POST', plan.requests[0][1], { [plan.chain]: value }])
      }
      rest = rest.slice(end + 4 + length)
      const status = head.slice(9, 12)
      const now = performance.now()
      const at = sent.shift()
      if (now >= from && now < until) {
        statuses[status] = (statuses[status] ?? 0) + 1
        latencies.push([now - at, status])
      }
      if (now >= until) return
      const wait = plan.patient && /\r\nretry-after: (\d+)/i.exec(head)?.[1]
      if (wait) setTimeout(send, wait * 1000)
      else if (every) setTimeout(send, every)
      else send()
    }
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    if (performance.now() < until) broken++
    setTimeout(open, 1)
  })
}

// All at once would overflow the listen backlog.
for (let one = 0; one < connections; one++) setTimeout(open, (one / connections) * Math.min(1000, connections))
setTimeout(
  () => {
    const good = latencies
      .filter(([, status]) => status < '400')
      .map(([ms]) => ms)
      .sort((a, b) => a - b)
    const all = latencies.map(([ms]) => ms).sort((a, b) => a - b)
    const at = (list, share) =>
      list.length && Math.round(list[Math.min(list.length - 1, Math.floor(list.length * share))] * 100) / 100
    console.log(
      JSON.stringify({
        perSecond: good.length / seconds,
        statuses,
        broken,
        p50: at(all, 0.5),
        p99: at(all, 0.99),
        max: at(all, 1),
        goodP50: at(good, 0.5),
        goodP99: at(good, 0.99),
        cpu: process.cpuUsage().user / 1e6,
      }),
    )
    process.exit()
  },
  warmup * 1000 + seconds * 1000 + 50,
)
