// What every service of the bench does alike: it listens on a free port of this machine, counts its memory, and answers
// the bench over IPC. It ends with the bench.

/** Commands of every process of the bench, by name; a call is `{ id, command, args }`. */
export function answerBench(ready, commands = {}) {
  const idle = process.memoryUsage().rss
  let peak = idle
  setInterval(() => {
    peak = Math.max(peak, process.memoryUsage().rss)
  }, 20).unref()
  const all = {
    stat() {
      const { rss } = process.memoryUsage()
      const { user, system } = process.cpuUsage()
      return { idle, rss, peak: Math.max(peak, rss), cpuUs: user + system }
    },
    ...commands,
  }
  process.on('message', async ({ id, command, args }) => {
    try {
      process.send({ id, value: await all[command](...args) })
    } catch (error) {
      process.send({ id, error: error.stack })
    }
  })
  process.on('disconnect', () => process.exit())
  process.send(ready)
}

/** Listens with a Fastify app. A storm of thousands needs a longer backlog than the default of 511. */
export async function serve(app, commands) {
  await app.listen({ port: 0, host: '127.0.0.1', backlog: 8192 })
  answerBench({ port: app.server.address().port }, commands)
}
