import type { AnyKysely } from '../options/ports.ts'
import { installed, usageError } from './errors.ts'

/** Opens a PostgreSQL database; the first statement connects. */
export async function openDatabase(connectionString: string): Promise<AnyKysely> {
  const pg = await installed(() => import('pg'), 'pg')
  const { Kysely, PostgresDialect } = await installed(() => import('kysely'), 'kysely')
  const pool = new pg.default.Pool({ connectionString, max: 2 })
  // The statement that meets a broken connection tells; without these two it would end the process before.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  return new Kysely({ dialect: new PostgresDialect({ pool }) })
}

/** Checks `--ids`. */
export function idsOf(given = 'integer'): 'integer' | 'uuid' {
  if (given === 'integer' || given === 'uuid') return given
  throw usageError(`--ids must be integer or uuid, but "${given}" was given`)
}
