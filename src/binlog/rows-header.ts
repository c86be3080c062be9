/**
 * What stands before the rows of a rows event: which table, which columns, where the first row begins. Pure; knows
 * nothing of column types or values.
 */
import { HEADER_BYTES, Reader, eventName, eventType, eventTypes } from './reader.ts'
import type { Format } from './reader.ts'
import { idBytes, tableId } from './table-map.ts'

export interface RowsHeader {
  kind: 'insert' | 'update' | 'delete'
  partial: boolean // PARTIAL_UPDATE_ROWS: JSON columns of the after image may be diffs
  tableId: number
  lastOfStatement: boolean
  partition: number // the row's partition, of an update the one it goes to; -1: not partitioned, or not said
  sourcePartition: number // of an update the partition the row comes from; else -1
  width: number // columns
  /** Where the bits of the columns in the before and after image begin (bit i & 7 of byte i >> 3); -1: no such image. */
  before: number
  after: number
  rows: number // where the first row begins; rows go on to the end of the event
}
/** One to be filled in. */
export function emptyRowsHeader(): RowsHeader {
  return {
    kind: 'insert',
    partial: false,
    tableId: 0,
    lastOfStatement: false,
    partition: -1,
    sourcePartition: -1,
    width: 0,
    before: -1,
    after: -1,
    rows: 0,
  }
}

/** The header of nearly every event, in one step: no extra data, fewer than 251 columns; false for another one. */
function plainHeader(
  bytes: Buffer,
  start: number,
  end: number,
  kind: RowsHeader['kind'],
  into: RowsHeader,
): boolean {
  const at = start + HEADER_BYTES
  const width = bytes[at + 10]!
  const size = (width + 7) >> 3
  const rows = at + 11 + (kind === 'update' ? 2 * size : size)
  if (rows > end || width > 250 || bytes[at + 8] !== 2 || bytes[at + 9] !== 0) return false
  into.kind = kind
  into.partial = bytes[start + 4] === eventTypes.PARTIAL_UPDATE_ROWS
  into.tableId = wideId(bytes, at)
  into.lastOfStatement = (bytes[at + 6]! & STATEMENT_END) !== 0
  into.partition = -1
  into.sourcePartition = -1
  into.width = width
  into.before = kind === 'insert' ? -1 : at + 11
  into.after = kind === 'delete' ? -1 : kind === 'insert' ? at + 11 : at + 11 + size
  into.rows = rows
  return true
}

function wideId(bytes: Buffer, at: number): number {
  const low = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
  return (low >>> 0) + (bytes[at + 4]! | (bytes[at + 5]! << 8)) * 0x1_0000_0000
}

/** The table id of a rows event whose header has been read before. */
export function rowsTableId(bytes: Buffer, start: number, format: Format): number {
  const at = start + HEADER_BYTES
  return idBytes(format, eventType(bytes, start)) === 4 ? bytes.readUInt32LE(at) : wideId(bytes, at)
}

const STATEMENT_END = 1
const EXTRA_PARTITION = 1

const kinds: Readonly<Record<number, RowsHeader['kind']>> = {
  [eventTypes.WRITE_ROWS_V1]: 'insert',
  [eventTypes.WRITE_ROWS]: 'insert',
  [eventTypes.UPDATE_ROWS_V1]: 'update',
  [eventTypes.UPDATE_ROWS]: 'update',
  [eventTypes.PARTIAL_UPDATE_ROWS]: 'update',
  [eventTypes.DELETE_ROWS_V1]: 'delete',
  [eventTypes.DELETE_ROWS]: 'delete',
}

/**
 * WRITE_ROWS, UPDATE_ROWS, DELETE_ROWS, PARTIAL_UPDATE_ROWS and the first three in version 1:
 *   u48 table id · u16 flags · [not in version 1: u16 length of the extra data, itself included, extra data] ·
 *   packed column count · bits of the columns present in the only image, of an update in the before image ·
 *   [update: bits of those in the after image] · rows
 * Extra data is a row of:  u8 0 (NDB), u8 length with these two bytes but the first, u8 format, … ·
 *   u8 1, u16 partition, [update: u16 source partition]
 * Fills `into` in and returns it. Throws EVENT_MALFORMED.
 */
export function readRowsHeader(
  bytes: Buffer,
  start: number,
  end: number,
  format: Format,
  into = emptyRowsHeader(),
): RowsHeader {
  const type = eventType(bytes, start)
  const kind = kinds[type]
  const plain = kind && type >= eventTypes.WRITE_ROWS && idBytes(format, type) === 6
  if (plain && plainHeader(bytes, start, end, kind, into)) return into
  const r = new Reader(eventName(type), bytes, start, end)
  if (!kind) throw r.malformed('a rows event')
  const id = tableId(r, format, type)
  const flags = r.u16('flags')
  let partition = -1
  let sourcePartition = -1
  if (type >= eventTypes.WRITE_ROWS) {
    const extra = r.u16('the length of the extra data')
    if (extra < 2) throw r.malformed(`at least 2 bytes of extra data, got ${extra}`)
    r.need(extra - 2, 'extra data')
    const past = r.at + extra - 2
    if (r.at < past && bytes[r.at] === EXTRA_PARTITION) {
      r.skip(1, 'extra data')
      partition = r.u16('the partition')
      if (kind === 'update') sourcePartition = r.u16('the source partition')
      if (r.at > past) throw r.malformed('the partition within the extra data')
    }
    r.at = past
  }
  const width = r.packed('the column count')
  const first = r.skip(Math.ceil(width / 8), 'the columns present')
  const second = kind === 'update' ? r.skip(Math.ceil(width / 8), 'the columns present after') : -1
  into.kind = kind
  into.partial = type === eventTypes.PARTIAL_UPDATE_ROWS
  into.tableId = id
  into.lastOfStatement = (flags & STATEMENT_END) !== 0
  into.partition = partition
  into.sourcePartition = sourcePartition
  into.width = width
  into.before = kind === 'insert' ? -1 : first
  into.after = kind === 'insert' ? first : second
  into.rows = r.at
  return into
}
