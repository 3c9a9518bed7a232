// The printed table, and the machine that it is true for.
import { availableParallelism, cpus, totalmem } from 'node:os'

export function machineOf({ versions, rounds, seconds }, { quick }) {
  const memory = Math.round(totalmem() / 2 ** 30)
  const date = new Date().toISOString().slice(0, 10)
  return [
    `Measured on ${date}: ${availableParallelism()} cores (${cpus()[0]?.model.trim()}), ${memory} GiB of memory,`,
    `Node.js ${process.versions.node}, PostgreSQL ${versions.postgres}, Redis ${versions.redis},`,
    `fastify-accounts ${versions.accounts}, better-auth ${versions.betterAuth}; client, services and servers share the`,
    `machine. Medians of ${rounds} ${rounds === 1 ? 'round' : 'rounds'} of ${seconds} s${quick ? ' (--quick)' : ''}.`,
  ].join('\n')
}

export function tableOf(results) {
  const lines = results.map(({ id, what, figure, target, met, error }) => {
    const verdict = error ? 'not measured' : met === undefined ? '' : met ? 'met' : '**missed**'
    return [id, what, error ? firstLine(error) : figure, target ?? '', verdict]
  })
  const head = ['#', 'what', 'figure', 'target', 'verdict']
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

/** Bytes as a table shows them. */
export function mib(bytes) {
  return `${Math.round(bytes / 2 ** 20)} MiB`
}

function firstLine(error) {
  return String(error.message).split('\n')[0].replaceAll('|', '/')
}
