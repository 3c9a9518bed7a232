import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { realmOf } from '../lib/accounts.ts'
import type { Realm } from '../lib/core/realm.ts'
import { createUser, loginAs } from '../lib/testing/index.ts'
import { accountsOf, memoryApp } from './helpers/app.ts'

/** The parts of a realm, and what these are made of, by name. */
function partsOf(realm: Realm): Map<unknown, string> {
  const inner = new Map<unknown, string>([[realm, 'realm']])
  for (const [name, part] of Object.entries(realm)) {
    if (typeof part !== 'object' && typeof part !== 'function') continue
    inner.set(part, name)
    for (const [member, value] of Object.entries(part ?? {})) {
      if (typeof value === 'object' || typeof value === 'function') inner.set(value, `${name}.${member}`)
    }
  }
  inner.delete(null)
  // The host adds hooks with this one, and gave us these.
  for (const own of [realm.hooks.add, realm.log, ...Object.values(realm.log)]) inner.delete(own)
  return inner
}

/** Everything that a path of members, prototypes' getters included, leads to. */
function reachable(root: object, depth = Number.POSITIVE_INFINITY): Map<unknown, string> {
  const found = new Map<unknown, string>([[root, 'accounts']])
  for (const [value, path] of found) {
    if (path.split('.').length > depth) continue
    if ((typeof value !== 'object' && typeof value !== 'function') || value === null) continue
    if ([Object.prototype, Function.prototype].includes(value as never)) continue
    const prototype = Object.getPrototypeOf(value)
    if (prototype && !found.has(prototype)) found.set(prototype, `${path}.[[Prototype]]`)
    for (const name of Reflect.ownKeys(value)) {
      const { value: member, get } = Object.getOwnPropertyDescriptor(value, name) as PropertyDescriptor
      for (const next of [member, get]) if (!found.has(next)) found.set(next, `${path}.${String(name)}`)
    }
  }
  return found
}

t.test('nothing that app.accounts leads to is a key, a secret, a port or an inner function', async (t) => {
  const { app } = await memoryApp(t)
  const accounts = accountsOf({ app })
  const realm = realmOf(accounts)
  const inner = partsOf(realm)
  const outer = reachable(accounts)

  const leaks = [...inner].filter(([part]) => outer.has(part))
  const keys = [...outer].filter(([value]) => value instanceof Uint8Array || value instanceof WeakMap)

  t.ok(inner.size > 60, 'the realm was walked')
  t.ok(outer.size > 30, 'the accounts were walked')
  t.strictSame(
    leaks.map(([part, name]) => `${outer.get(part)} is ${name}`),
    [],
  )
  t.strictSame(
    keys.map(([, path]) => path),
    [],
  )
  t.strictSame(Object.keys(accounts).sort(), [
    ...[
      'accountOf',
      'addHook',
      'authenticate',
      'health',
      'login',
      'protect',
      'require',
      'sessionActive',
      'startSession',
    ],
    ...['users', 'using', 'verifyToken'],
  ])
})

t.test('what using() returns is as closed, and has the use cases alone', async (t) => {
  const { app } = await memoryApp(t)
  const accounts = accountsOf({ app })
  const realm = realmOf(accounts)

  const joined = accounts.using(realm.storage)

  t.strictSame(Object.keys(joined).sort(), ['startSession', 'users'])
  t.ok(Object.isFrozen(joined) && Object.isFrozen(joined.users) && Object.isFrozen(accounts))
  t.throws(() => realmOf(joined), TypeError, 'and no way back to the realm')
})

t.test('no request or reply, of our routes or of guarded ones, leads to a part of the realm', async (t) => {
  const { app } = await memoryApp(t)
  const realm = realmOf(accountsOf({ app }))
  const seen: [FastifyRequest, FastifyReply][] = []
  app.addHook('onResponse', async (request, reply) => void seen.push([request, reply]))
  app.get('/mine', { onRequest: app.accounts.authenticate }, (request) => request.account.id)
  const user = await createUser(app, { verified: true })
  const headers = await loginAs(app, user)

  for (const url of ['/mine', '/auth/user/']) t.equal((await app.inject({ url, headers })).statusCode, 200)

  const inner = partsOf(realm)
  t.equal(seen.length, 2, 'a hook of the host saw both')
  for (const [request, reply] of seen) {
    const own = [request, reply].flatMap((root) => Reflect.ownKeys(root).map((name) => Reflect.get(root, name)))
    const leaks = own.flatMap((value) => (Object(value) === value ? [...reachable(value, 2)] : []))
    t.strictSame(
      leaks.filter(([value]) => inner.has(value)).map(([value, path]) => `${path} is ${inner.get(value)}`),
      [],
    )
    t.equal((request.server as unknown as { jwt?: unknown }).jwt, undefined, 'there is no key to sign with')
    const signing = [request, reply].flatMap(memberNames).filter((name) => /jwt/i.test(name))
    t.strictSame(signing, [])
  }
})

function memberNames(root: object): string[] {
  const names: string[] = []
  for (let level = root; level; level = Object.getPrototypeOf(level)) {
    names.push(...Reflect.ownKeys(level).map(String))
  }
  return names
}
