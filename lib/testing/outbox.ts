import assert from 'node:assert/strict'
import type { Storage } from '../contracts.ts'
import { claimedOf, hostileTexts, hour, idsOf, minute, race, sampleMail, sampleUser, start } from './samples.ts'

/** The part of `storageContract` about mails that wait. */
export const outboxContract: { name: string; run(subject: Storage): Promise<void> }[] = [
  {
    name: 'a stored mail is claimed with every field',
    async run(subject) {
      const mails = [sampleMail({ sealed: 'x'.repeat(8192) }), sampleMail({ createdAt: start - 5, dueAt: start - 4 })]
      await subject.addMails([])
      await subject.addMails(mails)

      const claimed = await claimedOf(subject, mails)

      assert.equal(claimed.length, 2)
      for (const mail of mails) {
        const found = claimed.find(({ id }) => id === mail.id)
        assert.deepEqual({ ...found, dueAt: mail.dueAt }, mail)
      }
    },
  },
  {
    name: 'a mail can be claimed once it is due, not again before `until`, and never past its end',
    async run(subject) {
      const mails = [sampleMail({ dueAt: start + minute, expiresAt: start + hour })]
      await subject.addMails(mails)
      const claims = async (now: number) => (await claimedOf(subject, mails, now)).length

      assert.equal(await claims(start + minute - 1), 0)
      assert.equal(await claims(start + minute), 1)
      assert.equal(await claims(start + 2 * minute - 1), 0)
      assert.equal(await claims(start + 2 * minute), 1)
      assert.equal(await claims(start + hour - 1), 1)
      assert.equal(await claims(start + hour), 0)
      assert.equal(await claims(start + 2 * hour), 0)

      const unclaimed = [sampleMail({ expiresAt: start + minute })]
      await subject.addMails(unclaimed)
      assert.deepEqual(await claimedOf(subject, unclaimed, start + minute), [])
    },
  },
  {
    name: 'a mail is claimed by exactly one of 50 callers, and no caller gets more than its limit',
    async run(subject) {
      const mails = Array.from({ length: 120 }, () => sampleMail())
      await claimedOf(subject, [])
      await subject.addMails(mails)

      const batches = await race(() => subject.claimMails(start, start + minute, 3))

      assert.ok(batches.every(({ length }) => length <= 3))
      const claimed = [...batches.flat(), ...(await claimedOf(subject, mails))]
      assert.deepEqual(idsOf(claimed), idsOf(mails))
    },
  },
  {
    name: 'a settled mail is never claimed again, nor stored again under its id',
    async run(subject) {
      const [settled, other] = [sampleMail(), sampleMail()]
      await subject.addMails([settled, other])

      await subject.settleMails([])
      await subject.settleMails([settled.id])
      await subject.settleMails([settled.id])
      await subject.addMails([settled])

      assert.deepEqual(idsOf(await claimedOf(subject, [settled, other])), [other.id])
      assert.deepEqual(idsOf(await claimedOf(subject, [settled, other], start + 2 * minute)), [other.id])
    },
  },
  {
    name: 'an id is stored once, whoever stores it: the first mail stays as it is',
    async run(subject) {
      const mail = sampleMail({ sealed: 'first' })
      const again = { ...mail, sealed: 'second', expiresAt: start + 2 * hour }

      await subject.addMails([mail, again])
      await subject.addMails([again])
      const stored = await subject.insertUser(sampleUser(), [again, sampleMail()])

      assert.equal(typeof stored, 'object')
      const claimed = await claimedOf(subject, [mail])
      assert.deepEqual(
        claimed.map(({ sealed, expiresAt }) => [sealed, expiresAt]),
        [['first', start + hour]],
      )
    },
  },
  {
    name: 'the mails of 50 callers are stored once each',
    async run(subject) {
      const mails = Array.from({ length: 20 }, () => sampleMail())

      await race((index) => subject.addMails(index % 2 ? mails : mails.toReversed()))

      assert.deepEqual(idsOf(await claimedOf(subject, mails)), idsOf(mails))
    },
  },
  {
    name: 'a mail that 50 callers settle while it is claimed stays settled',
    async run(subject) {
      const mails = [sampleMail(), sampleMail()]
      await subject.addMails(mails)

      await race(async (index) => {
        if (index % 2) return subject.settleMails(idsOf(index % 3 ? mails : mails.toReversed()))
        await subject.claimMails(start, start, 100)
      })

      assert.deepEqual(await claimedOf(subject, mails), [])
    },
  },
  {
    name: '[R-SQL-1] hostile texts and unknown ids settle nothing',
    async run(subject) {
      const mails = [sampleMail()]
      await subject.addMails(mails)

      await subject.settleMails(hostileTexts)
      await subject.settleMails([sampleMail().id, `${mails[0]?.id} `])

      assert.deepEqual(idsOf(await claimedOf(subject, mails)), idsOf(mails))
    },
  },
]
