import { realmOf } from '../accounts.ts'
import { lookupForm } from '../core/email-address.ts'
import { canonicalUsername } from '../core/usernames.ts'
import { withAccounts } from './accounts.ts'
import type { Flags } from './config.ts'
import { print, usageError } from './output.ts'

const adapter = () => import('../adapters/kysely/adopt.ts')

/** Prints the statements that adopt the host's users table, or that undo it, or what is to be known of it. */
export async function adopt(flags: Flags): Promise<void> {
  const { check, remove, repair } = flags
  if (remove && (check || repair)) throw usageError('--remove goes alone')
  if (repair && !check) throw usageError('--repair goes with --check')
  await withAccounts(flags, async (accounts) => {
    const { options, passwords } = realmOf(accounts)
    if (!options.adopt || !options.db) throw usageError('the config needs "adopt", and "db" or DATABASE_URL')
    const [db, adoption] = [options.db.reveal(), options.adopt]
    const { adoptionSql, checkAdoption, removalSql, repairAdoption } = await adapter()
    if (remove) return print(await removalSql(db, adoption))
    if (!check) return print(await adoptionSql(db, adoption))
    const forms = { email: lookupForm, username: canonicalUsername }
    if (repair) await repairAdoption(db, adoption, forms)
    const hashForm = (stored: string) => (passwords.usable(stored) ? nameOf(stored) : null)
    const hashLength = options.passwords.write === 'bcrypt' ? bcryptLength : longestHash
    print(...(await checkAdoption(db, adoption, { forms, hashForm, hashLength })), 'Everything else is in order.')
  })
}

const bcryptLength = 60
// An argon2id hash with a pepper of 16 characters.
const longestHash = 128

function nameOf(stored: string): string {
  return /^\$?([a-z\d_-]+)\$/i.exec(stored)?.[1] ?? 'of your own'
}
