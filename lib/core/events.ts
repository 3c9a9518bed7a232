import type { AccountEvent, UserId } from '../contracts.ts'
import type { Client } from './client.ts'
import { type EventDetails, type EventName, eventTable } from './hooks.ts'
import type { Realm } from './realm.ts'

/** Whom and what an event is about. */
export interface EventInput<Name extends EventName> {
  client: Client
  userId?: UserId | null
  identifier?: string | null
  sessionId?: string | null
  details: EventDetails[Name]
}

/**
 * Records a security event: one line in the log, the hooks after it and, with `eventLog`, the database. Never throws,
 * and is waited for within a host's transaction only, which may end next.
 */
export function emit<Name extends EventName>(
  realm: Realm,
  name: Name,
  input: EventInput<Name>,
): Promise<void> | undefined {
  const { client, userId = null, identifier = null, sessionId = null, details } = input
  const { ip, network, userAgent, requestId } = client
  const fields = { at: realm.clock(), userId, identifier, sessionId, requestId, ip, network, userAgent }
  const [level, words] = eventTable[name]
  const line: object = { event: `accounts.${name}`, realm: realm.options.name, ...fields, ...details }
  realm.log[level](line, `fastify-accounts: ${words}`)
  const event: AccountEvent = Object.freeze({ name, ...fields, details })
  realm.hooks.after(event)
  const kept = realm.options.eventLog ? keep(realm, event) : undefined
  return realm.joined ? kept : undefined
}

async function keep({ storage, pending }: Realm, event: AccountEvent): Promise<void> {
  // The port has logged the fault.
  const kept = storage.addEvent(event).catch(() => {})
  pending.add(kept)
  await kept
  pending.delete(kept)
}
