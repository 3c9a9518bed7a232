import type { Kysely } from 'kysely'
import type { AccountEvent, Storage } from '../../contracts.ts'
import { isValidId } from '../../core/storable.ts'
import { dialectOf } from './dialects.ts'
import { bound, boundAll, idOf, parsed } from './rows.ts'
import type { AccountsTables } from './tables.ts'
import { withSavepoint } from './transactions.ts'

/** The verbs about security events; each is one statement. */
export function eventVerbs(db: Kysely<AccountsTables>, ids: Storage['ids']): Pick<Storage, 'addEvent' | 'listEvents'> {
  return {
    async addEvent(event) {
      const row = rowOf(event, ids)
      await withSavepoint(db, (joined) => joined.insertInto('accounts_events').values(row).execute())
    },

    async listEvents(userId, { before, limit }) {
      if (!isValidId(ids, userId)) return []
      if (before !== undefined && !isValidId('integer', before)) return []
      const page = db
        .selectFrom('accounts_events')
        .select(eventColumns)
        .select(dialectOf(db).asText('details').as('details'))
        .where('user_id', '=', userId)
        .orderBy('id', 'desc')
        .limit(bound(limit))
      const rows = await (before === undefined ? page : page.where('id', '<', before)).execute()
      return rows.map(({ id, at, userId, details, ...row }) => ({
        ...row,
        id: Number(id),
        at: Number(at),
        userId: userId === null ? null : idOf(userId, ids),
        details: parsed(details),
      }))
    },
  }
}

// No value that a client sent may prevent the event from being stored.
function rowOf(event: AccountEvent, ids: Storage['ids']) {
  return boundAll({
    name: event.name,
    at: event.at,
    user_id: event.userId !== null && isValidId(ids, event.userId) ? event.userId : null,
    identifier: written(event.identifier),
    session_id: written(event.sessionId),
    request_id: written(event.requestId),
    ip: written(event.ip),
    network: written(event.network),
    user_agent: written(event.userAgent),
    details: JSON.stringify(event.details, (_, value) => written(value)),
  })
}

// No UTF-8 column holds a lone surrogate or NUL.
function written<T>(value: T): T
function written(value: unknown) {
  return typeof value === 'string' ? value.toWellFormed().replaceAll('\0', '\ufffd') : value
}

const eventColumns = [
  'id',
  'name',
  'at',
  'user_id as userId',
  'identifier',
  'session_id as sessionId',
  'request_id as requestId',
  'ip',
  'network',
  'user_agent as userAgent',
] as const
