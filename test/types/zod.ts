// A host whose own routes are typed by zod, and one that is typed by TypeBox.
import { type TypeBoxTypeProvider, TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import Fastify from 'fastify'
import accounts from 'fastify-accounts'
import { serializerCompiler, validatorCompiler, type ZodTypeProvider } from 'fastify-type-provider-zod'
import Type from 'typebox'
import { z } from 'zod'

const app = Fastify().withTypeProvider<ZodTypeProvider>()
app.setValidatorCompiler(validatorCompiler)
app.setSerializerCompiler(serializerCompiler)
await app.register(accounts, { secret: 'x', redis: 'redis://localhost' })
app.post(
  '/orders',
  { onRequest: app.accounts.authenticate, schema: { body: z.object({ total: z.number() }) } },
  async (request) => {
    const total: number = request.body.total
    // @ts-expect-error the body is typed by zod
    const wrong: string = request.body.total
    return { total, wrong, id: request.account.id }
  },
)

const typed = Fastify().setValidatorCompiler(TypeBoxValidatorCompiler).withTypeProvider<TypeBoxTypeProvider>()
await typed.register(accounts, { secret: 'x', redis: 'redis://localhost' })
typed.post(
  '/orders',
  {
    preHandler: [typed.accounts.authenticate, typed.accounts.authenticate({ optional: true })],
    schema: { body: Type.Object({ total: Type.Number() }) },
  },
  async (request) => ({ total: request.body.total + 1, id: request.account.id }),
)
