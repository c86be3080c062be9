/**
 * The log: one pino logger, JSON lines, one child per instance. `serve` writes to standard output or where
 * `log.stream` says, every other command to standard error, where standard output carries its result. Secrets are blotted out
 * whoever logs them. The server keeps the last warnings and errors, and can change the level while it runs. Where lines cannot
 * be written (a full disk) they wait, and the server goes on.
 */
import { pino } from 'pino'
import type { Logger, LoggerOptions } from 'pino'
import { withoutPasswords } from './errors.ts'

export type { Logger } from 'pino'

const secrets = ['password', 'passwordHash', 'passwd', 'secret', 'token', 'authorization']

const WAITING_BYTES_MAX = 1024 * 1024 // of lines that cannot be written; those that come then are dropped

let onStdout = false
/** Whether a logger of this process writes to standard output, so that nothing else should. */
export const logsToStdout = (): boolean => onStdout

/** A logger of the given level ('trace' … 'fatal', 'silent') on file descriptor 1 or 2. Writes at once: a crash loses nothing. */
export function createLogger(level: string, fd: 1 | 2, more: LoggerOptions = {}): Logger {
  if (fd === 1) onStdout = true
  const to = pino.destination({ fd, sync: true, maxLength: WAITING_BYTES_MAX })
  // Without this a full disk would end the process. What could not be written goes with the next line.
  to.on('error', () => {})
  return pino(
    {
      ...more,
      level,
      base: { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: secrets.flatMap((s) => [s, `*.${s}`, `*.*.${s}`]),
        censor: '[secret]',
      },
    },
    to,
  )
}

/** A warning or an error that was logged. Fields that a line does not have are "". */
export interface Noted {
  readonly time: string // ISO 8601
  readonly level: 'warn' | 'error' | 'fatal'
  readonly instance: string
  readonly sink: string
  readonly code: string
  readonly position: string
  readonly message: string
}
const NOTED_MAX = 200
const MESSAGE_MAX = 2000

/** The server's log, with what it remembers of itself. */
export class LogBook {
  readonly log: Logger
  readonly #children: WeakRef<Logger>[] = []
  readonly #noted: Noted[] = []

  constructor(level: string, fd: 1 | 2) {
    const note = (logger: Logger, args: readonly unknown[], value: number): void =>
      this.#note(logger, args, value)
    this.log = createLogger(level, fd, {
      onChild: (child) => this.#children.push(new WeakRef(child)),
      hooks: {
        logMethod(args, method, value) {
          note(this, args, value)
          method.apply(this, args)
        },
      },
    })
  }
  /** Warnings and worse, the newest last; a level above these keeps them out. */
  get noted(): readonly Noted[] {
    return this.#noted
  }
  get level(): string {
    return this.log.level
  }
  /** Of this logger and every child there is, at once. */
  setLevel(level: string): void {
    this.log.level = level
    const alive = this.#children.filter((ref) => ref.deref() !== undefined)
    for (const ref of alive) {
      const child = ref.deref()
      if (child) child.level = level
    }
    this.#children.splice(0, Infinity, ...alive)
  }

  #note(logger: Logger, args: readonly unknown[], value: number): void {
    if (value < logger.levels.values['warn']!) return
    const [fields, text] = typeof args[0] === 'string' ? [{}, args[0]] : [args[0] ?? {}, args[1]]
    const given = { ...logger.bindings(), ...(fields as object) } as Record<string, unknown>
    const word = (key: string): string => (typeof given[key] === 'string' ? given[key] : '')
    const level = logger.levels.labels[value]
    this.#noted.push({
      time: new Date().toISOString(),
      level: level === 'fatal' || level === 'error' ? level : 'warn',
      instance: word('instance'),
      sink: word('sink'),
      code: word('code'),
      position: word('position') || word('at'),
      message: withoutPasswords(String(text)).slice(0, MESSAGE_MAX),
    })
    if (this.#noted.length > NOTED_MAX) this.#noted.shift()
  }
}
