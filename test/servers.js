// Private servers from installed binaries, on free ports and in temporary folders; shared by run.js and helper.ts.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Finds installed binaries; null where there is none. */
export function findBinaries() {
  const path = (process.env.PATH ?? '').split(delimiter)
  const versions = existsSync('/usr/lib/postgresql') ? readdirSync('/usr/lib/postgresql').sort((a, b) => +b - +a) : []
  const packaged = versions.map((version) => `/usr/lib/postgresql/${version}/bin`)
  const postgres = [...packaged, ...path].find(
    (dir) => existsSync(join(dir, 'postgres')) && existsSync(join(dir, 'initdb')),
  )
  const program = (name) => path.map((dir) => join(dir, name)).find((file) => existsSync(file)) ?? null
  return {
    postgres: postgres ?? null,
    redis: program('redis-server'),
    mariadb: program('mariadbd'),
    chromium: program('chromium'),
  }
}

/** A Python that has PyJWT, which reads tokens as a foreign server does; null where there is none. */
export function findPyJwt() {
  return pythonWith('jwt, cryptography')
}

/** A Python that has Django, Django REST framework with simplejwt, and what Django needs for its hashes; or null. */
export function findDjango() {
  return pythonWith('django, rest_framework_simplejwt, psycopg2, bcrypt, argon2')
}

function pythonWith(modules) {
  const has = (python) => spawnSync(python, ['-c', `import ${modules}`]).status === 0
  return ['python3', '/usr/bin/python3'].find(has) ?? null
}

export async function startPostgres() {
  const bin = findBinaries().postgres
  if (!bin) throw new Error('no PostgreSQL is installed')
  const account = serverAccount('postgres')
  const dir = temporaryFolder('postgres-', account)
  const init = [
    '-D',
    dir,
    '-U',
    'postgres',
    '-A',
    'trust',
    '-E',
    'UTF8',
    '--locale=C',
    '--no-sync',
    '--no-instructions',
  ]
  const made = spawnSync(join(bin, 'initdb'), init, { ...account, cwd: dir, encoding: 'utf8' })
  if (made.status !== 0) throw new Error(`initdb failed: ${made.stderr || made.error}`)
  return startOnFreePort(undefined, (port) => {
    const settings = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', 'fsync=off', 'max_connections=300']
    const args = ['-D', dir, '-p', String(port), ...settings.flatMap((setting) => ['-c', setting])]
    const url = `postgres://postgres@127.0.0.1:${port}/postgres`
    return launch({ command: join(bin, 'postgres'), args, account, dir, port, url, ready: () => postgresAnswers(url) })
  })
}

export async function startMariadb() {
  const command = findBinaries().mariadb
  if (!command) throw new Error('no MariaDB is installed')
  const account = serverAccount('mysql')
  const dir = temporaryFolder('mariadb-', account)
  const options = ['--no-defaults', `--datadir=${dir}`, `--tmpdir=${dir}`]
  const init = [...options, '--auth-root-authentication-method=normal', '--skip-test-db']
  const made = spawnSync('mariadb-install-db', init, { ...account, cwd: dir, encoding: 'utf8' })
  if (made.status !== 0) throw new Error(`mariadb-install-db failed: ${made.stderr || made.error}`)
  return startOnFreePort(undefined, (port) => {
    const settings = ['bind-address=127.0.0.1', `port=${port}`, `socket=${dir}/socket`, 'max-connections=300']
    // Its own default of utf8mb4 with a collation that ignores case is what the tables must not inherit.
    settings.push('innodb-flush-log-at-trx-commit=0', 'skip-name-resolve', 'character-set-server=latin1')
    const args = [...options, ...settings.map((setting) => `--${setting}`)]
    const url = `mysql://root@127.0.0.1:${port}/mysql`
    return launch({ command, args, account, dir, port, url, ready: () => mysqlAnswers(url), stopSignal: 'SIGTERM' })
  })
}

/** A folder that is given is kept, so that a second start finds what the first one saved. */
export async function startRedis({ cluster = false, port, dir, args = [] } = {}) {
  const command = findBinaries().redis
  if (!command) throw new Error('no Redis is installed')
  return startOnFreePort(port, async (chosen) => {
    const folder = dir ?? temporaryFolder('redis-')
    const settings = ['--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no', '--daemonize', 'no']
    const server = await launch({
      command,
      args: ['--port', String(chosen), ...settings, ...(cluster ? ['--cluster-enabled', 'yes'] : []), ...args],
      dir: folder,
      keepDir: dir !== undefined,
      port: chosen,
      url: `redis://127.0.0.1:${chosen}`,
      ready: async () => (await redisCommand(chosen, 'PING')).startsWith('+PONG'),
    })
    if (cluster) await assignSlots(chosen)
    return server
  })
}

async function assignSlots(port) {
  await redisCommand(port, 'CLUSTER ADDSLOTSRANGE 0 16383')
  await poll(async () => (await redisCommand(port, 'CLUSTER INFO')).includes('cluster_state:ok'), 10_000)
}

/** Databases refuse to run as root. */
function serverAccount(name) {
  if (process.getuid?.() !== 0) return {}
  const line = readFileSync('/etc/passwd', 'utf8').match(new RegExp(`^${name}:[^:]*:(\\d+):(\\d+):`, 'm'))
  if (!line) throw new Error(`a database does not run as root and there is no account "${name}"`)
  return { uid: Number(line[1]), gid: Number(line[2]) }
}

function temporaryFolder(prefix, { uid, gid } = {}) {
  const dir = mkdtempSync(join(tmpdir(), prefix))
  if (uid !== undefined) chownSync(dir, uid, gid)
  chmodSync(dir, 0o700)
  return dir
}

// Another process may take the port between finding it and listening on it.
async function startOnFreePort(port, start) {
  if (port !== undefined) return start(port)
  for (let attempt = 1; ; attempt++) {
    try {
      return await start(await freePort())
    } catch (error) {
      if (attempt === 3) throw error
    }
  }
}

export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function launch({ command, args, account = {}, dir, keepDir = false, port, url, ready, stopSignal = 'SIGINT' }) {
  const child = spawn(command, args, { ...account, cwd: dir, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const output = collectOutput(child)
  // An open server must not keep the process of its test alive.
  child.unref()
  const ended = new Promise((resolve) => child.once('exit', resolve))
  const failed = new Promise((_, reject) => child.once('error', reject))
  const early = ended.then(() => Promise.reject(new Error(`${command} ended: ${output.join('')}`)))
  await Promise.race([poll(ready, 30_000), early, failed])
  early.catch(() => {})

  async function end(signal) {
    if (child.exitCode === null && child.signalCode === null) {
      child.ref()
      thaw(child.pid)
      child.kill(signal)
      const killed = setTimeout(() => killTree(child.pid), 5000)
      await ended
      clearTimeout(killed)
    }
    if (!keepDir) rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
  return {
    url,
    port,
    pid: child.pid,
    dir,
    stop: () => end(stopSignal),
    kill: () => end('SIGKILL'),
    freeze: () => freeze(child.pid),
    thaw: () => thaw(child.pid),
  }
}

function collectOutput(child) {
  const output = []
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => output.length < 200 && output.push(String(chunk)))
    stream.unref()
  }
  return output
}

// The parent first: a stopped postmaster starts no new backend.
function freeze(pid) {
  for (const member of [pid, ...childrenOf(pid)]) signal(member, 'SIGSTOP')
}

function thaw(pid) {
  for (const member of [...childrenOf(pid), pid]) signal(member, 'SIGCONT')
}

function killTree(pid) {
  for (const member of [pid, ...childrenOf(pid)]) signal(member, 'SIGKILL')
}

function signal(pid, name) {
  try {
    process.kill(pid, name)
  } catch (error) {
    if (error.code !== 'ESRCH') throw error
  }
}

function childrenOf(pid) {
  return processes()
    .filter(({ parent }) => parent === pid)
    .map((child) => child.pid)
}

/** Every process of the machine; /proc where there is one, since small images have no `ps`. */
export function processes() {
  if (!existsSync('/proc/self/stat')) {
    const lines = spawnSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).stdout.trim().split('\n')
    return lines.map((line) => line.trim().split(/\s+/).map(Number)).map(([pid, parent]) => ({ pid, parent }))
  }
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => readStat(name))
}

function readStat(name) {
  try {
    // The second field is the command in parentheses and may hold anything.
    const [state, parent] = readFileSync(`/proc/${name}/stat`, 'utf8').split(') ').at(-1).split(' ')
    return [{ pid: Number(name), parent: Number(parent), state }]
  } catch {
    // It has ended since the folder was listed.
    return []
  }
}

async function postgresAnswers(url) {
  const { default: pg } = await import('pg')
  const client = new pg.Client({ connectionString: url })
  client.on('error', () => {})
  await client.connect()
  await client.end()
  return true
}

async function mysqlAnswers(url) {
  const { createConnection } = await import('mysql2/promise')
  const connection = await createConnection(url)
  await connection.end()
  return true
}

function redisCommand(port, line) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(`${line}\r\n`))
    socket.setTimeout(1000, () => socket.destroy(new Error('no answer')))
    socket.once('error', reject)
    socket.once('data', (chunk) => {
      resolve(String(chunk))
      socket.destroy()
    })
  })
}

/** Waits until a condition holds; faults count as "not yet". */
export async function poll(condition, ms) {
  const end = performance.now() + ms
  for (;;) {
    const [met, fault] = await attempt(condition)
    if (met) return
    if (performance.now() > end) throw new Error(`not reached within ${ms} ms`, { cause: fault })
    await sleep(10)
  }
}

async function attempt(condition) {
  try {
    return [await condition()]
  } catch (fault) {
    return [false, fault]
  }
}
