// The mail worker, as a container runs it: a process of its own that knows Redis, SMTP and the secret, no database.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url))

export function startWorker(settings) {
  const child = spawn(process.execPath, [cli, 'worker'], {
    env: { MAIL_FROM: 'Demo <demo@example.com>', ...process.env, ...settings },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const exited = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`))
  })
  // Whatever ends this process, the worker does not outlive it.
  process.once('exit', () => child.kill('SIGKILL'))
  async function close() {
    child.kill('SIGTERM')
    // The worker drains within 8 seconds.
    const deadline = setTimeout(() => child.kill('SIGKILL'), 9000)
    await exited
    clearTimeout(deadline)
  }
  return { exited, close }
}
