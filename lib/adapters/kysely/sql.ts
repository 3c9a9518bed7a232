import {
  type CompiledQuery,
  DummyDriver,
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
} from 'kysely'
import type { AnyKysely } from '../../options/ports.ts'
import { createMigrations, markApplied } from './migrate.ts'
import { migrationsFor } from './migrations.ts'
import type { IdOptions } from './tables.ts'

/**
 * Answers the SQL of all migrations, for hosts that migrate with Flyway, Prisma and the like: one statement after the
 * other, each migration under a comment with its name. It notes what ran, so that `migrateToLatest` goes on from there.
 */
export async function migrationSql({ ids = 'integer' }: IdOptions = {}): Promise<string> {
  const parts = [`-- accounts_migrations\n${await textOf(createMigrations)}`]
  for (const [name, { up }] of Object.entries(migrationsFor({ ids }))) {
    const text = await textOf(async (db) => {
      await up(db)
      await markApplied(db, name)
    })
    parts.push(`-- ${name}\n${text}`)
  }
  return parts.join('\n')
}

async function textOf(run: (db: AnyKysely) => Promise<void>): Promise<string> {
  const statements: string[] = []
  const dialect = {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (db: AnyKysely) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  }
  await run(new Kysely({ dialect, log: ({ query }) => void statements.push(`${written(query)};\n`) }))
  return statements.join('')
}

// The only parameters are the names of migrations, which nobody else chooses.
function written({ sql, parameters }: CompiledQuery): string {
  return sql.replace(/\$(\d+)/g, (_, number) => `'${parameters[number - 1]}'`)
}
