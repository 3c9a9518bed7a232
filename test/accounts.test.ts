import t from 'tap'
import { realmOf } from '../lib/accounts.ts'
import { accountsOf, memoryApp } from './helpers/app.ts'

/** Everything that a path of members, prototypes' getters included, leads to. */
function reachable(root: object): Map<unknown, string> {
  const found = new Map<unknown, string>([[root, 'accounts']])
  for (const [value, path] of found) {
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
  const inner = new Map<unknown, string>([[realm, 'realm']])
  for (const [name, part] of Object.entries(realm)) {
    if (typeof part !== 'object' && typeof part !== 'function') continue
    inner.set(part, name)
    for (const [member, value] of Object.entries(part ?? {})) {
      if (typeof value === 'object' || typeof value === 'function') inner.set(value, `${name}.${member}`)
    }
  }
  // It is what the host adds hooks with.
  inner.delete(realm.hooks.add)
  const outer = reachable(accounts)

  const leaks = [...inner].filter(([part]) => part !== null && outer.has(part))
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
    ...['addHook', 'authenticate', 'health', 'protect', 'require', 'startSession', 'users', 'using', 'verifyToken'],
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
