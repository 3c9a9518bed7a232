import type { FastifyBaseLogger } from 'fastify'
import type { AccountEvent, CodePurpose, Profile, Register, User } from '../contracts.ts'
import { hostRefusal, loggable } from '../errors.ts'
import type { Client } from './client.ts'

/** What events record beside who, when and from where. */
export interface EventDetails {
  register: Record<never, never>
  /** Also with `concealExisting`, where the client does not learn of it. */
  registerFail: { reason: 'email_taken' | 'username_taken' }
  login: Record<never, never>
  /** `stale`: the credentials changed while the password was verified. */
  loginFail: { reason: 'unknown' | 'disabled' | 'password' | 'unverified' | 'stale' }
  codeIssue: { purpose: CodePurpose }
  codeAccept: { purpose: CodePurpose }
  codeFail: { purpose: CodePurpose; reason: 'wrong' | 'dead' }
  codeExhaust: { purpose: CodePurpose }
  passwordReset: Record<never, never>
  passwordChange: { by: 'user' | 'admin' }
  /** A logged-in user gave a wrong password where it is required. */
  passwordFail: Record<never, never>
  refresh: Record<never, never>
  /** The newest token came back: a race, or a response that was lost. */
  refreshReplay: Record<never, never>
  refreshReuse: Record<never, never>
  refreshFail: { reason: 'dead' | 'stale' | 'ahead' | 'unverified' }
  /** `displaced`: the user logged in once more than `session.perUser` allows. */
  sessionEnd: { reason: 'logout' | 'logout_all' | 'revoked' | 'admin' | 'displaced'; count: number }
  emailVerify: { password: 'kept' | 'discarded' }
  emailChange: Record<never, never>
  accountUpdate: { fields: string }
  accountDelete: { mode: 'row' | 'deactivate'; by: 'user' | 'admin' }
  accountDisable: Record<never, never>
  accountEnable: Record<never, never>
  roleChange: { role: string | null }
  /** `passwords.breached` failed; the password passed unchecked. */
  breachCheckFail: { error: string }
  /** Something was tried too often, and refused before it was done; or a mailbox had enough, and a mail was dropped. */
  throttle: { act: 'password' | 'register' | 'mail' | 'change' | 'mailbox' }
}

/** What is counted before it is done. */
export type Attempted = Exclude<EventDetails['throttle']['act'], 'mailbox'>

/** The name of an event. */
export type EventName = keyof EventDetails

/** An event of one name. */
export type EventOf<Name extends EventName, Types extends object = Register> = Omit<
  AccountEvent<Types>,
  'name' | 'details'
> & {
  name: Name
  details: EventDetails[Name]
}

/** An event of any name, which decides what its details are. */
export type SecurityEvent<Types extends object = Register> = {
  [Name in EventName]: EventOf<Name, Types>
}[EventName]

/** What hooks are called with: `before…` may refuse, `after…` may not. */
export type HookContexts<Types extends object = Register> = {
  beforeRegister: {
    username: string | null
    email: string
    profile: Profile<Types>
    client: Client
  }
  /**
   * Before something that is limited is done, `throttle` or not: a password is compared, an account registered, a mail
   * with a code asked for, a password changed. It has two seconds, and what fails refuses. One request may be asked
   * about more than once.
   */
  beforeAttempt: {
    act: Attempted
    /** How much of the fullest limit is used up with this try; 1 at its limit, 0 without one. */
    share: number
    /** Whether the client's network is known to the account. */
    known: boolean
    /** Keyed hash of the account's address; null where none is meant. */
    identifier: string | null
    client: Client
  }
  /** After the password was proved. */
  beforeLogin: { user: User<Types>; client: Client }
  /** `by` distinguishes a reset from a change by a logged-in user. */
  beforePasswordChange: { user: User<Types>; by: 'reset' | 'user'; client: Client }
  /** `email` is the new address, before a code is mailed to it. */
  beforeEmailChange: { user: User<Types>; email: string; client: Client }
  beforeDelete: { user: User<Types>; client: Client }
} & { [Name in EventName as `after${Capitalize<Name>}`]: EventOf<Name, Types> }

/** The name of a hook. */
export type HookName = keyof HookContexts

type BeforeHook = Extract<HookName, `before${string}`>

/** Adds a hook; hooks of one name are called in the order in which they were added. */
export type AddHook<Types extends object = Register> = <Name extends HookName>(
  name: Name,
  hook: (context: HookContexts<Types>[Name]) => unknown,
) => void

/** Hooks of the host. */
export interface Hooks {
  readonly add: AddHook
  /** Whether there is a hook of that name. */
  has(name: HookName): boolean
  /** Awaits the hooks before an act; the first that throws refuses it. */
  before<Name extends BeforeHook>(name: Name, context: HookContexts[Name]): Promise<void>
  /** Calls the hooks after an event; none of them can change the response. */
  after(event: AccountEvent): void
}

/** Makes the hooks of one realm. */
export function createHooks(log: FastifyBaseLogger): Hooks {
  const hooks = new Map<string, ((context: never) => unknown)[]>()
  const hooksOf = (name: string) => hooks.get(name) ?? []
  return {
    add(name, hook) {
      if (!hookNames.includes(name)) throw new TypeError(`fastify-accounts: there is no hook "${name}"`)
      if (typeof hook !== 'function') throw new TypeError(`fastify-accounts: the hook "${name}" must be a function`)
      hooks.set(name, [...hooksOf(name), hook])
    },
    has: (name) => hooks.has(name),
    async before(name, context) {
      for (const hook of hooksOf(name)) {
        try {
          await hook(context as never)
        } catch (error) {
          throw hostRefusal(error)
        }
      }
    },
    after(event) {
      for (const hook of hooksOf(`after${event.name[0]?.toUpperCase()}${event.name.slice(1)}`)) {
        void callAfter(hook, event, log)
      }
    },
  }
}

async function callAfter(hook: (event: never) => unknown, event: AccountEvent, log: FastifyBaseLogger): Promise<void> {
  try {
    await hook(event as never)
  } catch (error) {
    log.error({ err: loggable(error) }, `fastify-accounts: a hook after "${event.name}" failed`)
  }
}

/** Every event with its log level and its words in the log. */
export const eventTable = {
  register: ['info', 'registered'],
  registerFail: ['info', 'a registration met an existing account'],
  login: ['info', 'logged in'],
  loginFail: ['info', 'a login failed'],
  codeIssue: ['info', 'a code was issued'],
  codeAccept: ['info', 'a code was right'],
  codeFail: ['info', 'a code was wrong'],
  codeExhaust: ['warn', 'a code was guessed too often'],
  passwordReset: ['info', 'the password was reset'],
  passwordChange: ['info', 'the password was changed'],
  passwordFail: ['info', 'a password of a logged-in user was wrong'],
  refresh: ['info', 'a session went on'],
  refreshReplay: ['info', 'a refresh token came back'],
  refreshReuse: ['warn', 'a refresh token was reused; its session has ended'],
  refreshFail: ['info', 'a refresh token was refused'],
  sessionEnd: ['info', 'sessions were ended'],
  emailVerify: ['info', 'an e-mail address was verified'],
  emailChange: ['info', 'the e-mail address was changed'],
  accountUpdate: ['info', 'the account was updated'],
  accountDelete: ['info', 'the account was deleted'],
  accountDisable: ['info', 'the account was disabled'],
  accountEnable: ['info', 'the account was enabled'],
  roleChange: ['info', 'the role was changed'],
  breachCheckFail: ['warn', 'a password was not checked against the leaked ones'],
  throttle: ['info', 'too many tries were made'],
} as const satisfies Record<EventName, readonly ['info' | 'warn', string]>

/** Every event by name. */
export const eventNames = Object.keys(eventTable) as EventName[]

const beforeHooks = [
  'beforeAttempt',
  'beforeRegister',
  'beforeLogin',
  'beforePasswordChange',
  'beforeEmailChange',
  'beforeDelete',
]
const hookNames: string[] = [
  ...beforeHooks,
  ...eventNames.map((name) => `after${name[0]!.toUpperCase()}${name.slice(1)}`),
]
