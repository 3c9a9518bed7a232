import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { queueMailer } from '../lib/adapters/bullmq.ts'
import { sealJob } from '../lib/mail-jobs.ts'
import type { MailLog } from '../lib/mail-log.ts'
import type { Mail } from '../lib/mail-transport.ts'
import { createRing } from '../lib/secrets.ts'
import { mailerContract, sampleMessage } from '../lib/testing-mailer.ts'
import { type MailWorkerOptions, startMailWorker } from '../lib/worker.ts'
import { faultProxy, freePort, noRedis, redisUrl, startRedis, uniqueName, until } from './helper.ts'
import { codeIn, type SmtpCatcher, smtpError, startSmtp } from './smtp-catcher.ts'

const secret = randomBytes(32).toString('base64url')
const from = 'Example <no-reply@example.com>'
const quick = { retryMs: 20, retryMostMs: 50 }

const loud = { info: (f: object, m: string) => console.error(Date.now(), m, f), warn: (f: object, m: string) => console.error(Date.now(), m, f), error: (f: object, m: string) => console.error(Date.now(), m, f) }
t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

t.test('a worker survives a cut and a frozen link to Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis()
  t.teardown(() => server.stop())
  const proxy = await faultProxy(server.port)
  t.teardown(() => proxy.close())
  const mails: Mail[] = []
  const worker = startMailWorker({
    redis: `redis://127.0.0.1:${proxy.port}`,
    secret,
    from,
    transport: async (mail) => mails.push(mail),
    log: loud,
  })
  t.teardown(() => worker.close())
  const mailer = queueMailer({ redis: server.url, secret })
  t.teardown(() => mailer.close())
  await mailer.send(sampleMessage())
  await until(() => mails.length === 1)

  proxy.cut()
  await mailer.send(sampleMessage())
  console.error(Date.now(),'two?'); await until(() => mails.length === 2)
  proxy.mode = 'freeze'
  await mailer.send(sampleMessage())
  await sleep(300)
  proxy.mode = 'pass'
  console.error(Date.now(),'three?');await until(() => mails.length === 3)
})

