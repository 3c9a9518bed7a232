import { lookupForm } from '../../lib/core/email-address.ts'
import { canonicalUsername } from '../../lib/core/usernames.ts'

/** The forms in which addresses and usernames are unique, as the command line gives them to an adoption. */
export const forms = { email: lookupForm, username: canonicalUsername }

const hashForm = (stored: string) =>
  stored.startsWith('$2') ? 'bcrypt' : stored.startsWith('$argon2') ? 'argon2' : null

/** What a check is told of the core; `hashForm` names the form of a stored hash. */
export const judge = { forms, hashForm, hashLength: 128 }
