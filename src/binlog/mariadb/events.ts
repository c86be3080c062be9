/**
 * Events that only MariaDB writes: one reader per event body, as in ../event.ts, and compressed events made plain, so that
 * nobody behind them knows of compression. Pure. Layouts: sql/log_event.h and sql/log_event_server.cc of MariaDB 11.
 */
import { inflateSync } from 'node:zlib'
import type { Gtid } from '../../gtid.ts'
import { Reader, eventName, eventTypes } from '../reader.ts'
import type { Format } from '../reader.ts'

interface EventBytes {
  readonly bytes: Buffer
  readonly start: number
  readonly end: number // its checksum left out
}
export interface MariadbGtid {
  readonly gtid: Gtid
  /** The event that follows is a transaction by itself; else rows and an end follow, and this event is their BEGIN. */
  readonly standalone: boolean
  readonly xid: string // of a prepared XA transaction, as statements have it: "X'6131',X'',1"; else ""
  /** The first half of an ALTER in two phases, or its rolling back: the statement changes nothing (yet). */
  readonly noEffect: boolean
  readonly threadId: number // 0 before 11.5, which does not say
}

/** Flags of a GTID event, and of its further ones. */
const STANDALONE = 1
const GROUP_COMMIT = 2
const PREPARED_XA = 64
const COMPLETED_XA = 128
const MULTI_ENGINE = 1
const START_ALTER = 2
const COMMIT_ALTER = 4
const ROLLBACK_ALTER = 8
const THREAD_ID = 16

/**
 * GTID (162):  u64 number · u32 domain · u8 flags · [group commit: u64 commit id] · [XA: u32 format id · u8 length of
 *   gtrid · u8 length of bqual · both] · [since 10.5, where anything is to be said: u8 more flags · [u8 further engines] ·
 *   [end of an ALTER: u64 number of its start] · [u32 thread id]] · zeros; the server is the header's
 */
export function readMariadbGtid({ bytes, start, end }: EventBytes): MariadbGtid {
  const r = new Reader('GTID', bytes, start, end)
  const gno = r.u64('the number')
  if (gno === 0n) throw r.malformed('a number from 1 on, got 0')
  const domain = r.u32('the domain')
  const flags = r.u8('flags')
  if ((flags & GROUP_COMMIT) !== 0) r.skip(8, 'the commit id')
  let xid = ''
  if ((flags & (PREPARED_XA | COMPLETED_XA)) !== 0) {
    const formatId = r.u32('the format id') | 0
    const gtridBytes = r.u8('the length of gtrid')
    const bqualBytes = r.u8('the length of bqual')
    const gtrid = r.skip(gtridBytes, 'gtrid')
    const bqual = r.skip(bqualBytes, 'bqual')
    if ((flags & PREPARED_XA) !== 0)
      xid = `X'${bytes.toString('hex', gtrid, bqual)}',X'${bytes.toString('hex', bqual, r.at)}',${formatId}`
  }
  const more = r.left > 0 ? r.u8('more flags') : 0
  if ((more & MULTI_ENGINE) !== 0) r.skip(1, 'engines')
  if ((more & (COMMIT_ALTER | ROLLBACK_ALTER)) !== 0) r.skip(8, 'the start of the ALTER')
  const threadId = (more & THREAD_ID) !== 0 ? r.u32('the thread id') : 0
  return {
    gtid: { sid: `${domain}-${bytes.readUInt32LE(start + 5)}`, gno },
    standalone: (flags & STANDALONE) !== 0,
    xid,
    noEffect: (more & (START_ALTER | ROLLBACK_ALTER)) !== 0,
    threadId,
  }
}

/** ANNOTATE_ROWS (160):  the statement's text to the end. */
export function readAnnotation(bytes: Buffer, start: number, end: number): string {
  return new Reader('ANNOTATE_ROWS', bytes, start, end).utf8Rest('the statement')
}

/** Whether the binlog is one of MariaDB's, by what its format description calls the server. */
export const isMariadb = ({ serverVersion }: Pick<Format, 'serverVersion'>): boolean =>
  serverVersion.includes('MariaDB')

// ── compressed events ────────────────────────────────────────────────────────

const t = eventTypes
/** The plain type of a compressed event; any other type is itself. */
export function plainType(type: number): number {
  switch (type) {
    case t.QUERY_COMPRESSED:
      return t.QUERY
    case t.WRITE_ROWS_COMPRESSED_V1:
      return t.WRITE_ROWS_V1
    case t.UPDATE_ROWS_COMPRESSED_V1:
      return t.UPDATE_ROWS_V1
    case t.DELETE_ROWS_COMPRESSED_V1:
      return t.DELETE_ROWS_V1
    case t.WRITE_ROWS_COMPRESSED:
      return t.WRITE_ROWS
    case t.UPDATE_ROWS_COMPRESSED:
      return t.UPDATE_ROWS
    case t.DELETE_ROWS_COMPRESSED:
      return t.DELETE_ROWS
    default:
      return type
  }
}

/** MariaDB's own limit of what it compresses: an event's body. */
const INFLATED_MAX = 1024 * 1024 * 1024

/**
 * The plain event for a compressed one in bytes[start, end): a copy with the plain type, its text or rows unpacked.
 *   QUERY_COMPRESSED (165):  as QUERY, with a packed text
 *   rows events (166 to 168 version 1, 169 to 171 version 2):  as the plain ones, with packed rows
 *   packed:  u8 128 | count of length bytes · length when unpacked, big-endian · zlib data
 * Throws EVENT_MALFORMED.
 */
export function inflateEvent(bytes: Buffer, start: number, end: number, format: Format): Buffer {
  const type = bytes[start + 4]!
  const plain = plainType(type)
  const r = new Reader(eventName(type), bytes, start, end)
  if (plain === t.QUERY) passQueryHead(r)
  else passRowsHead(r, plain, format)
  const headEnd = r.at
  const mark = r.u8('how the rest is packed')
  const lengthBytes = mark & 7
  if ((mark & 0xf0) !== 0x80 || lengthBytes < 1 || lengthBytes > 4)
    throw r.malformed(`zlib data (129 to 132), got ${mark}`)
  const at = r.skip(lengthBytes, 'the length when unpacked')
  const length = bytes.readUIntBE(at, lengthBytes)
  if (length > INFLATED_MAX) throw r.malformed(`at most ${INFLATED_MAX} bytes, got ${length}`)
  let rest: Buffer
  try {
    rest = inflateSync(bytes.subarray(r.at, end), { maxOutputLength: Math.max(length, 1) })
  } catch (cause) {
    const error = r.malformed(`zlib data that unpacks to ${length} bytes: ${String(cause)}`)
    error.cause = cause
    throw error
  }
  if (rest.length !== length) throw r.malformed(`${length} unpacked bytes, got ${rest.length}`)
  const event = Buffer.concat([bytes.subarray(start, headEnd), rest])
  event[4] = plain
  event.writeUInt32LE(event.length, 9)
  return event
}

function passQueryHead(r: Reader): void {
  r.skip(8, 'the thread id and the execution time')
  const databaseBytes = r.u8('the length of the database')
  r.skip(2, 'the error code')
  r.skip(r.u16('the length of the status variables'), 'status variables')
  r.skip(databaseBytes + 1, 'the database')
}

function passRowsHead(r: Reader, plain: number, format: Format): void {
  r.skip(format.postHeader[plain] === 6 ? 4 : 6, 'the table id')
  r.skip(2, 'flags')
  if (plain >= t.WRITE_ROWS) {
    const extra = r.u16('the length of the extra data')
    if (extra < 2) throw r.malformed(`at least 2 bytes of extra data, got ${extra}`)
    r.skip(extra - 2, 'extra data')
  }
  const bits = Math.ceil(r.packed('the column count') / 8)
  const images = plain === t.UPDATE_ROWS || plain === t.UPDATE_ROWS_V1 ? 2 : 1
  r.skip(bits * images, 'the columns present')
}
