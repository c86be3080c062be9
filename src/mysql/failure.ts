/**
 * What a MySQL server or the way to it can refuse, as SluiceError: numbers and texts of mysqld, codes of mysql2, of
 * sockets and of TLS. Guarantees that no password gets into a message. Knows nothing of binlog events.
 */
import { SluiceError, type ErrorCode } from '../errors.ts'

/** Numbers of mysqld (share/messages_to_clients.txt, messages_to_error_log.txt) that mean more than "it failed". */
const byNumber: Readonly<Record<number, ErrorCode>> = {
  1044: 'ACCESS_DENIED', // to the database
  1045: 'ACCESS_DENIED', // user or password
  1053: 'STREAM_ENDED', // server shutdown
  1130: 'ACCESS_DENIED', // host not allowed
  1142: 'ACCESS_DENIED', // statement denied on a table
  1227: 'ACCESS_DENIED', // a privilege is missing, e.g. REPLICATION SLAVE
  1317: 'STREAM_ENDED', // query interrupted: the dump thread was killed
  1698: 'ACCESS_DENIED',
  1820: 'ACCESS_DENIED', // password must be changed
  1862: 'ACCESS_DENIED', // password expired
  1927: 'STREAM_ENDED', // connection killed
  3118: 'ACCESS_DENIED', // account locked
  3159: 'TLS_FAILED', // require_secure_transport
  3955: 'ACCESS_DENIED', // account locked after failed logins
}
const FATAL_READING_BINLOG = 1236

/** Texts of error 1236 (sql/rpl_binlog_sender.cc), each with the "slave/master" and the "replica/source" wording. */
const byText: readonly (readonly [RegExp, ErrorCode])[] = [
  [/same server_uuid\/server_id/i, 'SERVER_ID_CLASH'],
  [/has more GTIDs than/i, 'SOURCE_CHANGED'],
  // MariaDB's
  [/is not in the master's binlog/i, 'SOURCE_CHANGED'],
  [/GTID_MODE|AUTO_POSITION|auto-position/i, 'SOURCE_UNSUITABLE'],
  [
    /Binary log is not open|server id was not set|cannot handle replication events with the checksum/i,
    'SOURCE_UNSUITABLE',
  ],
  [
    /could not find|purged|position > file size|impossible position|Could not open log file/i,
    'POSITION_LOST',
  ],
  [/bogus data in log event|binlog truncated|corrupted/i, 'POSITION_LOST'],
]

/**
 * The error for an ERR packet of mysqld, or one that mysql2 read.
 * `where` says what was asked and, for a dump, from which position.
 */
export function serverFailure(
  number: number,
  text: string,
  where: string,
  cause?: unknown,
): SluiceError {
  let code: ErrorCode = byNumber[number] ?? 'SERVER_ERROR'
  if (number === FATAL_READING_BINLOG) {
    code = byText.find(([pattern]) => pattern.test(text))?.[1] ?? 'SERVER_ERROR'
  }
  return new SluiceError(code, `${where}: MySQL answered error ${number}: ${text}`, { cause })
}

interface DriverError {
  readonly code?: unknown
  readonly errno?: unknown
  readonly message?: unknown
  readonly sqlState?: unknown
}
const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null

const tlsCodes =
  /^(HANDSHAKE_SSL_ERROR|HANDSHAKE_NO_SSL_SUPPORT|ERR_TLS|ERR_SSL|ERR_OSSL|CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|EPROTO)/

/** The way to the server broke during the handshake: mysql2 calls that a failure of TLS, too. */
const brokenHandshake = /socket disconnected|socket hang up|ECONNRESET|EPIPE|ETIMEDOUT/

/** Whether the server said that it speaks no TLS. */
export function lacksTls(error: unknown): boolean {
  return isObject(error) && (error as DriverError).code === 'HANDSHAKE_NO_SSL_SUPPORT'
}

/**
 * The error for anything mysql2, a socket or TLS threw while `where` was being done. `otherwise` is the code for what
 * is none of the known kinds: CONNECT_FAILED while connecting, QUERY_FAILED for a query.
 */
export function driverFailure(error: unknown, where: string, otherwise: ErrorCode): SluiceError {
  if (error instanceof SluiceError) return error
  const { code, errno, message, sqlState } = (isObject(error) ? error : {}) as DriverError
  const text = typeof message === 'string' && message !== '' ? message : String(code ?? error)
  if (typeof code === 'string' && tlsCodes.test(code) && !brokenHandshake.test(text)) {
    return new SluiceError('TLS_FAILED', `${where}: TLS failed: ${text}`, { cause: error })
  }
  if (typeof errno === 'number' && errno > 0 && typeof sqlState === 'string') {
    const known = byNumber[errno]
    return new SluiceError(known ?? otherwise, `${where}: MySQL answered error ${errno}: ${text}`, {
      cause: error,
    })
  }
  if (code === 'AUTH_SWITCH_PLUGIN_ERROR') {
    return new SluiceError('ACCESS_DENIED', `${where}: authentication failed: ${text}`, {
      cause: error,
    })
  }
  return new SluiceError(otherwise, `${where}: ${text}`, { cause: error })
}
