/**
 * The log: one pino logger, JSON lines, one child per instance. `serve` writes to standard output or where
 * `log.stream` says, every other command to standard error, where standard output carries its result. Secrets are blotted out whoever logs them.
 */
import { pino } from 'pino'
import type { Logger } from 'pino'

export type { Logger } from 'pino'

const secrets = ['password', 'passwordHash', 'passwd', 'secret', 'token', 'authorization']

let onStdout = false
/** Whether a logger of this process writes to standard output, so that nothing else should. */
export const logsToStdout = (): boolean => onStdout

/** A logger of the given level ('trace' … 'fatal', 'silent') on file descriptor 1 or 2. Writes at once: a crash loses nothing. */
export function createLogger(level: string, fd: 1 | 2): Logger {
  if (fd === 1) onStdout = true
  return pino(
    {
      level,
      base: { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: secrets.flatMap((s) => [s, `*.${s}`, `*.*.${s}`]),
        censor: '[secret]',
      },
    },
    pino.destination({ fd, sync: true }),
  )
}
