import { setImmediate } from 'node:timers/promises'
import { sql } from 'kysely'
import t from 'tap'
import { kyselyStorage, migrateToLatest } from '../../../lib/adapters/kysely/index.ts'
import type { Profile, Session } from '../../../lib/contracts.ts'
import type { AnyKysely } from '../../../lib/options/ports.ts'
import {
  claimedOf,
  idsOf,
  passwordChange,
  rule,
  sampleMail,
  sampleSession,
  sampleUser,
  start,
  storedSession,
  storedUser,
} from '../../../lib/testing/samples.ts'
import { databases, openFresh, openPostgres, untilSomebodyWaits } from '../../helpers/databases.ts'
import { everything, noPostgres, rounds } from '../../helpers/helper.ts'

const skip = noPostgres

const { PostgreSQL, MariaDB } = databases
for (const [title, { open, skip }] of Object.entries(everything ? { PostgreSQL, MariaDB } : { PostgreSQL })) {
  t.test(`races on ${title}`, { skip }, async (t) => {
    const db = await open(t)
    await migrateToLatest(db)
    const storage = kyselyStorage(db)

    /** Sessions that were opened under the user's old credentials and have not ended. */
    async function survivors(sessions: Session[]) {
      const ids = sessions.map(({ id }) => id)
      return db
        .selectFrom('accounts_sessions')
        .select('id')
        .where('id', 'in', ids)
        .where('ended_at', 'is', null)
        .execute()
    }

    t.test('[R-SES-1] log-ins that race a change of credentials leave no old session', async (t) => {
      const sessions: Session[] = []
      async function round() {
        const user = await storedUser(storage)
        const own: Session[] = []
        const change = storage.changeCredentials(passwordChange(user))
        for (let login = 0; login < 4; login++) {
          const session = sampleSession(user)
          own.push(session)
          await Promise.race([storage.insertSession(session, 1000), setImmediate()])
        }
        t.type(await change, 'object')
        sessions.push(...own)
      }
      for (let done = 0; done < rounds(300, 60); done += 10) await Promise.all(Array.from({ length: 10 }, round))

      t.strictSame(await survivors(sessions), [])
    })

    t.test('a log-in waits for a change of credentials under way and is refused', async (t) => {
      const user = await storedUser(storage)
      const session = sampleSession(user)

      const login = await db.transaction().execute(async (transaction) => {
        t.strictSame(await kyselyStorage(transaction).changeCredentials(passwordChange(user)), { ended: [] })
        const stored = storage.insertSession(session, 1000)
        await untilSomebodyWaits(db)
        return { stored }
      })

      t.equal(await login.stored, null)
      t.strictSame(await survivors([session]), [])
    })

    t.test('a refresh that waits for a change which keeps the sessions is accepted', async (t) => {
      const user = await storedUser(storage)
      const session = await storedSession(storage, {}, user)

      const refresh = await db.transaction().execute(async (transaction) => {
        const change = passwordChange(user, { sessions: 'keep' })
        t.strictSame(await kyselyStorage(transaction).changeCredentials(change), { ended: [] })
        const outcome = storage.refreshSession(session.id, 0, rule, start)
        await untilSomebodyWaits(db)
        return { outcome }
      })

      const credentialVersion = user.credentialVersion + 1
      t.match(await refresh.outcome, {
        result: 'accepted',
        session: { credentialVersion },
        user: { credentialVersion },
      })
    })

    t.test('[R-SES-1] a refresh that waits for a change which ends the sessions is refused', async (t) => {
      const user = await storedUser(storage)
      const { id } = await storedSession(storage, {}, user)

      const refresh = await db.transaction().execute(async (transaction) => {
        await kyselyStorage(transaction).changeCredentials(passwordChange(user))
        const outcome = storage.refreshSession(id, 0, rule, start)
        await untilSomebodyWaits(db)
        return { outcome }
      })

      t.strictSame(await refresh.outcome, { result: 'dead' })
    })

    t.test('a session that a change of credentials keeps is not raised from the dead', async (t) => {
      const user = await storedUser(storage)
      const { id } = await storedSession(storage, {}, user)
      await db.updateTable('accounts_sessions').set({ credential_version: 1 }).where('id', '=', id).execute()

      await storage.changeCredentials(passwordChange(user, { sessions: { keep: id } }))

      t.strictSame(await storage.refreshSession(id, 0, rule, start), { result: 'dead' })
    })

    t.test('a session is ended by exactly one of those who end it in different ways at once', async (t) => {
      for (let round = 0; round < 20; round++) {
        const user = await storedUser(storage)
        const sessions = await Promise.all(Array.from({ length: 8 }, () => storedSession(storage, {}, user)))
        const keep = sessions[4]!.id

        const ended = await Promise.all([
          storage.endSessions(user.id, start),
          storage.endAnySessions(100, start),
          storage.changeCredentials(passwordChange(user, { sessions: { keep } })),
          storage.endSessions(user.id, start),
          storage.endAnySessions(100, start),
        ])

        const ids = ended.flatMap((answer) => (Array.isArray(answer) ? answer : (answer as { ended: string[] }).ended))
        const own = ids.filter((id) => sessions.some((session) => session.id === id))
        t.strictSame(own.toSorted(), idsOf(sessions), 'each was ended once')
      }
    })

    t.test('a username that is taken while it is being set is left out, and the rest is set', async (t) => {
      const user = await storedUser(storage)
      const other = sampleUser()

      const waiting = await db.transaction().execute(async (transaction) => {
        await kyselyStorage(transaction).insertUser(other)
        const set = { passwordHash: 'new', username: 'New', usernameCanonical: other.usernameCanonical }
        const change = storage.changeCredentials(passwordChange(user, { set }))
        await untilSomebodyWaits(db)
        return { change }
      })

      t.strictSame(await waiting.change, { ended: [] })
      t.match(await storage.findUserWithPassword(user.id), { username: user.username, passwordHash: 'new' })
    })

    t.test('an e-mail address that is taken while it is being set changes nothing', async (t) => {
      const user = await storedUser(storage)
      const { email, emailCanonical, ...other } = sampleUser()

      const waiting = await db.transaction().execute(async (transaction) => {
        await kyselyStorage(transaction).insertUser({ ...other, email, emailCanonical })
        const change = storage.changeCredentials(passwordChange(user, { set: { email, emailCanonical } }))
        await untilSomebodyWaits(db)
        return { change }
      })

      t.equal(await waiting.change, 'email_taken')
      t.match(await storage.findUserById(user.id), { email: user.email, credentialVersion: user.credentialVersion })
    })

    t.test(
      'the purge of an account that a log-in holds leaves it, and the next one takes its expiry away',
      async (t) => {
        const user = await storedUser(storage, { expiresAt: start })
        const limits = { now: start, eventsBefore: start, limit: 100 }

        await db.transaction().execute(async (transaction) => {
          t.strictSame(await kyselyStorage(transaction).insertSession(sampleSession(user), 1000), [])
          await storage.purge(limits)
        })
        await storage.purge(limits)
        await db.deleteFrom('accounts_sessions').where('user_id', '=', user.id).execute()
        await storage.purge(limits)

        t.match(await storage.findUserById(user.id), { id: user.id })
      },
    )

    t.test('a log-in waits for a purge of its account under way and is refused', async (t) => {
      const user = await storedUser(storage, { expiresAt: start })
      const session = sampleSession(user)

      const login = await db.transaction().execute(async (transaction) => {
        await kyselyStorage(transaction).purge({ now: start, eventsBefore: start, limit: 100 })
        const stored = storage.insertSession(session, 1000)
        await untilSomebodyWaits(db)
        return { stored }
      })

      t.equal(await login.stored, null)
      t.equal(await storage.findUserById(user.id), null)
    })

    t.test('imports of the same users in other orders at once store each user once', async (t) => {
      for (let round = 0; round < rounds(5, 2); round++) {
        const users = Array.from({ length: rounds(200, 100) }, () => sampleUser())

        const imports = await Promise.all(
          Array.from({ length: 6 }, (_, index) => storage.importUsers(index % 2 ? users : users.toReversed())),
        )

        const outcomes = imports.flat()
        t.equal(outcomes.filter((outcome) => typeof outcome === 'object').length, users.length)
        t.equal(outcomes.filter((outcome) => outcome === 'email_taken').length, 5 * users.length)
      }
    })
  })
}

t.test('a stricter default isolation lets no session outlive a password change', { skip }, async (t) => {
  const { db: owner, url } = await openFresh(t)
  await migrateToLatest(owner)
  const { db, close } = openPostgres(url, { options: '-c default_transaction_isolation=serializable' })
  t.teardown(close)
  const storage = kyselyStorage(db)
  const user = await storedUser(storage)
  const session = sampleSession(user)

  const waiting = await owner.transaction().execute(async (transaction) => {
    t.strictSame(await kyselyStorage(transaction).insertSession(session, 1000), [])
    const change = { done: storage.changeCredentials(passwordChange(user)) }
    await untilSomebodyWaits(owner)
    return change
  })

  t.strictSame(await waiting.done, { ended: [session.id] })
  t.equal(await storage.sessionActive(session.id, user.id, start), false)
})

t.test('racers under a stricter default isolation all succeed', { skip }, async (t) => {
  const { db: owner, url } = await openFresh(t)
  await migrateToLatest(owner)
  const { db, close } = openPostgres(url, { options: '-c default_transaction_isolation=repeatable\\ read' })
  t.teardown(close)
  const storage = kyselyStorage(db)
  const user = await storedUser(storage)
  const session = await storedSession(storage, {}, user)

  /** Four callers whose snapshots are older than what the quickest of them commits. */
  async function race<T>(table: string, id: unknown, caller: (index: number) => Promise<T>): Promise<T[]> {
    const racing = await owner.transaction().execute(async (transaction) => {
      await transaction.selectFrom(table).select('id').where('id', '=', id).forUpdate().execute()
      const outcomes = Promise.all([0, 1, 2, 3].map(caller))
      await untilSomebodyWaits(owner, 4)
      return { outcomes }
    })
    return racing.outcomes
  }

  const refreshed = await race('accounts_sessions', session.id, () =>
    storage.refreshSession(session.id, 0, rule, start),
  )
  await race('accounts_users', user.id, (index) =>
    storage.updateUser({ id: user.id, profile: { [`member${index}`]: index } as Profile }),
  )

  t.match(refreshed, Array(4).fill({ result: 'accepted', counter: 0 }))
  t.match(await storage.findUserById(user.id), { profile: { member0: 0, member1: 1, member2: 2, member3: 3 } })
})

for (const state of ['40001', '40P01']) {
  t.test(`what the database undoes as ${state} is done again, at most three times`, { skip }, async (t) => {
    const { db } = await openFresh(t)
    await migrateToLatest(db)
    const storage = kyselyStorage(db)
    const tries = await refusals(db, state)
    const refresh = (subject = storage) => subject.refreshSession('x', 0, rule, start)
    const user = sampleUser()
    const mail = sampleMail()

    await tries.refuse(3)
    t.type(await storage.insertUser(user, [mail]), 'object')
    t.equal(await tries.count(), 4)
    t.equal((await storage.listUsers({ limit: 10 })).length, 1)
    t.strictSame(idsOf(await claimedOf(storage, [mail])), [mail.id])

    await tries.refuse(4)
    await t.rejects(refresh(), { code: 'ACCOUNTS_UNAVAILABLE', cause: { code: state } })
    t.equal(await tries.count(), 4)

    await tries.refuse(1)
    const joined = db.transaction().execute((transaction) => refresh(kyselyStorage(transaction)))
    await t.rejects(joined, { code: 'ACCOUNTS_UNAVAILABLE', cause: { code: state } })
    t.equal(await tries.count(), 1)
  })
}

t.test('nothing is done again once its caller has been told that it failed', { skip }, async (t) => {
  const { db } = await openFresh(t)
  await migrateToLatest(db)
  const tries = await refusals(db, '40001', 1.1)

  await tries.refuse(1)
  await t.rejects(kyselyStorage(db).refreshSession('x', 0, rule, start), {
    code: 'ACCOUNTS_UNAVAILABLE',
    cause: { code: '40001' },
  })

  t.equal(await tries.count(), 1)
})

/** Lets the database refuse what changes sessions or stores mails, so many times. */
async function refusals(db: AnyKysely, state: string, seconds = 0) {
  // A sequence is not rolled back.
  await sql`create sequence tries`.execute(db)
  await sql`create table refused as select 0 as times`.execute(db)
  await sql`create function refuse() returns trigger language plpgsql as ${sql.lit(`begin
    if nextval('tries') > (select times from refused) then return null; end if;
    perform pg_sleep(${seconds});
    raise exception using errcode = '${state}';
  end`)}`.execute(db)
  for (const event of ['update on accounts_sessions', 'insert on accounts_outbox']) {
    await sql`create trigger refuse after ${sql.raw(event)} for each statement execute function refuse()`.execute(db)
  }
  return {
    async refuse(times: number) {
      await sql`update refused set times = ${times}`.execute(db)
      await sql`alter sequence tries restart`.execute(db)
    },
    async count() {
      const query = sql<{ tries: string }>`select last_value as tries from tries`
      return Number((await query.execute(db)).rows[0]?.tries)
    },
  }
}

t.test('a claim of mails keeps to its limit whatever plan the database makes', { skip }, async (t) => {
  const { db: owner, url } = await openFresh(t)
  await migrateToLatest(owner)
  // What is left is a nested loop, which runs a subquery once for each row.
  const off = ['hashagg', 'hashjoin', 'mergejoin', 'material', 'sort'].map((name) => `-c enable_${name}=off`)
  const { db, close } = openPostgres(url, { options: off.join(' ') })
  t.teardown(close)
  const storage = kyselyStorage(db)
  await storage.addMails(Array.from({ length: 50 }, () => sampleMail()))

  t.equal((await storage.claimMails(start, start + 1, 3)).length, 3)
})
