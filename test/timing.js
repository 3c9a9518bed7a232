// Measures whether kinds of requests can be told apart by their time; see run-timing.js.
import { spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const bootstraps = 2000

/** Starts a server of the package that is built in a checkout. */
export async function startServer(checkout, env) {
  const child = spawn(process.execPath, [join(checkout, 'test/helpers/server-process.js')], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const died = once(child, 'exit').then(() => Promise.reject(new Error('the server did not start')))
  const [address] = await Promise.race([once(createInterface(child.stdout), 'line'), died])
  died.catch(() => {})
  async function stop() {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
  return { port: new URL(address).port, stop }
}

/** Opens the one connection that is measured on. `post` returns the status, the body and the milliseconds. */
export async function openConnection(port) {
  const socket = connect(port, '127.0.0.1').setNoDelay(true)
  await once(socket, 'connect')
  async function post(path, body) {
    const json = JSON.stringify(body)
    const head = `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`
    const request = Buffer.from(`${head}content-length: ${Buffer.byteLength(json)}\r\n\r\n${json}`)
    const whole = responseOf(socket)
    const started = performance.now()
    socket.write(request)
    const { text, at } = await whole
    return { status: Number(text.slice(9, 12)), body: text.slice(text.indexOf('\r\n\r\n') + 4), ms: at - started }
  }
  return { post, close: () => socket.destroy() }
}

function responseOf(socket) {
  return new Promise((resolve, reject) => {
    let text = ''
    function onData(chunk) {
      const at = performance.now()
      text += chunk.toString('latin1')
      const [head, length] = /^.*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n/is.exec(text) ?? []
      if (head === undefined || text.length < head.length + Number(length)) return
      socket.off('data', onData).off('close', onClose)
      resolve({ text, at })
    }
    const onClose = () => reject(new Error('the connection was closed'))
    socket.on('data', onData).once('close', onClose)
  })
}

/** Asks for each kind once a round, in random order, and returns the milliseconds of each, round by round. */
export async function sample(kinds, rounds, ask) {
  const times = new Map(kinds.map((kind) => [kind, new Float64Array(rounds)]))
  for (let round = 0; round < rounds; round++) {
    for (const kind of shuffled(kinds)) times.get(kind)[round] = await ask(kind, round)
  }
  return times
}

function shuffled(list) {
  const rest = [...list]
  return list.map(() => rest.splice(randomInt(rest.length), 1)[0])
}

/** How far the times of one kind are from those of another, and whether that is little enough, or more than luck. */
export function compare(reference, times) {
  const differences = times.map((ms, round) => ms - reference[round])
  const medians = Float64Array.from({ length: bootstraps }, () =>
    median(differences.map(() => differences[Math.floor(Math.random() * differences.length)])),
  ).sort()
  const interval = [0.025, 0.975].map((share) => medians[Math.floor(share * bootstraps)])
  const margin = Math.max(1, 0.02 * median(reference))
  const auc = aucOf(reference, times)
  const [low, high] = interval
  const different = low > margin || high < -margin || auc < 0.45 || auc > 0.55
  const alike = !different && low >= -margin && high <= margin
  const [least, most] = [0.001, 0.999].map((share) => medians[Math.floor(share * bootstraps)])
  const toldApart = different && (least > 0 || most < 0)
  return { reference: median(reference), difference: median(differences), interval, auc, different, alike, toldApart }
}

function median(values) {
  const sorted = values.toSorted()
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** How often a time of the second is greater than one of the first: a half when nothing tells them apart. */
function aucOf(first, second) {
  const all = [...Array.from(first, (ms) => [ms, 0]), ...Array.from(second, (ms) => [ms, 1])].sort(([a], [b]) => a - b)
  let ranks = 0
  for (const [rank, [, isSecond]] of all.entries()) ranks += isSecond * (rank + 1)
  return (ranks - (second.length * (second.length + 1)) / 2) / (first.length * second.length)
}
