import Type from 'typebox'
import type { Accounts } from '../accounts.ts'
import type { User, UserId } from '../contracts.ts'
import { AccountsError } from '../errors.ts'
import { shownUser, userFields } from '../schemas.ts'
import type { Route } from '../scope.ts'

/**
 * Reads one's own account.
 *
 * @throws {AccountsError} ACCOUNTS_TOKEN_INVALID when the user is gone
 */
export async function readAccount({ storage }: Accounts, id: UserId): Promise<User> {
  const user = await storage.findUserById(id)
  if (!user?.active) throw new AccountsError('ACCOUNTS_TOKEN_INVALID')
  return user
}

/** `GET /auth/user/`. */
export function accountRoutes(accounts: Accounts): Route[] {
  return [
    {
      name: 'user',
      method: 'GET',
      path: '/auth/user/',
      summary: 'Read your own account',
      answer: [200, Type.Object({ ...userFields(accounts), email_verified: Type.Boolean() })],
      refusals: [],
      guarded: true,
      async handler(request) {
        const user = await readAccount(accounts, request.account.id)
        return { ...shownUser(accounts, user), email_verified: user.emailVerifiedAt !== null }
      },
    },
  ]
}
