/**
 * Refuses a part that lives in one process's memory where several may run.
 *
 * @throws {TypeError} with `NODE_ENV=production`, unless `singleProcess` says that it is meant
 */
export function refuseProduction(singleProcess: boolean | undefined, message: string): void {
  if (process.env.NODE_ENV === 'production' && !singleProcess) throw new TypeError(message)
}
