import { type Check, integer, section, sectionOrOff } from './checks.ts'

/** So many tries within so many seconds. */
export interface Limit {
  tries: number
  /** The window. */
  seconds: number
}

/** What is limited. */
export interface Throttle {
  /**
   * Wrong passwords for one account from one network, at login and wherever a password is asked for again; in a day 5
   * times as many from one where somebody has logged in to it.
   * @default { tries: 10, seconds: 900 }
   */
  login: Limit | false
  /**
   * Wrong passwords for one account from all networks together where nobody has logged in to it for 30 days.
   * @default { tries: 50, seconds: 3600 }
   */
  account: Limit | false
  /**
   * Wrong passwords from one network for all accounts that nobody has logged in to from there.
   * @default { tries: 100, seconds: 900 }
   */
  network: Limit | false
  /** Registrations from one network. @default { tries: 20, seconds: 3600 } */
  register: Limit | false
  /** Mails that are asked for from one network. @default { tries: 20, seconds: 3600 } */
  mail: Limit | false
  /**
   * Mails with a code to one account: asked for from each network where somebody has logged in to it within 30 days,
   * and from all others together, from which it is twice as many in a day. Past it nothing is mailed, and nobody can
   * tell.
   * @default { tries: 5, seconds: 3600 }
   */
  mailbox: Limit | false
  /** Changes of one account's password by whoever knows it. @default { tries: 10, seconds: 3600 } */
  change: Limit | false
}

function limit(tries: number, seconds: number): Check<Limit | false> {
  return sectionOrOff<Limit>(
    { tries: integer(1, 1_000_000, tries), seconds: integer(1, 2_592_000, seconds) },
    'false or an object',
  )
}

const limits = section<Throttle>(
  {
    login: limit(10, 900),
    account: limit(50, 3600),
    network: limit(100, 900),
    register: limit(20, 3600),
    mail: limit(20, 3600),
    mailbox: limit(5, 3600),
    change: limit(10, 3600),
  },
  'false or an object',
)

const off: Readonly<Throttle> = Object.freeze({
  login: false,
  account: false,
  network: false,
  register: false,
  mail: false,
  mailbox: false,
  change: false,
})

/** The limits; all of them off with `false`. */
export const throttle: Check<Readonly<Throttle>> = (path, given) => (given === false ? off : limits(path, given))
