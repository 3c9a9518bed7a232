import { type Faults, storable } from 'fastify-accounts/adapter'
import { Prisma } from './generated/client.ts'

/** Whether an `Int` can hold a value: tokens, routes and imports may bring others. */
export const isInt = (value: unknown): value is number => value === (Number(value) | 0)

/** The id for a query: 0, which nobody has, for one that nobody can have. */
export const int = (id: number): number => (isInt(id) ? id : 0)

/** The text for a query: '', which is no address and no session's id, for one that PostgreSQL cannot hold. */
export const text = (value: string): string => (storable(value) ? value : '')

const hasCode = (error: unknown, ...codes: string[]) =>
  error instanceof Prisma.PrismaClientKnownRequestError && codes.includes(error.code)

/** What a step resolves to, or `word` when Prisma refuses it with this code. */
export async function unless<T, Word>(code: string, word: Word, step: PromiseLike<T>): Promise<T | Word> {
  try {
    return await step
  } catch (error) {
    if (hasCode(error, code)) return word
    throw error
  }
}

// P2010 and P2039 are what Prisma has no other code for, such as a server that shuts down.
const outages = ['P1001', 'P1002', 'P1008', 'P1017', 'P2010', 'P2024', 'P2028', 'P2037', 'P2039']

export const faults: Faults = {
  // A deadlock, in raw SQL 40P01, or an address or a name that somebody took after it was looked for.
  retry: (error) => hasCode(error, 'P2034', 'P2002') || /40P01/.test(String(error)),
  // pg has no code for a connection that is lost.
  unavailable: (error) => hasCode(error, ...outages) || /Connection terminated|not queryable/.test(String(error)),
}
