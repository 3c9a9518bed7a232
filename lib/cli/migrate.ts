import type { AnyKysely } from '../options/ports.ts'
import { loadConfig, required } from './config.ts'
import { idsOf, openDatabase } from './database.ts'
import { failure, installed, usageError } from './errors.ts'

/** What `migrate` takes. */
export interface MigrateFlags {
  config?: string
  ids?: string
  sql?: boolean
}

/** Brings the tables up to date, or prints the statements that would. */
export async function migrate(flags: MigrateFlags): Promise<void> {
  const ids = idsOf(flags.ids)
  if (flags.sql && flags.config !== undefined) throw usageError('--sql needs no database: leave --config out')
  if (ids === 'uuid' && flags.config !== undefined) {
    throw usageError('--ids uuid needs DATABASE_URL instead of --config, whose "db" means integer ids')
  }
  const { migrateToLatest, migrationSql } = await installed(() => import('../adapters/kysely/index.ts'), 'kysely')
  if (flags.sql) return void process.stdout.write(await migrationSql({ ids }))
  const db = await databaseOf(flags.config)
  try {
    const applied = await migrateToLatest(db, { ids })
    const lines = [...applied.map((migration) => `applied ${migration}`), 'The tables are up to date.']
    process.stdout.write(`${lines.join('\n')}\n`)
  } finally {
    await db.destroy()
  }
}

async function databaseOf(file: string | undefined): Promise<AnyKysely> {
  const { db, storage } = await loadConfig(file)
  if (typeof db?.selectFrom === 'function') return db
  if (db !== undefined) throw failure(`${file}: option "db" must be a Kysely instance`)
  if (storage !== undefined) {
    const instead =
      'leave --config out and set DATABASE_URL, with --ids uuid if its ids are, or call migrateToLatest(db)'
    throw failure(`${file} has "storage" instead of "db": ${instead}`)
  }
  return openDatabase(required('DATABASE_URL', file === undefined ? '' : `, or set "db" in ${file}`))
}
