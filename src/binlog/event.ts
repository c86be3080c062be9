/**
 * The events of a MySQL binlog (version 4: MySQL 5.0 to 9.x) but for table maps and rows, which stand in table-map.ts:
 * one reader per event body. A reader takes bytes[start, end): `start` is where the event's header begins, `end` is
 * past its body, the checksum left out. It returns plain values or throws EVENT_MALFORMED; whatever the bytes, it neither
 * hangs nor allocates more than the event's size.
 * Pure: no files, no sockets, no idea of transactions. Layouts: libs/mysql/binlog/event/*.h of MySQL 9.
 */
import { SluiceError } from '../errors.ts'
import { GtidSet, uuidText } from '../gtid.ts'
import type { Gtid } from '../gtid.ts'
import { Out } from '../out.ts'
import { decimalBytes, writeDecimal, writeJavaDouble } from '../number.ts'
import { charsetNamed, charsetOf } from './charset.ts'
import type { Charset } from './charset.ts'
import { Reader, eventNextPosition, eventType, eventTypes } from './reader.ts'

// ── the file ─────────────────────────────────────────────────────────────────

export interface Rotate {
  readonly position: number
  readonly file: string
}
/** ROTATE:  u64 position of the first event in the next file · the file's name to the end. */
export function readRotate(bytes: Buffer, start: number, end: number): Rotate {
  const r = new Reader('ROTATE', bytes, start, end)
  return { position: r.count('the position'), file: r.utf8Rest('the file name') }
}

/** PREVIOUS_GTIDS:  everything in earlier files, encoded as drawn in gtid.ts. */
export function readPreviousGtids(bytes: Buffer, start: number, end: number): GtidSet {
  const r = new Reader('PREVIOUS_GTIDS', bytes, start, end)
  try {
    return GtidSet.decode(bytes, r.at, end)
  } catch (cause) {
    if (!(cause instanceof SluiceError)) throw cause
    const error = r.malformed(`a GTID set: ${cause.message}`)
    error.cause = cause
    throw error
  }
}

export interface Heartbeat {
  readonly file: string
  readonly position: number // mod 2^32 in a version 1 heartbeat
}
/**
 * HEARTBEAT:     the file's name to the end; the position is the header's next position.
 * HEARTBEAT_V2:  fields of packed type · packed length · value: 1 file name, 2 packed position; type 0 ends them.
 */
export function readHeartbeat(bytes: Buffer, start: number, end: number): Heartbeat {
  const r = new Reader('HEARTBEAT', bytes, start, end)
  if (eventType(bytes, start) !== eventTypes.HEARTBEAT_V2)
    return { file: r.utf8Rest('the file name'), position: eventNextPosition(bytes, start) }
  let file = ''
  let position = 0
  while (r.left > 0) {
    const type = r.packed('a field type')
    if (type === 0) break
    const length = r.packed('a field length')
    const at = r.skip(length, 'a field')
    if (type === 1) file = bytes.toString('utf8', at, r.at)
    else if (type === 2) position = fieldNumber(r, at, 'the position')
  }
  return { file, position }
}

/** A packed integer that fills the field from `at` to where the reader stands now. */
function fieldNumber(r: Reader, at: number, what: string): number {
  const past = r.at
  r.at = at
  const value = r.packed(what)
  if (r.at !== past) throw r.malformed(`${what} to fill its field`)
  return value
}

// ── transactions ─────────────────────────────────────────────────────────────

/** Of GTID, ANONYMOUS_GTID and GTID_TAGGED. Times are µs since 1970, 0 where the server was too old to log them. */
export interface GtidEvent {
  readonly gtid: Gtid | undefined // undefined: anonymous
  readonly lastCommitted: number
  readonly sequenceNumber: number
  readonly immediateCommit: number // on the server whose binlog this is
  readonly originalCommit: number // on the server that executed it first
  readonly transactionBytes: number // this event included; 0 unknown
}

/**
 * GTID, ANONYMOUS_GTID:  u8 flags · 16 bytes uuid · i64 gno
 *   since 5.7:     u8 clock type, 2 · i64 last committed · i64 sequence number
 *   since 8.0.1:   u55 immediate commit, its flag: original commit follows · [u55 original commit]
 *   since 8.0.2:   packed transaction length
 *   and server versions and the group ticket, which nobody here needs
 */
export function readGtid(bytes: Buffer, start: number, end: number): GtidEvent {
  if (eventType(bytes, start) === eventTypes.GTID_TAGGED) return readTaggedGtid(bytes, start, end)
  const r = new Reader('GTID', bytes, start, end)
  r.skip(1, 'flags')
  const uuid = r.skip(16, 'the server uuid')
  const gno = r.i64('the number')
  const anonymous = eventType(bytes, start) === eventTypes.ANONYMOUS_GTID
  if (!anonymous && gno < 1n) throw r.malformed(`a number from 1 on, got ${gno}`)
  const gtid = anonymous ? undefined : { sid: sidText(bytes, uuid), gno }
  const clock = r.left > 0 && r.u8('the clock type') === 2
  const lastCommitted = clock ? r.count('last committed') : 0
  const sequenceNumber = clock ? r.count('the sequence number') : 0
  let immediateCommit = 0
  let originalCommit = 0
  let transactionBytes = 0
  if (clock && r.left > 0) {
    const [immediate, differs] = r.u55('the immediate commit time')
    immediateCommit = immediate
    originalCommit = differs ? r.u55('the original commit time')[0] : immediate
  }
  if (clock && r.left > 0) transactionBytes = r.packed('the transaction length')
  return { gtid, lastCommitted, sequenceNumber, immediateCommit, originalCommit, transactionBytes }
}

/** One of the numbers that make up a uuid. */
function byteOf(r: Reader): number {
  const value = r.varint('a byte of the server uuid')
  if (value > 255n) throw r.malformed(`a byte of the server uuid, got ${value}`)
  return Number(value)
}

let lastUuid = Buffer.alloc(16)
let lastSid = uuidText(lastUuid, 0)
/** The uuid's text; nearly always that of the transaction before, so nothing is built again. */
function sidText(bytes: Buffer, at: number): string {
  if (bytes.compare(lastUuid, 0, 16, at, at + 16) !== 0) {
    lastUuid = Buffer.from(bytes.subarray(at, at + 16))
    lastSid = uuidText(lastUuid, 0)
  }
  return lastSid
}

/**
 * GTID_TAGGED (MySQL 8.3+), a message of mysql::serialization, every number a varint:
 *   version, 1 · bytes of the message from the version on · 1 + the highest field that must be understood ·
 *   per field, ascending: its number · its value
 * Fields: 0 flags · 1 uuid, 16 numbers · 2 gno, signed · 3 tag: length, text · 4 last committed, signed ·
 *   5 sequence number, signed · 6 immediate commit · 7 original commit, absent when the same · 8 transaction length ·
 *   9 immediate server version · 10 original server version · 11 commit group ticket
 */
function readTaggedGtid(bytes: Buffer, start: number, end: number): GtidEvent {
  const r = new Reader('GTID_TAGGED', bytes, start, end)
  const bodyStart = r.at
  const version = r.varint('the serialization version')
  if (version !== 1n) throw r.malformed(`serialization version 1, got ${version}`)
  const size = r.varint('the message size')
  if (size > BigInt(end - bodyStart))
    throw r.malformed(`a message of ${end - bodyStart} bytes, got ${size}`)
  const required = r.varint('the last field that matters')
  if (required > 12n)
    throw r.malformed(`fields up to 11, got one that must be understood: ${required - 1n}`)
  const past = bodyStart + Number(size)
  const numbers = Array.from({ length: 12 }, () => 0n)
  const uuid = Buffer.alloc(16)
  let tag = ''
  while (r.at < past) {
    const field = Number(r.varint('a field number'))
    if (field > 11) break
    if (field === 1) for (let i = 0; i < 16; i++) uuid[i] = byteOf(r)
    else if (field === 3) tag = r.utf8(Number(r.varint('the length of the tag')), 'the tag')
    else if (field === 2 || field === 4 || field === 5) numbers[field] = r.signedVarint('a number')
    else numbers[field] = r.varint('a number')
  }
  const gno = numbers[2]!
  if (gno < 1n) throw r.malformed(`a number from 1 on, got ${gno}`)
  if (!/^[a-z0-9_]{0,32}$/.test(tag)) throw r.malformed(`a tag, got ${JSON.stringify(tag)}`)
  const sid = sidText(uuid, 0)
  return {
    gtid: { sid: tag === '' ? sid : `${sid}:${tag}`, gno },
    lastCommitted: Number(numbers[4]),
    sequenceNumber: Number(numbers[5]),
    immediateCommit: Number(numbers[6]),
    originalCommit: Number(numbers[7] || numbers[6]),
    transactionBytes: Number(numbers[8]),
  }
}

/** XID:  u64, ends a transaction of a transactional engine. */
export function readXid(bytes: Buffer, start: number, end: number): bigint {
  return new Reader('XID', bytes, start, end).u64('the transaction id')
}

export interface XaPrepare {
  readonly onePhase: boolean // XA COMMIT … ONE PHASE: the transaction ends here, committed
  readonly xid: string // as statements in the binlog have it: "X'6131',X'',1"
}
/** XA_PREPARE:  u8 one phase · u32 format id · u32 length of gtrid · u32 length of bqual · gtrid · bqual. */
export function readXaPrepare(bytes: Buffer, start: number, end: number): XaPrepare {
  const r = new Reader('XA_PREPARE', bytes, start, end)
  const onePhase = r.u8('the one-phase flag') !== 0
  const formatId = r.u32('the format id') | 0
  const gtridBytes = r.u32('the length of gtrid')
  const bqualBytes = r.u32('the length of bqual')
  const gtrid = r.skip(gtridBytes, 'gtrid')
  const bqual = r.skip(bqualBytes, 'bqual')
  const hex = (at: number, length: number): string => bytes.toString('hex', at, at + length)
  return { onePhase, xid: `X'${hex(gtrid, gtridBytes)}',X'${hex(bqual, bqualBytes)}',${formatId}` }
}

/** ROWS_QUERY:  u8 length, wrong beyond 255 and therefore ignored · the statement's text to the end. */
export function readRowsQuery(bytes: Buffer, start: number, end: number): string {
  const r = new Reader('ROWS_QUERY', bytes, start, end)
  r.skip(1, 'the length')
  return r.utf8Rest('the statement')
}

export interface TransactionPayload {
  readonly compression: 'zstd' | 'none'
  readonly uncompressedBytes: number // as claimed: check before trusting it with an allocation
  readonly start: number // of the payload, absolute in the bytes given
  readonly end: number
}
/**
 * TRANSACTION_PAYLOAD (MySQL 8.0.20+):  fields of packed type · packed length · packed value:
 *   1 payload size · 2 compression, 0 zstd, 255 none · 3 uncompressed size; type 0 ends them · the payload:
 *   whole events without checksums, BEGIN to XID
 */
export function readTransactionPayload(
  bytes: Buffer,
  start: number,
  end: number,
): TransactionPayload {
  const r = new Reader('TRANSACTION_PAYLOAD', bytes, start, end)
  let size = -1
  let compression = -1
  let uncompressedBytes = -1
  for (;;) {
    const type = r.packed('a field type')
    if (type === 0) break
    const length = r.packed('a field length')
    const at = r.skip(length, 'a field')
    if (type === 1) size = fieldNumber(r, at, 'the payload size')
    else if (type === 2) compression = fieldNumber(r, at, 'the compression')
    else if (type === 3) uncompressedBytes = fieldNumber(r, at, 'the uncompressed size')
  }
  if (compression !== 0 && compression !== 255)
    throw r.malformed(`compression 0 or 255, got ${compression}`)
  if (size !== r.left) throw r.malformed(`a payload of ${size} bytes, ${r.left} are left`)
  if (compression === 255) uncompressedBytes = size
  if (uncompressedBytes < 0) throw r.malformed('the uncompressed size')
  return { compression: compression === 0 ? 'zstd' : 'none', uncompressedBytes, start: r.at, end }
}

export interface TransactionContext {
  readonly server: string // uuid of the member that executed the transaction
  readonly threadId: number
  readonly gtidSpecified: boolean
}
/**
 * TRANSACTION_CONTEXT (Group Replication):  u8 length of the uuid · u32 thread id · u8 gtid specified ·
 *   u32 length of the snapshot version · u32 count of write sets · u32 count of read sets · uuid · and those
 */
export function readTransactionContext(
  bytes: Buffer,
  start: number,
  end: number,
): TransactionContext {
  const r = new Reader('TRANSACTION_CONTEXT', bytes, start, end)
  const length = r.u8('the length of the uuid')
  const threadId = r.u32('the thread id')
  const gtidSpecified = r.u8('the gtid flag') !== 0
  r.skip(12, 'lengths and counts')
  return { server: r.utf8(length, 'the server uuid'), threadId, gtidSpecified }
}

/** VIEW_CHANGE (Group Replication):  40 bytes view id, zero-filled · u64 sequence · u32 count of certification pairs. */
export function readViewChange(bytes: Buffer, start: number, end: number): string {
  const r = new Reader('VIEW_CHANGE', bytes, start, end)
  const view = r.utf8(40, 'the view id')
  r.skip(12, 'sequence and count')
  return view.split('\0', 1)[0]!
}

export interface Incident {
  readonly incident: number // 1: events were lost
  readonly message: string
}
/** INCIDENT:  u16 number · u8 length · message. */
export function readIncident(bytes: Buffer, start: number, end: number): Incident {
  const r = new Reader('INCIDENT', bytes, start, end)
  const incident = r.u16('the incident')
  return {
    incident,
    message: r.left > 0 ? r.utf8(r.u8('the length of the message'), 'the message') : '',
  }
}

// ── statements ───────────────────────────────────────────────────────────────

export interface Query {
  readonly threadId: number
  readonly seconds: number // it took
  readonly errorCode: number
  readonly database: string // the session's default
  readonly collation: number // whose character set the text is in; 0: not logged
  readonly sqlMode: number // bit 2 ANSI_QUOTES, bit 20 NO_BACKSLASH_ESCAPES
  readonly serverCollation: number // the session's collation_server: what CREATE DATABASE takes; 0: not logged
  readonly utf8mb4Collation: number // the session's default_collation_for_utf8mb4; 0: not logged
  readonly explicitTimestamps: boolean | undefined // explicit_defaults_for_timestamp; undefined: not logged
  readonly sqlStart: number // the text, absolute in the bytes given
  readonly sqlEnd: number
}

/**
 * QUERY:  u32 thread id · u32 seconds · u8 length of the database · u16 error code · u16 length of the status
 *   variables · status variables · database · 0 · the statement to the end
 */
export function readQuery(bytes: Buffer, start: number, end: number): Query {
  return readStatement(new Reader('QUERY', bytes, start, end), () => {})
}

export interface ExecuteLoadQuery extends Query {
  readonly fileId: number
  readonly nameStart: number // the file name with its quotes, within the statement's text
  readonly nameEnd: number
}
/** EXECUTE_LOAD_QUERY:  as QUERY, with u32 file id · u32, u32 where the file name stands · u8 duplicates before the status variables. */
export function readExecuteLoadQuery(bytes: Buffer, start: number, end: number): ExecuteLoadQuery {
  const r = new Reader('EXECUTE_LOAD_QUERY', bytes, start, end)
  const load = { fileId: 0, nameStart: 0, nameEnd: 0 }
  const query = readStatement(r, () => {
    load.fileId = r.u32('the file id')
    load.nameStart = r.u32('the start of the file name')
    load.nameEnd = r.u32('the end of the file name')
    r.skip(1, 'the handling of duplicates')
  })
  if (load.nameStart > load.nameEnd || load.nameEnd > query.sqlEnd - query.sqlStart)
    throw r.malformed('the file name within the statement')
  return { ...query, ...load }
}

function readStatement(r: Reader, more: () => void): Query {
  const threadId = r.u32('the thread id')
  const seconds = r.u32('the execution time')
  const databaseBytes = r.u8('the length of the database')
  const errorCode = r.u16('the error code')
  const statusBytes = r.u16('the length of the status variables')
  more()
  const statusAt = r.skip(statusBytes, 'status variables')
  const database = r.utf8(databaseBytes, 'the database')
  r.zero('after the database')
  const status = readStatus(r.bytes, statusAt, statusAt + statusBytes)
  return { threadId, seconds, errorCode, database, ...status, sqlStart: r.at, sqlEnd: r.end }
}

/** The text of a statement, from the character set it was sent in. */
export function statementText(bytes: Buffer, query: Query): string {
  return decodeText(bytes, query.sqlStart, query.sqlEnd, query.collation)
}

function decodeText(bytes: Buffer, start: number, end: number, collation: number): string {
  return charsetOrUtf8(collation).decode(bytes, start, end)
}

/** A collation that is not MySQL's own, or not logged, is taken for UTF-8: text is better than none. */
function charsetOrUtf8(collation: number): Charset {
  try {
    return charsetOf(collation)
  } catch {
    return charsetNamed('utf8mb4')
  }
}

/** Bytes of the status variables of fixed size, by code (Query_event::Query_event_post_header). */
const STATUS_BYTES = [4, 8, -1, 4, 6, -1, -1, 2, 2, 8, 4, -1, -1, 3, 0, 0, 1, 8, 2, 1, 1]

/**
 * Status variables:  u8 code · value, in ascending order of their age, not of their codes. What we need is early:
 * 1 SQL mode (u64), 4 character sets (u16 client's collation · u16 connection's · u16 server's), 16 explicit defaults of
 * TIMESTAMP (u8) and 18 the default collation of utf8mb4 (u16). Of the others 5 and 6 are a u8 length and text, 2 as
 * well with a 0 after it. A code that is not known ends the search, for its length is not known either.
 */
function readStatus(bytes: Buffer, at: number, end: number): Status {
  const status = { ...NO_STATUS }
  while (at < end) {
    const code = bytes[at++]!
    let size = STATUS_BYTES[code] ?? -1
    if (code === 2 || code === 5 || code === 6) size = 1 + (bytes[at] ?? 0) + (code === 2 ? 1 : 0)
    else if (code === 11) size = invokerBytes(bytes, at, end)
    else if (code === 12) size = databasesBytes(bytes, at, end)
    if (size < 0 || at + size > end) break
    if (code === 1) status.sqlMode = bytes.readUInt32LE(at)
    else if (code === 4) {
      status.collation = bytes.readUInt16LE(at)
      status.serverCollation = bytes.readUInt16LE(at + 4)
    } else if (code === 16) status.explicitTimestamps = bytes[at] !== 0
    else if (code === 18) status.utf8mb4Collation = bytes.readUInt16LE(at)
    at += size
  }
  return status
}
type Status = Pick<
  Query,
  'collation' | 'sqlMode' | 'serverCollation' | 'utf8mb4Collation' | 'explicitTimestamps'
>
const NO_STATUS = {
  collation: 0,
  sqlMode: 0,
  serverCollation: 0,
  utf8mb4Collation: 0,
  explicitTimestamps: undefined as boolean | undefined,
}
/** 11:  u8 length, user · u8 length, host */
function invokerBytes(bytes: Buffer, at: number, end: number): number {
  const host = at + 1 + (bytes[at] ?? 0)
  return host < end ? host + 1 + bytes[host]! - at : -1
}
/** 12:  u8 count (254: too many, no names) · names, each with a 0 after it */
function databasesBytes(bytes: Buffer, at: number, end: number): number {
  const count = bytes[at] ?? 0
  if (count === 254) return 1
  let next = at + 1
  for (let n = 0; n < count; n++) {
    const zero = bytes.indexOf(0, next)
    if (zero < 0 || zero >= end) return -1
    next = zero + 1
  }
  return next - at
}

/** INTVAR:  u8 1 LAST_INSERT_ID, 2 INSERT_ID · u64. Returns the statement it stands for. */
export function readIntvar(bytes: Buffer, start: number, end: number): string {
  const r = new Reader('INTVAR', bytes, start, end)
  const type = r.u8('the variable')
  if (type !== 1 && type !== 2) throw r.malformed(`variable 1 or 2, got ${type}`)
  return `SET ${type === 1 ? 'LAST_INSERT_ID' : 'INSERT_ID'} = ${r.u64('the value')}`
}

/** RAND:  u64 · u64. Returns the statement it stands for. */
export function readRand(bytes: Buffer, start: number, end: number): string {
  const r = new Reader('RAND', bytes, start, end)
  const seed = r.u64('the first seed')
  return `SET SESSION rand_seed1 = ${seed} , rand_seed2 = ${r.u64('the second seed')}`
}

const resultTypes = { STRING: 0, REAL: 1, INT: 2, DECIMAL: 4 } as const

/**
 * USER_VAR:  u32 length, name · u8 is null · [u8 type · u32 collation · u32 length, value · u8 flags, 1 unsigned]
 *   value: text · f64 · i64 · (decimal) u8 precision, u8 scale, packed digits
 * Returns the statement it stands for: SET @name := 'text'.
 */
export function readUserVar(bytes: Buffer, start: number, end: number): string {
  const r = new Reader('USER_VAR', bytes, start, end)
  const target = `SET @${r.utf8(r.u32('the length of the name'), 'the name')} := `
  if (r.u8('the null flag') !== 0) return `${target}NULL`
  const type = r.u8('the type')
  const collation = r.u32('the collation')
  const length = r.u32('the length of the value')
  const at = r.skip(length, 'the value')
  const unsigned = r.left > 0 && (r.u8('flags') & 1) !== 0
  if (type === resultTypes.STRING) {
    const text = decodeText(bytes, at, at + length, collation)
    return `${target}'${text.replace(/['\\]/g, '\\$&')}'`
  }
  if (type === resultTypes.INT && length === 8)
    return target + (unsigned ? bytes.readBigUInt64LE(at) : bytes.readBigInt64LE(at))
  const out = new Out(128)
  if (type === resultTypes.REAL && length === 8) writeJavaDouble(bytes.readDoubleLE(at), out)
  else if (type === resultTypes.DECIMAL && length > 2) {
    const [precision, scale] = [bytes[at]!, bytes[at + 1]!]
    if (
      precision > 65 ||
      scale > 30 ||
      scale > precision ||
      decimalBytes(precision, scale) !== length - 2
    )
      throw r.malformed(`a decimal(${precision},${scale}) in ${length - 2} bytes`)
    writeDecimal(bytes, at + 2, precision, scale, out)
  } else throw r.malformed(`a value of type ${type} in ${length} bytes`)
  return target + out.buf.toString('latin1', 0, out.at)
}

/** One piece of the file of a LOAD DATA logged as a statement. */
export interface LoadBlock {
  readonly fileId: number
  readonly start: number // absolute in the bytes given
  readonly end: number
}
/** BEGIN_LOAD_QUERY, APPEND_BLOCK:  u32 file id · bytes of the file to the end.   DELETE_FILE:  u32 file id. */
export function readLoadBlock(bytes: Buffer, start: number, end: number): LoadBlock {
  const r = new Reader('load data', bytes, start, end)
  return { fileId: r.u32('the file id'), start: r.at, end }
}
