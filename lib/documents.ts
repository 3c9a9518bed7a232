import type { FastifyInstance } from 'fastify'

type Schema = Record<string, unknown>

/**
 * Lets @fastify/swagger of the host write its documents whatever the host has set up: it throws for a security scheme
 * that the host does not declare, and a host's transform (zod's) for schemas that it cannot read.
 */
export function fitDocuments(scope: FastifyInstance, securityScheme: string): void {
  const schemas: Schema[] = []
  scope.addHook('onRoute', ({ schema }) => void schemas.push(schema as Schema))
  scope.addHook('onReady', async () => {
    const { swagger } = scope as unknown as { swagger?: () => unknown }
    if (!swagger || works(swagger)) return
    for (const schema of schemas) delete schema.security
    if (works(swagger)) {
      scope.log.warn(`fastify-accounts: @fastify/swagger has no security scheme "${securityScheme}"`)
      return
    }
    for (const schema of schemas) schema.hide = true
    if (works(swagger)) scope.log.warn('fastify-accounts: the transform of @fastify/swagger cannot read our schemas')
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
