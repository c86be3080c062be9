/**
 * Every error Sluice raises on purpose: one class, one table. The code is stable and documented in docs/errors.md
 * (a test compares the two). `retryable` tells the instance whether trying again by itself can help.
 */
const table = {
  // configuration
  CONFIG_INVALID: false,
  CONFIG_UNREADABLE: false,
  USAGE: false,
  // mysql
  CONNECT_FAILED: true,
  ACCESS_DENIED: false,
  TLS_FAILED: false,
  QUERY_FAILED: true,
  STREAM_ENDED: true,
  STREAM_STALLED: true,
  PACKET_MALFORMED: true,
  SERVER_ERROR: true,
  SERVER_ID_CLASH: true,
  POSITION_LOST: false,
  SOURCE_CHANGED: false,
  SOURCE_DIVERGED: false,
  SOURCE_UNSUITABLE: false,
  // binlog
  EVENT_MALFORMED: false,
  EVENT_UNKNOWN: false,
  CHECKSUM_MISMATCH: true,
  BINLOG_ENCRYPTED: false,
  INCIDENT: false,
  ROWS_MALFORMED: false,
  GTID_MALFORMED: false,
  // catalog
  SCHEMA_MISMATCH: false,
  // store and state
  STATE_LOCKED: false,
  STATE_UNREADABLE: false,
  STATE_FENCED: false,
  STATE_UNWRITABLE: true,
  LOG_DAMAGED: false,
  LOG_WRITE_FAILED: true,
  BATCH_UNKNOWN: false,
  BATCH_NOT_FIRST: false,
  CURSOR_TAKEN: false,
  CURSOR_CLOSED: false,
  TOO_MANY_BATCHES: false,
  // sinks
  SINK_UNAVAILABLE: true,
  SINK_UNSUITABLE: false,
  SINK_DATA: false,
  TARGET_AHEAD: false,
  UNLOGGED_CHANGE: false,
  // canal wire and client
  WIRE_MALFORMED: false,
  SERVER_REFUSED: false,
  CLIENT_CLOSED: false,
  DISCONNECTED: true,
  NOT_SUBSCRIBED: false,
  DESTINATION_UNKNOWN: false,
  LISTEN_FAILED: false,
  REPLY_TOO_LARGE: false,
  // admin port
  NOT_AUTHORIZED: false,
  REQUEST_INVALID: false,
  NOT_NOW: false,
} as const

export type ErrorCode = keyof typeof table
export const errorCodes = Object.keys(table) as readonly ErrorCode[]

export class SluiceError extends Error {
  readonly code: ErrorCode
  override readonly name = 'SluiceError'
  constructor(code: ErrorCode, message: string, options?: { readonly cause?: unknown }) {
    super(message, options)
    this.code = code
  }
  get retryable(): boolean {
    return table[this.code]
  }
}

/** SQLite's READONLY, FULL, CANTOPEN; of IOERR those of writing: WRITE, FSYNC, TRUNCATE, SHMOPEN, SHMSIZE, SHMMAP. */
const unwritable = new Set([8, 13, 14, 778, 1034, 1546, 4618, 4874, 5386])
/**
 * Why a file of ours does not open: STATE_UNWRITABLE, with what is needed, when room or permissions are missing,
 * STATE_UNREADABLE when it is not what it should be.
 */
export function fileError(path: string, expected: string, cause: unknown): SluiceError {
  if (cause instanceof SluiceError) return cause
  const { message, code, errcode = 0 } = cause as NodeJS.ErrnoException & { errcode?: number }
  const text = `${path}: expected ${expected}`
  const fs = /^(EACCES|EPERM|EROFS|ENOSPC|EDQUOT|ENOTDIR|EEXIST)$/.test(code ?? '')
  if (!fs && !unwritable.has(errcode) && !unwritable.has(errcode & 0xff))
    return new SluiceError('STATE_UNREADABLE', `${text}: ${message}`, { cause })
  const who = `user ${process.getuid?.() ?? process.env['USERNAME']}`
  const beside = `that ${who} can write, with room for it and for those beside it (-lock, -wal, -shm)`
  return new SluiceError('STATE_UNWRITABLE', `${text} ${beside}: ${message}`, { cause })
}

/** For our own bugs only: a failed assertion is never the fault of input. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`bug in Sluice: ${message}`)
}

/** A text without the passwords of the URLs in it. */
export function withoutPasswords(text: string): string {
  return text.replace(/([a-z][a-z0-9+.-]*:\/\/[^\s/:@]*):[^\s/@]+@/gi, '$1:***@')
}
