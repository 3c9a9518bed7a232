import Type, { type TObject, type TProperties } from 'typebox'
import type { Profile } from '../contracts.ts'
import type { ResolvedOptions } from '../options/options.ts'

/** Takes the given members that the host's profile schema names, without what it does not know in their depths. */
export type CleanProfile = (given: Record<string, unknown>) => Profile

/** Makes what cleans the profiles of a realm. */
export async function profileCleaner({ registration }: ResolvedOptions): Promise<CleanProfile> {
  const profile: TObject = registration ? registration.profile : Type.Object({})
  const names = Object.keys(profile.properties)
  // A realm without profiles does without the 300 modules of this.
  if (names.length === 0) return () => ({}) as Profile
  const { Clean } = await import('typebox/value')
  return (given) => {
    const picked = names.filter((name) => Object.hasOwn(given, name)).map((name) => [name, given[name]])
    return Clean(profile, structuredClone(Object.fromEntries(picked))) as Profile
  }
}

/** A profile with the defaults of the fields that were left out. */
export function withDefaults({ registration }: ResolvedOptions, given: Record<string, unknown> = {}) {
  const fields = Object.entries(registration ? registration.profile.properties : {})
  const defaults = fields.flatMap(([name, schema]) => ('default' in schema ? [[name, schema.default]] : []))
  return { ...Object.fromEntries(defaults), ...given }
}

/** The fields of a profile as a new user may give them: one with a default may be left out. */
export function newProfileFields({ properties }: TObject): TProperties {
  const fields = Object.entries(properties)
  return Object.fromEntries(fields.map(([name, it]) => [name, 'default' in it ? Type.Optional(it) : it]))
}
