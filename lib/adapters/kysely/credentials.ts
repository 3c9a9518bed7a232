import { type Kysely, sql } from 'kysely'
import type { CredentialChange, Storage } from '../../contracts.ts'
import { isValidId, storable } from '../../core/storable.ts'
import { storeMails } from './outbox.ts'
import { bound, boundAll, sessionRow } from './rows.ts'
import { endSessionsOf, liveSessions } from './sessions.ts'
import { changeSome, type Rows } from './stepwise.ts'
import type { AccountsTables } from './tables.ts'
import { inTransaction, requireReadCommitted, violatesReference, violatesUnique } from './transactions.ts'

type CredentialVerbs = Pick<Storage, 'changeCredentials' | 'deleteUser'>

/**
 * The verbs that change users and their sessions; each is one transaction of several statements, not one statement with
 * CTEs: the snapshot of the second sees a session whose insert had locked the user's row. Users are locked before
 * sessions, as everywhere, or two callers could wait for each other.
 */
export function credentialVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']): CredentialVerbs {
  return {
    async changeCredentials(change) {
      if (!isValidId(ids, change.userId) || !storable(change.set)) return 'stale'
      if (change.sessions !== 'keep') await requireReadCommitted(db)
      return changeOrName(db, change, 2)
    },

    async deleteUser(deletion) {
      if (!isValidId(ids, deletion.userId)) return 'stale'
      await requireReadCommitted(db)
      return orInUse(inTransaction(db, (transaction) => deleteFenced(transaction, deletion)))
    },
  }
}

/** What a deletion returns, or `'in_use'`. Deferred constraints, as Django makes them, refuse it only at the commit. */
export async function orInUse<T>(deletion: Promise<T>): Promise<T | 'in_use'> {
  try {
    return await deletion
  } catch (error) {
    if (violatesReference(error)) return 'in_use'
    throw error
  }
}

// Tried again when the address that was taken is free by now, or when only the name was: the next try leaves the name
// out, which it sees taken. In an adopted table a row without an account may have the name, or the address.
async function changeOrName(
  db: Kysely<AccountsTables>,
  change: CredentialChange,
  repeats: number,
): Promise<{ ended: string[] } | 'stale' | 'email_taken'> {
  try {
    return await inTransaction(db, (transaction) => changeFenced(transaction, change))
  } catch (error) {
    if (!violatesUnique(error)) throw error
    if (await emailTaken(db, change)) return 'email_taken'
    if (repeats > 0) return changeOrName(db, change, repeats - 1)
    const { username, usernameCanonical: _form, ...set } = change.set
    if (username !== undefined) return changeOrName(db, { ...change, set }, 0)
    if (set.email !== undefined) return 'email_taken'
    throw error
  }
}

async function emailTaken(db: Kysely<AccountsTables>, { userId, set }: CredentialChange): Promise<boolean> {
  if (set.emailCanonical === undefined) return false
  const row = await db
    .selectFrom('accounts_users')
    .select('id')
    .where('email_canonical', '=', set.emailCanonical)
    .where('id', '!=', userId)
    .executeTakeFirst()
  return row !== undefined
}

async function changeFenced(db: Kysely<AccountsTables>, change: CredentialChange) {
  if (!(await changeUser(db, change))) return 'stale'
  const ended = await changeSessions(db, change)
  if (change.start) {
    const { userId, credentialVersion } = change
    const row = sessionRow({ ...change.start, userId, credentialVersion })
    await db.insertInto('accounts_sessions').values(row).execute()
  }
  await storeMails(db, change.mails)
  return { ended }
}

async function changeUser(db: Kysely<AccountsTables>, change: CredentialChange): Promise<boolean> {
  const fenced = db
    .updateTable('accounts_users')
    .set(columnsOf(change))
    .set(await freeUsername(db, change))
    .where('id', '=', change.userId)
    .where('credential_version', '=', bound(change.fence))
  const query = fenced
    .$if(change.set.active === undefined, (given) => given.where('active', '=', true))
    .$if(change.seenUsername !== undefined, (given) =>
      change.seenUsername === null
        ? given.where('username', 'is', null)
        : given.where('username', '=', bound(change.seenUsername as string)),
    )
  return (await query.executeTakeFirstOrThrow()).numUpdatedRows > 0
}

// Kysely leaves out what is undefined.
function columnsOf({ set, credentialVersion }: CredentialChange) {
  return boundAll({
    credential_version: credentialVersion,
    password_hash: set.passwordHash,
    email: set.email,
    email_canonical: set.emailCanonical,
    email_verified_at: set.emailVerifiedAt,
    expires_at: set.emailVerifiedAt === undefined ? undefined : null,
    active: set.active,
    profile: set.profile === undefined ? undefined : JSON.stringify(set.profile),
  })
}

async function freeUsername(
  db: Kysely<AccountsTables>,
  { userId, set: { username, usernameCanonical } }: CredentialChange,
) {
  if (username === undefined || usernameCanonical === undefined) return {}
  boundAll({ username, usernameCanonical })
  const other = await db
    .selectFrom('accounts_users')
    .select('id')
    .where('username_canonical', '=', usernameCanonical)
    .where('id', '!=', userId)
    .executeTakeFirst()
  return other ? {} : { username, username_canonical: usernameCanonical }
}

// One statement locks all of them, in the same order as everywhere.
async function changeSessions(db: Kysely<AccountsTables>, change: CredentialChange): Promise<string[]> {
  const { userId, now, sessions, fence, credentialVersion } = change
  if (sessions === 'end') return endSessionsOf(db, userId, now)
  boundAll({ now, fence, credentialVersion })
  const kept = sessions === 'keep' ? sql`true` : isSession(sessions.keep)
  const live: Rows = (given) => liveSessions(given).where('user_id', '=', userId)
  const changed = await changeSome(db, 'accounts_sessions', live, {
    ended_at: sql`case when ${kept} then ended_at else ${now} end`,
    // A session of even older credentials is dead and stays dead.
    credential_version: sql`case
      when ${kept} and credential_version = ${fence} then ${credentialVersion}
      else credential_version
    end`,
  })
  return sessions === 'keep' ? [] : changed.filter((id) => id !== sessions.keep)
}

function isSession(id: string) {
  return storable(id) ? sql`id = ${bound(id)}` : sql`false`
}

async function deleteFenced(
  db: Kysely<AccountsTables>,
  { userId, fence, now, mails }: Parameters<Storage['deleteUser']>[0],
) {
  const { numDeletedRows } = await db
    .deleteFrom('accounts_users')
    .where('id', '=', userId)
    .where('credential_version', '=', bound(fence))
    .executeTakeFirstOrThrow()
  if (numDeletedRows === 0n) return 'stale'
  const ended = await endSessionsOf(db, userId, now)
  await storeMails(db, mails)
  return { ended }
}
