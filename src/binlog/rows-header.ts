/**
 * What stands before the rows of a rows event: which table, which columns, where the first row begins. Pure; knows
 * nothing of column types or values.
 */
import { HEADER_BYTES, Reader, eventName, eventType, eventTypes } from './reader.ts'
import type { Format } from './reader.ts'
import { idBytes, tableId } from './table-map.ts'

export interface RowsHeader {
  readonly kind: 'insert' | 'update' | 'delete'
  readonly partial: boolean // PARTIAL_UPDATE_ROWS: JSON columns of the after image may be diffs
  readonly tableId: number
  readonly lastOfStatement: boolean
  readonly partition: number // the row's partition, of an update the one it goes to; -1: not partitioned, or not said
  readonly sourcePartition: number // of an update the partition the row comes from; else -1
  readonly width: number // columns
  /** Where the bits of the columns in the before and after image begin (bit i & 7 of byte i >> 3); -1: no such image. */
  readonly before: number
  readonly after: number
  readonly rows: number // where the first row begins; rows go on to the end of the event
}

/** The header of nearly every event, in one step: no extra data, fewer than 251 columns; undefined for another one. */
function plainHeader(
  bytes: Buffer,
  start: number,
  end: number,
  kind: RowsHeader['kind'],
): RowsHeader | undefined {
  const at = start + HEADER_BYTES
  const width = bytes[at + 10]!
  const size = (width + 7) >> 3
  const rows = at + 11 + (kind === 'update' ? 2 * size : size)
  if (rows > end || width > 250 || bytes[at + 8] !== 2 || bytes[at + 9] !== 0) return undefined
  return {
    kind,
    partial: bytes[start + 4] === eventTypes.PARTIAL_UPDATE_ROWS,
    tableId: bytes.readUInt32LE(at) + bytes.readUInt16LE(at + 4) * 0x1_0000_0000,
    lastOfStatement: (bytes[at + 6]! & STATEMENT_END) !== 0,
    partition: -1,
    sourcePartition: -1,
    width,
    before: kind === 'insert' ? -1 : at + 11,
    after: kind === 'delete' ? -1 : kind === 'insert' ? at + 11 : at + 11 + size,
    rows,
  }
}

const STATEMENT_END = 1
const EXTRA_PARTITION = 1

const kinds = new Map<number, RowsHeader['kind']>([
  [eventTypes.WRITE_ROWS_V1, 'insert'],
  [eventTypes.WRITE_ROWS, 'insert'],
  [eventTypes.UPDATE_ROWS_V1, 'update'],
  [eventTypes.UPDATE_ROWS, 'update'],
  [eventTypes.PARTIAL_UPDATE_ROWS, 'update'],
  [eventTypes.DELETE_ROWS_V1, 'delete'],
  [eventTypes.DELETE_ROWS, 'delete'],
])

/**
 * WRITE_ROWS, UPDATE_ROWS, DELETE_ROWS, PARTIAL_UPDATE_ROWS and the first three in version 1:
 *   u48 table id · u16 flags · [not in version 1: u16 length of the extra data, itself included, extra data] ·
 *   packed column count · bits of the columns present in the only image, of an update in the before image ·
 *   [update: bits of those in the after image] · rows
 * Extra data is a row of:  u8 0 (NDB), u8 length with these two bytes but the first, u8 format, … ·
 *   u8 1, u16 partition, [update: u16 source partition]
 */
export function readRowsHeader(
  bytes: Buffer,
  start: number,
  end: number,
  format: Format,
): RowsHeader {
  const type = eventType(bytes, start)
  const kind = kinds.get(type)
  const plain = kind && plainHeader(bytes, start, end, kind)
  if (plain && type >= eventTypes.WRITE_ROWS && idBytes(format, type) === 6) return plain
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
  return {
    kind,
    partial: type === eventTypes.PARTIAL_UPDATE_ROWS,
    tableId: id,
    lastOfStatement: (flags & STATEMENT_END) !== 0,
    partition,
    sourcePartition,
    width,
    before: kind === 'insert' ? -1 : first,
    after: kind === 'insert' ? first : second,
    rows: r.at,
  }
}
