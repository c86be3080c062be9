/**
 * What commands that run until they are told to stop have in common: signals, and the end after a bug.
 */
import type { Logger } from '../logger.ts'

const SAME_SIGNAL_MS = 500 // a terminal, npm and the launcher each pass on the same Ctrl-C

/** A bug ends the process at once, with its stack in the log. */
export function dieOfBugs(log: Logger): void {
  process.on('unhandledRejection', (error) => die(log, error))
  process.on('uncaughtException', (error) => die(log, error))
}
function die(log: Logger, error: unknown): void {
  log.fatal(
    { stack: error instanceof Error ? error.stack : undefined },
    `a bug in Sluice: ${String(error)}`,
  )
  process.exit(1)
}

/** The first SIGTERM or SIGINT; a later one ends the process at once. */
export function firstSignal(log: Logger): Promise<string> {
  return new Promise((resolve) => {
    let first = 0
    const on = (signal: string, number: number): void => {
      process.on(signal, () => {
        if (first === 0) {
          first = Date.now()
          resolve(signal)
        } else if (Date.now() - first > SAME_SIGNAL_MS) {
          log.warn({ signal }, `${signal} again: ending at once`)
          process.exit(128 + number)
        }
      })
    }
    on('SIGINT', 2)
    on('SIGTERM', 15)
  })
}
