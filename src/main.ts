/**
 * The process: runs one command of the table in cli.ts and ends with its exit code. Nothing else starts here.
 */
import { run } from './cli.ts'

// `sluice tail … | head` closes the pipe: that is the end of the work, not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})
// Behind the launcher of bin/sluice.js: when that is killed, stop as if asked to.
if (process.channel) {
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'))
  process.channel.unref()
}
process.exit(await run(process.argv.slice(2)))
