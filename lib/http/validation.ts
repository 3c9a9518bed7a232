import type { FastifySchemaCompiler } from 'fastify'
import Type, { type TObject, type TSchema } from 'typebox'
import { Compile } from 'typebox/schema'
import { Settings } from 'typebox/system'
import { storable } from '../core/storable.ts'
import { AccountsError, type FieldError } from '../errors.ts'

/** Does not coerce, strip or fill in defaults; reports every failing field; ignores unknown members. */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema }) => {
  const compiled = Compile(schema)
  return (value: unknown) => {
    const errors = failures(compiled, schema as TObject, value)
    return errors.length === 0 ? { value } : { error: new AccountsError('ACCOUNTS_VALIDATION', { errors }) }
  }
}

type Compiled = ReturnType<typeof Compile>

function failures(compiled: Compiled, schema: TObject, value: unknown): FieldError[] {
  if (tooDeep(value)) return [{ field: '', message: `must not be nested more than ${deepest} levels deep` }]
  return compiled.Check(value) ? unstorableFields(schema, value) : failingFields(compiled, schema, value)
}

const deepest = 64

// JSON.stringify, jsonb and whatever else recurses into a value would fail on a body of nothing but brackets.
function tooDeep(value: unknown): boolean {
  for (let level = [value], depth = 0; level.length > 0; level = level.flatMap(children), depth++) {
    if (depth > deepest) return true
  }
  return false
}

function children(value: unknown): unknown[] {
  return typeof value === 'object' && value !== null ? Object.values(value) : []
}

function failingFields(compiled: Compiled, { properties = {} }: TObject, value: unknown): FieldError[] {
  return allErrors(compiled, value).flatMap(({ keyword, instancePath, params, message }) => {
    const field = instancePath.slice(1).split('/').map(unescaped).join('.')
    if (keyword === 'pattern') return { field, message: refinementOf(properties[field]) ?? message }
    if (keyword !== 'required') return { field, message }
    const { requiredProperties } = params as { requiredProperties: string[] }
    return requiredProperties.map((name) => ({ field: field ? `${field}.${name}` : name, message: 'is required' }))
  })
}

// TypeBox runs a refinement only when the keywords hold; its own message would show a regular expression to the user.
function refinementOf(schema: TSchema | undefined): string | undefined {
  return Type.IsRefine(schema) ? schema['~refine'][0]?.error(undefined) : undefined
}

// TypeBox stops at 8 errors. The setting is global, so it is put back at once.
function allErrors(compiled: Compiled, value: unknown) {
  const { maxErrors } = Settings.Get()
  Settings.Set({ maxErrors: 256 })
  try {
    const [, errors] = compiled.Errors(value)
    return errors
  } finally {
    Settings.Set({ maxErrors })
  }
}

// RFC 6901 4: `~1` stands for a slash and `~0` for a tilde.
function unescaped(part: string): string {
  return part.replaceAll('~1', '/').replaceAll('~0', '~')
}

// Passwords are exempt: they are hashed, and their policy is checked elsewhere.
function unstorableFields({ properties = {} }: TObject, value: unknown): FieldError[] {
  return Object.entries(properties)
    .filter(
      ([name, schema]) =>
        (schema as { format?: string }).format !== 'password' && !storable((value as Record<string, unknown>)[name]),
    )
    .map(([field]) => ({ field, message: 'must hold well-formed text without NUL, and finite numbers' }))
}
