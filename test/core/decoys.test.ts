import t from 'tap'
import { createDecoys } from '../../lib/core/decoys.ts'

const key = Buffer.alloc(32, 7)
const kinds = (count: number) => Array.from({ length: count }, (_, n) => `${n % 4 === 0 ? 'old' : 'new'}${n}`)
const addresses = Array.from({ length: 2000 }, (_, n) => `nobody${n}@example.org`)
const settled = () => new Promise(setImmediate)

function source() {
  const state = { now: 1_000_000, asked: 0, hashes: kinds(1000), fault: false }
  async function sample(most: number): Promise<string[]> {
    state.asked++
    if (state.fault) throw new Error('down')
    return state.hashes.slice(0, most)
  }
  return { state, sample, key, clock: () => state.now }
}

t.test('[R-ENUM-2] each kind of stored hash has as many decoys as it has users', async (t) => {
  const { state, ...given } = source()
  const decoys = createDecoys('dummy', () => true, given)

  t.equal(decoys.of('nobody@example.org'), 'dummy')
  await settled()
  t.equal(state.asked, 0, 'nothing is read while all hashes are of one kind')

  decoys.meet()
  await settled()
  const old = addresses.filter((address) => decoys.of(address).startsWith('old')).length

  // Five standard deviations of 2,000 draws.
  t.ok(Math.abs(old / addresses.length - 0.25) < 0.05, `${old} of ${addresses.length}`)
  decoys.meet()
  t.equal(state.asked, 1)
})

t.test('[R-ENUM-2] an address keeps its kind in another sample, and in another process', async (t) => {
  const [one, other] = [source(), source()]
  other.state.hashes = kinds(500).map((hash) => `${hash}other`)
  const both = [one, other].map(({ state, ...given }) => createDecoys('dummy', () => true, given))
  for (const decoys of both) decoys.meet()
  await settled()

  const [first, second] = both.map((decoys) => addresses.map((address) => decoys.of(address).slice(0, 3)))

  t.ok(first!.every((kind, n) => kind === second![n]))
})

t.test('what cannot be verified is no decoy', async (t) => {
  const { state, ...given } = source()
  const decoys = createDecoys('dummy', (stored) => stored.startsWith('new'), given)
  decoys.meet()
  await settled()
  t.ok(addresses.every((address) => decoys.of(address).startsWith('new')))
  state.hashes = ['old0']
  state.now += 86_400_000
  decoys.of('nobody@example.org')
  await settled()
  t.equal(decoys.of('nobody@example.org'), 'dummy')
})

t.test('the storage is asked once a day, and a minute after a fault', async (t) => {
  const { state, ...given } = source()
  const decoys = createDecoys('dummy', () => true, given)
  async function askedAfter(ms: number): Promise<number> {
    state.now += ms
    decoys.meet()
    decoys.of('nobody@example.org')
    await settled()
    return state.asked
  }
  state.fault = true
  t.equal(await askedAfter(0), 1)
  t.equal(decoys.of('nobody@example.org'), 'dummy')
  t.equal(await askedAfter(59_999), 1)
  state.fault = false
  t.equal(await askedAfter(1), 2)
  t.equal(await askedAfter(86_399_999), 2)
  t.equal(await askedAfter(1), 3)
})
