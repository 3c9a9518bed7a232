const path = require('node:path')
const autoload = require('@fastify/autoload')
const Fastify = require('fastify')

module.exports = function build(options) {
  const app = Fastify(options)
  app.register(autoload, { dir: path.join(__dirname, 'plugins') })
  app.register(autoload, { dir: path.join(__dirname, 'routes') })
  return app
}
