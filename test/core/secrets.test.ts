import t from 'tap'
import { createRing, mac, open, seal } from '../../lib/core/secrets.ts'
import { secret } from '../helpers/app.ts'

const ring = createRing('accounts', [secret])

t.test('[R-OTP-2] no part of a MAC runs into the next', async (t) => {
  const key = ring[0].key('code')

  t.not(mac(key, 'reset', '1', '23'), mac(key, 'reset', '12', '3'))
  t.not(mac(key, 'a', ''), mac(key, 'a'))
})

t.test('[R-TOK-4] each realm, each secret and each purpose has keys of its own', async (t) => {
  const rings = [ring, createRing('staff', [secret]), createRing('accounts', [secret.toUpperCase()])]
  const keys = rings.flatMap(([keys]) =>
    ['kid', 'seal', 'jwt access'].map((purpose) => keys.key(purpose).toString('hex')),
  )

  t.equal(new Set(keys).size, 9)
})

t.test('[R-LOG-2] two seals of one value are not alike, and show no more of it than that it is short', async (t) => {
  const seals = ['', 'a', 'a', 'ada@example.org'].map((value) => seal(ring, ['code', 'x'], value, 64))

  t.equal(new Set(seals).size, 4)
  t.equal(new Set(seals.map(nonceOf)).size, 4)
  t.equal(new Set(seals.map(({ length }) => length)).size, 1)
  t.strictSame(open(ring, ['code', 'x'], seals[3]!), { value: 'ada@example.org' })
})

function nonceOf(sealed: string): string {
  return sealed.split('.')[1]!.slice(0, 16)
}
