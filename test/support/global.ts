/**
 * vitest's global set-up of the projects that need MySQL. Vitest runs it once for each of them, in one process: the
 * servers are started by the first and stopped by the last.
 */
import { startShared } from './mysqld/shared.ts'

interface Users {
  count: number
  servers: Promise<AsyncDisposable>
}

const key = Symbol.for('sluice.test.servers')
const holder = globalThis as { [key]?: Users }

export async function setup(): Promise<void> {
  const users = (holder[key] ??= { count: 0, servers: startShared() })
  users.count++
  await users.servers
}

export async function teardown(): Promise<void> {
  const users = holder[key]
  if (!users || --users.count > 0) return
  delete holder[key]
  await (await users.servers)[Symbol.asyncDispose]()
}
