/**
 * vitest's global set-up of the projects that need servers: MySQL for all of them, the servers of sinks for `sinks`.
 * Vitest runs it once for each project, in one process: servers are started by the first that needs them and stopped
 * after the last.
 */
import type { TestProject } from 'vitest/node'
import { startShared } from './mysqld/shared.ts'
import { startServices } from './services/shared.ts'

interface Users {
  count: number
  mysql?: Promise<AsyncDisposable>
  services?: Promise<AsyncDisposable>
}

const key = Symbol.for('sluice.test.servers')
const holder = globalThis as { [key]?: Users }

export async function setup({ name }: TestProject): Promise<void> {
  const users = (holder[key] ??= { count: 0 })
  users.count++
  users.mysql ??= startShared()
  if (name === 'sinks') users.services ??= startServices()
  const settled = await Promise.allSettled([users.mysql, users.services])
  for (const result of settled) if (result.status === 'rejected') throw result.reason
}

export async function teardown(): Promise<void> {
  const users = holder[key]
  if (!users || --users.count > 0) return
  delete holder[key]
  for (const servers of await Promise.allSettled([users.mysql, users.services]))
    if (servers.status === 'fulfilled') await servers.value?.[Symbol.asyncDispose]()
}
