export interface Server {
  url: string
  port: number
  pid: number
  /** Where it keeps its files; erased at its end unless the caller chose it. */
  dir: string
  /** Ends it in order. */
  stop(): Promise<void>
  /** Ends it without warning. */
  kill(): Promise<void>
  /** Stops the process and its children: connections stay open, nothing answers. */
  freeze(): void
  thaw(): void
}

export interface RedisOptions {
  /** One node in cluster mode that owns every slot. */
  cluster?: boolean
  /** A port to come back on. */
  port?: number
  /** A folder that outlives the server; pass `args: ['--appendonly', 'yes']` to save in it. */
  dir?: string
  args?: string[]
}

export function findPyJwt(): string | null
export function findDjango(): string | null
export function findBinaries(): {
  postgres: string | null
  redis: string | null
  mariadb: string | null
  chromium: string | null
}
export function startPostgres(): Promise<Server>
export function startMariadb(): Promise<Server>
export function startRedis(options?: RedisOptions): Promise<Server>
export function freePort(): Promise<number>
export function processes(): { pid: number; parent: number; state?: string }[]
export function poll(condition: () => unknown, ms: number): Promise<void>
