/**
 * What stands around every event: type codes, the header, the checksum, the format description that says how all of
 * them are laid out, and the cursor that event readers move over the bytes of one event. Every read of the cursor says
 * what it expects, and one that would leave the event throws EVENT_MALFORMED with the event's name, the place and the
 * expectation. Nothing is copied and nothing is allocated beyond the reader itself. Pure.
 *
 * The header:  u32 seconds since 1970 · u8 type · u32 server id · u32 size, checksum included ·
 *              u32 position of the next event (mod 2^32; 0 in events that are in no file) · u16 flags
 */
import { crc32 } from 'node:zlib'
import { SluiceError } from '../errors.ts'

/** Length of the header every binlog event begins with. */
export const HEADER_BYTES = 19

/** The four bytes a binlog file begins with, and those of an encrypted one. */
export const FILE_MAGIC = 0x6e6962fe
export const FILE_MAGIC_ENCRYPTED = 0x6e6962fd
export const CHECKSUM_BYTES = 4

export const eventTypes = {
  UNKNOWN: 0,
  START_V3: 1,
  QUERY: 2,
  STOP: 3,
  ROTATE: 4,
  INTVAR: 5,
  SLAVE: 7,
  APPEND_BLOCK: 9,
  DELETE_FILE: 11,
  RAND: 13,
  USER_VAR: 14,
  FORMAT_DESCRIPTION: 15,
  XID: 16,
  BEGIN_LOAD_QUERY: 17,
  EXECUTE_LOAD_QUERY: 18,
  TABLE_MAP: 19,
  WRITE_ROWS_V1: 23,
  UPDATE_ROWS_V1: 24,
  DELETE_ROWS_V1: 25,
  INCIDENT: 26,
  HEARTBEAT: 27,
  IGNORABLE: 28,
  ROWS_QUERY: 29,
  WRITE_ROWS: 30,
  UPDATE_ROWS: 31,
  DELETE_ROWS: 32,
  GTID: 33,
  ANONYMOUS_GTID: 34,
  PREVIOUS_GTIDS: 35,
  TRANSACTION_CONTEXT: 36,
  VIEW_CHANGE: 37,
  XA_PREPARE: 38,
  PARTIAL_UPDATE_ROWS: 39,
  TRANSACTION_PAYLOAD: 40,
  HEARTBEAT_V2: 41,
  GTID_TAGGED: 42,
  // MariaDB's own
  ANNOTATE_ROWS: 160,
  BINLOG_CHECKPOINT: 161,
  MARIADB_GTID: 162,
  GTID_LIST: 163,
  START_ENCRYPTION: 164, // Percona Server's too
  QUERY_COMPRESSED: 165,
  WRITE_ROWS_COMPRESSED_V1: 166,
  UPDATE_ROWS_COMPRESSED_V1: 167,
  DELETE_ROWS_COMPRESSED_V1: 168,
  WRITE_ROWS_COMPRESSED: 169,
  UPDATE_ROWS_COMPRESSED: 170,
  DELETE_ROWS_COMPRESSED: 171,
} as const

const names = new Map<number, string>(
  Object.entries(eventTypes).map(([name, type]) => [type, name]),
)
/** "TABLE_MAP", or "type 99" for a code not listed. */
export const eventName = (type: number): string => names.get(type) ?? `type ${type}`

/** Header flags: the file is being written or was not closed; an artificial event is in no file; who does not know the event may pass over it. */
export const FLAG_IN_USE = 0x01
export const FLAG_ARTIFICIAL = 0x20
export const FLAG_IGNORABLE = 0x80

/** The fields of a header; the caller has at least HEADER_BYTES bytes from `start`. */
export const eventType = (bytes: Buffer, start: number): number => bytes[start + 4]!
export const eventSize = (bytes: Buffer, start: number): number => bytes.readUInt32LE(start + 9)
export const eventNextPosition = (bytes: Buffer, start: number): number =>
  bytes.readUInt32LE(start + 13)
export const eventFlags = (bytes: Buffer, start: number): number => bytes.readUInt16LE(start + 17)

/**
 * Whether the CRC32 in the last four bytes of the event bytes[start, end) is right. A format description's is computed
 * as if its in-use flag were off, which is what the server does.
 */
export function checksumMatches(bytes: Buffer, start: number, end: number): boolean {
  if (end - start < HEADER_BYTES + CHECKSUM_BYTES) return false
  const expected = bytes.readUInt32LE(end - CHECKSUM_BYTES)
  const body = bytes.subarray(start, end - CHECKSUM_BYTES)
  if (
    eventType(bytes, start) !== eventTypes.FORMAT_DESCRIPTION ||
    !(bytes[start + 17]! & FLAG_IN_USE)
  )
    return crc32(body) === expected
  const copy = Buffer.from(body)
  copy[17] = copy[17]! & ~FLAG_IN_USE
  return crc32(copy) === expected
}

// ── the cursor ───────────────────────────────────────────────────────────────

const NULL_LENGTH = 251

export class Reader {
  readonly bytes: Buffer
  /** The next byte to read, absolute in `bytes`. */
  at: number
  /** Past the last byte that belongs to the event's body. */
  readonly end: number
  readonly #name: string
  readonly #start: number
  readonly #headerBytes: number

  /**
   * Stands on the first byte after the header of the event in bytes[start, end); `headerBytes` 0 for a part of an
   * event that was kept without its header. Throws EVENT_MALFORMED when not even the header is there.
   */
  constructor(name: string, bytes: Buffer, start: number, end: number, headerBytes = HEADER_BYTES) {
    this.bytes = bytes
    this.end = end
    this.at = start
    this.#start = start
    this.#name = name
    this.#headerBytes = headerBytes
    if (end > bytes.length)
      throw new SluiceError(
        'EVENT_MALFORMED',
        `${name}: expected ${end} bytes in the buffer, it has ${bytes.length}`,
      )
    this.skip(headerBytes, 'the event header')
  }

  /** The error for the caller to throw; `expected` completes "expected …". */
  malformed(expected: string): SluiceError {
    const name =
      this.#headerBytes === 0 || this.end - this.#start < HEADER_BYTES
        ? this.#name
        : `${this.#name} event ending at log position ${eventNextPosition(this.bytes, this.#start)}`
    const where = `at byte ${this.at - this.#start} of ${this.end - this.#start}`
    return new SluiceError('EVENT_MALFORMED', `${name}: expected ${expected} (${where})`)
  }

  get left(): number {
    return this.end - this.at
  }

  need(count: number, what: string): void {
    if (!(count <= this.end - this.at))
      throw this.malformed(`${count} bytes of ${what}, ${this.left} are left`)
  }
  /** Passes over `count` bytes and returns where they begin. */
  skip(count: number, what: string): number {
    this.need(count, what)
    const at = this.at
    this.at = at + count
    return at
  }
  u8(what: string): number {
    return this.bytes[this.skip(1, what)]!
  }
  u16(what: string): number {
    return this.bytes.readUInt16LE(this.skip(2, what))
  }
  u32(what: string): number {
    return this.bytes.readUInt32LE(this.skip(4, what))
  }
  u48(what: string): number {
    return this.bytes.readUIntLE(this.skip(6, what), 6)
  }
  u64(what: string): bigint {
    return this.bytes.readBigUInt64LE(this.skip(8, what))
  }
  i64(what: string): bigint {
    return this.bytes.readBigInt64LE(this.skip(8, what))
  }
  /** 7 bytes, of which the topmost bit is a flag: [the other 55 bits, the flag]. Exact up to 2^53. */
  u55(what: string): [number, boolean] {
    const at = this.skip(7, what)
    const high = this.bytes[at + 6]!
    return [this.bytes.readUIntLE(at, 6) + (high & 0x7f) * 2 ** 48, high > 0x7f]
  }
  /** A 64-bit number that must be exact as a JS number. */
  count(what: string): number {
    const at = this.skip(8, what)
    const value = this.bytes.readUInt32LE(at) + this.bytes.readUInt32LE(at + 4) * 2 ** 32
    if (value > Number.MAX_SAFE_INTEGER) throw this.malformed(`${what} below 2^53, got ${value}`)
    return value
  }
  /**
   * MySQL's packed integer (mysys/pack.cc): one byte below 251, else 252, 253 or 254 and 2, 3 or 8 bytes.
   * NULL (251), 255 and what a JS number cannot hold are refused.
   */
  packed(what: string): number {
    const first = this.u8(what)
    if (first < NULL_LENGTH) return first
    if (first === 252) return this.u16(what)
    if (first === 253) return this.bytes.readUIntLE(this.skip(3, what), 3)
    if (first === 254) return this.count(what)
    throw this.malformed(`a packed integer for ${what}, got ${first}`)
  }
  /**
   * mysql::serialization's integer (libs/mysql/serialization): as many 1-bits at the low end of the first byte as
   * bytes follow, a 0-bit (absent with eight), then the value, little-endian.
   */
  varint(what: string): bigint {
    const first = this.u8(what)
    let more = 0
    while (more < 8 && (first >> more) & 1) more++
    const at = this.skip(more, what)
    let value = 0n
    for (let i = more - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[at + i]!)
    return more === 8 ? value : (value << BigInt(7 - more)) | BigInt(first >> (more + 1))
  }
  /** The same with the sign in the lowest bit. */
  signedVarint(what: string): bigint {
    const value = this.varint(what)
    return value & 1n ? -(value >> 1n) - 1n : value >> 1n
  }
  utf8(count: number, what: string): string {
    const at = this.skip(count, what)
    return this.bytes.toString('utf8', at, at + count)
  }
  /** Every byte that is left, as UTF-8. */
  utf8Rest(what: string): string {
    return this.utf8(this.left, what)
  }
  /** A zero byte that must stand here. */
  zero(what: string): void {
    const value = this.u8(what)
    if (value !== 0) throw this.malformed(`0 ${what}, got ${value}`)
  }
}

// ── the format description ───────────────────────────────────────────────────

/** What a format description says about the events after it. */
export interface Format {
  readonly serverVersion: string // "8.0.31", "9.7.4-debug"
  readonly created: number // seconds; not 0 only at the start of a server run
  readonly postHeader: Uint8Array // by event type: bytes of the fixed part after the header
  readonly checksum: 'none' | 'crc32'
  readonly checksumBytes: number // 0 or 4
}

/** 5.6.1, the first version that knows checksums. */
const CHECKSUM_SINCE = 50601

/**
 * FORMAT_DESCRIPTION:  u16 binlog version, 4 · 50 bytes server version, zero-filled · u32 created ·
 *                      u8 header length, 19 · per event type from 1: u8 post-header length
 *                      since MySQL 5.6.1 also: u8 checksum algorithm (0 none, 1 CRC32) · u32 CRC32, always there
 * Takes the event as it is logged, checksum included.
 */
export function readFormat(bytes: Buffer, start: number, end: number): Format {
  const r = new Reader('FORMAT_DESCRIPTION', bytes, start, end)
  const version = r.u16('the binlog version')
  if (version !== 4) throw r.malformed(`binlog version 4, got ${version}`)
  const at = r.skip(50, 'the server version')
  const zero = bytes.indexOf(0, at)
  const serverVersion = bytes.toString('latin1', at, zero < 0 ? r.at : Math.min(zero, r.at))
  const created = r.u32('the creation time')
  const headerBytes = r.u8('the header length')
  if (headerBytes !== HEADER_BYTES) throw r.malformed(`a header length of 19, got ${headerBytes}`)
  const parts = /^(\d+)\.(\d+)\.(\d+)/.exec(serverVersion)
  if (!parts) throw r.malformed(`a server version, got ${JSON.stringify(serverVersion)}`)
  const number = Number(parts[1]) * 10_000 + Number(parts[2]) * 100 + Number(parts[3])
  const trailer = number >= CHECKSUM_SINCE ? 1 + CHECKSUM_BYTES : 0
  r.need(trailer, 'checksum algorithm and checksum')
  const lengths = r.left - trailer
  const postHeader = new Uint8Array(lengths + 1)
  postHeader.set(bytes.subarray(r.at, r.at + lengths), 1)
  r.skip(lengths, 'post-header lengths')
  const algorithm = trailer > 0 ? r.u8('the checksum algorithm') : 0
  if (algorithm > 1) throw r.malformed(`checksum algorithm 0 or 1, got ${algorithm}`)
  const crc = algorithm === 1
  return {
    serverVersion,
    created,
    postHeader,
    checksum: crc ? 'crc32' : 'none',
    checksumBytes: crc ? CHECKSUM_BYTES : 0,
  }
}

/** The last two buffers compared: events come from few slabs. */
const viewed: [Buffer, Buffer] = [Buffer.alloc(0), Buffer.alloc(0)]
const views: [DataView, DataView] = [viewOf(viewed[0]), viewOf(viewed[1])]
function viewOf(b: Buffer): DataView {
  return new DataView(b.buffer, b.byteOffset, b.byteLength)
}

/** Whether n bytes are the same in both places. For the short runs of rows and table maps quicker than Buffer.compare. */
export function sameBytes(a: Buffer, aAt: number, b: Buffer, bAt: number, n: number): boolean {
  if (n > LONG || a.length > VIEWED_MAX) return a.compare(b, bAt, bAt + n, aAt, aAt + n) === 0
  if (viewed[0] !== a) [viewed[0], views[0]] = [a, viewOf(a)]
  if (viewed[1] !== b) [viewed[1], views[1]] = [b, viewOf(b)]
  const [va, vb] = views
  let i = 0
  for (; i + 8 <= n; i += 8)
    if (va.getBigInt64(aAt + i, true) !== vb.getBigInt64(bAt + i, true)) return false
  if (i + 4 <= n) {
    if (va.getInt32(aAt + i, true) !== vb.getInt32(bAt + i, true)) return false
    i += 4
  }
  for (; i < n; i++) if (a[aAt + i] !== b[bAt + i]) return false
  return true
}
const LONG = 1024
const VIEWED_MAX = 1024 * 1024 // what is looked at stays alive until something else is
