import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import type { AccountsOptions } from '../../lib/index.ts'
import { type Answer, openApp, openDatabase, startServer } from './app.ts'
import { redisUrl, uniqueName, until } from './helper.ts'
import { cli } from './program.ts'
import { startSmtp } from './smtp-catcher.ts'

type Instance = Awaited<ReturnType<typeof startServer>>
/** What a deploy changes. */
export type Deploy = Pick<AccountsOptions, 'tokens'> & { secret: string[] }

export const accessTtl = 4
const throttle = {
  ...{ login: { tries: 5, seconds: 3600 }, mailbox: { tries: 3, seconds: 3600 } },
  ...{ account: false, network: false, register: false, mail: false, change: false },
}

/** Two instances and a worker, which deploys replace one after the other. */
export async function cluster(t: Test, first: Deploy) {
  const name = uniqueName()
  const { url, db } = await openDatabase(t)
  const smtp = await startSmtp()
  t.teardown(() => smtp.close())
  const { app } = await openApp(t, { name, db, redis: redisUrl(), secret: first.secret[0]! })
  const start = ({ secret, tokens }: Deploy) => {
    const OPTIONS = JSON.stringify({ name, secret, tokens: { ...tokens, accessTtl }, throttle })
    return startServer(t, { DATABASE_URL: url, REDIS_URL: redisUrl(), OPTIONS })
  }
  const work = ({ secret }: Deploy) =>
    cli(t, ['worker'], {
      ...{ ACCOUNTS_SECRET: secret.join(), ACCOUNTS_NAME: name, REDIS_URL: redisUrl() },
      ...{ SMTP_URL: smtp.url, MAIL_FROM: 'no-reply@example.com' },
    })
  const live: Instance[] = [await start(first), await start(first)]
  let worker = work(first)
  const busy = new Map<Instance, number>()
  let calls = 0

  /** Asks one instance after the other. */
  async function call(use: (instance: Instance) => Promise<Answer>): Promise<Answer> {
    const instance = live[calls++ % live.length]!
    busy.set(instance, (busy.get(instance) ?? 0) + 1)
    try {
      return await use(instance)
    } finally {
      busy.set(instance, busy.get(instance)! - 1)
    }
  }

  /** Replaces each process by one of the next deploy, as a load balancer sees it. */
  async function roll(next: Deploy): Promise<void> {
    for (const [index, old] of live.entries()) {
      live[index] = await start(next)
      await until(() => busy.get(old) === 0)
      await old.stop()
      await sleep(1000)
    }
    const before = worker
    worker = work(next)
    before.child.kill('SIGTERM')
    await before.ended
  }
  return { app, name, smtp, call, roll, calls: () => calls }
}
