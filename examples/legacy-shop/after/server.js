const build = require('./app')

const app = build({ logger: true })
app.listen({ port: Number(process.env.PORT ?? 3000) }).catch((error) => {
  app.log.error(error)
  process.exit(1)
})
process.once('SIGTERM', () => app.close()).once('SIGINT', () => app.close())
