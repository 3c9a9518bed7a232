import { AccountsError, type Storage } from 'fastify-accounts'
import { storable } from 'fastify-accounts/adapter'
import { Prisma } from './generated/client.ts'

/** Whether an `Int` can hold a value: tokens, routes and imports may bring others. */
export function isInt(value: unknown): value is number {
  return value === (Number(value) | 0)
}

/** The id for a query: 0, which nobody has, for one that nobody can have. */
export function int(id: number): number {
  return isInt(id) ? id : 0
}

/** The text for a query: '', which is no address and no session's id, for one that PostgreSQL cannot hold. */
export function text(value: string): string {
  return storable(value) ? value : ''
}

function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Prisma.PrismaClientKnownRequestError && codes.includes(error.code)
}

/** What a step resolves to, or `word` when Prisma refuses it with this code. */
export async function unless<T, Word>(code: string, word: Word, step: PromiseLike<T>): Promise<T | Word> {
  try {
    return await step
  } catch (error) {
    if (hasCode(error, code)) return word
    throw error
  }
}

const deadlock = 'P2034'
// P2010 and P2039 are what Prisma has no other code for, such as a server that shuts down.
const outages = ['P1001', 'P1002', 'P1008', 'P1017', 'P2010', 'P2024', 'P2028', 'P2037', 'P2039']

/** The verbs, tried again after a deadlock, and with an error that becomes a 503 while the database cannot serve. */
export function resilient({ ids, ...verbs }: Storage): Storage {
  async function attempt(verb: () => unknown, tries: number): Promise<unknown> {
    try {
      return await verb()
    } catch (cause) {
      if (hasCode(cause, deadlock) && tries > 1) return attempt(verb, tries - 1)
      throw hasCode(cause, ...outages) ? new AccountsError('ACCOUNTS_UNAVAILABLE', { cause }) : cause
    }
  }
  const around =
    (verb: (...given: unknown[]) => unknown) =>
    (...given: unknown[]) =>
      attempt(() => verb(...given), 4)
  const tried = Object.entries(verbs).map(([name, verb]) => [name, around(verb as never)])
  return { ids, ...Object.fromEntries(tried) }
}
