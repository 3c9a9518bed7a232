import type { FastifyInstance } from 'fastify'

type Schema = Record<string, unknown>

/**
 * Lets @fastify/swagger of the host write its document also when the host does not declare our security scheme: it
 * throws for an unknown one.
 */
export function fitDocument(scope: FastifyInstance, securityScheme: string): void {
  const schemas: Schema[] = []
  scope.addHook('onRoute', ({ schema }) => void schemas.push(schema as Schema))
  scope.addHook('onReady', async () => {
    const { swagger } = scope as unknown as { swagger?: () => unknown }
    if (!swagger || works(swagger)) return
    for (const schema of schemas) delete schema.security
    if (!works(swagger)) return
    const fix = 'declare it in components.securitySchemes, or name yours in the option openapi.securityScheme'
    scope.log.warn(`fastify-accounts: @fastify/swagger has no security scheme "${securityScheme}": ${fix}`)
  })
}

function works(swagger: () => unknown): boolean {
  try {
    swagger()
    return true
  } catch {
    // When it is not our doing, the host meets the same error at its own call.
    return false
  }
}
