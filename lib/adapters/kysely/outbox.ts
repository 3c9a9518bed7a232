import { type Kysely, sql } from 'kysely'
import type { OutboxMail, Storage } from '../../contracts.ts'
import { storable } from '../../core/storable.ts'
import { dialectOf } from './dialects.ts'
import { bound, boundAll } from './rows.ts'
import { changeSome, type Rows } from './stepwise.ts'
import type { AccountsTables } from './tables.ts'

type OutboxVerbs = Pick<Storage, 'addMails' | 'claimMails' | 'settleMails'>

/** The verbs about mails that belong to a change; each is one statement on PostgreSQL, a claim that finds some two. */
export function outboxVerbs(db: Kysely<AccountsTables>): OutboxVerbs {
  return {
    addMails: (mails) => storeMails(db, mails),

    async claimMails(now, until, limit) {
      boundAll({ now, until, limit })
      const due: Rows = (given) =>
        unsettled(given)
          .select('id')
          .where('due_at', '<=', now)
          .where('expires_at', '>', now)
          .orderBy('due_at')
          .limit(limit)
          .forUpdate()
          .skipLocked()
      const claimed = await changeSome(db, 'accounts_outbox', due, { due_at: until })
      if (claimed.length === 0) return []
      const rows = await unsettled(db).select(mailColumns).where('id', 'in', claimed).execute()
      return rows.map(mailOf)
    },

    async settleMails(ids) {
      const possible = ids.filter(storable).map(bound)
      if (possible.length === 0) return
      const settled: Rows = (given) =>
        given.selectFrom('accounts_outbox').select('id').where('id', 'in', possible).orderBy('id').forUpdate()
      await changeSome(db, 'accounts_outbox', settled, { settled: true, sealed: '' })
    },
  }
}

function unsettled(db: Kysely<AccountsTables>) {
  return db.selectFrom('accounts_outbox').where(sql<boolean>`not settled`)
}

/**
 * Stores mails; an id that was stored before stays as it is. In order of their ids, or two callers with the same mails
 * could wait for each other.
 */
export async function storeMails(db: Kysely<AccountsTables>, mails: OutboxMail[]): Promise<void> {
  if (mails.length === 0) return
  const insert = db.insertInto('accounts_outbox').values(mails.map(rowOf).toSorted(byId))
  await dialectOf(db).unlessThere(insert).execute()
}

function rowOf(mail: OutboxMail) {
  return boundAll({
    id: mail.id,
    sealed: mail.sealed,
    created_at: mail.createdAt,
    due_at: mail.dueAt,
    expires_at: mail.expiresAt,
  })
}

function byId(one: { id: string }, other: { id: string }): number {
  return one.id < other.id ? -1 : 1
}

const mailColumns = ['id', 'sealed', 'created_at as createdAt', 'due_at as dueAt', 'expires_at as expiresAt'] as const

function mailOf(row: Record<'createdAt' | 'dueAt' | 'expiresAt', string | number> & { id: string; sealed: string }) {
  return {
    id: row.id,
    sealed: row.sealed,
    createdAt: Number(row.createdAt),
    dueAt: Number(row.dueAt),
    expiresAt: Number(row.expiresAt),
  }
}
