import type { MailWorkerOptions } from '../worker.ts'
import { type Config, loadConfig, mailOf, required, requiredSecret, variable } from './config.ts'
import { failure } from './errors.ts'

/** Sends the queued mails until a signal. */
export async function work({ config: file }: { config?: string }): Promise<void> {
  const config = await loadConfig(file)
  const options = workerOptions(config, file)
  const { startMailWorker } = await import('../worker.ts')
  const running = namingSources(config, file, () => startMailWorker(options))
  const signal = await new Promise<string>((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, resolve)
  })
  await running.close()
  const line = { level: 'info', time: new Date().toISOString(), event: 'mail.stopped', signal, msg: 'Stopped' }
  process.stdout.write(`${JSON.stringify(line)}\n`)
  // What did not finish in time must not keep the process.
  process.exit(0)
}

function workerOptions(config: Config, file: string | undefined): MailWorkerOptions {
  const { secret, name, redis } = config
  const mail = mailOf(config, file)
  const or = (option: string) => (file === undefined ? '' : `, or set "${option}" in ${file}`)
  const { brand, templates } = mail
  return {
    secret: secret ?? requiredSecret(or('secret')),
    redis: queueOf(redis) ?? required('REDIS_URL', or('redis')),
    transport: mail.transport ?? required('SMTP_URL', or('mail.transport')),
    from: mail.from ?? required('MAIL_FROM', or('mail.from')),
    name: name ?? variable('ACCOUNTS_NAME') ?? 'accounts',
    ...(brand && { brand }),
    ...(templates && { templates }),
  }
}

function queueOf(redis: Config['redis']): MailWorkerOptions['redis'] | undefined {
  return typeof redis === 'object' && redis !== null && 'queue' in redis ? redis.queue : redis
}

const sources = {
  secret: { variable: 'ACCOUNTS_SECRET', option: 'secret' },
  name: { variable: 'ACCOUNTS_NAME', option: 'name' },
  redis: { variable: 'REDIS_URL', option: 'redis' },
  transport: { variable: 'SMTP_URL', option: 'mail.transport' },
  from: { variable: 'MAIL_FROM', option: 'mail.from' },
}

/** The options of the worker come from elsewhere, so its refusals name the variable, or the option of the config. */
function namingSources<T>(config: Config, file: string | undefined, start: () => T): T {
  try {
    return start()
  } catch (error) {
    const text = (error as Error).message.replace(/^fastify-accounts: /, '')
    const found = Object.entries(sources).find(([name]) => new RegExp(`"${name}[."[]`).test(text))
    if (!(error instanceof TypeError) || !found) throw error
    const [name, { variable, option }] = found
    const configured = (name in config ? config : config.mail)?.[name as never] !== undefined
    throw failure(configured ? `${file}: ${text.replace(`"${name}`, `"${option}`)}` : `${variable}: ${text}`)
  }
}
