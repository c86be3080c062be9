/**
 * `node test/support/servers.ts COMMAND …` starts the servers that tests share, runs the command with their addresses in
 * its environment, stops them, and exits as the command did. So several test runs in a row use the same servers.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { startShared } from './mysqld/shared.ts'
import { startServices } from './services/shared.ts'

const [command, ...args] = process.argv.slice(2)
if (!command) throw new Error('usage: node test/support/servers.ts COMMAND …')

// the command gets the keyboard's interrupt too; it ends by itself, and then we do
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => undefined)

await using stack = new AsyncDisposableStack()
const started = await Promise.allSettled([startShared(), startServices()])
for (const servers of started) if (servers.status === 'fulfilled') stack.use(servers.value)
for (const servers of started) if (servers.status === 'rejected') throw servers.reason
const child = spawn(command, args, { stdio: 'inherit' })
const [code, signal] = (await once(child, 'exit')) as [number | null, string | null]
process.exitCode = signal ? 1 : (code ?? 1)
