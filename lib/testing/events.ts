import assert from 'node:assert/strict'
import type { AccountEvent, EventId, Storage, StoredEvent, UserId } from '../contracts.ts'
import {
  day,
  memberNamed,
  missingId,
  race,
  sampleDeletion,
  start,
  storableTexts,
  storedUser,
  uniqueName,
} from './samples.ts'

/** The part of `storageContract` about security events, and about health. */
export const eventContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: '[R-LOG-3] an event comes back with every field',
    async run(subject) {
      const { id } = await storedUser(subject)
      const bare = { identifier: null, sessionId: null, requestId: null, details: {} }
      const events = [sampleEvent(id, start + 1), sampleEvent(id, start, bare)]

      for (const event of events) await subject.addEvent(event)

      assert.deepEqual(withoutIds(await subject.listEvents(id, { limit: 10 })), events.toReversed())
    },
  },
  {
    name: 'the events of a user are listed, the last stored first whatever their times, nobody else’s among them',
    async run(subject) {
      const { id } = await storedUser(subject)
      const other = await storedUser(subject)
      await subject.addEvent(sampleEvent(other.id, start))
      await subject.addEvent(sampleEvent(null, start))

      for (const after of [3, 1, 2]) await subject.addEvent(sampleEvent(id, start + after))

      assert.deepEqual(await timesOf(subject, id, { limit: 10 }), [2, 1, 3])
      assert.deepEqual(await timesOf(subject, other.id, { limit: 10 }), [0])
      for (const nobody of [missingId(subject), null as never]) {
        assert.deepEqual(await subject.listEvents(nobody, { limit: 10 }), [])
      }
    },
  },
  {
    name: 'pages of events find each exactly once, also those of one millisecond',
    async run(subject) {
      const { id } = await storedUser(subject)
      const other = await storedUser(subject)
      await race((index) => subject.addEvent(sampleEvent(index % 5 ? id : other.id, start + Math.floor(index / 6))))
      const all = await subject.listEvents(id, { limit: 100 })

      assert.equal(all.length, 40)
      assert.equal(new Set(all.map((event) => event.id)).size, 40)
      for (const limit of [1, 2, 7, 39, 40, 41]) {
        const pages = await pagesOf(subject, id, limit)
        assert.deepEqual(pages.flat(), all)
        assert.ok(pages.slice(0, -1).every(({ length }) => length === limit))
      }
    },
  },
  {
    name: 'the events of a deleted user stay',
    async run(subject) {
      const user = await storedUser(subject)
      await subject.addEvent(sampleEvent(user.id, start))

      await subject.deleteUser(sampleDeletion(user))

      assert.deepEqual(await timesOf(subject, user.id, { limit: 10 }), [0])
    },
  },
  {
    name: 'changing an event that was stored or listed changes nothing in the store',
    async run(subject) {
      const { id } = await storedUser(subject)
      const event = sampleEvent(id, start, { details: { reason: 'first' } })
      await subject.addEvent(event)

      event.details.reason = 'second'
      const [found] = await subject.listEvents(id, { limit: 1 })
      Object.assign(found?.details as object, { reason: 'third' })

      const [again] = await subject.listEvents(id, { limit: 1 })
      assert.deepEqual(again?.details, { reason: 'first' })
    },
  },
  {
    name: '[R-SQL-1] hostile texts in an event are texts',
    async run(subject) {
      const { id } = await storedUser(subject)
      const events = storableTexts.map((text, index) =>
        sampleEvent(id, start - index, {
          ...{
            name: text,
            identifier: text,
            sessionId: text,
            requestId: text,
            ip: text,
            network: text,
            userAgent: text,
          },
          details: memberNamed(text),
        }),
      )

      for (const event of events) await subject.addEvent(event)

      assert.deepEqual(withoutIds(await subject.listEvents(id, { limit: 100 })), events.toReversed())
    },
  },
  {
    name: 'ping returns the store’s time in milliseconds',
    async run(subject) {
      const time = await subject.ping()

      assert.equal(typeof time, 'number')
      assert.ok(Math.abs(time - Date.now()) < day)
    },
  },
]

/** An event of a user that has happened at `at`. */
export function sampleEvent(userId: UserId | null, at: number, change: Partial<AccountEvent> = {}): AccountEvent {
  return {
    name: 'login',
    at,
    userId,
    identifier: uniqueName(),
    sessionId: uniqueName(),
    requestId: 'req-1',
    ip: '2001:db8::1',
    network: '2001:db8::/64',
    userAgent: 'Mozilla/5.0 (contract) 😀',
    details: { reason: 'a "quoted"\nline', count: -1.5, known: true, other: false, nothing: null },
    ...change,
  }
}

function withoutIds(events: StoredEvent[]): AccountEvent[] {
  return events.map(({ id: _, ...event }) => event)
}

/** The times of a page of events, counted from `start`. */
async function timesOf(subject: Storage, id: UserId, page: { before?: EventId; limit: number }): Promise<number[]> {
  return (await subject.listEvents(id, page)).map(({ at }) => at - start)
}

/** All events of a user, page by page. */
async function pagesOf(subject: Storage, id: UserId, limit: number, before?: EventId): Promise<StoredEvent[][]> {
  const page = await subject.listEvents(id, { before, limit })
  const last = page.at(-1)
  return last ? [page, ...(await pagesOf(subject, id, limit, last.id))] : []
}
