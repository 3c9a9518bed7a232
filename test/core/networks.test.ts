import { readFileSync } from 'node:fs'
import t from 'tap'
import { networksOf } from '../../lib/core/networks.ts'

const vectors = JSON.parse(readFileSync(new URL('../vectors/client-ip.json', import.meta.url), 'utf8'))

t.test('[R-THR-4] addresses of one network are one, those of two are not', async (t) => {
  t.ok(vectors.same.length >= 5 && vectors.differ.length >= 2)
  for (const [one, other] of vectors.same) t.same(networksOf(one), networksOf(other), `${one} ${other}`)
  for (const [one, other] of vectors.differ) t.not(networksOf(one)[0], networksOf(other)[0], `${one} ${other}`)
})

t.test('an IPv6 address is in three networks, anything else in one', async (t) => {
  t.same(networksOf('2001:db8:1:23ff::1'), ['2001:db8:1:23ff/64', '2001:db8:1:2300/56', '2001:db8:1:0/48'])
  t.same(networksOf('::1'), ['0:0:0:0/64', '0:0:0:0/56', '0:0:0:0/48'])
  t.same(networksOf('192.0.2.1'), ['192.0.2.1'])
  t.same(networksOf('::ffff:192.0.2.1'), ['192.0.2.1'])
  for (const name of ['', 'office', '1.2.3.4.5', 'fe80::1::2', '[::1]']) t.same(networksOf(name), [name])
})
