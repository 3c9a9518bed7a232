import t from 'tap'
import { AccountsError, isOutage } from '../lib/errors.ts'

function fault(members: object, cause?: unknown): Error {
  return Object.assign(new Error('fault', { cause }), members)
}

t.test('an error of a network is an outage, wherever it stands in the chain of causes', async (t) => {
  const codes = ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH']
  for (const code of [...codes, 'ENETDOWN', 'EMFILE', 'UND_ERR_CONNECT_TIMEOUT', 'CERT_HAS_EXPIRED']) {
    t.ok(isOutage(fault({ code })), code)
    t.ok(isOutage(new TypeError('fetch failed', { cause: fault({ code }) })), `${code} as a cause`)
  }
  t.ok(isOutage(fault({ code: 'ENOENT', syscall: 'connect' })), 'a socket file that is not there')
  t.ok(isOutage(fault({ name: 'TimeoutError' })), 'a timeout of AbortSignal')
  t.ok(isOutage(new AccountsError('ACCOUNTS_UNAVAILABLE')))
})

t.test('any other fault is a bug', async (t) => {
  const bugs = [
    new Error('plain'),
    new TypeError('undefined is not a function'),
    fault({ code: 'ENOENT', syscall: 'open' }),
    fault({ code: '23505' }),
    fault({ code: 4 }),
    new AccountsError('ACCOUNTS_VALIDATION'),
    'ECONNREFUSED',
    null,
  ]
  for (const bug of bugs) t.notOk(isOutage(bug), String(bug))
})
