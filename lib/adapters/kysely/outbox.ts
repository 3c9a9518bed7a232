import { type Kysely, sql } from 'kysely'
import type { OutboxMail, Storage } from '../../contracts.ts'
import { storable } from '../../core/storable.ts'
import { bound, boundAll, isOneOf } from './rows.ts'
import type { AccountsTables } from './tables.ts'

type OutboxVerbs = Pick<Storage, 'addMails' | 'claimMails' | 'settleMails'>

/** The verbs about mails that belong to a change; each is one statement. */
export function outboxVerbs(db: Kysely<AccountsTables>): OutboxVerbs {
  return {
    addMails: (mails) => storeMails(db, mails),

    async claimMails(now, until, limit) {
      const due = db
        .selectFrom('accounts_outbox')
        .select('id')
        .where(sql<boolean>`not settled`)
        .where('due_at', '<=', bound(now))
        .where('expires_at', '>', bound(now))
        .orderBy('due_at')
        .limit(bound(limit))
        .forUpdate()
        .skipLocked()
      const rows = await db
        .updateTable('accounts_outbox')
        .set({ due_at: bound(until) })
        .where(isOneOf(due))
        .returning(mailColumns)
        .execute()
      return rows.map(mailOf)
    },

    async settleMails(ids) {
      const possible = ids.filter(storable).map(bound)
      if (possible.length === 0) return
      const settled = db.selectFrom('accounts_outbox').select('id').where('id', 'in', possible)
      await db
        .updateTable('accounts_outbox')
        .set({ settled: true, sealed: '' })
        .where(isOneOf(settled.orderBy('id').forUpdate()))
        .execute()
    },
  }
}

/**
 * Stores mails; an id that was stored before stays as it is. In order of their ids, or two callers with the same mails
 * could wait for each other.
 */
export async function storeMails(db: Kysely<AccountsTables>, mails: OutboxMail[]): Promise<void> {
  if (mails.length === 0) return
  await db
    .insertInto('accounts_outbox')
    .values(mails.map(rowOf).toSorted(byId))
    .onConflict((conflict) => conflict.doNothing())
    .execute()
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
