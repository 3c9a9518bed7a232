import type { CredentialChange, ImportedUser, OutboxMail, Session, Storage } from 'fastify-accounts'
import { judgeToken, resilient, storable, storableUser } from 'fastify-accounts/adapter'
import type { Prisma, PrismaClient, User as UserRow } from './generated/client.ts'
import { faults, int, isInt, text, unless } from './values.ts'

declare module 'fastify-accounts' {
  interface Register {
    id: number
    profile: Prisma.JsonValue
  }
}

type Db = Prisma.TransactionClient
type Answer<Verb extends Exclude<keyof Storage, 'ids'>> = Awaited<ReturnType<Required<Storage>[Verb]>>

const canonical = { emailCanonical: true, usernameCanonical: true } as const
const secret = { ...canonical, passwordHash: true } as const
const ofRefresh = { counter: true, advancedAt: true, lateReplays: true, lastLateAt: true, endedAt: true } as const
const id = { id: true } as const

/**
 * Stores accounts in the tables of `schema.prisma`, on PostgreSQL. What judges a row before it changes it does so in
 * the `where` of the change, or locks the row first: a user before its sessions, or two callers could wait for each
 * other.
 */
export function prismaStorage(prisma: PrismaClient): Storage {
  const { user: users, session: sessions, outboxMail: mails, accountEvent: events } = prisma
  const verbs: Storage = {
    ids: 'integer',

    async insertUser(user: ImportedUser, mails = []) {
      if (!fits(user)) return 'invalid'
      const taken = await takenOf(prisma, user)
      if (taken) return taken as 'email_taken' | 'username_taken' // a new user has no id
      const steps = [storeMails(prisma, mails), ...(user.id === undefined ? [] : [skipId(prisma, user.id)])]
      const creation = users.create({ data: user as Prisma.UserCreateInput, select: id })
      return (await prisma.$transaction([creation, ...steps]))[0]
    },

    async importUsers(batch) {
      const outcomes: Answer<'importUsers'> = []
      for (const user of batch) outcomes.push(await storage.insertUser(user))
      return outcomes
    },

    findUserById: (id) => users.findUnique({ where: { id: int(id) }, omit: secret }),

    findUserByEmail: (email) => users.findUnique({ where: { emailCanonical: text(email) }, omit: canonical }),

    findUserWithPassword: (id) => users.findUnique({ where: { id: int(id) }, omit: canonical }),

    findHolders(email, username) {
      const either = [{ emailCanonical: text(email) }, { usernameCanonical: text(username ?? '') }]
      return users.findMany({ where: { OR: either }, omit: secret })
    },

    listUsers({ after, limit }) {
      const where = { id: { gt: after === undefined || isInt(after) ? after : 2 ** 31 - 1 } }
      return users.findMany({ where, orderBy: { id: 'asc' }, take: limit, omit: secret })
    },

    async updateUser(change) {
      if (!storable(change)) return isInt(change.id) ? 'invalid' : null
      const updated = inTransaction(prisma, (tx) => updateUser(tx, change))
      return unless('P2002', 'username_taken' as const, updated)
    },

    async setRole(id, role) {
      return storable(role) && (await users.updateMany({ where: { id: int(id) }, data: { role } })).count === 1
    },

    async replacePasswordHash(id, passwordHash, newHash) {
      const where = { id: int(id), passwordHash }
      return (await users.updateMany({ where, data: { passwordHash: newHash } })).count === 1
    },

    countPasswordHashes: () => prisma.$queryRaw`
      select substring("passwordHash" from ',keyid=([A-Za-z0-9+/]+)') as "keyId", count(*)::int as count
      from "User" where "passwordHash" is not null group by 1`,

    async samplePasswordHashes(most) {
      const rows = await prisma.$queryRaw<{ hash: string }[]>`
        select "passwordHash" as hash from "User" where "passwordHash" is not null order by random() limit ${most}`
      return rows.map(({ hash }) => hash)
    },

    async changeCredentials(change) {
      return storable(change.set) ? inTransaction(prisma, (tx) => changeCredentials(tx, change)) : 'stale'
    },

    async deleteUser({ userId, fence, now, mails }) {
      const deletion = inTransaction(prisma, async (tx) => {
        const deleted = await tx.user.deleteMany({ where: { id: int(userId), credentialVersion: fence } })
        if (deleted.count === 0) return 'stale' as const
        await storeMails(tx, mails)
        return { ended: await endSessions(tx, { userId }, now) }
      })
      return unless('P2003', 'in_use' as const, deletion)
    },

    insertSession: (session, most) =>
      inTransaction(prisma, async (tx) => {
        const { userId, credentialVersion, createdAt } = session
        const user = await lockedUser(tx, userId)
        if (!user?.active || user.credentialVersion !== credentialVersion) return null
        const open = { where: { userId, endedAt: null }, orderBy: { lastUsedAt: 'desc' }, skip: most - 1 } as const
        const surplus = await tx.session.findMany({ ...open, select: id })
        await storeSession(tx, session)
        return endSessions(tx, { id: { in: idsOf(surplus) } }, createdAt)
      }),

    async sessionActive(id, userId, now) {
      const where = { ...ownSession(id, userId), endedAt: null, expiresAt: { gt: now } }
      return (await sessions.count({ where })) === 1
    },

    refreshSession: (id, token, rule, now) =>
      inTransaction(prisma, async (tx) => {
        await tx.$queryRaw`select 1 from "Session" where id = ${text(id)} for update`
        const row = await tx.session.findUnique({ where: { id: text(id) } })
        const user = row && (await tx.user.findUnique({ where: { id: row.userId }, omit: secret }))
        const dead = row?.endedAt !== null || over(row, now) || user?.credentialVersion !== row.credentialVersion
        if (dead || !user.active || !Number.isSafeInteger(token) || token < 0) return { result: 'dead' }
        const { result, set } = judgeToken(row, token, rule, now)
        const session = await tx.session.update({ where: { id }, data: set, omit: ofRefresh })
        if (result !== 'accepted') return { result, session }
        return { result, counter: token, replayed: token === row.counter, session, user }
      }),

    async listSessions(userId, limit, now) {
      const open = { where: { userId: int(userId), endedAt: null }, orderBy: { lastUsedAt: 'desc' } } as const
      const found = await sessions.findMany({ ...open, omit: ofRefresh })
      return found.filter((session) => !over(session, now)).slice(0, limit)
    },

    async endSession(id, userId, now) {
      const where = ownSession(id, userId)
      const ended = await endSessions(prisma, where, now)
      const session = await sessions.findUnique({ where })
      return session && { userId: session.userId, ended: ended.length === 1 }
    },

    endSessions: (userId, now) => endSessions(prisma, { userId: int(userId) }, now),

    async endAnySessions(limit, now) {
      const open = await sessions.findMany({ where: { endedAt: null }, take: limit, select: id })
      return endSessions(prisma, { id: { in: idsOf(open) } }, now)
    },

    async endedSince(time, usedSince) {
      const where = { endedAt: { gte: time }, lastUsedAt: { gte: usedSince } }
      const ended = await sessions.findMany({ where, select: { id: true, endedAt: true } })
      return ended as { id: string; endedAt: number }[]
    },

    addMails: (added) => storeMails(prisma, added).then(() => {}),

    async claimMails(now, until, limit) {
      const due = { settled: false, dueAt: { lte: now }, expiresAt: { gt: now } }
      const found = await mails.findMany({ where: due, take: limit, select: id })
      const where = { ...due, id: { in: idsOf(found) } }
      return mails.updateManyAndReturn({ where, data: { dueAt: until }, omit: { settled: true } })
    },

    async settleMails(ids) {
      await mails.updateMany({ where: { id: { in: ids.map(text) } }, data: { settled: true, sealed: '' } })
    },

    async addEvent(event) {
      await events.create({ data: { ...event, userId: isInt(event.userId) ? event.userId : null } })
    },

    async listEvents(userId, { before, limit }) {
      const where = { userId: int(userId), id: { lt: before } }
      const found = await events.findMany({ where, orderBy: { id: 'desc' }, take: limit })
      return found.map((event) => ({ ...event, id: Number(event.id) })) as Answer<'listEvents'>
    },

    async purge({ now, eventsBefore, limit }) {
      const expired = { expiresAt: { lte: now }, emailVerifiedAt: null }
      const removed = [
        await sessions.deleteMany({ where: { expiresAt: { lt: now - 86_400_000 } }, limit }),
        await mails.deleteMany({ where: { expiresAt: { lte: now } }, limit }),
        await events.deleteMany({ where: { at: { lt: eventsBefore } }, limit }),
      ]
      for (const { id } of await users.findMany({ where: expired, take: limit, select: { id: true } })) {
        const where = { id, ...expired }
        const gone = await unless('P2003', null, users.deleteMany({ where }))
        removed.push(gone ?? (await users.updateMany({ where, data: { expiresAt: null } })))
      }
      return removed.reduce((sum, { count }) => sum + count, 0)
    },

    async ping() {
      const [row] = await prisma.$queryRaw<[{ now: Date }]>`select clock_timestamp() as now`
      return row.now.getTime()
    },
  }
  const storage = resilient(verbs, faults)
  return storage
}

/** READ COMMITTED: a step sees what others committed while the one before it waited for a lock. */
function inTransaction<T>(prisma: PrismaClient, steps: (tx: Db) => Promise<T>): Promise<T> {
  return prisma.$transaction(steps, { isolationLevel: 'ReadCommitted' })
}

const fits = ({ id = 1, ...user }: ImportedUser) => isInt(id) && id > 0 && storableUser(user)

// Prisma knows no sequences. Before others see the row; never back, or ids of deleted users would be given out again.
function skipId(prisma: PrismaClient, id: number) {
  return prisma.$queryRaw`select setval(name, ${id}) from pg_get_serial_sequence('"User"', 'id') name
    where ${id} > coalesce(pg_sequence_last_value(name::regclass), 0)`
}

async function takenOf({ user: users }: Db, { id, emailCanonical, usernameCanonical }: ImportedUser) {
  if (await users.count({ where: { emailCanonical } })) return 'email_taken'
  if (usernameCanonical !== null && (await users.count({ where: { usernameCanonical } }))) return 'username_taken'
  return id !== undefined && (await users.count({ where: { id } })) ? 'id_taken' : null
}

async function lockedUser(tx: Db, id: number): Promise<UserRow | null> {
  await tx.$queryRaw`select 1 from "User" where id = ${int(id)} for update`
  return tx.user.findUnique({ where: { id: int(id) } })
}

async function updateUser(tx: Db, { id, fence, profile, ...names }: Parameters<Storage['updateUser']>[0]) {
  const user = await lockedUser(tx, id)
  if (!user?.active) return null
  if (fence) {
    const { sessionId, emailCanonical = user.emailCanonical } = fence
    const asking = { id: sessionId, userId: id, credentialVersion: user.credentialVersion, endedAt: null }
    if (emailCanonical !== user.emailCanonical || !(await tx.session.count({ where: asking }))) return null
  }
  const data = { ...names, profile: { ...(user.profile as object), ...profile } as Prisma.JsonObject }
  return tx.user.update({ where: { id }, data, omit: secret })
}

async function changeCredentials(tx: Db, change: CredentialChange) {
  const { userId, fence, credentialVersion, now, set, seenUsername, sessions, start, mails } = change
  const user = await lockedUser(tx, userId)
  if (!user || user.credentialVersion !== fence || !(user.active || set.active !== undefined)) return 'stale'
  if (seenUsername !== undefined && seenUsername !== user.username) return 'stale'
  const { emailCanonical, usernameCanonical } = set
  const NOT = { id: userId }
  if (emailCanonical !== undefined && (await tx.user.count({ where: { emailCanonical, NOT } }))) return 'email_taken'
  const taken = usernameCanonical && (await tx.user.count({ where: { usernameCanonical, NOT } }))
  const kept = taken ? { username: undefined, usernameCanonical: undefined } : {}
  const expiry = set.emailVerifiedAt !== undefined && { expiresAt: null }
  await tx.user.update({ where: { id: userId }, data: { ...(set as object), ...kept, ...expiry, credentialVersion } })

  const others = { userId, ...(typeof sessions === 'object' && { NOT: { id: text(sessions.keep) } }) }
  const ended = sessions === 'keep' ? [] : await endSessions(tx, others, now)
  const where = { userId, credentialVersion: fence, endedAt: null }
  await tx.session.updateMany({ where, data: { credentialVersion } })
  if (start) await storeSession(tx, { ...start, userId, credentialVersion })
  await storeMails(tx, mails)
  return { ended }
}

// Who has had a session does not expire any more.
async function storeSession(tx: Db, session: Session): Promise<void> {
  await tx.session.create({ data: session })
  await tx.user.updateMany({ where: { id: session.userId, NOT: { expiresAt: null } }, data: { expiresAt: null } })
}

function ownSession(id: string, userId: number | null) {
  return { id: text(id), ...(userId !== null && { userId: int(userId) }) }
}

async function endSessions({ session }: Db, where: Prisma.SessionWhereInput, now: number): Promise<string[]> {
  const open = { ...where, endedAt: null }
  return idsOf(await session.updateManyAndReturn({ where: open, data: { endedAt: now }, select: id }))
}

const idsOf = (rows: { id: string }[]) => rows.map(({ id }) => id)

// In one order, or two callers with the same mails could wait for each other.
function storeMails({ outboxMail }: Db, mails: OutboxMail[]) {
  const data = mails.toSorted((one, other) => (one.id < other.id ? -1 : 1))
  return outboxMail.createMany({ data, skipDuplicates: true })
}

// It is idle, or past its absolute end.
const over = ({ expiresAt, lastUsedAt, idleMs }: Session, now: number) =>
  now >= Math.min(expiresAt, lastUsedAt + idleMs)
