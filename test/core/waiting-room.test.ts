import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { createWaitingRoom } from '../../lib/core/waiting-room.ts'
import { until } from '../helpers/helper.ts'

const overloaded = { statusCode: 503, code: 'ACCOUNTS_OVERLOADED' }
/** What a full room answers: its connection is closed. */
const full = { ...overloaded, headers: { connection: 'close' } }
const staying = () => new AbortController().signal

t.test('nobody waits while there are places', async (t) => {
  let free = 1
  const room = createWaitingRoom(() => free)

  t.notOk(room.crowded())
  free = 0
  t.ok(room.crowded())
})

t.test('those who wait come in by their order, as many at a time as there are places', async (t) => {
  let free = 0
  const room = createWaitingRoom(() => free, { patienceMs: 10_000 })
  const inside: number[] = []
  const all = Promise.all(
    Array.from({ length: 6 }, (_, index) => room.enter({}, staying(), false).then(() => inside.push(index))),
  )
  await sleep(60)
  t.same(inside, [], 'none without a place')

  free = 2
  await until(() => inside.length > 0)

  t.same(inside, [0, 1])
  t.ok(room.crowded(), 'whoever comes now is behind the others, though there are places')
  await all
  t.same(inside, [0, 1, 2, 3, 4, 5])
  t.notOk(room.crowded())
})

t.test('[R-THR-3] those who are familiar have every other place', async (t) => {
  let free = 0
  const room = createWaitingRoom(() => free, { patienceMs: 10_000 })
  const inside: string[] = []
  const come = (name: string, familiar: boolean) =>
    room.enter({}, staying(), familiar).then(() => {
      inside.push(name)
      free--
    })
  const strangers = ['a', 'b', 'c', 'd'].map((name) => come(name, false))
  const friends = ['A', 'B'].map((name) => come(name, true))

  free = 6
  await Promise.all([...strangers, ...friends])

  t.equal(inside.join(''), 'AaBbcd')
})

t.test('[R-HASH-6] those who find no place in time are refused one after the other, with a Retry-After', async (t) => {
  const room = createWaitingRoom(() => 0, { patienceMs: 100, longestMs: 1000 })
  const started = performance.now()
  const times: number[] = []
  const refused = Array.from({ length: 100 }, async () => {
    const error = await room.enter({}, staying(), false).catch((thrown) => thrown)
    times.push(performance.now() - started)
    return error
  })

  for (const error of await Promise.all(refused)) {
    t.match(error, overloaded)
    t.match(error.headers['retry-after'], /^[1-3]$/)
  }

  t.ok(Math.min(...times) >= 100, 'none before its time')
  t.ok(new Set(times.map((ms) => Math.floor(ms / 20))).size >= 20, 'at a steady pace')
})

t.test('[R-HASH-6] the room is bounded, and whoever hangs up makes room', async (t) => {
  const room = createWaitingRoom(() => 0, { most: 2, patienceMs: 10_000 })
  const [leaving, others] = [new AbortController(), new AbortController()]
  const first = room.enter({}, leaving.signal, false)
  const second = room.enter({}, others.signal, false)

  await t.rejects(room.enter({}, staying(), false), full)
  leaving.abort()
  await t.rejects(first, overloaded)
  const third = room.enter({}, others.signal, false)
  await t.rejects(room.enter({}, staying(), false), full)

  others.abort()
  await t.rejects(second, overloaded)
  await t.rejects(third, overloaded)
  await t.rejects(room.enter({}, AbortSignal.abort(), false), overloaded)
})

t.test('of one connection only one stands in line, and the others come in after it', async (t) => {
  let free = 0
  const room = createWaitingRoom(() => free, { patienceMs: 10_000 })
  const inside: string[] = []
  const [one, other] = [{}, {}]
  const enter = (connection: object, name: string) =>
    room.enter(connection, staying(), false).then(() => inside.push(name))
  const all = Promise.all([enter(one, 'one'), enter(one, 'second of one'), enter(other, 'other')])

  free = 1
  await all

  t.same(inside, ['one', 'other', 'second of one'])
})

t.test('whoever waits for its Retry-After stands before all who came back too early', async (t) => {
  let free = 0
  const room = createWaitingRoom(() => free, { patienceMs: 200, longestMs: 100 })
  const refuse = async (connection: object) => {
    const error = await room.enter(connection, staying(), false).catch((thrown) => thrown)
    return Number(error.headers['retry-after'])
  }
  const [patient, impatient, another] = [{}, {}, {}]
  const seconds = await refuse(patient)
  await sleep(seconds * 1000 - 100)
  await refuse(impatient)
  const inside: string[] = []
  const enter = (connection: object, name: string) =>
    room.enter(connection, staying(), false).then(() => inside.push(name))

  const all = [enter(impatient, 'impatient')]
  await sleep(20)
  all.push(enter(patient, 'patient'), enter(another, 'another'))
  free = 1
  await Promise.all(all)

  t.same(inside, ['patient', 'another', 'impatient'])
})

t.test('[R-HASH-6] a connection that sends one request after the other takes few places', async (t) => {
  const room = createWaitingRoom(() => 0, { mostPipelined: 2, patienceMs: 100, longestMs: 100 })
  const connection = {}
  const held = [room.enter(connection, staying(), false), room.enter(connection, staying(), false)]

  await t.rejects(room.enter(connection, staying(), false), full)

  for (const request of held) await t.rejects(request, overloaded)
  const { headers } = await room.enter(connection, staying(), false).catch((error) => error)
  t.notOk('connection' in headers, 'when they are out it may wait again')
})

t.test('a connection that breaks takes all of its requests out of the room', async (t) => {
  const room = createWaitingRoom(() => 0, { most: 3, patienceMs: 10_000 })
  const breaking = new AbortController()
  const connection = {}
  const waiting = Array.from({ length: 3 }, () => room.enter(connection, breaking.signal, false))
  await t.rejects(room.enter({}, staying(), false), full)

  breaking.abort()

  for (const request of waiting) await t.rejects(request, overloaded)
  const leaving = new AbortController()
  const next = room.enter({}, leaving.signal, false)
  leaving.abort()
  const { headers } = await next.catch((error) => error)
  t.notOk('connection' in headers, 'there is room again')
})

t.test('a room that is empty keeps no process', async (t) => {
  await sleep(50)
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
  const before = timers()
  let free = 0
  const room = createWaitingRoom(() => free)
  const entered = room.enter({}, staying(), false)
  t.equal(timers(), before + 1)

  free = 1
  await entered

  t.equal(timers(), before)
})
