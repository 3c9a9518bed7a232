// Asking for a mail, and sending it.
import { setTimeout as sleep } from 'node:timers/promises'
import { emailOf, mailRequests } from '../databases.js'
import { alternate, load, medianOf, post, ratioOf } from '../harness.js'

export const mailRequestRows = [
  { id: 'P16', what: 'email_request / hand-written (code in Redis, one enqueue)', target: '>= 0.6', measure: request },
]

export const mailWorkerRows = [
  { id: 'P12', what: 'mail worker / raw pooled nodemailer, 5 connections', target: '>= 0.80', measure: send },
]

async function request(setup) {
  const accounts = await setup.service('accounts')
  const hand = await setup.service('hand-written')
  const rounds = await alternate(setup, {
    ours: (round) => askForMails(setup, accounts, mailRequests('/auth/email_request/'), round),
    hand: (round) => askForMails(setup, hand, mailRequests('/email_request'), round),
  })
  const ratio = ratioOf(rounds.ours, rounds.hand)
  const rates = `${medianOf(rounds.ours).toFixed(0)}/s to ${medianOf(rounds.hand).toFixed(0)}/s`
  const cpu = `${medianOf(rounds.ours, 'cpuUs').toFixed(0)} to ${medianOf(rounds.hand, 'cpuUs').toFixed(0)} µs of CPU`
  return { figure: `${ratio.toFixed(2)} (${rates}; ${cpu})`, met: ratio >= 0.6 }
}

/** A short load from an empty queue: no worker runs, and with 10,000 mails in the queue the next ones are refused. */
export async function askForMails(setup, service, requests, round) {
  await setup.flush(service)
  // The number of waiting mails is counted once a second.
  if (round > 0) await sleep(1100)
  const window = setup.quick ? {} : { warmup: 1, seconds: 2 }
  return load(setup, service, { connections: 16, requests, ...window })
}

async function send(setup) {
  const accounts = await setup.start('accounts', { data: 'mail', size: { users: 100 } })
  const sink = await setup.start('sink', { prepare: false })
  const env = { SMTP_URL: `smtp://127.0.0.1:${sink.port}` }
  // The first ones are not measured: a new process is still compiling.
  const counts = setup.quick ? { warmup: 200, total: 600 } : { warmup: 3000, total: 9000 }
  let bytes = 0
  try {
    const rounds = await alternate(setup, {
      async worker() {
        const seen = await drain(setup, { accounts, sink, env, counts })
        bytes = seen.size
        return seen
      },
      async raw() {
        const raw = await setup.start('nodemailer', { prepare: false, env })
        // The same size; about 1,150 bytes are heads, text and line ends.
        try {
          return await sentBy(raw, ['send', counts.total, Math.round(bytes - 1150)], sink, counts)
        } finally {
          await raw.stop()
        }
      },
    })
    const ratio = ratioOf(rounds.worker, rounds.raw)
    const rates = `${medianOf(rounds.worker).toFixed(0)}/s of ${medianOf(rounds.raw).toFixed(0)}/s`
    const [cpu, rawCpu] = [rounds.worker, rounds.raw].map((each) => medianOf(each, 'cpuUs').toFixed(0))
    const sizes = `${Math.round(bytes)} and ${Math.round(medianOf(rounds.raw, 'size'))} bytes`
    return {
      figure: `${ratio.toFixed(2)} (${rates}; ${cpu} and ${rawCpu} µs of CPU; mails of ${sizes})`,
      met: ratio >= 0.8,
    }
  } finally {
    await Promise.all([accounts.stop(), sink.stop()])
  }
}

/** Queues real mails, then lets a fresh worker send them. */
async function drain(setup, { accounts, sink, env, counts }) {
  await setup.flush(accounts)
  const requests = Array.from({ length: counts.total }, (_, index) => ({ email: emailOf(1 + (index % 100)) }))
  const ask = async () => {
    for (let body = requests.pop(); body; body = requests.pop()) await post(accounts, '/auth/email_request/', body)
  }
  await Promise.all(Array.from({ length: 16 }, ask))
  const worker = await setup.start('worker', { data: 'mail', env })
  try {
    return await sentBy(worker, ['start'], sink, counts)
  } finally {
    await worker.stop()
  }
}

async function sentBy(sender, command, sink, { warmup, total }) {
  const measured = async () => [
    { ...(await seenBy(sink, warmup)), ...(await sender.stat()) },
    { ...(await seenBy(sink, total)), ...(await sender.stat()) },
  ]
  const [[from, to]] = await Promise.all([measured(), sender.ask(...command)])
  await sink.ask('forget')
  const count = to.count - from.count
  const perSecond = (count * 1000) / (to.last - from.last)
  return { perSecond, cpuUs: (to.cpuUs - from.cpuUs) / count, size: to.bytes / to.count }
}

/** Waits for so many mails. */
async function seenBy(sink, count) {
  const patience = performance.now() + 60_000
  for (;;) {
    const seen = await sink.ask('seen')
    if (seen.count >= count) return seen
    if (performance.now() > patience) throw new Error(`only ${seen.count} of ${count} mails arrived within a minute`)
    await sleep(20)
  }
}
