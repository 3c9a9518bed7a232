import type { Accounts } from './accounts.ts'
import type { Account } from './core/tokens.ts'

export type { Accounts, UseCases } from './accounts.ts'
export type {
  AccountEvent,
  Brand,
  Cache,
  Claims,
  CredentialChange,
  EventId,
  IdKind,
  ImportedUser,
  Mailer,
  Message,
  NewUser,
  OutboxMail,
  Profile,
  RefreshOutcome,
  RefreshRule,
  Register,
  Session,
  Storage,
  StoredEvent,
  User,
  UserId,
  UserWithPassword,
} from './contracts.ts'
export type { Client } from './core/client.ts'
export { canonicalEmail } from './core/email-address.ts'
export type { Health, PartHealth } from './core/health.ts'
export type { EventDetails, EventName, EventOf, HookContexts, HookName, SecurityEvent } from './core/hooks.ts'
export type { TokenPair } from './core/sessions.ts'
export type { Account } from './core/tokens.ts'
export { AccountsError, type AccountsErrorCode, type FieldError, type PasswordReason } from './errors.ts'
export type { Imported, ImportRefusal, Users, UserToCreate, UserToImport } from './features/users.ts'
export type { Authenticate, Guards, Requirements } from './http/guards.ts'
export type { Mail, MailBrand, MailInput, MailTemplate, MailTemplates, WrittenMail } from './options/mail.ts'
export type { AccountsOptions, RouteName } from './options/options.ts'
export { accountsPlugin as default } from './plugin.ts'
export { createAccounts, defineAccounts, type StandaloneAccounts } from './standalone.ts'

declare module 'fastify' {
  interface FastifyInstance {
    accounts: Accounts
  }
  interface FastifyRequest {
    /** Who the request is made for; throws on a route without a guard. */
    readonly account: Account
    /** The same after `authenticate({ optional: true })`; null without a token. */
    readonly accountOrNull: Account | null
  }
  interface FastifyContextConfig {
    /** False: the route of a scope under `protect` is meant to be open. */
    accounts?: false
  }
}
