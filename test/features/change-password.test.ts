import t, { type Test } from 'tap'
import { realmOf } from '../../lib/accounts.ts'
import { kyselyStorage } from '../../lib/adapters/kysely/index.ts'
import type { Storage, User, UserId } from '../../lib/contracts.ts'
import { noClient } from '../../lib/core/client.ts'
import { startSession } from '../../lib/core/sessions.ts'
import {
  accountActs,
  alive,
  backends,
  counted,
  dead,
  fateOf,
  newPassword,
  password,
  passwords,
  type Tokens,
  told,
} from '../helpers/account-acts.ts'
import { type Answer, clientOf, memoryApp, openDatabase, settableClock } from '../helpers/app.ts'
import { noPostgres, redisUrl, rounds, uniqueName } from '../helpers/helper.ts'
import { claimsOf, sessionFor } from '../helpers/members.ts'
import { instance } from '../helpers/reset-flow.ts'

// A thousand changes take their time on a busy machine.
t.setTimeout(400_000)

for (const { on, open, skip } of backends) {
  t.test(`changing one's password, on ${on}`, { skip }, async (t) => {
    const clock = settableClock()
    const host = await open(t, { passwords, clock })
    const acts = accountActs(host)
    const { member, newSession, rowOf, login, mailsTo, askReset, check, reset, accounts } = acts

    await t.test(
      '[R-SES-1] [R-SES-9] it ends every older session, the asking one too, and answers a new one',
      async (t) => {
        const [user, bystander] = [await member(), await member()]
        const [second, third] = [await newSession(user.id), await newSession(user.id)]
        const refreshed = await acts.refresh(third.refresh)
        const before = await rowOf(user.id)
        clock.pass(5000)

        const answer = await user.changePassword()

        t.equal(answer.status, 200)
        t.strictSame(Object.keys(answer.body).sort(), ['access', 'message', 'refresh'])
        for (const session of [user, second, third, refreshed.body]) t.strictSame(await fateOf(host, session), dead)
        t.strictSame(await fateOf(host, answer.body), alive)
        t.strictSame(await fateOf(host, bystander), alive)
        t.equal(told(await login(user.email)), '401 CREDENTIALS_INVALID')
        t.equal(told(await login(user.email, newPassword)), '200')
        t.strictSame(mailsTo(user.email), ['password_changed'])
        t.strictSame(changedIn(before, await rowOf(user.id)), ['credential_version', 'password_hash'])
        const claims = claimsOf(answer.body.access)
        t.not(claims.sid, user.sessionId)
        t.equal(claims.auth_time, Math.floor(clock() / 1000), 'the credential was proved just now')
      },
    )

    await t.test('the new session lives as long as the one that asked was to live', async (t) => {
      const user = await member()
      const lives = { idle: 7, absolute: 40, perUser: 100 }
      const remembering = { ...realmOf(accounts), options: { ...realmOf(accounts).options, session: () => lives } }
      const stored = (await realmOf(accounts).storage.findUserById(user.id)) as User
      const { access } = await sessionFor(remembering, stored)
      clock.pass(3000)

      const body = { current_password: password, new_password: newPassword }
      const headers = { authorization: `Bearer ${access}` }
      const changed = await host.send({ method: 'POST', url: '/auth/change_password/', payload: body, headers })

      t.equal(changed.status, 200)
      const [session] = await realmOf(accounts).storage.listSessions(user.id, 1000, clock())
      t.strictSame([session?.idleMs, (session?.expiresAt ?? 0) - clock()], [7000, 40_000])
    })

    await t.test('[R-PW-6] [R-SES-6] without the current password nothing is changed, ended or mailed', async (t) => {
      const user = await member()
      const before = await rowOf(user.id)

      t.equal(told(await user.changePassword('a wrong password')), '403 PASSWORD_WRONG')
      t.equal(told(await user.changePassword('')), '403 PASSWORD_WRONG')
      for (const body of [
        undefined,
        {},
        { new_password: newPassword },
        { current_password: password },
        { current_password: null, new_password: newPassword },
        { current_password: password, new_password: [newPassword] },
        { password, new_password: newPassword },
      ]) {
        const answer = await user.asked('POST', '/auth/change_password/', body)
        t.equal(told(answer), '400 VALIDATION', JSON.stringify(body))
      }
      const url = '/auth/change_password/'
      const anonymous = await acts.post(url, { current_password: password, new_password: newPassword })
      t.equal(told(anonymous), '401 TOKEN_INVALID')

      t.strictSame(await rowOf(user.id), before)
      t.strictSame(await fateOf(host, user), alive)
      t.strictSame(mailsTo(user.email), [])
    })

    await t.test(
      'a new password that breaks the policy is refused with its reasons, and nothing changes',
      async (t) => {
        const user = await member()
        const before = await rowOf(user.id)
        const refused = { a234567: 'too_short', ['a'.repeat(129)]: 'too_long', 'lone \ud800 surrogate': 'ill_formed' }

        for (const [typed, reason] of Object.entries(refused)) {
          const answer = await user.changePassword(password, typed)
          t.equal(told(answer), '400 PASSWORD_REFUSED', reason)
          t.strictSame(answer.body.reasons, [reason])
        }

        t.strictSame(await rowOf(user.id), before)
        t.strictSame(await fateOf(host, user), alive)
        t.strictSame(mailsTo(user.email), [])
      },
    )

    await t.test('another user’s password is no proof', async (t) => {
      const [user, other] = [await member(), await member()]
      t.equal(told(await other.changePassword(password, newPassword)), '200')

      t.equal(told(await user.changePassword(newPassword, 'yet another password')), '403 PASSWORD_WRONG')
    })

    await t.test('of parallel changes exactly one wins, and its pair alone works', async (t) => {
      const user = await member()
      const sessions = [user, await newSession(user.id), await newSession(user.id), await newSession(user.id)]

      const answers = await Promise.all(sessions.map((one, n) => one.changePassword(password, `new password ${n}`)))

      const winner = answers.findIndex(({ status }) => status === 200)
      t.equal(counted(answers)['200'], 1)
      for (const answer of answers) t.ok(['200', '401 TOKEN_INVALID', '403 PASSWORD_WRONG'].includes(told(answer)))
      for (const session of sessions) t.strictSame(await fateOf(host, session), dead)
      t.strictSame(await fateOf(host, answers[winner]?.body), alive)
      const logins = await Promise.all(answers.map((_, n) => login(user.email, `new password ${n}`)))
      t.strictSame(
        logins.map(({ status }) => status),
        answers.map((_, n) => (n === winner ? 200 : 401)),
      )
      t.strictSame(mailsTo(user.email), ['password_changed'])
    })

    await t.test('[R-OTP-6] [R-SES-7] no code or grant from before a change works after it', async (t) => {
      const user = await member()
      const [code, grant] = [await askReset(user.email), await askReset(user.email)]
      t.equal(told(await check(grant.token, grant.code)), '200')
      const change = await user.askEmail(`${uniqueName()}@example.org`)

      const { body } = await user.changePassword()

      const before = await rowOf(user.id)
      const session = await newSession(user.id)
      t.equal(told(await check(code.token, code.code)), '400 CODE_INVALID')
      for (const { token } of [code, grant]) t.equal(told(await reset(token)), '400 CODE_INVALID')
      t.equal(told(await session.confirmEmail(change)), '400 CODE_INVALID')
      t.strictSame(await rowOf(user.id), before)
      t.strictSame(await fateOf(host, body), alive)
    })

    await t.test('a user without a password cannot set one here', async (t) => {
      const user = await member()
      const stored = (await realmOf(accounts).storage.findUserById(user.id))!
      const { credentialVersion } = stored
      await realmOf(accounts).storage.changeCredentials({
        ...{ userId: user.id, fence: credentialVersion, credentialVersion: credentialVersion + 1, now: clock() },
        ...{ set: { passwordHash: null }, sessions: 'keep', start: null, mails: [] },
      })

      for (const typed of ['', password]) t.equal(told(await user.changePassword(typed)), '403 PASSWORD_WRONG')
      t.strictSame(await fateOf(host, user), alive)
    })

    const proved = new Map<UserId, () => Promise<void>>()
    accounts.addHook('beforePasswordChange', ({ user }) => proved.get(user.id)?.())
    const { users } = accounts
    const events: [what: string, act: (id: UserId) => Promise<void>][] = [
      ['changed by somebody else', (id) => users.setPassword(id, 'set by an administrator')],
      ['disabled', (id) => users.disable(id)],
      ['deleted', (id) => users.delete(id)],
    ]
    for (const [what, act] of events) {
      await t.test(`a change whose account was ${what} after the proof changes nothing`, async (t) => {
        const user = await member()
        const state = { after: null as Record<string, unknown> | null }
        proved.set(user.id, async () => {
          await act(user.id)
          state.after = await rowOf(user.id)
        })

        const answer = await user.changePassword()

        t.equal(told(answer), '401 TOKEN_INVALID')
        t.strictSame(await rowOf(user.id), state.after)
        t.strictSame(await fateOf(host, user), dead)
        t.equal(told(await login(user.email, newPassword)), '401 CREDENTIALS_INVALID')
      })
    }
  })
}

/** The columns whose values differ. */
function changedIn(before: Record<string, unknown> | null, after: Record<string, unknown> | null): string[] {
  const names = Object.keys(after ?? {}).filter((name) => before?.[name] !== after?.[name])
  const scalar = names.filter((name) => typeof after?.[name] !== 'object')
  return scalar.map((name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)).sort()
}

t.test('without rotation the answered pair is one to refresh with, too', async (t) => {
  const host = await memoryApp(t, { passwords, refresh: { rotate: false } })
  const { member, refresh } = accountActs(host)
  const user = await member()

  const { body } = await user.changePassword()

  t.strictSame(await fateOf(host, user), dead)
  t.strictSame(Object.keys((await refresh(body.refresh)).body), ['access'])
})

const changes = rounds(1000, 48)
t.test(`[R-SES-1] ${changes} password changes racing refreshes and log-ins`, { skip: noPostgres }, async (t) => {
  const { acts, host, racing, db } = await racedApp(t)
  const total = { kept: 0, refused: 0, survivors: 0, fates: new Set<string>() }

  async function changeAgain(times: number): Promise<void> {
    const { id } = await acts.member()
    let old: Tokens[] = [await acts.newSession(id), await acts.newSession(id)]
    let typed = password
    for (let round = 0; round < times; round++) {
      const next = `${newPassword} ${round}`
      const { changed, opened, refused } = await racing(id, old, { typed, next })
      if (changed.status !== 200) throw new Error(`change_password answered ${told(changed)}`)
      total.kept += opened.length
      total.refused += refused

      const { sid } = claimsOf(changed.body.access)
      const live = db
        .selectFrom('accounts_sessions')
        .select('id')
        .where('user_id', '=', id)
        .where('ended_at', 'is', null)
      total.survivors += (await live.execute()).filter((session) => session.id !== sid).length
      for (const { access } of opened) total.fates.add(await acts.accounts.verifyToken(access).then(String, codeOf))
      for (const tokens of [...old, ...opened.slice(-1)]) total.fates.add((await fateOf(host, tokens)).join())
      typed = next
      old = [changed.body, await acts.newSession(id)]
    }
  }
  await Promise.all(Array.from({ length: 4 }, () => changeAgain(changes / 4)))

  await t.test('no session of before a change is left', async (t) => t.equal(total.survivors, 0))
  await t.test('no older token works once a change is answered', async (t) => {
    t.strictSame([...total.fates].sort(), [dead.join(), 'ACCOUNTS_TOKEN_INVALID'])
  })
  await t.test('it was a race: some were in time, some came late', async (t) => {
    t.comment(`${total.kept} in time, ${total.refused} late`)
    t.ok(total.kept > changes / 10, `${total.kept} were in time`)
    t.ok(total.refused > changes / 10, `${total.refused} were late`)
  })
})

/** An app on PostgreSQL whose changes of credentials are raced from the moment at which they begin. */
async function racedApp(t: Test) {
  const { db } = await openDatabase(t)
  const storage = kyselyStorage(db)
  const beginnings = new Map<UserId, () => void>()
  const raced: Storage = {
    ...storage,
    changeCredentials(change) {
      beginnings.get(change.userId)?.()
      return storage.changeCredentials(change)
    },
  }
  const name = uniqueName()
  const { app, mailer } = await instance(t, { name, storage: raced, redis: redisUrl(), passwords })
  const host = { app, mailer, name, db, ...clientOf(app) }
  const acts = accountActs(host)

  /** Changes a password, raced by two clients that refresh and one that logs in, each until it is refused. */
  async function racing(id: UserId, old: Tokens[], { typed, next }: { typed: string; next: string }) {
    const user = await acts.userOf(id)
    const opened: Tokens[] = []
    const racers: Promise<boolean>[] = []
    beginnings.set(id, () => {
      for (const tokens of old) racers.push(untilRefused(tokens, ({ refresh }) => acts.refresh(refresh).then(granted)))
      // A log-in whose password was found right before the change.
      racers.push(
        untilRefused(old[0]!, () => startSession(realmOf(acts.accounts), user, noClient) as Promise<Tokens | null>),
      )
    })
    async function untilRefused(first: Tokens, step: (newest: Tokens) => Promise<Tokens | null>): Promise<boolean> {
      for (let newest = first, steps = 0; steps < 50; steps++) {
        const answer = await step(newest)
        if (!answer) return true
        opened.push(answer)
        newest = answer
      }
      return false
    }
    const payload = { current_password: typed, new_password: next }
    const headers = { authorization: `Bearer ${old[0]?.access}` }
    const changed = await host.send({ method: 'POST', url: '/auth/change_password/', headers, payload })
    const refused = await Promise.all(racers)
    return { changed, opened, refused: refused.filter(Boolean).length }
  }
  return { acts, host, racing, db }
}

function granted({ status, body }: Answer): Tokens | null {
  return status === 200 ? body : null
}

function codeOf({ code }: { code: string }): string {
  return code
}
