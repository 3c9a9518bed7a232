import t from 'tap'
import { randomBytes } from '../../lib/core/random.ts'

t.test('[R-OTP-1] no random byte is given out twice, on either side of a new filling', async (t) => {
  const sizes = [12, 16, 32] as const
  const all = Array.from({ length: 6000 }, (_, index) => randomBytes(sizes[index % 3]!))

  t.ok(
    all.every((bytes, index) => bytes.length === sizes[index % 3]),
    'as many as were asked for',
  )
  // Twelve bytes of 120,000 are alike by chance once in 10^19 runs, if they are random at all offsets.
  const text = Buffer.concat(all).toString('latin1')
  const windows = new Set(Array.from({ length: text.length - 11 }, (_, at) => text.slice(at, at + 12)))
  t.equal(windows.size, text.length - 11)
})

t.test('[R-OTP-1] what was given out is nobody else’s to change', async (t) => {
  const first = randomBytes(32)
  const copy = Buffer.from(first)
  randomBytes(32).fill(0)

  t.strictSame(first, copy)
  t.notSame(randomBytes(32), Buffer.alloc(32))
})
